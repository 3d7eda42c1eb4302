"""Kernels that move discrete sites."""
