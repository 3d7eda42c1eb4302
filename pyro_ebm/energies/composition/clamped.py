"""Energies of what is free while sites, or some of their elements, are held."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pyro_ebm.energies.base import AbstractStructured, Energy
from pyro_ebm.energies.held import Held
from pyro_ebm.energies.structure import Memory, Structure
from pyro_ebm.sites import Sites, only_site


def clamp(
    energy: Energy,
    x: Sites | Tensor,
    *,
    mask: Mapping[str, Tensor | np.ndarray] | Tensor | np.ndarray | None = None,
) -> "Clamped":
    """The energy of what is free while some sites, or some elements of them, are held.

    .. math:: E(x_{free}) = E(x_{free}, x_{held})

    A site that is held as a whole is no site of the result; one that is held in part has its free
    elements, in order, in one dimension. `complete` puts the whole together again.

    Args:
        energy: The energy.
        x: Values of what is held, by site (*batch, *site.shape), or a bare tensor for the only site
            or `visible`. With a batch each element of it has an energy of its own.
        mask: Which elements are held, by site (*site.shape), True where held, tensors or arrays of
            booleans; what x has there is held, and its other elements are not read. Sites without
            a mask are held whole.

    Raises:
        TypeError, ValueError: If a value or a mask is not what its site wants, or nothing is free.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, clamp, exact
        >>> chain = BoltzmannMachine.on_graph([(0, 1), (1, 2)], couplings=torch.tensor([1.0]))
        >>> rest = clamp(chain, torch.tensor([1.0, 0.0, 0.0]), mask=torch.arange(3) == 0)
        >>> exact.moments(rest).mean["visible"]  # tanh 1 and its square
        tensor([0.7616, 0.5800], dtype=torch.float64)
    """
    if not isinstance(x, Mapping):
        name = only_site(energy.sites, "visible")
        x = {name: x}
        if isinstance(mask, Tensor | np.ndarray):
            mask = {name: mask}
    if mask is not None and not isinstance(mask, Mapping):
        if isinstance(mask, Tensor | np.ndarray):
            raise TypeError("mask is one tensor, but x is a dict; give the masks by site too.")
        raise TypeError(f"mask is {mask!r}; wanted booleans, a tensor or an array, by site.")
    like = torch.empty((), dtype=energy.dtype, device=energy.device)
    return Clamped(energy, Held.of(energy.sites, x, mask or {}, like))


class Clamped(AbstractStructured):
    """An energy with some of its sites or elements held; made by `clamp`.

    Args:
        energy: The energy.
        held: What is held.
    """

    typed_by = "energy"

    def __init__(self, energy: Energy, held: Held) -> None:
        super().__init__()
        self.energy, self.held, self.sites = energy, held, held.sites
        self.memory: Memory = {}

    def extra_repr(self) -> str:
        return f"holds {self.held.in_words()}\nof {self.energy!r}"

    def complete(self, x: Sites | Tensor) -> Sites:
        """Values of all the sites of the whole, from those of the free ones."""
        return self.held.complete(self.accept(x, preferred=None))

    def structure(self) -> Structure:
        return self.energy.structure().conditioned(self.held, self.memory)
