"""Where bytes come from: OME-Zarr stores, their NGFF metadata, and label planes as numpy blocks."""
