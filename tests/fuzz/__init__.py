"""Random energies compared with enumeration; `make fuzz` runs many, `make test` a fixed few."""
