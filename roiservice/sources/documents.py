"""JSON documents of a store, within limits of size and nesting."""

from __future__ import annotations

import json
import re
from typing import Any

from roiservice.errors import SourceDamaged, SourceRefused
from roiservice.sources.store import Store

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_json(store: Store, path: str) -> dict[str, Any] | None:
    """The JSON object in file `path`; None if there is no such file.

    NaN and Infinity are read as floats, since writers do store them; text that is no valid Unicode has its
    offending characters replaced. Raises SourceDamaged (with line and column) and SourceRefused (nesting).
    """
    data = store.read(path)
    if data is None:
        return None
    document = _parsed(store, path, data)
    if not isinstance(document, dict):
        kind = type(document).__name__
        raise SourceDamaged(store.location, path, f"must hold a JSON object, but holds a {kind}")
    if _deeper_than(document, store.limits.metadata_depth):
        raise _too_deep(store, path)
    return _repaired(document) if _SURROGATE_ESCAPE.search(data) else document


def _parsed(store: Store, path: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise SourceDamaged(store.location, path, f"bad JSON at {where}: {error.msg}") from None
    except RecursionError:
        raise _too_deep(store, path) from None
    except (ValueError, MemoryError) as error:  # not UTF-8, or an integer of thousands of digits
        raise SourceDamaged(store.location, path, f"bad JSON: {error}") from None


def _too_deep(store: Store, path: str) -> SourceRefused:
    depth = store.limits.metadata_depth
    return SourceRefused(store.location, path, f"JSON is nested deeper than {depth} levels")


def _deeper_than(document: Any, depth: int) -> bool:
    """Level by level rather than recursively: large `properties` lists make this the slow part."""
    level = [document]
    for _ in range(depth):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _repaired(value: Any) -> Any:
    """`value` with lone surrogates replaced, which no encoder downstream could write."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_repaired(item) for item in value]
    if isinstance(value, dict):
        return {_repaired(key): _repaired(item) for key, item in value.items()}
    return value
