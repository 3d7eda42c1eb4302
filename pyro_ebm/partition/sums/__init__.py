"""Exact sums over states, by structure."""
