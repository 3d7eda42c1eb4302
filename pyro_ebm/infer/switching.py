"""Chains that hold the same components in other orders."""

import torch
from torch import Tensor

from pyro_ebm.kernels import Chains
from pyro_ebm.statistics import r_hat

APART = 1.1  # R-hat beyond which chains disagree


@torch.no_grad()
def switched_sites(chains: Chains) -> list[str]:
    """The real sites whose chains disagree as they are, and agree with components in order.

    Components lie along one dimension of the site; they are put in order, draw by draw, by their
    mean over the other dimensions.
    """
    return [
        name
        for name, site in chains.sites.items()
        if not site.support.is_discrete and len(site.shape) and is_switched(chains.draws[name])
    ]


def is_switched(draws: Tensor) -> bool:  # (chain, draw, *shape)
    """Whether order along one dimension is all that chains disagree in."""
    if draws.shape[1] < 4 or worst(draws) <= APART:
        return False
    return any(
        draws.shape[dim] > 1 and worst(ordered(draws, dim)) <= APART
        for dim in range(2, draws.dim())
    )


def ordered(draws: Tensor, dim: int) -> Tensor:
    """Draws with the slices along one dimension in order of their means."""
    others = [d for d in range(2, draws.dim()) if d != dim]
    means = draws.mean(others, keepdim=True) if others else draws
    return draws.gather(dim, means.argsort(dim).expand_as(draws))


def worst(draws: Tensor) -> float:
    """The largest R-hat of the elements."""
    return float(r_hat(draws.flatten(2)).max())


def in_words(sites: list[str]) -> str:
    """What is to be said of switched sites, and what to do."""
    first = sites[0]
    return (
        f"Label switching: the chains hold the same values of {', '.join(map(repr, sites))} in "
        f"other orders, which the model cannot tell apart. Put them in order in the model, for "
        f"example {first} = pyro.sample({first!r}, dist.TransformedDistribution(law, "
        f"dist.transforms.OrderedTransform())), or look at what has no order: the density, the "
        f"number in the largest cluster."
    )
