"""Passes of a Pyro model at the values of many chains."""

import warnings
from collections.abc import Callable

import torch

from pyro_ebm.sites import Sites

from .log_joint import Message, ModelStructureError


def require_same_sites(first: dict[str, Message], passes: list[dict[str, Message]]) -> None:
    """Refuses a model whose sites depend on values.

    Raises:
        ModelStructureError: If a pass has other sites than the first.
    """
    for nodes in passes:
        if other := first.keys() ^ nodes.keys():
            raise ModelStructureError(
                f"The sites {sorted(other)} are in one pass of the model and not in another: its "
                f"sites depend on values. Give it the same sites in every pass."
            )


def stacked(rows: list[Sites]) -> Sites:
    """Values of several chains as one batch."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def batched(function: Callable[[Sites], Sites], rows: Sites, chunk: int) -> Sites:
    """A function of one row for all of them, by vmap."""
    with warnings.catch_warnings():
        # Said where torch loops over the batch for one operation, which is right all the same.
        warnings.filterwarnings("ignore", message="There is a performance drop")
        return torch.func.vmap(function, randomness="error", chunk_size=chunk)(rows)
