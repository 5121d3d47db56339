"""Columns to bytes: one small pure module per format (imports geometry only)."""
