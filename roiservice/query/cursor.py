"""Cursors: a place in a selection of one version of a layer, so that a walk never skips or repeats."""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct

from roiservice.catalog.reader import Catalog
from roiservice.errors import BadParameter, CursorExpired
from roiservice.query.select import RoiQuery
from roiservice.records import dataclass

START = "start"  # the cursor that begins a walk
# Format, version, selection, entries before: 24 bytes, whose text needs no padding.
_CURSOR = struct.Struct(">BQ7sQ")
_FORMAT = 1


@dataclass(frozen=True)
class Walk:
    """A selection of one version of a layer. Versions never change, so a place in it is a plain number."""

    version: int
    selection: bytes

    def cursor(self, offset: int) -> str:
        """The text that stands for the place after `offset` entries."""
        packed = _CURSOR.pack(_FORMAT, self.version, self.selection, offset)
        return base64.urlsafe_b64encode(packed).decode()

    def offset(self, cursor: str) -> int:
        """Entries before the place of a cursor.

        CursorExpired where it is of another version, BadParameter where it is none, or of another selection.
        """
        if cursor == START:
            return 0
        try:
            kind, version, selection, offset = _CURSOR.unpack(base64.b64decode(cursor, b"-_", validate=True))
        except (ValueError, binascii.Error, struct.error):
            kind, version, selection, offset = 0, 0, b"", 0
        if kind != _FORMAT:
            raise BadParameter("cursor", f"is {START!r}, or what a link `next` gave")
        if version != self.version:
            raise CursorExpired(
                f"the layer is another one since this walk began: begin again, cursor={START}"
            )
        if selection != self.selection:
            raise BadParameter("cursor", "belongs to other filters than these")
        return int(offset)


def walk_of(catalog: Catalog, query: RoiQuery, *, by_roi: bool) -> Walk:
    """The walk through all entries of a query: features, or ROIs."""
    name = hashlib.blake2b(repr((query, by_roi)).encode(), digest_size=7)
    return Walk(catalog.version, name.digest())
