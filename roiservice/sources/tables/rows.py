"""What the columns of a table say of the object in each row: its label, planes, color and properties."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from roiservice.geometry.features import EVERY_INDEX
from roiservice.geometry.kinds import ELLIPSE, NAMES, POLYGON, RECTANGLE
from roiservice.records import dataclass
from roiservice.sources.limits import Limits
from roiservice.sources.tables.columns import LabelColumn, label_column, whole_numbers
from roiservice.sources.tables.geometries import Reasons, Shapes, from_geometries, table_of
from roiservice.sources.tables.table import NO_COLOR, Int32, Int64, ShapeTable, ValueTable
from roiservice.sources.tables.values import values_of_labels

# The columns of this service's own exports: with all of them, `area` and `drawn_as` are its own too.
_OWN = frozenset({"label", "layer", "z", "t", "c", "area"})
_OWN_PREFIX = "property:"  # before the names of properties that are called like one of them

_HEX_COLOR = re.compile(r"#([0-9a-fA-F]{6})([0-9a-fA-F]{2})?")


@dataclass(frozen=True)
class _Told:
    """What columns say of each of n rows; None where they do not. `columns` are those left as properties."""

    label: LabelColumn | None
    key: pa.Array | None
    color: Int64 | None
    planes: dict[str, Int32]
    radius: NDArray[np.float64] | None
    drawn_as: pa.Array | None
    columns: dict[str, pa.Array]


def shape_table(
    geometries: NDArray[Any],
    columns: Mapping[str, pa.Array],
    reasons: Reasons,
    limits: Limits,
    *,
    column: str = "geometry",
    index: pa.Array | None = None,
    ellipse: NDArray[np.bool_] | None = None,
    rectangle: NDArray[np.bool_] | None = None,
) -> ShapeTable:
    """The objects of rows with (n,) geometries in image pixels and typed columns (n,).

    Taken from columns, whatever their case: the label (see `label_column`); `z`, `t` and `c`, empty for every
    index; `color` as #rrggbb, #rrggbbaa or a JSON list of numbers; `radius` of points. Without a label, an
    `index` without repeats gives it if it is of numbers, else the key. Several values of `layer` tell objects
    of one label apart. Rows without a label are refused where others have one.

    Raises SourceRefused as `from_geometries` does.
    """
    told = _tell(dict(columns), reasons, limits, index)
    if told.label is not None:
        reasons.refuse_all(np.flatnonzero(~told.label.known), told.label.name, "the label is no whole number")
        geometries = geometries.copy()
        geometries[~told.label.known] = None
    drawn = _drawn(told.drawn_as, ELLIPSE)
    if drawn is not None:
        ellipse = drawn if ellipse is None else ellipse | drawn
    if rectangle is None:
        rectangle = _drawn(told.drawn_as, RECTANGLE)
    shapes = from_geometries(
        geometries, told.radius, ellipse, reasons, column=column, most_vertices=limits.table_vertices
    )
    return table_of(
        _with_rectangles(shapes, rectangle),
        len(geometries),
        label=None if told.label is None else told.label.values,
        key=told.key,
        color=told.color,
        columns=told.columns,
        **told.planes,
        reasons=reasons,
    )


def value_table(
    columns: Mapping[str, pa.Array], index: pa.Array | None = None, warnings: tuple[str, ...] = ()
) -> ValueTable | None:
    """The values of the labels that typed columns (n,) name, else an index of numbers; None without those.

    As `values_of_labels`. A column `layer` with one value throughout names the label image.
    """
    own = dict(columns)
    label = label_column(own)
    if label is not None:
        del own[label.name]
    else:
        label = _index_label(index)
    if label is None:
        return None
    layers: tuple[str, ...] = ()
    name = named("layer", own)
    if name is not None and pa.types.is_string(own[name].type):
        found = pc.unique(own[name].drop_null())
        if len(found) == 1:
            layers = (found[0].as_py(),)
            del own[name]
    return values_of_labels(label.values, label.known, own, layers, warnings)


def is_own(names: Collection[str]) -> bool:
    """Whether columns are called as this service's own exports call them."""
    return all(name in names for name in _OWN)


def _tell(columns: dict[str, pa.Array], reasons: Reasons, limits: Limits, index: pa.Array | None) -> _Told:
    own = is_own(columns)
    label = label_column(columns)
    key: pa.Array | None = None
    if label is not None:
        del columns[label.name]
        shape = named("shape", columns)  # of OMERO.tables: its rows are shapes, several to a ROI
        if label.name.casefold() == "roi" and shape is not None and whole_numbers(columns[shape]) is not None:
            del columns[shape]
    else:
        label = _index_label(index)
        if label is None and index is not None and pa.types.is_string(index.type):
            key = _unique_texts(index)
    planes = _planes(columns, reasons, limits)
    if label is not None:
        key = _layer_key(columns, label, own=own)
    color = _colors(columns)
    radius = _radius(columns)
    drawn_as = columns.pop("drawn_as") if own and "drawn_as" in columns else None
    if own:
        del columns["area"]
        columns = {_without_prefix(name, columns): values for name, values in columns.items()}
    return _Told(label, key, color, planes, radius, drawn_as, columns)


def _without_prefix(name: str, columns: Mapping[str, pa.Array]) -> str:
    plain = name.removeprefix(_OWN_PREFIX)
    return name if plain in columns else plain


def _index_label(index: pa.Array | None) -> LabelColumn | None:
    """An index of whole numbers as labels, if they are without repeats."""
    found = whole_numbers(index) if index is not None else None
    if found is None or not found[1].all() or len(np.unique(found[0])) < len(found[0]):
        return None
    return LabelColumn("index", *found)


def _unique_texts(values: pa.Array) -> pa.Array | None:
    return values if not values.null_count and pc.count_distinct(values).as_py() == len(values) else None


def _layer_key(columns: dict[str, pa.Array], label: LabelColumn, own: bool) -> pa.Array | None:
    """`layer/label` where there are several layers; else None, and one layer's name is of no use.

    In this service's own exports a layer may be called by a number.
    """
    name = named("layer", columns)
    if name is None or not (own or pa.types.is_string(columns[name].type)):
        return None
    layers = columns[name].cast(pa.string()).fill_null("")
    if pc.count_distinct(layers).as_py() > 1:
        return pc.binary_join_element_wise(layers, pa.array(label.values).cast(pa.string()), "/")
    if own:
        del columns[name]
    return None


def _planes(columns: dict[str, pa.Array], reasons: Reasons, limits: Limits) -> dict[str, Int32]:
    """Indices of the axes that have a column; those columns are taken out."""
    planes: dict[str, Int32] = {}
    for axis in ("t", "c", "z"):
        name = named(axis, columns)
        if name is None:
            continue
        found = whole_numbers(columns[name])
        if found is None:
            reasons.warn(f"column {name!r} is kept as a property, since its values are no indices of planes")
            continue
        indices = np.where(found[1], found[0], EVERY_INDEX)
        bad = (indices < EVERY_INDEX) | (indices >= limits.planes)
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            reasons.warn(
                f"column {name!r} is kept as a property: in row {first + 1}, {indices[first]} is no plane"
            )
            continue
        del columns[name]
        planes[axis] = indices.astype(np.int32)
    return planes


def _colors(columns: dict[str, pa.Array]) -> Int64 | None:
    """Packed RGBA of a column `color` that can be understood throughout, which then is taken out."""
    name = named("color", columns)
    if name is None or not pa.types.is_string(columns[name].type):
        return None
    encoded = columns[name].dictionary_encode()
    packed = [packed_color(text) if text else NO_COLOR for text in encoded.dictionary.to_pylist()]
    if None in packed:
        return None
    del columns[name]
    table = np.array([*packed, NO_COLOR], np.int64)
    codes: Int64 = table[np.asarray(encoded.indices.fill_null(len(packed)).to_numpy())]
    return codes


def packed_color(text: str) -> int | None:
    """RGBA in 32 bits of "#rrggbb", "#rrggbbaa", "[r,g,b]" or "[r,g,b,a]"; None if it is none of these."""
    found = _HEX_COLOR.fullmatch(text.strip())
    if found:
        return int(found[1] + (found[2] or "ff"), 16)
    try:
        values = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(values, list) or len(values) not in (3, 4):
        return None
    if not all(type(value) is int and 0 <= value <= 255 for value in values):
        return None
    return int.from_bytes(bytes([*values, 255][:4]), "big")


def _radius(columns: Mapping[str, pa.Array]) -> NDArray[np.float64] | None:
    name = named("radius", columns)
    if name is None or not (pa.types.is_float64(columns[name].type) or pa.types.is_int64(columns[name].type)):
        return None
    values = columns[name].cast(pa.float64(), safe=False).fill_null(np.nan)
    return np.asarray(values.to_numpy())


def _drawn(drawn_as: pa.Array | None, kind: int) -> NDArray[np.bool_] | None:
    if drawn_as is None or not pa.types.is_string(drawn_as.type):
        return None
    return np.asarray(pc.equal(drawn_as, NAMES[kind]).fill_null(False).to_numpy(zero_copy_only=False))


def _with_rectangles(shapes: Shapes, rectangle: NDArray[np.bool_] | None) -> Shapes:
    """Polygons of rows said to be rectangles, as such if that is what they are."""
    if rectangle is None or not rectangle.any():
        return shapes
    polygons = shapes.polygons
    single = (np.diff(polygons.part_offsets) == 1) & (shapes.kind == POLYGON) & rectangle[shapes.row]
    single &= np.diff(polygons.ring_offsets)[polygons.part_offsets[:-1]] == 1
    ring = polygons.ring_offsets[polygons.part_offsets[:-1]]
    single &= np.diff(polygons.vertex_offsets)[ring] == 4
    chosen = np.flatnonzero(single)
    corners = polygons.xy[polygons.vertex_offsets[ring[chosen]][:, None] + np.arange(4)]
    straight = (np.roll(corners, 1, axis=1) == corners).sum(axis=(1, 2)) == 4
    kind = shapes.kind.copy()
    kind[chosen[straight]] = RECTANGLE
    return Shapes(polygons, kind, shapes.row)


def named(wanted: str, columns: Collection[str]) -> str | None:
    """The column of that name, exactly or in another case."""
    if wanted in columns:
        return wanted
    return next((name for name in columns if name.casefold() == wanted), None)
