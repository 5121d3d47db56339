"""Upper bounds that keep an untrusted store from hurting the service."""

from __future__ import annotations

from roiservice.records import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds checked against metadata, before any pixel is read. All are inclusive."""

    array_pixels: int = 2**42
    """Pixels of a whole level-0 array, all planes."""
    plane_pixels: int = 2**36
    """Pixels of one y-x plane."""
    chunk_bytes: int = 2**30
    """Decoded bytes of one chunk; where chunks are sharded, of one inner chunk."""
    shard_bytes: int = 2**33
    """Decoded bytes of one shard, and bytes on disk of any one chunk or shard file."""
    metadata_bytes: int = 2**28
    """Bytes of one JSON document."""
    metadata_depth: int = 64
    """Nesting of one JSON document."""
    table_bytes: int = 2**31
    """Bytes of one file of a table, and decoded bytes of one of its columns."""
    table_rows: int = 50_000_000
    """Rows of one table."""
    table_vertices: int = 2**28
    """Vertices of all shapes of one table, as they are stored."""
    made_vertices: int = 2**28
    """Vertices that are made to draw a mask, or to repair all polygons of one table."""
    planes: int = 1_000_000
    """Planes of one layer, and image planes they are shown on."""
    layers: int = 1000
    """Layers of one image."""
    images: int = 1_000_000
    """Images found below one location."""

    def file_bytes(self, *, packed: bool) -> int:
        """Bytes of one file of chunks; less where a zip file has it `packed`, as few may stand for many."""
        return min(self.chunk_bytes, self.shard_bytes) if packed else self.shard_bytes
