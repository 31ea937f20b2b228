"""Kernels compiled by Numba; everything runs on NumPy without them, to the same bits."""
