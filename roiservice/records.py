"""Frozen dataclasses that take a quarter of the time to define.

`dataclasses` writes and compiles up to six methods for each class that is frozen. Here it does so for
`__init__` alone, and the others are plain functions. A service defines a hundred such classes before its
first page.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

T = TypeVar("T")


def _dataclass(*, frozen: Literal[True], eq: bool = True) -> Callable[[type[T]], type[T]]:
    """`dataclasses.dataclass`, for classes that are frozen and have no slots.

    An attribute can be set once: by `__init__` and `__post_init__`. Equal are instances of one class whose
    fields are; without `eq` each is equal to itself alone. What a class defines by itself stays.
    """
    if not frozen:
        raise TypeError("a class that is not frozen is made by dataclasses.dataclass")

    def decorated(cls: type[T]) -> type[T]:
        made: Any = dataclasses.dataclass(repr=False, eq=False)(cls)
        fields = dataclasses.fields(made)
        methods = {
            "__setattr__": _set_once,
            "__delattr__": _refuse,
            "__repr__": _text_of([field.name for field in fields if field.repr]),
            **(_equality_of([field.name for field in fields if field.compare]) if eq else {}),
        }
        for name, method in methods.items():
            if vars(made).get(name) is None:  # Python makes __hash__ None where there is an own __eq__
                setattr(made, name, method)
        return cls

    return decorated


def _set_once(self: Any, name: str, value: Any) -> None:
    attributes = self.__dict__
    if name in attributes:
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r} of {type(self).__qualname__}")
    attributes[name] = value


def _refuse(self: Any, name: str) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r} of {type(self).__qualname__}")


def _text_of(names: list[str]) -> Callable[[Any], str]:
    def text(self: Any) -> str:
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__qualname__}({values})"

    return text


def _equality_of(names: list[str]) -> dict[str, Callable[..., Any]]:
    values = attrgetter("__class__", *names)

    def equals(self: Any, other: object) -> bool:
        return bool(values(self) == values(other)) if type(other) is type(self) else NotImplemented

    def hashed(self: Any) -> int:
        return hash(values(self))

    return {"__eq__": equals, "__hash__": hashed}


if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:
    dataclass = _dataclass
