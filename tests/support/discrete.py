"""The discrete sites of a small Pyro model: all their states, their law, and a kernel's matrix."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from unittest import mock

import torch
from pyro import poutine
from torch import Tensor

from pyro_ebm.energies import ModelEnergy
from pyro_ebm.kernels import Gibbs
from pyro_ebm.sites import Sites
from pyro_ebm.units import FiniteLaw

from .models import Case


class States(NamedTuple):
    """Joint states of some discrete sites, the other sites held.

    Args:
        x: Values of all the sites (states, *shape).
        log_weights: ln p up to a constant (states,), from Pyro's own traces; −∞ is left out.
        sites: The sites whose states they are.
    """

    x: Sites
    log_weights: Tensor
    sites: tuple[str, ...]

    @property
    def law(self) -> Tensor:  # (states,)
        return self.log_weights.softmax(0)

    def index(self, x: Sites) -> Tensor:  # (chains,)
        """Which state each is."""
        count = len(next(iter(x.values())))
        found = torch.ones(count, len(self.log_weights), dtype=torch.bool)
        for site in self.sites:
            mine = self.x[site].reshape(len(self.log_weights), -1)
            found &= (x[site].reshape(count, 1, -1) == mine).all(-1)
        assert bool(found.any(1).all())
        return found.int().argmax(1)


def site_states(energy: ModelEnergy, site: str) -> Tensor:  # (states, *shape)
    """All the values of one site, whatever its elements."""
    values = energy.discrete_site(site).values
    shape = energy.sites[site].shape
    elements = shape[: len(shape) - (values.dim() - 1)].numel()
    chosen = torch.tensor(list(itertools.product(range(len(values)), repeat=elements)))
    return values[chosen].reshape(-1, *shape)


def states(case: Case, energy: ModelEnergy, sites: tuple[str, ...], x: Sites) -> States:
    """All joint states of some sites of positive probability, the others at x."""
    each = [site_states(energy, site) for site in sites]
    grid = torch.cartesian_prod(*[torch.arange(len(values)) for values in each])
    grid = grid.reshape(len(grid), len(sites))
    joint = {name: value.expand(len(grid), *value.shape).clone() for name, value in x.items()} | {
        site: values[grid[:, k]] for k, (site, values) in enumerate(zip(sites, each, strict=True))
    }
    log_weights = torch.stack([log_joint(case, energy, joint, k) for k in range(len(grid))])
    kept = log_weights.isfinite()
    return States({n: v[kept] for n, v in joint.items()}, log_weights[kept], sites)


def log_joint(case: Case, energy: ModelEnergy, x: Sites, k: int) -> Tensor:  # ()
    """ln p of one state by Pyro; by the formula where sites are summed out. −∞ where impossible."""
    values = {n: v[0] for n, v in energy.constrain({n: v[k : k + 1] for n, v in x.items()}).items()}
    if case.summed:
        assert case.by_hand is not None
        found = case.by_hand({n: v.numpy() for n, v in values.items()})
        return torch.tensor(found, dtype=torch.float64)
    trace = poutine.trace(poutine.condition(case.model, values)).get_trace(*case.args)
    for msg in trace.nodes.values():
        if msg["type"] == "sample" and hasattr(msg["fn"], "support"):
            msg["fn"]._validate_args = False
            if not bool(msg["fn"].support.check(msg["value"]).all()):
                return torch.tensor(-torch.inf, dtype=torch.float64)
    total = trace.log_prob_sum().double()
    for name in energy.real & energy.moving:
        law = trace.nodes[name]["fn"]
        transform = torch.distributions.biject_to(law.support)
        free = transform.inv(values[name])
        total = total + transform.log_abs_det_jacobian(free, values[name]).sum()
    return total


class Script:
    """Forced outcomes, block by block.

    Args:
        energy: The energy that is swept.
        sites: The sites in the order of the sweep.
        outcome: The value (rows, *shape) that each is to have after its turn.
    """

    def __init__(self, energy: ModelEnergy, sites: tuple[str, ...], outcome: Sites) -> None:
        self.visits = [(site, block) for site in sites for block in energy.blocks(site)]
        self.outcome, self.next = outcome, 0
        self.log_prob = torch.zeros(len(outcome[sites[0]]), dtype=torch.float64)

    def sample(self, law: FiniteLaw) -> Tensor:
        site, block = self.visits[self.next]
        self.next += 1
        value = self.outcome[site].reshape(len(self.log_prob), -1)[:, block]
        self.log_prob += law.log_prob(value).sum(-1).double()
        return value


@contextmanager
def forced(script: Script) -> Iterator[None]:
    """Draws follow the script."""
    with mock.patch.object(FiniteLaw, "sample", lambda law: script.sample(law)):
        yield


def transition_matrix(energy: ModelEnergy, found: States) -> Tensor:  # (states, states)
    """T[x, y] of one Gibbs step over the sites, through the code path that the user runs."""
    count = len(found.law)
    start = {n: v.repeat_interleave(count, 0) for n, v in found.x.items()}
    outcome = {s: found.x[s].repeat(count, *[1] * (found.x[s].dim() - 1)) for s in found.sites}
    script = Script(energy, found.sites, outcome)
    kernel = Gibbs(found.sites)
    state = kernel.init(energy, start)
    with forced(script):
        state, _ = kernel.step(energy, state)
    assert script.next == len(script.visits)
    assert all(torch.equal(state.x[site], outcome[site]) for site in found.sites)
    return script.log_prob.exp().reshape(count, count)


def error(energy: ModelEnergy, found: States) -> float:
    """How far a Gibbs step is from a stochastic matrix that leaves the law unchanged."""
    matrix = transition_matrix(energy, found)
    rows = (matrix.sum(-1) - 1).abs().max()
    return float(torch.maximum(rows, (found.law @ matrix - found.law).abs().max()))


def block_error(energy: ModelEnergy, found: States, site: str) -> float:
    """Of the joint law of each block of a site given all the rest, against ratios of p."""
    flat = found.x[site].flatten(1) if found.x[site].dim() > 1 else found.x[site][:, None]
    others = [found.x[s].reshape(len(flat), -1) for s in found.sites if s != site]
    worst = 0.0
    for block in energy.blocks(site):
        law = energy.conditional(site, found.x, block)
        log_prob = law.log_prob(flat[:, block]).sum(-1)
        rest = flat.clone()
        rest[:, block.flatten()] = 0
        key = torch.cat([rest, *others], -1)
        same = (key[:, None] == key).all(-1)
        weights = torch.where(same, found.log_weights, -torch.inf)
        wanted = found.log_weights - weights.logsumexp(-1)
        worst = max(worst, float((log_prob - wanted).abs().max()))
    return worst
