"""Chains and Pyro results as ArviZ data."""
