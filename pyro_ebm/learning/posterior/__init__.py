"""The positive phase: hidden units given the data."""
