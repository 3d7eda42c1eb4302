"""The transition matrix of a kernel's own code, and how far it is from leaving a law unchanged.

`Unit.sample` is replaced by a script that forces the outcome of the units, in the order in which
they are visited, and adds up the log-probability of the forced values in the fields that the kernel
computed. Every (state, outcome) pair is one row of one batch, so the matrix is that of the code
path which the user runs, to the last bit.
"""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_ebm.energies import Energy
from pyro_ebm.kernels import Gibbs
from pyro_ebm.sites import Sites
from pyro_ebm.units import Bernoulli, Categorical, Spin, Unit

from .machines import LEVELS, Small, index_of, states_of, width

LIMITS = {torch.float64: 1e-12, torch.float32: 1e-6}  # right kernels: 1e-16 and 1e-8


class Script:
    """Forced outcomes.

    Args:
        energy: What is swept.
        sites: The sites in the order of the sweep.
        outcome: The value (*batch, n) that each site is to have after its turn.
    """

    def __init__(self, energy: Energy, sites: tuple[str, ...], outcome: Sites) -> None:
        self.visits = [
            (site, unit)
            for site in sites
            for block in energy.blocks(site)
            for unit in torch.arange(energy.sites[site].shape[0])[block].tolist()
        ]
        self.outcome, self.next = outcome, 0
        batch = next(iter(outcome.values())).shape[:-1]
        self.log_prob = torch.zeros(batch, dtype=torch.float64)

    def take(self, units: int) -> Tensor:  # (*batch, units)
        """The forced values of the next units, as many as are updated at once."""
        visits = self.visits[self.next : self.next + units]
        self.next += units
        return torch.stack([self.outcome[site][..., unit] for site, unit in visits], -1)

    def sample(self, unit: Unit, field: Tensor) -> Tensor:
        """In place of `Unit.sample`, for fields with the units last or first."""
        if width(unit) > 1:
            return self.sample_labels(width(unit), field)
        chains = self.log_prob.numel()
        value = self.take(field.numel() // chains)
        rows = value.reshape(chains, -1)
        units_last = field.shape == value.shape
        own = field
        if not units_last:
            assert field.shape in (rows.mT.shape, rows[:, 0].shape), field.shape
            own = field.reshape(-1, chains).mT.reshape(value.shape)
        # ln p of the value: its log-odds are the field of a bit, twice that of a spin.
        signed = own.double() * (value - sum(LEVELS[unit]) / 2).sign()
        self.log_prob += logsigmoid(signed * (2 if isinstance(unit, Spin) else 1)).sum(-1)
        field.fill_(math.nan)  # which it may overwrite
        return value.clone() if units_last else rows.mT.reshape(field.shape).clone()

    def sample_labels(self, labels: int, field: Tensor) -> Tensor:
        """The same for units with labels, whose fields have the chains first."""
        chains = self.log_prob.numel()
        value = self.take(field.numel() // chains // labels)
        assert field.shape[:-1] in (value.shape[:-1], (chains,)), field.shape
        log_p = field.double().reshape(*value.shape, labels).log_softmax(-1)
        self.log_prob += log_p.gather(-1, value.long().unsqueeze(-1)).squeeze(-1).sum(-1)
        field.fill_(math.nan)  # which it may overwrite
        return value.reshape(*field.shape[:-1], -1).clone()


@contextmanager
def forced(script: Script) -> Iterator[None]:
    """Draws follow the script."""

    def sample(unit: Unit, field: Tensor) -> Tensor:
        return script.sample(unit, field)

    with (
        mock.patch.object(Bernoulli, "sample", sample),
        mock.patch.object(Spin, "sample", sample),
        mock.patch.object(Categorical, "sample", sample),
    ):
        yield


def transition_matrix(energy: Energy, kernel: Gibbs, small: Small) -> Tensor:
    """T[x, y] of one step (*parameter batch, states, states), in float64."""
    sites = kernel.moved(energy)
    sizes = small.sizes
    moved = {site: sizes[site] for site in sizes if site in sites}
    starts = small.tensors(energy.dtype)
    ends = {
        site: torch.tensor(value, dtype=energy.dtype)
        for site, value in states_of(small.units, moved).items()
    }
    count, outcomes = len(next(iter(starts.values()))), len(next(iter(ends.values())))
    batch = parameter_batch(energy)
    ones = [1] * len(batch)
    shape = (count, outcomes, *batch)
    x = {s: v.reshape(count, 1, *ones, -1).expand(*shape, -1).clone() for s, v in starts.items()}
    outcome = {s: v.reshape(1, outcomes, *ones, -1).expand(*shape, -1) for s, v in ends.items()}
    script = Script(energy, sites, outcome)
    state = kernel.init(energy, x)
    with forced(script):
        state, _ = kernel.step(energy, state)
    reached = index_of(state.x, small.units).reshape(
        count, outcomes, -1
    )  # (count, outcomes, machines)
    probability = script.log_prob.exp().reshape(count, outcomes, -1)
    matrices = []
    for m in range(reached.shape[2]):
        matrix = torch.zeros(count, count, dtype=torch.float64)
        matrices.append(matrix.scatter_add_(1, reached[..., m], probability[..., m]))
    return torch.stack(matrices).reshape(*batch, count, count)


def parameter_batch(energy: Energy) -> torch.Size:
    """The batch dimensions of a machine's parameters."""
    # 1 is a value of bits, of spins and of labels.
    ones = {name: torch.ones(site.shape, dtype=energy.dtype) for name, site in energy.sites.items()}
    return energy.evaluate(ones).shape


def by_definition(energy: Energy, kernel: Gibbs, small: Small) -> Tensor:
    """The same matrix as the product, over blocks in order, of what `conditional` says of each."""
    x = small.tensors(energy.dtype)
    count = len(small.energies)
    total = torch.eye(count, dtype=torch.float64)
    for site in kernel.moved(energy):
        for block in energy.blocks(site):
            law = energy.conditional(site, x, block)
            matrix = torch.zeros(count, count, dtype=torch.float64)
            levels = LEVELS[small.units[site]]
            units = x[site][..., block].shape[-1]
            for outcome in itertools.product(levels, repeat=units):
                value = torch.tensor(outcome, dtype=energy.dtype).expand(count, units)
                reached = x[site].clone()
                reached[..., block] = value
                probability = law.log_prob(value).double().sum(-1).exp()
                where = index_of({**x, site: reached}, small.units)
                matrix.scatter_add_(1, where[:, None], probability[:, None])
            total = total @ matrix
    return total


class Violation(NamedTuple):
    """How far a transition matrix is from what it should be; every number is zero for a right one.

    Args:
        rows: The largest |Σ_y T[x, y] − 1|.
        stationary: The largest |(πT − π)[y]|.
        definition: The largest difference from the product of the blocks' conditional laws.
        unreachable: How many pairs of states T⁴ does not join.
    """

    rows: float
    stationary: float
    definition: float
    unreachable: int

    def found(self, limit: float) -> set[str]:
        """The names of what is violated."""
        return {name for name, value in self._asdict().items() if not value <= limit}


def violation(energy: Energy, kernel: Gibbs, small: Small) -> Violation:
    """What the transition matrix of a kernel that moves all sites violates."""
    matrix = transition_matrix(energy, kernel, small)
    pi = torch.tensor(small.probabilities)
    return Violation(
        float((matrix.sum(-1) - 1).abs().max()),
        float((pi @ matrix - pi).abs().max()),
        float((matrix - by_definition(energy, kernel, small)).abs().max()),
        int((torch.linalg.matrix_power(matrix, 4) <= 0).sum()),
    )


def log_transition(energy: Energy, kernel: Gibbs, x: Sites, y: Sites) -> Tensor:  # (*batch,)
    """ln T[x, y] of one step, for machines too large for the whole matrix."""
    script = Script(energy, kernel.moved(energy), y)
    state = kernel.init(energy, x)
    with forced(script):
        state, _ = kernel.step(energy, state)
    assert all(torch.equal(state.x[site], y[site]) for site in kernel.moved(energy))
    return script.log_prob


def log_transition_by_definition(
    energy: Energy, kernel: Gibbs, x: Sites, y: Sites
) -> Tensor:  # (*batch,)
    """The same from what `conditional` says of each block."""
    x = {site: value.clone() for site, value in x.items()}
    total = torch.zeros(())
    for site in kernel.moved(energy):
        for block in energy.blocks(site):
            value = y[site][..., block]
            total = total + energy.conditional(site, x, block).log_prob(value).sum(-1)
            x[site][..., block] = value
    return total
