"""What ROIs exist: the registry of lasting numbers, and catalogs, one immutable set of columns per layer version."""
