"""Rings as arrays, their measures, and the frames they lie in (numpy, numba and shapely only)."""
