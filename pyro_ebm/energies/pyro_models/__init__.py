"""Pyro models as energies."""
