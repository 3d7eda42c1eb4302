"""Energies of units in fields: what they can be asked, however their parameters make the terms."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_ebm.energies.base import Block, BlockEnergy, Energy, GradientEnergy
from pyro_ebm.sites import Site, Sites, batch_shape

from .terms import PairwiseTerms


class PairwiseEnergy(BlockEnergy, GradientEnergy):
    """An energy of units in fields that are linear in the other units.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine
        >>> machine = BoltzmannMachine.restricted(2, 3, couplings=torch.ones(2, 3))
        >>> machine.field("hidden", {"visible": torch.tensor([1.0, 1.0])})
        tensor([2., 2., 2.], ...)
    """

    @abstractmethod
    def read(self) -> PairwiseTerms:
        """All parameters, read once: what every computation is done with."""

    def evaluate(self, x: Sites) -> Tensor:
        terms = self.read()
        return terms.energy(terms.features(x))

    def energy_and_gradient(self, x: Sites, sites: Sequence[str]) -> tuple[Tensor, Sites]:
        with torch.no_grad():
            terms = self.read()
        if labels := [site for site in sites if terms.units[site].width > 1]:
            raise TypeError(
                f"The sites {labels} hold labels, in which there is no gradient; ask for `field`, "
                f"which has the energies of all labels."
            )
        with torch.no_grad():
            return terms.energy_and_gradient(terms.features(x), sites)

    def field(self, site: str, x: Sites) -> Tensor:  # (*batch, n * width)
        """The field on every unit of a site: the log-odds of a bit, half those of a spin.

        For units with labels it has one number for each label, for real units it is the precision
        times the mean.

        Args:
            site: The site.
            x: Values of all the sites that it is coupled to, itself included.

        Raises:
            ValueError: If one of these is missing.
        """
        self.check_site(site)
        terms = self.read()
        x = self.around(terms, site, x)
        return self.spread(terms.field(site, terms.features(x)), x)

    def blocks(self, site: str) -> tuple[Block, ...]:
        self.check_site(site)
        return self.read().blocks(site)

    def conditional(self, site: str, x: Sites, block: Block | None = None) -> TorchDistribution:
        self.check_site(site)
        terms = self.read()
        x = self.around(terms, site, x)
        unit, features = terms.units[site], terms.features(x)
        if block is not None:
            field, unit = terms.block_field(site, features, block), unit.part(block)
        elif terms.inner(site) is None:
            field = terms.outer_field(site, features)
        else:
            raise ValueError(
                f"The units of {site!r} are coupled among themselves, so their joint "
                f"conditional does not factorise. Ask for one of blocks({site!r})."
            )
        return unit.conditional(self.spread(field, x))

    def check_site(self, site: str) -> None:
        """Refuses a site that the machine does not have.

        Raises:
            ValueError: If it has not.
        """
        if site not in self.sites:
            raise ValueError(f"Unknown site {site!r}; the energy has {list(self.sites)}.")

    def around(self, terms: PairwiseTerms, site: str, x: Sites | Tensor) -> Sites:
        """The door of what concerns one site: values of all the sites that it is coupled to.

        Raises:
            ValueError: If one is missing: the field would lack its part in silence.
        """
        x = self.accept(x)
        ends = [link.ends for link in terms.links if site in link.ends]
        needed = {second if first == site else first for first, second in ends}
        if missing := [name for name in self.sites if name in needed and name not in x]:
            raise ValueError(
                f"The field on {site!r} depends on the sites {missing}, whose values are missing; "
                f"given were {list(x)}."
            )
        return x

    def spread(self, field: Tensor, x: Sites) -> Tensor:  # (*batch, n)
        """A field with the batch dimensions of x, also where it does not depend on it."""
        batch = torch.broadcast_shapes(field.shape[:-1], batch_shape(x, self.sites))
        return field.expand(*batch, field.shape[-1])

    def free_energy(self, x: Sites | Tensor) -> Tensor:  # (*batch,)
        r"""F(x) = −ln Σ exp(−E), the sum over the sites that x leaves out, in nats.

        Args:
            x: Values of some sites (*batch, n), or a bare tensor for the only one or `visible`.

        Raises:
            FloatingPointError: If a parameter is NaN or infinite.
            ValueError: If units of the remaining sites are coupled among themselves: there is no
                closed form then.
        """
        x = self.accept(x)
        terms = self.read()
        terms.require_finite()
        rest = [site for site in self.sites if site not in x]
        if ends := terms.obstacle(rest):
            raise ValueError(
                f"The free energy of {list(x)} has no closed form: the units of {ends[0]!r} and "
                f"{ends[1]!r}, which it sums over, are coupled. Use the mean-field bound, "
                f"pyro_ebm.mean_field(machine, x).free_energy_bound, or, for a small machine, "
                f"pyro_ebm.exact.log_prob(machine, x)."
            )
        return terms.free_energy(terms.features(x))


class GivenPairwise(PairwiseEnergy):
    """A pairwise energy by its terms, which have been read.

    Args:
        sites: Its sites.
        terms: Its terms.
    """

    def __init__(self, sites: Mapping[str, Site], terms: PairwiseTerms) -> None:
        super().__init__()
        self.sites, self.terms = sites, terms

    @property
    def dtype(self) -> torch.dtype:
        return self.terms.constant.dtype

    @property
    def device(self) -> torch.device:
        return self.terms.constant.device

    def read(self) -> PairwiseTerms:
        return self.terms


def require_pairwise(energy: Energy, what: str) -> PairwiseEnergy:
    """The energy, if it is one of units in fields.

    Args:
        energy: Any energy.
        what: What is to be done with it, for the message.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(energy, PairwiseEnergy):
        raise TypeError(
            f"{what} needs an energy of units in fields, such as a BoltzmannMachine; "
            f"{type(energy).__name__} is none."
        )
    return energy
