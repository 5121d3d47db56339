"""Data frames as AnnData stores them: a zarr group with an index and an array or group for each column."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from roiservice.errors import SourceDamaged, SourceError, SourceRefused
from roiservice.records import dataclass
from roiservice.sources.paths import clean_path, join
from roiservice.sources.tables.hierarchy import Hierarchy

INDEX = "_index"  # what an index without a name of its own is called
_OLD_CATEGORIES = "__categories"  # group beside the columns, up to anndata 0.7
_MOST_COLUMNS = 1000
_TABLES_TOGETHER = 4  # all columns of a frame may have so many times the bytes that one may have


@dataclass(frozen=True)
class DataFrame:
    """n rows: their index (n,), called `index_name`, and the columns that could be read, (n,) each."""

    index_name: str
    index: pa.Array
    columns: dict[str, pa.Array]
    warnings: tuple[str, ...]


def read_data_frame(source: Hierarchy, path: str) -> DataFrame:
    """The data frame at `path`. Columns that cannot be used are left out with a warning.

    Raises SourceDamaged if there is none or it has no sound index; SourceRefused where it is a structured
    array or its index exceeds the limits.
    """
    index_name, index = read_index(source, path)
    columns: dict[str, pa.Array] = {}
    warnings: list[str] = []
    allowed = _TABLES_TOGETHER * source.limits.table_bytes
    for name in _column_names(source, path, index_name, warnings):
        inner = clean_path(name)
        try:
            if inner is None:
                raise SourceDamaged(source.store.location, path, f"{name!r} cannot be the path of a column")
            values = read_column(source, join(path, inner))
            if len(values) != len(index):
                reason = f"has {len(values)} rows, but the index has {len(index)}"
                raise SourceDamaged(source.store.location, join(path, inner), reason)
            allowed -= values.nbytes
            if allowed < 0:
                reason = f"the columns have more than {_TABLES_TOGETHER * source.limits.table_bytes} bytes"
                raise SourceRefused(source.store.location, path, reason)
        except SourceError as error:
            warnings.append(f"column {name!r} left out: {error}")
        else:
            columns[name] = values
    return DataFrame(index_name, index, columns, tuple(warnings))


def read_index(source: Hierarchy, path: str) -> tuple[str, pa.Array]:
    """Name and values of the index of the data frame at `path`. Raises as `read_data_frame`."""
    if not source.is_group(path):
        if source.is_array(path):
            reason = "is a structured array, as anndata wrote before 0.7; only groups of columns can be read"
            raise SourceRefused(source.store.location, path, reason)
        raise SourceDamaged(source.store.location, path, "there is no such group")
    name = source.attributes(path).get("_index", INDEX)
    inner = clean_path(name)
    if inner is None:
        raise SourceDamaged(source.store.location, path, "_index must be the name of an array")
    return str(name), read_column(source, join(path, inner))


def _column_names(source: Hierarchy, path: str, index_name: str, warnings: list[str]) -> list[str]:
    """Names from `column-order`; without it, of all children."""
    stated = source.attributes(path).get("column-order")
    if isinstance(stated, list):
        names = [name for name in stated if isinstance(name, str)]
    else:
        names = [name for name in source.store.children(path) if name != _OLD_CATEGORIES]
    names = [name for name in dict.fromkeys(names) if name != index_name]
    if len(names) > _MOST_COLUMNS:
        warnings.append(f"{path}: has {len(names)} columns; the first {_MOST_COLUMNS} are read")
    return names[:_MOST_COLUMNS]


def read_column(source: Hierarchy, path: str) -> pa.Array:
    """One column, decoded: an array; or a group of codes and categories, or of values and a mask.

    Groups are told by their members rather than by `encoding-type`, which old writers left out. Raises
    SourceDamaged and SourceRefused.
    """
    if source.is_array(path):
        values = source.column(path)
        categories = clean_path(source.attributes(path).get("categories"))  # dataframe 0.1.0
        if categories is None:
            return values
        return _decoded(source, path, values, source.column(join(path.rpartition("/")[0], categories)))
    if source.is_array(join(path, "codes")):
        codes = source.column(join(path, "codes"))
        return _decoded(source, path, codes, _categories(source, join(path, "categories")))
    if source.is_array(join(path, "mask")):
        return _masked(source, path)
    if not source.is_group(path):
        raise SourceDamaged(source.store.location, path, "there is no such array or group")
    kind = source.attributes(path).get("encoding-type")
    raise SourceRefused(source.store.location, path, f"encoding {kind!r} is no column of values")


def _categories(source: Hierarchy, path: str) -> pa.Array:
    """Categories: an array, or since anndata 0.12 a group of texts and a mask."""
    return source.column(path) if source.is_array(path) else _masked(source, path)


def _masked(source: Hierarchy, path: str) -> pa.Array:
    """A nullable column; its mask is true where the value is missing."""
    values = source.column(join(path, "values"))
    mask = source.numbers(join(path, "mask"))
    if len(mask) != len(values) or mask.dtype != np.bool_:
        raise SourceDamaged(source.store.location, path, "the mask must hold one bool for each value")
    return pc.if_else(pa.array(mask), pa.scalar(None, values.type), values)


def _decoded(source: Hierarchy, path: str, codes: pa.Array, categories: pa.Array) -> pa.Array:
    """The category of each code; -1 is missing."""
    if not pa.types.is_integer(codes.type):
        raise SourceDamaged(source.store.location, path, f"codes must be integers, not {codes.type}")
    numbers = codes.to_numpy().astype(np.int64)
    if len(numbers) and (numbers.max() >= len(categories) or numbers.min() < -1):
        raise SourceDamaged(source.store.location, path, "has codes without a category")
    size = decoded_bytes(numbers, categories)
    if size > min(source.limits.table_bytes, 2**31 - 1):
        reason = f"decodes to {size} bytes; {source.limits.table_bytes} are allowed"
        raise SourceRefused(source.store.location, path, reason)
    return categories.take(pa.array(numbers, mask=numbers < 0))


def decoded_bytes(codes: np.ndarray[Any, np.dtype[np.int64]], categories: pa.Array) -> int:
    """Bytes of all texts that `codes` (negative: none) select: a short file can stand for very many."""
    is_text = pa.types.is_string(categories.type) or pa.types.is_large_string(categories.type)
    if not is_text or not len(categories):
        return 0
    lengths = pc.binary_length(categories).fill_null(0).to_numpy().astype(np.int64)
    return int(np.where(codes < 0, 0, lengths[codes]).sum())


def named_texts(stated: Any) -> tuple[str, ...]:
    """Texts of an attribute that is one text or a list of them; () for anything else."""
    texts = stated if isinstance(stated, list) else [stated]
    return tuple(texts) if all(isinstance(text, str) for text in texts) else ()
