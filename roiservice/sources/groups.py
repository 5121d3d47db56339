"""zarr groups and their attributes, zarr v2 and v3."""

from __future__ import annotations

from typing import Any

from roiservice.errors import SourceDamaged
from roiservice.records import dataclass
from roiservice.sources.documents import read_json
from roiservice.sources.paths import join
from roiservice.sources.store import Store


@dataclass(frozen=True)
class Group:
    """A zarr group. `attributes` holds the NGFF ones (v2: `.zattrs`; v3: `attributes.ome`), `raw` all."""

    path: str
    attributes: dict[str, Any]
    zarr_format: int
    raw: dict[str, Any]

    @property
    def document(self) -> str:
        """Path of the file that holds the attributes, for messages."""
        return join(self.path, ".zattrs" if self.zarr_format == 2 else "zarr.json")


def read_group(store: Store, path: str) -> Group | None:
    """The group at `path` ("" = root); None if there is none, or an array.

    Where both exist, v3's `zarr.json` wins over v2's `.zgroup` and `.zattrs`. Raises SourceDamaged naming
    the file, with line and column of bad JSON, and SourceRefused above the limits.
    """
    document = join(path, "zarr.json")
    metadata = read_json(store, document)
    if metadata is None:
        return _read_group_v2(store, path)
    if metadata.get("node_type") == "array":
        return None
    raw = _object(store, document, "attributes", metadata.get("attributes"))
    ome = _object(store, document, "attributes.ome", raw.get("ome"))
    return Group(path, ome, 3, raw)


def is_array(store: Store, path: str) -> bool:
    """Whether `path` is a zarr array rather than a group. Raises as `read_group`."""
    metadata = read_json(store, join(path, "zarr.json"))
    if metadata is not None:
        return metadata.get("node_type") == "array"
    return store.file_exists(join(path, ".zarray"))


def _read_group_v2(store: Store, path: str) -> Group | None:
    attributes = read_json(store, join(path, ".zattrs"))
    if attributes is None and store.file_exists(join(path, ".zgroup")):
        attributes = {}
    if attributes is None or store.file_exists(join(path, ".zarray")):
        return None
    return Group(path, attributes, 2, attributes)


def _object(store: Store, document: str, key: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise SourceDamaged(store.location, document, f"{key} must be a JSON object")
    return value
