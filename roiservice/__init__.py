"""Serve the objects of OME-Zarr label images as regions of interest (ROIs)."""

__version__ = "0.1.0"
