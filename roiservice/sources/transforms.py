"""NGFF coordinate transformations, as far as they are scales and translations."""

from __future__ import annotations

import math
from typing import Any

from roiservice.records import dataclass


@dataclass(frozen=True)
class Transform:
    """`x -> scale * x + translation` per axis, in axes order; None stands for what was not stated.

    `problem` says why it cannot be used; then the other two mean nothing.
    """

    scale: tuple[float, ...] | None = None
    translation: tuple[float, ...] | None = None
    problem: str | None = None

    def then(self, other: Transform) -> Transform:
        """This transform followed by `other`."""
        if self.problem or other.problem:
            return Transform(problem=self.problem or other.problem)
        lengths = {len(part) for part in (*self._parts(), *other._parts())}
        if len(lengths) > 1:
            return Transform(problem="scales and translations differ in length")
        scale = _pairwise(lambda a, b: a * b, self.scale, other.scale)
        moved = _pairwise(lambda a, b: a * b, self.translation, other.scale) if self.translation else None
        translation = _pairwise(lambda a, b: a + b, moved, other.translation)
        return _checked(Transform(scale, translation))

    def _parts(self) -> tuple[tuple[float, ...], ...]:
        return tuple(part for part in (self.scale, self.translation) if part is not None)


def transform_of(dataset: dict[str, Any], length: int | None) -> Transform:
    """The transform of one entry of `datasets`; `length` is the number of axes where it is known."""
    stated = dataset.get("coordinateTransformations")
    if stated is None:
        return Transform()
    if not isinstance(stated, list):
        return Transform(problem="coordinateTransformations must be a list")
    return combined(stated, length)


def is_plain(item: Any) -> bool:
    """Whether a multiscale-level entry applies to all levels (0.4).

    Those of SpatialData and of 0.6 lead from an `input` to an `output` coordinate system instead.
    """
    return not (isinstance(item, dict) and ("input" in item or "output" in item))


def combined(items: list[Any], length: int | None) -> Transform:
    """All items applied one after the other (0.4: in order of the list)."""
    whole = Transform()
    for item in items:
        whole = whole.then(_single(item, length))
    return whole


def _single(item: Any, length: int | None) -> Transform:
    if not isinstance(item, dict):
        return Transform(problem="a transformation must be a JSON object")
    kind = item.get("type")
    if kind == "identity":
        return Transform()
    if kind == "sequence":  # 0.6
        inner = item.get("transformations")
        return combined(inner, length) if isinstance(inner, list) else Transform(problem="empty sequence")
    if kind not in ("scale", "translation"):
        return Transform(problem=f"type {kind!r} is not supported")
    values = _numbers(item.get(kind), length)
    if values is None:
        return Transform(problem=f"the {kind} must be a list of one finite number per axis")
    return _checked(Transform(scale=values) if kind == "scale" else Transform(translation=values))


def _numbers(values: Any, length: int | None) -> tuple[float, ...] | None:
    if not isinstance(values, list) or not values or (length is not None and len(values) != length):
        return None
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return None
    try:
        return tuple(float(value) for value in values)
    except OverflowError:
        return None


def _checked(transform: Transform) -> Transform:
    if not all(math.isfinite(value) for part in transform._parts() for value in part):
        return Transform(problem="a scale or translation is not finite")
    if transform.scale is not None and min(transform.scale) <= 0:
        return Transform(problem="a scale is not positive")
    return transform


def _pairwise(
    operation: Any, first: tuple[float, ...] | None, second: tuple[float, ...] | None
) -> tuple[float, ...] | None:
    """`operation` per axis; where one side is not stated, the other side."""
    if first is None or second is None:
        return first if second is None else second
    return tuple(operation(a, b) for a, b in zip(first, second, strict=True))
