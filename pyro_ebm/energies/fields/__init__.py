"""Random fields: factors over labels."""
