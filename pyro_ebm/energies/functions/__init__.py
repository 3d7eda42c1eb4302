"""Functions, networks and distributions as energies."""
