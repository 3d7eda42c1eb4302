r"""Exact answers for energies that are small enough: the oracle of every test, and no estimate.

log Z, probabilities, moments and independent draws, in float64. How they are summed follows from
the energy's structure. Of pairwise machines, layers that are not coupled among themselves, and
Gaussian ones, are summed out in closed form and the states of the others are enumerated; where that
leaves too many, two-valued units are split into three groups and Z is one matrix product of size
2^(n/3), and a graph of low treewidth is summed node after node, as random fields are
(`elimination`). Of any other energy with finite sites all states are gone through.

Example:
    >>> import torch
    >>> from pyro_ebm import BoltzmannMachine, exact
    >>> pair = BoltzmannMachine.on_graph([(0, 1)], couplings=torch.tensor([1.0]))
    >>> exact.log_partition(pair)  # ln(2 e + 2 / e)
    tensor(1.8201, dtype=torch.float64, ...)
    >>> exact.sample(pair, 3, seed=0)["visible"].shape
    torch.Size([3, 2])
"""

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from pyro_ebm.energies import Energy, Structure, graph_of, terms_of
from pyro_ebm.partition.elimination.field import field_of
from pyro_ebm.partition.sums.enumeration import (
    MAX_STATES,
    TooManyStatesError,
    in_digits,
    require_possible,
)
from pyro_ebm.partition.sums.fields import FieldSum
from pyro_ebm.partition.sums.finite import FiniteSum, numbered
from pyro_ebm.partition.sums.pairwise import MachineSum
from pyro_ebm.partition.sums.summation import Moments, Summation
from pyro_ebm.seeding import chosen_seed, forked
from pyro_ebm.sites import Sites, batch_shape, levels_of

__all__ = [
    "free_energy",
    "log_partition",
    "log_prob",
    "moments",
    "sample",
    "seconds",
    "states",
]


def summation(
    energy: Energy, given: Collection[str] = (), structure: Structure | None = None
) -> Summation:
    """The way in which an energy is summed.

    Args:
        energy: The energy.
        given: Sites that will be held, whatever values they have.
        structure: What is known of the energy, if it is at hand.

    Raises:
        FloatingPointError: If a parameter is NaN or infinite.
        TypeError: If there is none: it has sites with infinitely many values, and no structure.
    """
    structure = structure or energy.structure()
    if (terms := terms_of(structure)) is not None:
        terms.require_finite()
        return MachineSum(terms.to(torch.float64))
    if graph_of(structure) is not None:
        return FieldSum(field_of(energy, structure))
    levels = {name: levels_of(site) for name, site in energy.sites.items() if name not in given}
    found = {name: values for name, values in levels.items() if values is not None}
    if infinite := [name for name in levels if name not in found]:
        raise TypeError(
            f"Exact summation needs sites with finitely many values, or a pairwise energy; of this "
            f"{type(energy).__name__} the sites {infinite} have infinitely many. Its log Z can "
            f"only be estimated, or found by quadrature."
        )
    return FiniteSum.of(energy, found)


def log_partition(energy: Energy) -> Tensor:  # (*batch of the parameters,)
    r"""log Z, exact, in float64, differentiable in the parameters.

    .. math:: \log Z = \log \sum_x e^{-E(x)}, \quad \partial \log Z = -E_p[\partial E]

    Over real units it is an integral.

    It is differentiable in the parameters. For fields and machines of low treewidth
    `elimination.log_partition` gives the same.

    Args:
        energy: An energy that is small enough by its structure.

    Raises:
        FloatingPointError: If a parameter is NaN or infinite, or the energy of a state NaN or −∞.
        TooManyStatesError: If it is not small enough.
        TypeError: If there is no way to sum it.
        ValueError: If it cannot be normalised.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, exact
        >>> pair = BoltzmannMachine.on_graph([(0, 1)], couplings=torch.tensor([1.0]))
        >>> exact.log_partition(pair)  # ln(2 e + 2 / e)
        tensor(1.8201, dtype=torch.float64, ...)
    """
    return summation(energy).log_partition()


def log_prob(
    energy: Energy, x: Sites | Tensor, *, log_z: Tensor | None = None
) -> Tensor:  # (*batch,)
    """ln p(x), exact: the sites that x leaves out are summed over, coupled or not.

    `EnergyDistribution(energy).log_prob` is the same as a Pyro distribution.

    Args:
        energy: As for `log_partition`.
        x: Values of some sites (*batch, n), or a bare tensor for the only one or `visible`.
        log_z: log Z, where it is at hand already.

    Raises:
        FloatingPointError: As `log_partition`.
        TooManyStatesError: If the machine, or what x leaves out of it, is too large.
        ValueError: If the batch shapes of x and of the parameters do not broadcast, or no state is
            allowed.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, exact
        >>> pair = BoltzmannMachine.on_graph([(0, 1)], couplings=torch.tensor([1.0]))
        >>> exact.log_prob(pair, torch.tensor([[1.0, 1.0], [1.0, -1.0]])).exp()
        tensor([0.4404, 0.0596], dtype=torch.float64, ...)
    """
    x = energy.accept(x)
    return log_prob_by(summation(energy, () if log_z is None else tuple(x)), energy, x, log_z)


def log_prob_by(sums: Summation, energy: Energy, x: Sites, log_z: Tensor | None = None) -> Tensor:
    """As `log_prob`, of values that are checked, by sums that are at hand."""
    log_z = sums.log_partition() if log_z is None else log_z
    require_possible(log_z)
    return held(energy, sums, x).log_partition() - log_z


def free_energy(energy: Energy, x: Sites | Tensor) -> Tensor:  # (*batch,)
    """F(x) = −ln Σ exp(−E), exact: the sites that x leaves out are summed over, coupled or not.

    Args:
        energy: An energy whose other sites are small enough; those in x may have any values.
        x: As for `log_prob`.

    Raises:
        FloatingPointError, TooManyStatesError, TypeError, ValueError: As `log_prob`.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, exact
        >>> machine = BoltzmannMachine.restricted(3, 2, couplings=torch.zeros(3, 2))
        >>> exact.free_energy(machine, torch.ones(3))  # −ln 4: two free hidden bits
        tensor(-1.3863, dtype=torch.float64, ...)
    """
    x = energy.accept(x)
    return -held(energy, summation(energy, tuple(x)), x).log_partition()


def held(energy: Energy, sums: Summation, x: Sites) -> Summation:
    """The sums over the sites that x leaves out, of values that have passed the door.

    Raises:
        ValueError: If the batch shapes of x and of the parameters do not broadcast.
    """
    batch = batch_shape(x, energy.sites)
    try:
        torch.broadcast_shapes(batch, sums.batch)
    except RuntimeError:
        raise ValueError(
            f"x has the batch shape {tuple(batch)}, and the parameters have "
            f"{tuple(sums.batch)}; wanted shapes that broadcast: one row of x for each of the "
            f"parameters, which come last, or x[:, None] for each row with all of them."
        ) from None
    return sums.clamped({site: value.double() for site, value in x.items()})


def moments(energy: Energy) -> Moments:
    """All means and pair moments of the features, exact, in float64.

    Args:
        energy: As for `log_partition`. Of a batch of parameters each has its own.

    Raises:
        FloatingPointError: As `log_partition`.
        TooManyStatesError: If it is too large.
        ValueError: If no state is allowed.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, exact
        >>> pair = BoltzmannMachine.on_graph([(0, 1)], couplings=torch.tensor([1.0]))
        >>> exact.moments(pair).second  # tanh 1 beside the diagonal
        tensor([[1.0000, 0.7616],
                [0.7616, 1.0000]], dtype=torch.float64)
    """
    with torch.no_grad():
        return summation(energy).moments()


def sample(energy: Energy, count: int, seed: int | None = None) -> Sites:  # (count, *batch, n)
    """Independent exact draws, in the energy's dtype.

    `sample` runs chains where this is too much; its draws are these where it is not.

    Args:
        energy: As for `log_partition`. Of a batch of parameters each has its own draws.
        count: The number of draws.
        seed: Of the draws; taken from torch's generator if left out.

    Raises:
        FloatingPointError: As `log_partition`.
        TooManyStatesError: If the machine is too large.
        ValueError: If the count is not positive, the seed no whole number, or no state is allowed.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, exact
        >>> magnet = BoltzmannMachine.on_graph([(0, 1)], couplings=torch.tensor([9.0]))
        >>> exact.sample(magnet, 4, seed=0)["visible"].prod(-1)
        tensor([1., 1., 1., 1.])
    """
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"count is {count!r}; wanted a positive whole number of draws.")
    with torch.no_grad(), forked(chosen_seed(seed), energy.device):
        x = summation(energy).sample(count)
    return {site: x[site].to(energy.dtype) for site in energy.sites}


def states(energy: Energy, sites: Sequence[str] | None = None) -> Sites:  # (states, n) each
    """Every joint state of some sites, all of them if left out; the last unit changes fastest.

    Args:
        energy: An energy; its other sites may be of any kind.
        sites: Names of the sites.

    Raises:
        TooManyStatesError: If there are too many.
        TypeError: If a site has infinitely many values.
        ValueError: If a site is unknown.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, exact
        >>> exact.states(BoltzmannMachine.fully_visible(2))
        {'visible': tensor([[0., 0.],
                [0., 1.],
                [1., 0.],
                [1., 1.]])}
    """
    if isinstance(sites, str):
        sites = (sites,)
    chosen = tuple(energy.sites if sites is None else sites)
    if unknown := [site for site in chosen if site not in energy.sites]:
        raise ValueError(f"Unknown sites {unknown}; the energy has {list(energy.sites)}.")
    levels = {}
    for site in chosen:
        found = levels_of(energy.sites[site])
        if found is None:
            raise TypeError(f"{site!r} has no finite states: {energy.sites[site].support}.")
        levels[site] = found
    count = math.prod(len(values) for site in levels.values() for values in site)
    if count > MAX_STATES:
        raise TooManyStatesError(
            f"The sites {list(chosen)} have {in_digits(count)} states, which would take "
            f"{in_digits(8 * count)} bytes a unit; at most {in_digits(MAX_STATES)} are enumerated."
        )
    like = torch.empty((), dtype=energy.dtype)
    return numbered(energy.sites, levels, torch.arange(count, device=energy.device), like)


def require_small(energy: Energy, structure: Structure | None = None) -> None:
    """Refuses an energy that is too large for exact summation.

    Args:
        energy: The energy.
        structure: What is known of it, if it is at hand.

    Raises:
        TooManyStatesError: If it is.
        TypeError: As `log_partition`.
    """
    with torch.no_grad():
        _ = summation(energy, (), structure).seconds


def seconds(energy: Energy, x: Sites | None = None, *, structure: Structure | None = None) -> float:
    """Roughly how long `log_partition`, or with x `log_prob`, takes on one core.

    It is infinity where they refuse.

    Args:
        energy: The energy.
        x: Values that have passed the door.
        structure: What is known of the energy, `energy.structure()`, if it is at hand.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, exact
        >>> exact.seconds(BoltzmannMachine.restricted(10, 100)) < 0.1
        True
        >>> exact.seconds(BoltzmannMachine.restricted(100, 100)) > 1e6
        True
    """
    try:
        with torch.no_grad():
            sums = summation(energy, (), structure)
            return sums.seconds + (0.0 if x is None else held(energy, sums, x).seconds)
    except (FloatingPointError, TooManyStatesError, TypeError, ValueError):
        return math.inf
