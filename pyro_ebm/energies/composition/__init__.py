"""Energies made of energies: sums, clamps, blends and paths."""
