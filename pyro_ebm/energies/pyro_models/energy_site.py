"""A latent site of a Pyro model that is an energy itself: drawn by what that energy knows.

Where the rest of the model looks at each element of the site on its own, it is one more field on
that element. The site is then swept like its energy alone, in that field: layers at once, graphs by
colours. Units that the energy sums out are drawn for the sweep and forgotten.
"""

from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor
from torch.distributions import Independent

from pyro_ebm.energies.base import Energy
from pyro_ebm.sites import Sites


@dataclass(frozen=True, eq=False)
class EnergySite:
    """How a site that is an energy is swept.

    Args:
        energy: The energy, which no other latent site enters.
        site: Its site that the model's site is.
        terms: The sites whose terms depend on the site, without its own.
        levels: The values of an element, in the order of the energy's features (states,).
        shape: Of the model's site: perhaps plates, and the elements.
    """

    energy: Energy
    site: str
    terms: frozenset[str]
    levels: Tensor
    shape: torch.Size

    def log_weights(self, found: Sites) -> Tensor:  # (*shape)
        """The sum of terms element by element.

        Raises:
            ValueError: If a term has other elements.
        """
        total = torch.zeros(self.shape, device=self.energy.device)
        for name, entry in found.items():
            if entry.shape[entry.dim() - len(self.shape) :] != self.shape:
                raise ValueError(f"{name!r} has entries {tuple(entry.shape)}.")
            # Not sum(dim=()): torch takes no dimensions to mean all of them.
            total = total + entry.reshape(-1, *self.shape).sum(0)
        return total

    @property
    def is_bare(self) -> bool:
        """Whether there are no hidden units: then a weight of the energy is one of the law's."""
        return len(self.energy.sites) == 1

    def sweep(
        self, value: Tensor, log_weights: Tensor, weight: Tensor | None = None
    ) -> Tensor:  # (*batch, *shape)
        """A value after every element was drawn once, given the rest of the model.

        Args:
            value: The present one (*batch, *shape).
            log_weights: ln p of the rest of the model at each value of each element, up to what
                that element does not enter (states, *batch, *shape).
            weight: Of the energy itself (*batch,); 1 if left out, and where there are hidden units.
        """
        if weight is not None:
            weight = weight[(..., *[None] * (len(self.shape) - 1))]  # plates
        sweep = self.energy.structure().sweep_alone(self.site)
        assert sweep is not None  # checked when it was made
        return sweep(value, log_weights, weight)


def energy_of(law: Any) -> tuple[Energy, str] | None:  # noqa: ANN401 (any distribution)
    """The energy that a distribution is made of, and the site whose law it is; None if it is not.

    An `EnergyDistribution` has them as `machine` and `site`. One that is masked is another law.
    """
    own = law
    while isinstance(own, ExpandedDistribution | Independent):
        own = own.base_dist
    energy, site = getattr(own, "machine", None), getattr(own, "site", None)
    if isinstance(energy, Energy) and isinstance(site, str):
        return energy, site
    return None
