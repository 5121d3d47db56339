"""What queries found out once and may use again, within the memory that a process allows for it."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from roiservice.catalog.reader import Catalog
from roiservice.query.subsets import Rows, Subset

Found = TypeVar("Found", Subset, Rows)

REMEMBERED_BYTES = 2**24  # of all catalogs of a process together
_ENTRY_BYTES = 600  # keys and object headers of one entry, about

_lock = threading.Lock()
# Which catalog remembers what under which key, and its bytes; the least recently used first. The dictionaries
# are kept here so that none is taken for another, later one.
_kept: OrderedDict[tuple[int, bytes], tuple[dict[Any, Any], int]] = OrderedDict()
_bytes = 0


def remembered(catalog: Catalog, key: object, find: Callable[[], Found]) -> Found:
    """What `find` gives, of this catalog and for this key, whose repr names all that it depends on."""
    # Keys themselves may be long: thousands of labels.
    name = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    known = catalog.remembered
    found: Found | None = known.get(name)
    if found is None:
        found = find()
        _keep(known, name, found)
        return found
    with _lock:
        if (id(known), name) in _kept:
            _kept.move_to_end((id(known), name))
    return found


def _keep(known: dict[Any, Any], name: bytes, found: Subset | Rows) -> None:
    """Keep it, and drop the least recently used; it alone is not kept if it is too large."""
    global _bytes
    size = found.nbytes + _ENTRY_BYTES
    if size > REMEMBERED_BYTES:
        return
    with _lock:
        replaced = _kept.pop((id(known), name), None)
        known[name] = found
        _kept[id(known), name] = known, size
        _bytes += size - (replaced[1] if replaced else 0)
        while _bytes > REMEMBERED_BYTES:
            (_, oldest), (owner, freed) = _kept.popitem(last=False)
            owner.pop(oldest, None)
            _bytes -= freed
