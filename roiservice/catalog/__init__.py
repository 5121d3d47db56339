"""What ROIs exist: the registry of lasting numbers, and an immutable catalog per layer version."""
