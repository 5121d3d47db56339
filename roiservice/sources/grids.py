"""How a layer's grid lies in its image's: axes by name, the y-x frame, and planes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

from roiservice.geometry.frames import Frame, edge_offset
from roiservice.records import dataclass
from roiservice.sources.ngff import Multiscale

_OTHER = ("t", "c", "z")
# Of the units that NGFF 0.4 names, those that a microscope may meet, and what writers shorten them to.
_MICROMETRES = {
    "angstrom": Fraction(1, 10**4),
    "picometer": Fraction(1, 10**6),
    "nanometer": Fraction(1, 10**3),
    "nm": Fraction(1, 10**3),
    "micrometer": Fraction(1),
    "micron": Fraction(1),
    "um": Fraction(1),
    "\N{MICRO SIGN}m": Fraction(1),
    "\N{GREEK SMALL LETTER MU}m": Fraction(1),
    "millimeter": Fraction(10**3),
    "mm": Fraction(10**3),
    "centimeter": Fraction(10**4),
    "meter": Fraction(10**6),
}
_SECONDS = {
    "picosecond": Fraction(1, 10**12),
    "nanosecond": Fraction(1, 10**9),
    "microsecond": Fraction(1, 10**6),
    "millisecond": Fraction(1, 10**3),
    "ms": Fraction(1, 10**3),
    "second": Fraction(1),
    "s": Fraction(1),
    "minute": Fraction(60),
    "hour": Fraction(60 * 60),
    "day": Fraction(24 * 60 * 60),
}
_TYPES = {"t": "time", "c": "channel", "z": "space"}
# A number that was kept in 32 bits, or came of decimals, is off by less than this share of it; and where axes
# begin, in pixels, is told apart no further than that.
_NOISE = 2e-7
_SAME_PLACE = 1e-3
_LARGEST = 1e9  # ratios and offsets beyond which nothing can be seen of a layer


class AxesProblem(Exception):
    """Axes that do not fit the array; `refused` where they are legal but not supported."""

    def __init__(self, reason: str, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


@dataclass(frozen=True)
class Grid:
    """Level 0 of a multiscale: `axes` maps t, c, z, y, x to array axes (y and x always, others if present).

    `scale` and `translation` are in array order, None where not stated or not usable.
    `units` are those of the axes, () where axes have no names.
    """

    shape: tuple[int, ...]
    axes: dict[str, int]
    scale: tuple[float, ...] | None
    translation: tuple[float, ...] | None
    units: tuple[str | None, ...] = ()
    warnings: tuple[str, ...] = ()

    def size(self, name: str) -> int:
        """Pixels along axis `name`; 1 where there is no such axis."""
        return self.shape[self.axes[name]] if name in self.axes else 1

    def scale_of(self, name: str) -> float | None:
        """Scale along axis `name`; None where there is no such axis or no usable scale."""
        return self.scale[self.axes[name]] if self.scale is not None and name in self.axes else None

    def micrometres(self, name: str) -> float | None:
        """Pixel size along a space axis; without a unit the scale counts as micrometres. None as above."""
        return self._in(_MICROMETRES, name)

    def seconds(self, name: str) -> float | None:
        """Time from one index of axis `name` to the next; without a unit the scale counts as seconds."""
        return self._in(_SECONDS, name)

    def _in(self, units: Mapping[str, Fraction], name: str) -> float | None:
        scale, unit = self.scale_of(name), self.unit_of(name)
        factor = Fraction(1) if unit is None else units.get(unit)
        return None if scale is None or factor is None else _times(scale, factor)

    def unit_of(self, name: str) -> str | None:
        """What the axis is measured in; None where that is not stated, or there is no such axis."""
        unit = self.units[self.axes[name]] if self.units and name in self.axes else None
        return unit.lower() if unit else None

    def translation_of(self, name: str) -> float | None:
        """Translation along axis `name`; None as for `scale_of`."""
        stated = self.translation is not None and name in self.axes
        return self.translation[self.axes[name]] if stated and self.translation is not None else None

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """Sizes along t, c, z, y, x."""
        return self.size("t"), self.size("c"), self.size("z"), self.size("y"), self.size("x")


def grid_of(multiscale: Multiscale, shape: tuple[int, ...]) -> Grid:
    """The grid of level 0, an array of `shape`. Raises AxesProblem."""
    warnings: list[str] = []
    axes = _named_axes(multiscale, shape, warnings)
    level = multiscale.levels[0]
    scale = _fitting(level.scale, shape, warnings)
    translation = _fitting(level.translation, shape, warnings)
    return Grid(shape, axes, scale, translation, multiscale.units, tuple(warnings))


def _fitting(
    values: tuple[float, ...] | None, shape: tuple[int, ...], warnings: list[str]
) -> tuple[float, ...] | None:
    if values is not None and len(values) != len(shape):
        warnings.append(f"a transform of {len(values)} axes ignored: the array has {len(shape)}")
        return None
    return values


def _named_axes(multiscale: Multiscale, shape: tuple[int, ...], warnings: list[str]) -> dict[str, int]:
    if multiscale.axes is None:  # 0.1 and 0.2: always t, c, z, y, x; fewer if the writer left some out
        if len(shape) > 5:
            raise AxesProblem(f"the array has {len(shape)} axes; without names there may be five")
        return {name: index for index, name in enumerate("tczyx"[-len(shape) :])}
    if len(multiscale.axes) != len(shape):
        raise AxesProblem(f"{len(multiscale.axes)} axes are named, but the array has {len(shape)}")
    names = [name.lower() for name in multiscale.axes]
    y, x = _plane_axes(names, multiscale, warnings)
    axes = {"y": y, "x": x}
    for index in range(len(names)):
        if index not in (y, x):
            role = _role(names, multiscale.types, index, axes)
            if role is not None:
                axes[role] = index
            elif shape[index] > 1:
                reason = f"axis {multiscale.axes[index]!r} has {shape[index]} entries; only t, c, z, y, x may"
                raise AxesProblem(reason, refused=True)
    return axes


def _plane_axes(names: list[str], multiscale: Multiscale, warnings: list[str]) -> tuple[int, int]:
    """Indices of y and x: by name; else, names being arbitrary (0.4), the last two axes of type space."""
    if "y" in names and "x" in names:
        return names.index("y"), names.index("x")
    if len(multiscale.space) >= 2:
        return multiscale.space[-2], multiscale.space[-1]
    if len(names) >= 2 and not any(multiscale.types):
        warnings.append(f"axes {', '.join(names)} have no types: the last two are taken as y and x")
        return len(names) - 2, len(names) - 1
    raise AxesProblem(f"of the axes {', '.join(names)} no two are known to be y and x")


def _role(names: list[str], types: tuple[str | None, ...], index: int, axes: dict[str, int]) -> str | None:
    """Which of t, c, z the axis is: by name; else by type, if no axis bears that name or role."""
    if names[index] in _OTHER and names.index(names[index]) == index:
        return names[index]
    for role, kind in _TYPES.items():
        if types[index] == kind and role not in names and role not in axes:
            return role
    return None


def frame_of(layer: Grid, image: Grid, warnings: list[str]) -> Frame:
    """Frame of the layer's grid in the image's, from scales, translations and units of both on y and x."""
    same_shape = all(layer.size(name) == image.size(name) for name in "yx")
    y, x = (_in_image(layer, image, name) for name in "yx")
    if y is None or x is None:
        if not same_shape:
            warnings.append("layer and image differ in size, but no scales relate them: taken as they are")
        return Frame()
    if _lacks_scale(layer, image):
        if (y[0], x[0]) != (1.0, 1.0):
            warnings.append("layer and image have one shape, but only one states a pixel size: one grid")
        return Frame()
    for name in ("t", "z", "y", "x"):
        if _units_between(layer, image, name) is None:
            units = f"{layer.unit_of(name)!r}, that of its image in {image.unit_of(name)!r}"
            warnings.append(f"axis {name} is in {units}: taken for the same")
    frame = Frame(scale_x=x[0], scale_y=y[0], offset_x=x[1], offset_y=y[1])
    if not all(map(math.isfinite, (*y, *x))) or min(frame.scale_x, frame.scale_y) <= 0:
        warnings.append("scales of layer and image are too far apart: ignored")
        return Frame()
    return frame


def _in_image(layer: Grid, image: Grid, name: str) -> tuple[float, float] | None:
    """Scale and offset of the layer's pixel edges along an axis in those of the image, as those of `Frame`.

    The noise of the numbers they come from is taken away. None where either states no scale.
    """
    scale, pixel = layer.scale_of(name), image.scale_of(name)
    if scale is None or pixel is None:
        return None
    factor = _units_between(layer, image, name) or Fraction(1)
    ratio, moved = _whole_ratio(_times(scale, factor) / pixel), layer.translation_of(name)
    if moved is None:
        return ratio, edge_offset(ratio, None)
    moved, origin = _times(moved, factor), image.translation_of(name) or 0.0
    noise = max(_SAME_PLACE, _NOISE * max(abs(moved), abs(origin)) / pixel)
    return ratio, edge_offset(ratio, _whole_place((moved - origin) / pixel, noise))


def _units_between(layer: Grid, image: Grid, name: str) -> Fraction | None:
    """How many of the units of the image's axis one of the layer's is; 1 where either states none.

    None where that is not known.
    """
    own, others = layer.unit_of(name), image.unit_of(name)
    if own is None or others is None or own == others:
        return Fraction(1)
    units = next((each for each in (_MICROMETRES, _SECONDS) if own in each and others in each), None)
    return None if units is None else units[own] / units[others]


def _times(value: float, factor: Fraction) -> float:
    """Rounded once where units are decimal ones: 1300 nm are 1.3 micrometres."""
    return value * factor.numerator / factor.denominator


def _whole_ratio(ratio: float) -> float:
    """The whole number, or one by a whole number, that a ratio is but for noise, else the ratio itself."""
    if not 1 / _LARGEST < ratio < _LARGEST:
        return ratio
    nearest = float(round(ratio)) if ratio >= 1 else 1 / round(1 / ratio)
    return nearest if abs(ratio - nearest) <= _NOISE * ratio else ratio


def _whole_place(place: float, noise: float) -> float:
    """The whole number of pixels that a place is but for noise, else the place itself."""
    if not abs(place) < _LARGEST:
        return place
    nearest = float(round(place))
    return nearest if abs(place - nearest) <= noise else place


def _lacks_scale(layer: Grid, image: Grid) -> bool:
    """Whether the layer has the image's shape and one of them states no pixel size of its own.

    Writers that were given none write a scale of 1.0 on every space axis and no translation, or one of 0. A
    layer that states a translation, even of 0, is taken at its word.
    """
    if any(layer.size(name) != image.size(name) for name in "zyx" if name in layer.axes):
        return False
    layer_moved = layer.translation is not None and (any(layer.translation) or _is_unit(layer))
    return not layer_moved and (_is_unit(layer) or (_is_unit(image) and not any(image.translation or ())))


def _is_unit(grid: Grid) -> bool:
    return all(grid.scale_of(name) == 1.0 for name in "zyx" if name in grid.axes)


def shown_on(layer: Grid, image: Grid, name: str) -> list[range]:
    """For each index of the layer's axis z or t, the indices of the image's axis it appears on.

    The slab of index k is [k * r + o, (k + 1) * r + o) in image planes, r and o as for y and x: it appears on
    every image plane whose centre is in it and on the one that its own centre is in, if the image has it.
    """
    count, available = layer.size(name), image.size(name)
    ratio, offset = _ratio(layer, image, name)
    if ratio == 1 and offset == 0:
        return [range(k, k + 1) if k < available else range(0) for k in range(count)]
    return [_slab(k, ratio, offset, available) for k in range(count)]


def _slab(k: int, ratio: float, offset: float, available: int) -> range:
    # Rounded, so that 3 * (0.1 / 0.3) is 1 and a plane's centre falls on the side it was meant to.
    start = math.ceil(round(k * ratio + offset - 0.5, 9))
    stop = math.ceil(round((k + 1) * ratio + offset - 0.5, 9))
    own = math.floor(round((k + 0.5) * ratio + offset, 9))
    return range(max(0, min(start, own)), min(available, max(stop, own + 1)))


def _ratio(layer: Grid, image: Grid, name: str) -> tuple[float, float]:
    own = _in_image(layer, image, name)
    if own is None or (name == "z" and _lacks_scale(layer, image)):
        return 1.0, 0.0
    is_counted = layer.scale_of(name) == 1.0 and not layer.translation_of(name)
    if name == "t" and is_counted and layer.size(name) == image.size(name):
        return 1.0, 0.0
    ratio, offset = own
    return own if 0 < ratio < _LARGEST and abs(offset) < _LARGEST else (1.0, 0.0)
