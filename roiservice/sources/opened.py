"""Open a layer, whatever it is read from."""

from __future__ import annotations

from roiservice.sources.layer import LABEL_IMAGE, LayerSource
from roiservice.sources.limits import Limits
from roiservice.sources.planes import LabelLayer, open_layer
from roiservice.sources.tables.layers import TableLayer, open_table


def open_source(source: LayerSource, limits: Limits) -> LabelLayer | TableLayer:
    """Open a layer without reading its pixels or rows. Raises SourceError naming the part at fault."""
    return open_layer(source, limits) if source.kind == LABEL_IMAGE else open_table(source, limits)
