"""Label planes in, exact rings out (numpy and numba; imports geometry only)."""
