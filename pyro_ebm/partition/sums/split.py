"""Sums over the states of dense machines, by one matrix product.

The units are split into three groups a, b, c. Every pair term touches at most two of them, so
Z = Σ_ab A[a,b] Σ_c B[b,c] C[c,a], where the tables are exponentials of size 2^(n/3) squared. All in
float64, and by logarithms where the exponentials could underflow.
"""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pyro_ebm.energies import PairwiseTerms
from pyro_ebm.sites import Sites

from .enumeration import (
    BLOCK_ELEMENTS,
    TooManyStatesError,
    draw_indices,
    in_digits,
    with_own_squares,
)

MAX_LOG_SUM_STATES = 2**32  # summed as logarithms, where products of exponentials would underflow
LOST = 1e-17  # the largest share of Z that underflow may have cost
LOG_TINY = math.log(torch.finfo(torch.float64).tiny)


class Split(NamedTuple):
    """Log-weights of the pairs of groups: (a, b), (b, c), (c, a), and the groups' states."""

    ab: Tensor
    bc: Tensor
    ca: Tensor
    states: tuple[Tensor, Tensor, Tensor]


def tables(terms: PairwiseTerms, matrix: Tensor, bias: Tensor) -> Split:
    """The tables of the split; `matrix` and `bias` are over the units of all sites."""
    n = len(bias)
    levels = [
        unit.levels
        for site, unit in terms.units.items()
        for _ in range(terms.biases[site].shape[-1])
    ]
    values = torch.tensor(levels, dtype=bias.dtype, device=bias.device)  # (n, 2)
    lift = bias.new_zeros(())
    if any(unit.has_potential for unit in terms.units.values()):
        # At two values a potential is a straight line: part of the bias, and a constant.
        potential = torch.cat([terms.potential_of_levels(site) for site in terms.units])  # (n, 2)
        slope = potential.diff(dim=-1)[:, 0] / values.diff(dim=-1)[:, 0]
        bias = bias - slope
        lift = (slope * values[:, 0] - potential[:, 0]).sum()
    bounds = [0, n // 3, (2 * n) // 3, n]
    groups = [slice(*pair) for pair in itertools.pairwise(bounds)]
    found, own = [], []
    for group in groups:
        size = group.stop - group.start
        bits = torch.arange(2**size, device=bias.device)[:, None] >> torch.arange(
            size - 1, -1, -1, device=bias.device
        )
        state = torch.where((bits & 1).bool(), values[group, 1], values[group, 0])
        found.append(state)
        own.append((state @ matrix[group, group] * state).sum(-1) / 2 + state @ bias[group])
    own[0] = own[0] + lift
    a, b, c = range(3)

    def pair(i: int, j: int) -> Tensor:
        return torch.addmm(own[i][:, None], found[i], matrix[groups[i], groups[j]] @ found[j].mT)

    return Split(pair(a, b), pair(b, c), pair(c, a), (found[a], found[b], found[c]))


def parameters(terms: PairwiseTerms) -> tuple[Tensor, Tensor]:
    """The couplings (n, n) and biases (n,) of all units."""
    return terms.matrix(), torch.cat(list(terms.biases.values()))


def log_partition(terms: PairwiseTerms) -> Tensor:  # ()
    """log Z by one matrix product, or by logarithms where the product would underflow."""
    table = tables(terms, *parameters(terms))
    return log_sums(table).logsumexp((0, 1)) - terms.constant


def log_sums(table: Split) -> Tensor:  # (states of a, states of b)
    """ln Σ_c of the weights of (a, b, c)."""
    with torch.no_grad():
        # Balanced columns, then rows with the largest entry 1; the shifts cancel in the result.
        column = (table.bc.amax(0) - table.ca.amax(1)) / 2
        row_b = (table.bc - column).amax(1)
        row_a = (table.ca + column[:, None]).amax(0)
        # A term is lost only if it is below the smallest double times what the rows took out.
        shifted = table.ab + row_b + row_a[:, None]
        log_lost = shifted.logsumexp((0, 1)) + math.log(len(column)) + LOG_TINY
    b_factor = (table.bc - column - row_b[:, None]).exp()
    c_factor = (table.ca + column[:, None] - row_a).exp()
    inner = (b_factor @ c_factor).mT
    # Finite with a zero gradient where the product underflowed.
    smallest = torch.finfo(inner.dtype).tiny
    sums = table.ab + row_b + row_a[:, None] + inner.clamp_min(smallest).log()
    with torch.no_grad():
        certified = bool(log_lost - sums.logsumexp((0, 1)) < math.log(LOST))
    return sums if certified else log_sums_by_logarithms(table)


def log_sums_by_logarithms(table: Split) -> Tensor:
    """`log_sums` without exponentials that could underflow, in blocks of a.

    Raises:
        TooManyStatesError: If there are too many states for a sum of logarithms.
    """
    count = table.ab.numel() * len(table.ca)
    if count > MAX_LOG_SUM_STATES:
        raise TooManyStatesError(
            f"At these couplings the products underflow, and a sum of logarithms over "
            f"{in_digits(count)} states would take too long (at most "
            f"{in_digits(MAX_LOG_SUM_STATES)}). Weaken the couplings, or leave out units."
        )

    def block(ca: Tensor, bc: Tensor) -> Tensor:
        return (ca.mT[:, None, :] + bc).logsumexp(-1)

    step = max(1, 4 * BLOCK_ELEMENTS // table.bc.numel())
    run = checkpoint if torch.is_grad_enabled() else lambda f, *args, **_: f(*args)
    parts = [run(block, part, table.bc, use_reentrant=False) for part in table.ca.split(step, 1)]
    return table.ab + torch.cat(parts)


def moments(terms: PairwiseTerms) -> tuple[Tensor, Tensor]:
    """E[x] (n,) and E[x xᵀ] (n, n), from the gradient of log Z."""
    matrix, bias = (value.detach().requires_grad_() for value in parameters(terms))
    with torch.enable_grad():
        log_z = log_sums(tables(terms, matrix, bias)).logsumexp((0, 1))
        to_matrix, first = torch.autograd.grad(log_z, (matrix, bias))
    second = to_matrix + to_matrix.mT
    return first, with_own_squares(terms, first, second)


def sample(terms: PairwiseTerms, count: int) -> Sites:
    """Draws of (a, b) from the table of sums, then of c given them."""
    table = tables(terms, *parameters(terms))
    pairs = draw_indices(log_sums(table).flatten(), count)
    a, b = pairs // table.ab.shape[1], pairs % table.ab.shape[1]
    c = torch.cat(
        [
            torch.distributions.Categorical(logits=table.bc[j] + table.ca[:, i].mT).sample()
            for i, j in zip(a.split(1024), b.split(1024), strict=True)
        ]
    )
    flat = torch.cat([state[k] for state, k in zip(table.states, (a, b, c), strict=True)], -1)
    sizes = [bias.shape[-1] for bias in terms.biases.values()]
    return dict(zip(terms.units, flat.split(sizes, -1), strict=True))
