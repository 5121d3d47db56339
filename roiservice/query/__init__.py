"""From a request for ROIs to row numbers and columns of a catalog."""
