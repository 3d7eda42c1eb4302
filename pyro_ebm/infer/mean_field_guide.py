r"""The mean-field posterior of hidden units as a Pyro guide.

.. math:: q(h \mid v) = \prod_j q(h_j \mid \mathrm{field}_j)

Each hidden site of the machine is one statement, a product of independent units. Where it has at
most 2**16 states Pyro can enumerate it, and `TraceEnum_ELBO` is the bound itself.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor, nn

from pyro_ebm.distributions import EnergyDistribution, read_once
from pyro_ebm.energies import BoltzmannMachine, Energy, Layer, PairwiseTerms, require_pairwise
from pyro_ebm.learning import mean_field
from pyro_ebm.sites import Sites


@dataclass(frozen=True, eq=False)
class MeanFieldGuide:
    """The hidden units of a machine by coordinate fixed point, in a guide.

    Called inside a guide, within the plates of the data, it draws the hidden sites. The means are
    those of the machine as it is now, and nothing in them is learned: at the fixed point the bound
    is flat in them, so that its gradient with respect to the machine's parameters is the right one.

    It knows the machine and the observed units only. Where the hidden units feed into other parts
    of the model, use `AmortizedMeanFieldGuide`, which learns from the whole.

    Args:
        names: The names of the model's sites, by the machine's; the same ones if left out.
        tolerance: As for `mean_field`.
        max_sweeps: As for `mean_field`.

    Example:
        >>> import pyro, torch
        >>> from pyro_ebm import BoltzmannMachine, MeanFieldGuide
        >>> machine = BoltzmannMachine.restricted(4, 3)
        >>> def guide(rows):
        ...     with pyro.plate("rows", len(rows)):
        ...         return MeanFieldGuide()(machine, rows)
        >>> guide(torch.ones(5, 4))["hidden"].shape
        torch.Size([5, 3])

    References:
        | Deep Boltzmann machines (Salakhutdinov & Hinton, 2009)
        | https://proceedings.mlr.press/v5/salakhutdinov09a.html
    """

    names: Mapping[str, str] | None = None
    tolerance: float = 1e-8
    max_sweeps: int = 1000

    def __call__(self, energy: Energy, x: Sites | Tensor) -> Sites:
        """Draws the hidden sites given the observed ones.

        Args:
            energy: The machine.
            x: Values of its observed sites (*batch, n), or a bare tensor for `visible`.

        Returns:
            The hidden sites' values (*batch, n).

        Raises:
            TypeError, ValueError: As `mean_field`.
        """
        energy = read_once(energy)
        observed = energy.accept(x)
        found = mean_field(energy, observed, tolerance=self.tolerance, max_sweeps=self.max_sweeps)
        if found.change > self.tolerance:
            warnings.warn(
                f"The mean field has not converged: after {found.sweeps} sweeps a mean still "
                f"changed by {found.change:.1e}. Raise max_sweeps.",
                RuntimeWarning,
                stacklevel=2,
            )
        with torch.no_grad():
            terms = require_pairwise(energy, "Mean field")
            means = {**terms.features(observed), **found.means}
            fields = {site: terms.field(site, means) for site in found.means}
        return draw_hidden(terms, fields, self.names)


@dataclass(frozen=True, eq=False)
class AmortizedMeanFieldGuide:
    """The hidden units of a machine by a network that is learned, in a guide.

    Args:
        network: From the observed units' features (*batch, n), all sites of them side by side, to
            the fields on the hidden units (*batch, m), likewise: the log-odds of a bit.
        name: Under which its parameters are registered with Pyro.
        names: As for `MeanFieldGuide`.

    Example:
        >>> import pyro, torch
        >>> from pyro_ebm import AmortizedMeanFieldGuide, BoltzmannMachine
        >>> machine = BoltzmannMachine.restricted(4, 3)
        >>> posterior = AmortizedMeanFieldGuide(torch.nn.Linear(4, 3))
        >>> def guide(rows):
        ...     with pyro.plate("rows", len(rows)):
        ...         return posterior(machine, rows)
        >>> guide(torch.ones(5, 4))["hidden"].shape
        torch.Size([5, 3])
    """

    network: nn.Module
    name: str = "mean_field"
    names: Mapping[str, str] | None = None

    def __call__(self, energy: Energy, x: Sites | Tensor) -> Sites:
        """Draws the hidden sites given the observed ones, as `MeanFieldGuide`.

        Raises:
            TypeError, ValueError: If the energy is not pairwise, a value is not what its site
                wants, nothing is hidden, or the network's answer has the wrong shape.
        """
        energy = read_once(energy)
        observed = energy.accept(x)
        terms = require_pairwise(energy, "Mean field")
        hidden = [site for site in energy.sites if site not in observed]
        sizes = [terms.biases[site].shape[-1] for site in hidden]
        network = pyro.module(self.name, self.network)
        features = terms.features(observed)
        answer = network(torch.cat([features[s] for s in energy.sites if s in features], -1))
        if not hidden or answer.shape[-1:] != (sum(sizes),):
            raise ValueError(
                f"The network's answer has shape {tuple(answer.shape)}; wanted the fields on the "
                f"hidden units of {hidden} (*batch, {sum(sizes)})."
            )
        fields = dict(zip(hidden, answer.split(sizes, -1), strict=True))
        return draw_hidden(terms, fields, self.names)


def draw_hidden(terms: PairwiseTerms, fields: Sites, names: Mapping[str, str] | None) -> Sites:
    """One statement for each hidden site, of independent units in their fields."""
    drawn = {}
    for site, field in fields.items():
        unit = terms.units[site]
        size = field.shape[-1] // unit.width
        product = BoltzmannMachine({site: Layer(unit, size, bias=field)})
        drawn[site] = pyro.sample((names or {}).get(site, site), EnergyDistribution(product))
    return drawn
