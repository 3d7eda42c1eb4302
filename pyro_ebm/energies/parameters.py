"""What is asked of an energy's parameters: how many energies they make, whether they are finite."""

import torch
from torch import Tensor
from torch.distributions import biject_to

from pyro_ebm.sites import Site, describe, values_at

from .base import Energy
from .fields.energy import FieldEnergy
from .functions.distribution import DistributionEnergy
from .pairwise.energy import PairwiseEnergy


@torch.no_grad()
def parameter_batch(energy: Energy) -> torch.Size:
    """The batch shape of an energy's parameters: how many energies it is.

    Of an energy without structure it is the shape of the energy of one state without a batch.

    Raises:
        ValueError: If no value of a site is known that could be asked for.
    """
    if isinstance(energy, PairwiseEnergy | FieldEnergy):
        return energy.read().batch
    if isinstance(energy, DistributionEnergy):
        return torch.Size(energy.distribution.batch_shape)
    like = torch.empty((), dtype=energy.dtype, device=energy.device)
    x = {name: some_value(name, site, like) for name, site in energy.sites.items()}
    return energy.evaluate(x).shape


def require_finite(energy: Energy) -> None:
    """Refuses a machine or a random field whose parameters are NaN or infinite.

    Of other energies nothing is known but their values, which are looked at where they are made.

    Raises:
        FloatingPointError: If one is; the message names it.
    """
    if isinstance(energy, PairwiseEnergy | FieldEnergy):
        with torch.no_grad():
            energy.read().require_finite()


def some_value(name: str, site: Site, like: Tensor) -> Tensor:  # (*site.shape)
    """A value of a site, always the same one.

    Raises:
        ValueError: If none is known.
    """
    support = site.support
    if support.is_discrete and hasattr(support, "lower_bound"):
        return torch.as_tensor(support.lower_bound).to(like).expand(site.shape)
    listed = values_at(site)
    if listed is not None:
        return listed[0].to(like).expand(site.shape)
    try:
        to_support = biject_to(support)
    except NotImplementedError:
        raise ValueError(
            f"No value of {name!r} is known, which is {describe(support)}; wanted bits, spins, "
            f"labels, one-hot vectors, or a continuous support that torch's biject_to knows."
        ) from None
    return to_support(like.new_zeros(to_support.inverse_shape(site.shape)))
