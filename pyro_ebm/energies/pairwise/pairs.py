"""Machines as the coefficients of pairs, which other libraries take."""

from collections.abc import Hashable, Mapping
from typing import NamedTuple

from torch import Tensor

from pyro_ebm.units import Bernoulli, Spin, name_of

from .edges import Names
from .links import GraphLink, Link
from .terms import PairwiseTerms


class Pairs(NamedTuple):
    r"""The numbers of a machine, each pair once.

    .. math:: E(x) = -\sum_{(u, v)} J_{uv} x_u x_v - \sum_u b_u x_u + c

    Args:
        couplings: J by pair of names; of a matrix without those that are zero.
        biases: b by name, of all units.
        constant: c.
    """

    couplings: dict[tuple[Hashable, Hashable], float]
    biases: dict[Hashable, float]
    constant: float

    def polynomial(
        self, sign: float
    ) -> tuple[dict[Hashable, float], dict[tuple[Hashable, Hashable], float]]:
        """Linear and quadratic coefficients, the numbers times a sign."""
        linear = {name: sign * value + 0.0 for name, value in self.biases.items()}  # no −0
        return linear, {pair: sign * value for pair, value in self.couplings.items()}


def pairs_of(terms: PairwiseTerms, names: Mapping[str, Names]) -> Pairs:
    """The coefficients of a machine of numbers.

    Args:
        terms: The machine.
        names: Of the units of some sites. Units of others are called by their number, or, where
            there are several sites, by site and number.

    Raises:
        ValueError: If there is a batch of machines, or units have labels or potentials.
    """
    if terms.batch:
        raise ValueError(
            f"The parameters have the batch shape {tuple(terms.batch)}; wanted one machine."
        )
    if other := [unit for unit in terms.units.values() if not isinstance(unit, Bernoulli | Spin)]:
        raise ValueError(
            f"{name_of(other[0])} units are neither bits nor spins: their energy has more than "
            f"pairs of numbers, or needs more than one for each unit."
        )
    own = {site: names.get(site) or numbered(terms, site) for site in terms.units}
    biases = {
        name: value
        for site, bias in terms.biases.items()
        for name, value in zip(own[site], bias.tolist(), strict=True)
    }
    couplings: dict[tuple[Hashable, Hashable], float] = {}
    for link in terms.links:
        edges, weights = edges_of(link)
        one, other_end = (own[end] for end in link.ends)
        for (i, j), weight in zip(edges.tolist(), weights.tolist(), strict=True):
            couplings[one[i], other_end[j]] = weight
    return Pairs(couplings, biases, float(terms.constant))


def numbered(terms: PairwiseTerms, site: str) -> Names:
    """Names for the units of a site that has none."""
    count = range(terms.count(site))
    return tuple(count) if len(terms.units) == 1 else tuple((site, k) for k in count)


def edges_of(link: Link) -> tuple[Tensor, Tensor]:
    """The coupled pairs of units (pairs, 2), and their couplings (pairs,)."""
    if isinstance(link, GraphLink):
        weight = link.times(link.weight, 1)
        return link.edges, weight.expand(len(link.edges))
    matrix = link.matrix()
    if link.ends[0] == link.ends[1]:
        matrix = matrix.triu(1)
    edges = matrix.nonzero()
    return edges, matrix[tuple(edges.mT)]
