"""Kernels that move real sites."""
