"""Energies inside Pyro's models and guides."""

from .factor import energy_factor
from .mean_field_guide import AmortizedMeanFieldGuide, MeanFieldGuide

__all__ = ["AmortizedMeanFieldGuide", "MeanFieldGuide", "energy_factor"]
