"""Frozen dataclasses behave as those of the standard library do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from functools import cached_property
from typing import Any, ClassVar

import pytest

from roiservice import records


class _Box:
    """A box: what both decorators are given."""

    unit: ClassVar[str] = "px"
    left: float
    width: float = 1.0
    names: list[str] = dataclasses.field(default_factory=list, compare=False)
    secret: str = dataclasses.field(default="s", repr=False)

    def __post_init__(self) -> None:
        if self.width < 0:
            raise ValueError("width")
        object.__setattr__(self, "left", float(self.left))

    @cached_property
    def right(self) -> float:
        return self.left + self.width


def _both(body: type[Any], eq: bool = True) -> list[type[Any]]:
    made = []
    for decorator in (dataclasses.dataclass, records.dataclass):
        cls = type(
            body.__name__, (), {k: v for k, v in vars(body).items() if k not in ("__dict__", "__weakref__")}
        )
        made.append(decorator(frozen=True, eq=eq)(cls))
    return made


@records.dataclass(frozen=True)
class Kept:
    """Found by its name, as pickle asks."""

    number: int
    texts: tuple[str, ...] = ()


@pytest.mark.parametrize("cls", _both(_Box))
def test_what_a_frozen_dataclass_does(cls: type[Any]) -> None:
    box = cls(3, width=2.0, names=["a"])
    assert repr(box) == "_Box(left=3.0, width=2.0, names=['a'])"
    assert [f.name for f in dataclasses.fields(box)] == ["left", "width", "names", "secret"]
    assert box == cls(3.0, 2.0)  # names are not compared
    assert hash(box) == hash(cls(3.0, 2.0))
    assert box != cls(3.0, 2.0, secret="t")
    assert box != (3.0, 2.0, "s")
    assert dataclasses.replace(box, left=4) == cls(4, 2)
    assert dataclasses.asdict(box) == {"left": 3.0, "width": 2.0, "names": ["a"], "secret": "s"}
    assert (box.right, box.right, copy.copy(box).right) == (5.0, 5.0, 5.0)
    with pytest.raises(ValueError, match="width"):
        cls(1, -1)
    with pytest.raises(TypeError, match="left"):
        cls()


@pytest.mark.parametrize("cls", _both(_Box))
@pytest.mark.parametrize("name", ["left", "width", "secret"])
def test_nothing_is_set_again_or_deleted(cls: type[Any], name: str) -> None:
    box = cls(1)
    with pytest.raises(dataclasses.FrozenInstanceError, match=name):
        setattr(box, name, 2)
    with pytest.raises(dataclasses.FrozenInstanceError, match=name):
        delattr(box, name)
    assert box == cls(1)


@pytest.mark.parametrize("cls", _both(_Box, eq=False))
def test_without_eq_each_is_itself_alone(cls: type[Any]) -> None:
    one, other = cls(1), cls(1)
    assert one == one
    assert one != other
    assert len({one, other}) == 2


def test_own_methods_stay() -> None:
    class Named:
        name: str

        def __repr__(self) -> str:
            return self.name

        def __eq__(self, other: object) -> bool:
            return isinstance(other, type(self)) and self.name[0] == other.name[0]

    for cls in _both(Named):
        assert repr(cls("ab")) == "ab"
        assert cls("ab") == cls("ac")
        assert isinstance(hash(cls("ab")), int)


def test_classes_of_no_field_and_of_another() -> None:
    @records.dataclass(frozen=True)
    class Base:
        one: int = 1

    @records.dataclass(frozen=True)
    class Derived(Base):
        two: int = 2

    @records.dataclass(frozen=True)
    class Empty:
        pass

    assert Derived(1, 2) == Derived(two=2)
    assert Derived() != Base()
    assert hash(Derived()) == hash(Derived(1))
    assert repr(Derived()).endswith("Derived(one=1, two=2)")
    assert (Empty(), len({Empty(), Empty()})) == (Empty(), 1)


def test_instances_are_pickled() -> None:
    kept = Kept(3, ("a",))
    again = pickle.loads(pickle.dumps(kept))
    assert (again, hash(again), repr(again)) == (kept, hash(kept), "Kept(number=3, texts=('a',))")


def test_only_for_frozen_classes() -> None:
    with pytest.raises(TypeError, match="not frozen"):
        records.dataclass(frozen=False)(_Box)
