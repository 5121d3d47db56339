"""Affine maps of the plane, and the `coordinateTransformations` that state them (SpatialData, NGFF 0.6)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.geometry.frames import Frame
from roiservice.records import dataclass

Float64 = NDArray[np.float64]

_MOST_AXES = 8
_NOISE = 1e-9  # relative: what is left of a zero after a few products and quotients


@dataclass(frozen=True)
class Affine:
    """`x' = xx * x + xy * y + x0` and `y' = yx * x + yy * y + y0`; the default is the identity."""

    xx: float = 1.0
    xy: float = 0.0
    x0: float = 0.0
    yx: float = 0.0
    yy: float = 1.0
    y0: float = 0.0

    @property
    def determinant(self) -> float:
        """Area of the image of a unit square, negative where the map mirrors."""
        return self.xx * self.yy - self.xy * self.yx

    @property
    def is_singular(self) -> bool:
        """Whether the plane collapses into a line or a point, up to rounding, or a number is not finite."""
        largest = max(abs(self.xx * self.yy), abs(self.xy * self.yx))
        if not all(map(math.isfinite, (self.determinant, self.x0, self.y0))):
            return True
        return abs(self.determinant) <= 1e-12 * largest

    @property
    def is_translation_scale(self) -> bool:
        """Whether x' depends on x alone and y' on y alone, up to rounding; scales may be negative."""
        return _is_noise(self.xy, self.xx, self.yy) and _is_noise(self.yx, self.xx, self.yy)

    @property
    def is_uniform(self) -> bool:
        """Whether all lengths grow by one factor, so that circles stay circles."""
        radii = self.circle_radii()
        return radii is not None and math.isclose(*radii, rel_tol=_NOISE)

    def circle_radii(self) -> tuple[float, float] | None:
        """Radii along x and y of the ellipse that a unit circle becomes; None if its axes are tilted."""
        rx, ry = math.hypot(self.xx, self.xy), math.hypot(self.yx, self.yy)
        tilt = self.xx * self.yx + self.xy * self.yy
        return (rx, ry) if abs(tilt) <= _NOISE * rx * ry else None

    def then(self, other: Affine) -> Affine:
        """This map followed by `other`."""
        return Affine(
            other.xx * self.xx + other.xy * self.yx,
            other.xx * self.xy + other.xy * self.yy,
            other.xx * self.x0 + other.xy * self.y0 + other.x0,
            other.yx * self.xx + other.yy * self.yx,
            other.yx * self.xy + other.yy * self.yy,
            other.yx * self.x0 + other.yy * self.y0 + other.y0,
        )

    def relative_to(self, other: Affine) -> Affine:
        """This map followed by the inverse of `other`; exactly the identity where both are equal.

        ValueError if `other` is singular.
        """
        if other.is_singular:
            raise ValueError("the transformation has no inverse: it collapses the plane")
        by = other.determinant
        x0, y0 = self.x0 - other.x0, self.y0 - other.y0
        return Affine(
            (other.yy * self.xx - other.xy * self.yx) / by,
            (other.yy * self.xy - other.xy * self.yy) / by,
            (other.yy * x0 - other.xy * y0) / by,
            (other.xx * self.yx - other.yx * self.xx) / by,
            (other.xx * self.yy - other.yx * self.xy) / by,
            (other.xx * y0 - other.yx * x0) / by,
        )

    def apply(self, xy: NDArray[Any]) -> Float64:
        """Map (n, 2) points (x, y); a float64 copy, also where the map is the identity.

        Points that are not finite are mapped to others that are not.
        """
        x, y = np.asarray(xy[:, 0], np.float64), np.asarray(xy[:, 1], np.float64)
        mapped = np.empty((len(xy), 2))
        with np.errstate(invalid="ignore", over="ignore"):
            mapped[:, 0] = self.xx * x + self.xy * y + self.x0
            mapped[:, 1] = self.yx * x + self.yy * y + self.y0
        return mapped

    def frame(self) -> Frame | None:
        """The same map as a `Frame`, without rounding noise; None if it turns, shears or mirrors."""
        if self.is_singular or not self.is_translation_scale or min(self.xx, self.yy) <= 0:
            return None
        # 3 * (0.1 / 0.3) is 1: grids that agree must have the identity.
        return Frame(_rounded(self.xx), _rounded(self.yy), round(self.x0, 9), round(self.y0, 9))


@dataclass(frozen=True)
class Placement:
    """Where an element lies in a coordinate system: its x and y, and its z as (scale, translation).

    `z` is None where the element or the system has no z, or z does not depend on z alone.
    """

    xy: Affine
    z: tuple[float, float] | None = None


class _Unusable(Exception):
    """Why an entry cannot be used; the text names the entry."""


# Each axis that is there, in order, as a linear form over the element's own axes: factors and a constant.
_Forms = dict[str, Float64]


def placements_of(items: Any, axes: tuple[str, ...]) -> tuple[dict[str, Placement], tuple[str, ...]]:
    """Placements by the name of the target system, and what is wrong with entries that give none.

    `items` is a `coordinateTransformations` list as SpatialData writes it: each entry leads from the element
    to one system (`output.name`). `axes` are the element's own, for entries whose `input` names none. The
    numbers of scales, translations and matrix columns follow the input's axes, matrix rows the output's; only
    axes called x and y make the plane, whatever their order. Types: identity, scale, translation, affine,
    mapAxis, and sequence of these, as in NGFF 0.6. Of two entries for one system the last counts.
    """
    if not isinstance(items, list):
        return {}, ("coordinateTransformations must be a list",)
    placements: dict[str, Placement] = {}
    problems: list[str] = []
    for index, item in enumerate(items):
        where = f"coordinateTransformations[{index}]"
        try:
            name = _target(item, where)
            with np.errstate(over="ignore", invalid="ignore"):  # the result is checked
                placements[name] = _placement(item, axes, where)
        except _Unusable as problem:
            problems.append(str(problem))
    return placements, tuple(problems)


def _target(item: Any, where: str) -> str:
    output = item.get("output") if isinstance(item, dict) else None
    name = output.get("name") if isinstance(output, dict) else output
    if not isinstance(name, str):
        raise _Unusable(f"{where}: output.name must name the coordinate system it leads to")
    return name


def _placement(item: dict[str, Any], axes: tuple[str, ...], where: str) -> Placement:
    inputs = _axes(item, "input", where) or axes
    if len(inputs) > _MOST_AXES:
        raise _Unusable(f"{where}: {len(inputs)} axes; {_MOST_AXES} are allowed")
    forms = _applied(item, dict(zip(inputs, np.eye(len(inputs), len(inputs) + 1), strict=True)), where)
    for name in "xy":
        if name not in forms or name not in inputs:
            raise _Unusable(f"{where}: there is no axis {name}")
    rows = [_in_plane(forms[name], inputs, name, where) for name in "xy"]
    affine = Affine(*rows[0], *rows[1])
    if affine.is_singular:
        raise _Unusable(f"{where}: it collapses the plane, or its numbers are too large")
    return Placement(affine, _depth(forms.get("z"), inputs))


def _in_plane(form: Float64, inputs: tuple[str, ...], name: str, where: str) -> tuple[float, ...]:
    """Factors of x and y, and the constant."""
    for other, factor in zip(inputs, form[:-1], strict=True):
        if factor != 0 and other not in ("x", "y"):
            raise _Unusable(f"{where}: {name} depends on axis {other!r}, so it maps no plane to a plane")
    return float(form[inputs.index("x")]), float(form[inputs.index("y")]), float(form[-1])


def _depth(form: Float64 | None, inputs: tuple[str, ...]) -> tuple[float, float] | None:
    if form is None or "z" not in inputs:
        return None
    scale = form[inputs.index("z")]
    return (float(scale), float(form[-1])) if np.count_nonzero(form[:-1]) == (scale != 0) else None


def _applied(item: Any, forms: _Forms, where: str) -> _Forms:
    """The axes after one transformation. Those that it does not name stay as they are."""
    if not isinstance(item, dict):
        raise _Unusable(f"{where}: must be a JSON object")
    kind = item.get("type")
    inputs = _axes(item, "input", where) or tuple(forms)
    for name in inputs:
        if name not in forms:
            raise _Unusable(f"{where}: its input axis {name!r} is not there")
    outputs = _axes(item, "output", where) or inputs
    if kind == "identity":
        return forms
    if kind == "sequence":
        return _in_sequence(item, forms, where)
    if kind == "mapAxis":
        return _mapped(item, forms, inputs, outputs, where)
    if kind == "affine":
        return _multiplied(item, forms, inputs, outputs, where)
    if kind not in ("scale", "translation"):
        raise _Unusable(f"{where}: type {kind!r} is not supported")
    if inputs != outputs:
        raise _Unusable(f"{where}: a {kind} must have the same axes before and after")
    numbers = _numbers(item.get(kind), len(inputs), f"{where}.{kind}")
    if kind == "scale":
        return forms | {name: forms[name] * by for name, by in zip(inputs, numbers, strict=True)}
    return forms | {name: _moved(forms[name], by) for name, by in zip(inputs, numbers, strict=True)}


def _in_sequence(item: dict[str, Any], forms: _Forms, where: str) -> _Forms:
    steps = item.get("transformations")
    if not isinstance(steps, list):
        raise _Unusable(f"{where}: transformations must be a list")
    for index, step in enumerate(steps):
        forms = _applied(step, forms, f"{where}.transformations[{index}]")
    return forms


def _mapped(
    item: dict[str, Any], forms: _Forms, inputs: tuple[str, ...], outputs: tuple[str, ...], where: str
) -> _Forms:
    """`mapAxis`: output axis -> input axis (SpatialData), or per output axis the input's number (0.6)."""
    stated = item.get("mapAxis")
    if isinstance(stated, list) and len(stated) == len(outputs):
        stated = {
            name: inputs[number] if type(number) is int and 0 <= number < len(inputs) else None
            for name, number in zip(outputs, stated, strict=True)
        }
    if not isinstance(stated, dict) or len(stated) > _MOST_AXES:
        raise _Unusable(f"{where}.mapAxis: must give an input axis for each output axis")
    sources = list(stated.values())
    if not all(isinstance(name, str) and name in forms for name in sources):
        raise _Unusable(f"{where}.mapAxis: must give an input axis for each output axis")
    kept = {name: form for name, form in forms.items() if name not in sources and name not in stated}
    return kept | {name: forms[source] for name, source in stated.items()}


def _multiplied(
    item: dict[str, Any], forms: _Forms, inputs: tuple[str, ...], outputs: tuple[str, ...], where: str
) -> _Forms:
    rows = item.get("affine")
    if not isinstance(rows, list) or len(rows) != len(outputs):
        raise _Unusable(f"{where}.affine: must have one row per output axis ({', '.join(outputs)})")
    before = [forms[name] for name in inputs]
    kept = {name: form for name, form in forms.items() if name not in inputs}
    after: _Forms = {}
    for index, (name, row) in enumerate(zip(outputs, rows, strict=True)):
        if name in kept:
            raise _Unusable(f"{where}.affine: gives axis {name!r}, which is there already")
        *factors, constant = _numbers(row, len(inputs) + 1, f"{where}.affine[{index}]")
        forms_by = [by * form for by, form in zip(factors, before, strict=True)]
        after[name] = _moved(np.sum(forms_by, axis=0), constant)
    return kept | after


def _moved(form: Float64, by: float) -> Float64:
    moved = form.copy()
    moved[-1] += by
    return moved


def _axes(item: dict[str, Any], key: str, where: str) -> tuple[str, ...] | None:
    """Names of the axes of `input` or `output`; None where they are not stated."""
    system = item.get(key)
    axes = system.get("axes") if isinstance(system, dict) else None
    if axes is None:
        return None
    names: list[Any] = []
    if isinstance(axes, list):
        names = [axis.get("name") if isinstance(axis, dict) else axis for axis in axes]
    if not 0 < len(names) <= _MOST_AXES or not all(isinstance(name, str) for name in names):
        raise _Unusable(f"{where}.{key}.axes: must be a list of 1 to {_MOST_AXES} named axes")
    if len(set(names)) < len(names):
        raise _Unusable(f"{where}.{key}.axes: names of axes must be unique")
    return tuple(names)


def _numbers(values: Any, count: int, where: str) -> list[float]:
    """`count` finite numbers."""
    fitting = isinstance(values, list) and len(values) == count
    try:
        if fitting and all(type(value) in (int, float) for value in values):  # bool is neither
            numbers = [float(value) for value in values]
            if all(map(math.isfinite, numbers)):
                return numbers
    except OverflowError:
        pass
    raise _Unusable(f"{where}: must be a list of {count} finite numbers")


def _rounded(scale: float) -> float:
    return float(f"{scale:.12g}")


def _is_noise(value: float, *others: float) -> bool:
    return abs(value) <= _NOISE * max(map(abs, others))
