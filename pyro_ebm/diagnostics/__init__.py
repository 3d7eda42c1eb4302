"""The rim towards ArviZ."""

from .inference_data import inference_data
from .to_arviz import to_arviz

__all__ = ["inference_data", "to_arviz"]
