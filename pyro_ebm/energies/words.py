"""Energies in words, as `repr` and notebooks show them.

No parameter is read by its name: one that Pyro manages would be drawn.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pyro_ebm.sites import Site, in_words

SHOWN = 6  # sites that are named


def headline(
    module: nn.Module, sites: Mapping[str, Site], dtype: torch.dtype, device: torch.device
) -> str:
    """An energy in one line: its sites, its learned numbers, dtype and device."""
    named = [in_words(name, site) for name, site in sites.items()]
    more = len(named) - SHOWN
    listed = ", ".join(named if more <= 1 else [*named[:SHOWN], f"{more} more"])
    over = f" over {listed}" if listed else ""
    count = sum(parameter.numel() for parameter in module.parameters())
    learned = f"{count:,} parameter{'' if count == 1 else 's'}" if count else "no parameters"
    return f"{type(module).__name__}{over}; {learned}, {str(dtype)[6:]} on {device}"


def indented(text: str) -> str:
    """Lines, each two places further in."""
    return "\n".join(f"  {line}" for line in text.splitlines())


def plain(module: nn.Module, name: str) -> Tensor | None:
    """A parameter or buffer; None where Pyro draws it."""
    buffers = dict(module.named_buffers(recurse=False))
    return dict(module.named_parameters(recurse=False)).get(name, buffers.get(name))


def number(value: Tensor | None) -> str:
    """A number, or the shape of several."""
    if value is None:
        return "random"
    if value.dim():
        return f"({' × '.join(map(str, value.shape))} numbers)"
    return f"{value.item():.4g}"
