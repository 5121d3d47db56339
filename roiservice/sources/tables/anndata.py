"""AnnData tables in zarr hierarchies, as SpatialData and Fractal write them.

The format: https://anndata.readthedocs.io/en/stable/fileformat-prose.html
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from roiservice.errors import SourceDamaged, SourceError, SourceRefused
from roiservice.records import dataclass
from roiservice.sources.groups import Group, read_group
from roiservice.sources.limits import Limits
from roiservice.sources.paths import join
from roiservice.sources.store import Store
from roiservice.sources.tables.columns import typed_columns
from roiservice.sources.tables.dataframes import INDEX, named_texts, read_data_frame, read_index
from roiservice.sources.tables.hierarchy import Hierarchy
from roiservice.sources.tables.table import Int64, ValueTable
from roiservice.sources.tables.values import label_numbers, value_table

MOST_VARIABLES = 200  # of X: genes by the thousand are no properties to show for an object
_ANNOTATES = "uns/spatialdata_attrs"


@dataclass(frozen=True)
class AnnDataTable:
    """n observations.

    `index` (n,) is their names, text or int64, and `index_name` what these are called, None where the table
    does not say; `obs` and `x` are their columns, (n,) each, typed as in `ShapeTable`. Those of X are called
    by the index of `var`; there are none where X is missing, has more than MOST_VARIABLES variables, or
    cannot be used.

    `regions` names the elements that the table annotates, `region_key` the column of `obs` that tells which
    one a row is about, and `instance_key` the one that tells which object of it; None where not stated.
    """

    index: pa.Array
    index_name: str | None
    obs: dict[str, pa.Array]
    x: dict[str, pa.Array]
    regions: tuple[str, ...] = ()
    region_key: str | None = None
    instance_key: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def columns(self) -> dict[str, pa.Array]:
        """Columns of `obs`, then those of `x`; `obs` wins where both have a name."""
        return self.obs | {name: values for name, values in self.x.items() if name not in self.obs}


def read_anndata(store: Store, path: str, limits: Limits) -> AnnDataTable:
    """The AnnData group at `path`, zarr v2 or v3; all encodings of columns since anndata 0.7.

    Columns that cannot be used are left out with a warning. Raises SourceDamaged if there is no such group or
    its `obs` has no sound index, SourceRefused where `obs` is a structured array (anndata before 0.7) or the
    limits are exceeded.
    """
    group = read_group(store, path)
    if group is None:
        raise SourceDamaged(store.location, path, "there is no such group")
    source = Hierarchy(store, group.zarr_format, limits)
    obs = read_data_frame(source, join(path, "obs"))
    warnings = list(obs.warnings)
    x = _read_x(source, path, len(obs.index), warnings)
    shadowed = sorted(obs.columns.keys() & x.keys())
    if shadowed:
        warnings.append(f"{path}: X has variables that obs has columns of, left out: {', '.join(shadowed)}")
    regions, region_key, instance_key = _annotated(source, group, warnings)
    name = None if obs.index_name == INDEX else obs.index_name
    warnings.extend(
        f"{path}: obs has no column {key!r}, which is to tell what the rows are about"
        for key in (region_key, instance_key)
        if key is not None and key not in obs.columns and key != name
    )
    typed = typed_columns({INDEX: obs.index}, ())
    columns = typed_columns(obs.columns, ())
    return AnnDataTable(
        typed[INDEX], name, columns, typed_columns(x, ()), regions, region_key, instance_key, tuple(warnings)
    )


def rows_of(table: AnnDataTable) -> list[tuple[str | None, Int64]]:
    """For each element that rows are about, by name: the numbers of these rows, in order.

    Rows without a region are left out. A table without a column of regions is all about the one region it
    states; None where it states none or several.
    """
    column = None if table.region_key is None else table.obs.get(table.region_key)
    if column is None:
        only = table.regions[0] if len(table.regions) == 1 else None
        return [(only, np.arange(len(table.index)))]
    encoded = column.cast(pa.string()).dictionary_encode()
    code = encoded.indices.fill_null(-1).to_numpy().astype(np.int64)
    order = np.argsort(code, kind="stable")
    names = encoded.dictionary.to_pylist()
    starts = np.searchsorted(code[order], np.arange(len(names) + 1))
    parts = [(name, order[starts[i] : starts[i + 1]]) for i, name in enumerate(names)]
    return sorted(parts, key=lambda part: part[0])


def values_of(table: AnnDataTable) -> list[ValueTable]:
    """Values of labels, one table per region, whose name is its `layers`; [] if the table annotates nothing.

    The label is what `obs[instance_key]` says. A region whose objects have names instead of integers gives a
    table without rows and a warning. The names of the observations are a column too unless they are mere
    numbers.
    """
    if table.instance_key is None:
        return []
    instances = table.obs.get(table.instance_key)
    if instances is None and table.instance_key == table.index_name:
        instances = table.index
    if instances is None:
        return []
    keys = (table.region_key, table.instance_key)
    columns = {name: values for name, values in table.columns.items() if name not in keys}
    if not label_numbers(table.index)[1].all() and table.index_name not in keys:
        columns = {table.index_name or "index": table.index, **columns}
    return [_values(region, rows, instances, columns) for region, rows in rows_of(table)]


def _values(
    region: str | None, rows: Int64, instances: pa.Array, columns: Mapping[str, pa.Array]
) -> ValueTable:
    if len(rows) < len(instances):
        instances = instances.take(pa.array(rows))
        columns = {name: values.take(pa.array(rows)) for name, values in columns.items()}
    return value_table(instances, columns, () if region is None else (region,))


def _annotated(
    source: Hierarchy, group: Group, warnings: list[str]
) -> tuple[tuple[str, ...], str | None, str | None]:
    """Regions, region key, instance key: from `uns`, else from attributes, where SpatialData repeats them."""
    stated: dict[str, tuple[str, ...]] = {}
    for key in ("region", "region_key", "instance_key"):
        path = join(group.path, _ANNOTATES, key)
        try:
            texts = source.texts(path)
        except SourceError as error:
            warnings.append(str(error))
            texts = None
        stated[key] = named_texts(group.raw.get(key)) if texts is None else texts
    return stated["region"], _single(stated["region_key"]), _single(stated["instance_key"])


def _single(texts: tuple[str, ...]) -> str | None:
    return texts[0] if len(texts) == 1 and texts[0] else None


def _read_x(source: Hierarchy, path: str, rows: int, warnings: list[str]) -> dict[str, pa.Array]:
    """Columns of X; {} with a warning where they cannot be used."""
    inner = join(path, "X")
    try:
        shape = _x_shape(source, inner)
        if shape is None:
            return {}
        _check_x(source, inner, shape, rows)
        names = read_index(source, join(path, "var"))[1].cast(pa.string()).to_pylist()
        if len(names) != shape[1]:
            reason = f"has {shape[1]} variables, but var has {len(names)}"
            raise SourceDamaged(source.store.location, inner, reason)
        values = source.numbers(inner, 2) if source.is_array(inner) else _sparse(source, inner, shape)
    except SourceError as error:
        warnings.append(f"X left out: {error}")
        return {}
    if values.dtype.kind != "b":
        values = values.astype(np.float64, copy=False)
    return _by_name(names, values, inner, warnings)


def _by_name(
    names: list[str | None], values: NDArray[np.float64], path: str, warnings: list[str]
) -> dict[str, pa.Array]:
    columns: dict[str, pa.Array] = {}
    for number, name in enumerate(names):
        if name is None or name in columns:
            warnings.append(f"{path}: variable {number + 1} left out: its name is missing or not its own")
        else:
            columns[name] = pa.array(np.ascontiguousarray(values[:, number]))
    return columns


def _x_shape(source: Hierarchy, path: str) -> tuple[int, ...] | None:
    """Shape of X, dense or sparse, from its metadata; None if there is no X."""
    attributes = source.attributes(path)
    if attributes.get("encoding-type") == "null":
        return None
    if source.is_array(path):
        return tuple(source.open(path, 2).shape)
    if not source.is_group(path):
        return None
    stated = attributes.get("shape", attributes.get("h5sparse_shape"))  # the latter before anndata 0.7
    sizes = stated if isinstance(stated, list) else []
    if len(sizes) != 2 or not all(type(size) is int and size >= 0 for size in sizes):
        raise SourceDamaged(source.store.location, path, "a sparse matrix must state a shape of two sizes")
    return tuple(sizes)


def _check_x(source: Hierarchy, path: str, shape: tuple[int, ...], rows: int) -> None:
    if shape[0] != rows:
        raise SourceDamaged(source.store.location, path, f"has {shape[0]} rows, but obs has {rows}")
    if shape[1] > MOST_VARIABLES:
        reason = f"has {shape[1]} variables; {MOST_VARIABLES} are allowed as properties of objects"
        raise SourceRefused(source.store.location, path, reason)
    allowed = source.limits.table_bytes
    if 8 * rows * shape[1] > allowed:
        reason = f"has {8 * rows * shape[1]} bytes; {allowed} are allowed"
        raise SourceRefused(source.store.location, path, reason)


def _sparse(source: Hierarchy, path: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A CSR or CSC matrix as a dense one; entries stated twice are added up, as SciPy does."""
    attributes = source.attributes(path)
    form = attributes.get("encoding-type", attributes.get("h5sparse_format"))
    if form not in ("csr_matrix", "csc_matrix", "csr", "csc"):
        raise SourceRefused(source.store.location, path, f"encoding {form!r} is not supported")
    data = source.numbers(join(path, "data")).astype(np.float64, copy=False)
    indices = source.numbers(join(path, "indices")).astype(np.int64, copy=False)
    pointers = source.numbers(join(path, "indptr")).astype(np.int64, copy=False)
    by_row = form.startswith("csr")
    major, minor = shape if by_row else shape[::-1]
    sound = (
        len(pointers) == major + 1
        and len(data) == len(indices) == pointers[-1]
        and pointers[0] == 0
        and (np.diff(pointers) >= 0).all()
        and (not len(indices) or 0 <= indices.min() <= indices.max() < minor)
    )
    if not sound:
        raise SourceDamaged(source.store.location, path, "its indices and pointers do not fit its shape")
    along = np.repeat(np.arange(major), np.diff(pointers))
    flat = along * minor + indices
    sums = np.asarray(np.bincount(flat, data, minlength=major * minor), np.float64)
    dense = sums.reshape(major, minor)
    return dense if by_row else dense.T
