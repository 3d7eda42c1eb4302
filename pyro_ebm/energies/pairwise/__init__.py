"""Machines: units in layers, coupled in pairs."""
