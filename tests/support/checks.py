"""How far a machine's energies, laws and exact sums are from plain loops over its numbers.

Each function returns the largest error, for one machine; the laws bound it, and the planted faults
must exceed the bound.
"""

import itertools

import numpy as np
import torch
from torch import Tensor

from pyro_ebm.energies import BoltzmannMachine, mean_energy_difference
from pyro_ebm.partition import exact
from pyro_ebm.partition.elimination.field import field_of_terms
from pyro_ebm.partition.sums import enumeration, split
from pyro_ebm.partition.sums.fields import FieldSum

from .machines import BIT, LEVELS, SPIN, STEPS, Small, states_of

LIMITS = {torch.float64: 1e-12, torch.float32: 1e-5}  # relative to the size of what is compared


def distance(found: Tensor, wanted: np.ndarray | Tensor) -> float:
    """The largest difference, relative where the values are larger than 1; NaN is no number."""
    wanted = torch.as_tensor(wanted, dtype=torch.float64).detach()
    found = found.detach().double()
    assert found.shape == wanted.shape, f"{found.shape} is not {wanted.shape}"
    return float(((found - wanted).abs() / wanted.abs().clamp_min(1)).max().nan_to_num(np.inf))


def energy_error(small: Small, dtype: torch.dtype = torch.float64) -> float:
    """Of E, the constant included."""
    return distance(small.machine(dtype)(small.tensors(dtype)), small.energies)


def conditional_error(small: Small, dtype: torch.dtype = torch.float64) -> float:
    """Of ln p(x_i | rest) for every unit of every block, against ratios of exp(−E)."""
    machine, x = small.machine(dtype), small.tensors(dtype)
    shape = [len(LEVELS[unit]) for s, unit in small.units.items() for _ in range(small.sizes[s])]
    log_weights = -small.energies.reshape(shape)
    first = dict(zip(small.sizes, np.cumsum([0, *small.sizes.values()]), strict=False))
    worst = 0.0
    for site in small.units:
        for block in machine.blocks(site):
            law = machine.conditional(site, x, block)
            found = law.log_prob(x[site][..., block])
            for column, i in enumerate(torch.arange(small.sizes[site])[block].tolist()):
                norm = np.logaddexp.reduce(log_weights, first[site] + i, keepdims=True)
                worst = max(worst, distance(found[:, column], (log_weights - norm).reshape(-1)))
    return worst


def free_energy_error(small: Small, dtype: torch.dtype = torch.float64) -> float:
    """Of F for every set of sites that leaves uncoupled ones."""
    machine = small.machine(dtype)
    worst = 0.0
    for sites in summable(small):
        x = states_of(small.units, {site: small.sizes[site] for site in sites})
        found = machine.free_energy({s: torch.tensor(v, dtype=dtype) for s, v in x.items()})
        worst = max(worst, distance(found, small.free_energies(sites)))
    return worst


def summable(small: Small) -> list[tuple[str, ...]]:
    """The sets of sites whose rest has no couplings, neither inside nor among its layers."""
    return [
        sites
        for k in range(1, len(small.units) + 1)
        for sites in itertools.combinations(small.units, k)
        if not any(set(pair).isdisjoint(sites) for pair in small.couplings)
    ]


def phases(small: Small, seed: int = 5) -> tuple[dict, dict, Tensor]:
    """A positive phase with weights, and a negative phase of other states."""
    rng = np.random.default_rng(seed)
    states = small.tensors()
    count = len(small.energies)
    positive, negative = (
        {site: value[rng.integers(0, count, rows)] for site, value in states.items()}
        for rows in (7, 5)
    )
    return positive, negative, torch.tensor(rng.dirichlet(np.ones(7)))


def gradients(value: Tensor, parameters: list) -> tuple[Tensor, ...]:
    """∂ value / ∂ parameters, zero where it does not depend on one."""
    return torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)


def gradient_error(small: Small) -> float:
    """Of the closed-form learning rule's value and gradient, against autograd of the energies."""
    machine = small.machine(wrap=torch.nn.Parameter)
    parameters = list(machine.parameters())
    positive, negative, weights = phases(small)
    as_features = [
        {
            site: torch.tensor(value)
            for site, value in small.features({s: v.numpy() for s, v in phase.items()}).items()
        }
        for phase in (positive, negative)
    ]
    worst = 0.0
    for given in (None, weights):
        w = torch.full((7,), 1 / 7, dtype=torch.float64) if given is None else given
        found = mean_energy_difference(machine.structure().terms, *as_features, given)
        wanted = w @ machine(positive) - machine(negative).mean()
        worst = max(worst, distance(found, wanted.detach()))
        pairs = zip(
            gradients(found, parameters),
            gradients(wanted, parameters),
            strict=True,
        )
        worst = max(worst, *(distance(a, b) for a, b in pairs))
    return worst


# --- exact sums ----------------------------------------------------------------------------------


def log_partition_error(small: Small) -> float:
    """Of log Z, by every way there is."""
    machine = small.machine()
    terms = machine.structure().terms.to(torch.float64)
    found = [exact.log_partition(machine)]
    if can_be_split(small):
        found.append(split.log_partition(terms))
    every = tuple(small.units)
    found.append(enumeration.log_partition(terms, every))
    found.append(FieldSum(field_of_terms(terms)).log_partition())
    return max(distance(value, np.array(small.log_partition)) for value in found)


def can_be_split(small: Small) -> bool:
    """Whether the three-way split can sum a machine: for three two-valued units and more."""
    return sum(small.sizes.values()) >= 3 and set(small.units.values()) <= {BIT, SPIN, STEPS}


def moment_error(small: Small) -> float:
    """Of the means and the pair moments, by every way there is."""
    machine = small.machine()
    terms = machine.structure().terms.to(torch.float64)
    flat = small.flat_features
    mean = small.probabilities @ flat
    second = (flat * small.probabilities[:, None]).T @ flat
    every = tuple(small.units)
    moments = exact.moments(machine)
    ways = [(torch.cat(list(moments.mean.values())), moments.second)]
    ways.append(enumeration.moments(terms, every))
    moments = FieldSum(field_of_terms(terms)).moments()
    ways.append((torch.cat(list(moments.mean.values())), moments.second))
    if can_be_split(small):
        ways.append(split.moments(terms))
    return max(max(distance(a, mean), distance(b, second)) for a, b in ways)


def log_prob_error(small: Small) -> float:
    """Of ln p of the states of every set of sites, the others summed out, coupled or not."""
    machine = small.machine()
    worst = 0.0
    for k in range(1, len(small.units) + 1):
        for sites in itertools.combinations(small.units, k):
            x = states_of(small.units, {site: small.sizes[site] for site in sites})
            found = exact.log_prob(machine, {s: torch.tensor(v) for s, v in x.items()})
            worst = max(worst, distance(found, -small.free_energies(sites) - small.log_partition))
    return worst


def log_partition_gradient_error(small: Small) -> float:
    """Of ∂ log Z, against −E[∂E] over all states, for every parameter."""
    machine = small.machine(wrap=torch.nn.Parameter)
    parameters = list(machine.parameters())
    found = gradients(exact.log_partition(machine), parameters)
    wanted = gradients(-(torch.tensor(small.probabilities) @ machine(small.tensors())), parameters)
    return max(distance(a, b) for a, b in zip(found, wanted, strict=True))


def random_states(machine: BoltzmannMachine, batch: tuple[int, ...]) -> dict[str, Tensor]:
    """States of all sites, every unit at random."""
    found = {}
    for name, layer in machine.layers.items():
        levels = torch.tensor(LEVELS[layer.unit], dtype=machine.dtype)
        found[name] = levels[torch.randint(len(levels), (*batch, layer.size))]
    return found
