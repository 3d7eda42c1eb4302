"""R-hat, effective sample size and agreement of every quantity, some units at a time."""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.statistics import (
    Autocovariances,
    agreement,
    autocovariances,
    chunks,
    nested_r_hat,
    normal_scores,
    r_hats,
    ratio,
    split,
    stretch_means,
    tail_sample_sizes,
    together,
)

STRETCHES = (32, 16, 8, 4, 2)  # of half a chain, for the test of agreement
LENGTH = 5  # least length of a stretch, in autocorrelation times


class Judgement(NamedTuple):
    """Of the n units of one site, or of the observables."""

    r_hat: Tensor  # (n): NaN where constant, infinite where stuck
    size: Tensor  # (n): effective sample size, of the bulk or, where less, of the tails
    memory: Tensor  # (n): autocorrelation time inside chains, in draws; NaN where none moves
    disagreement: Tensor  # (n): probability of chains that differ so much by chance
    hamming: Tensor  # (): effective sample size of configurations


def judge(draws: Tensor) -> Judgement:  # (chain, draw, *shape)
    """By split R-hat, and by stretches as long as each unit's memory demands."""
    parts = [judge_chunk(x) for x in chunks(draws)]
    of_units, totals = zip(*parts, strict=True)
    r_hat, size, memory, disagreement = map(torch.cat, zip(*of_units, strict=True))
    hamming = together(totals).effective_sample_size()
    return Judgement(r_hat, size, memory, disagreement, hamming)


def judge_chunk(x: Tensor) -> tuple[tuple[Tensor, ...], Autocovariances]:
    """Of some units (n, chain, draw), and the sums of their autocovariances."""
    halves = split(x)
    scores = normal_scores(halves)
    # Without ranks for the sum: a rarely changing unit is to count little in it.
    plain = autocovariances(halves)
    if scores is halves:  # two-valued units, whose distances from the median are the values again
        ranked, r_hat = plain, ratio(plain.within, plain.between, halves)
        size = ranked.effective_sample_size()
    else:
        ranked, r_hat = autocovariances(scores), r_hats(halves)
        size = torch.fmin(ranked.effective_sample_size(), tail_sample_sizes(x))
    size = size.masked_fill(r_hat.isnan(), torch.nan)  # constant, but for rounding
    memory = memory_of(ranked)
    # Halves are the groups, so that a chain that drifts disagrees with itself.
    disagreement = agreement_of_stretches(scores, memory, halves.shape[1])
    return (r_hat, size, memory, disagreement), plain.total()


def agreement_of_stretches(x: Tensor, memory: Tensor, groups: int) -> Tensor:
    """Of groups of chains (n, chain, draw) whose units remember for so many draws (n).

    Where that is too long for the chains nothing can be said, and the probability is 1.
    """
    draws = x.permute(1, 2, 0)
    p = torch.ones_like(memory)
    left = torch.ones_like(memory, dtype=torch.bool)
    for count in STRETCHES:
        # A unit that has not moved inside any chain has a memory of NaN, and is left out.
        fine = left & (draws.shape[1] // count >= LENGTH * memory)
        if count <= draws.shape[1] and bool(fine.any()):
            means = stretch_means(draws[..., fine], count)
            p[fine] = agreement(means.flatten(0, 1).unflatten(0, (groups, -1)))
            left &= ~fine
    return p


def agreement_of_sets(draws: Tensor) -> Tensor:  # (chain, draw, *shape) -> (n)
    """Of the first half of the chains with the second."""

    def of_chunk(x: Tensor) -> Tensor:
        halves = split(x)
        scores = normal_scores(halves)
        # The halves of a chain stand apart: back beside each other, set by set.
        paired = scores.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        return agreement_of_stretches(paired, memory_of(autocovariances(scores)), 2)

    return torch.cat([of_chunk(x) for x in chunks(draws)])


def memory_of(covariances: Autocovariances) -> Tensor:
    """The autocorrelation time inside chains, whatever their means."""
    draws = covariances.chains * covariances.lagged.shape[-1]
    return draws / covariances.inside().effective_sample_size()


def judge_superchains(draws: Tensor, superchains: int) -> Judgement:  # (chain, draw, *shape)
    """By nested R-hat, and by the chains of a group as the stretches.

    Chains count whole here: the effective sample size is what the variance of their means leaves.
    """
    flat = draws.flatten(2) if draws.dim() > 2 else draws[..., None]
    means = flat.mean(1, dtype=torch.float64)
    grouped = means.unflatten(0, (superchains, -1))
    spread = flat.double().var((0, 1))
    chains, count = flat.shape[:2]
    size = (chains * spread / means.var(0)).clamp_max(chains * count)
    hamming = (chains * spread.sum() / means.var(0).sum()).clamp_max(chains * count)
    memory = torch.full_like(spread, count)  # a chain is one draw
    return Judgement(nested_r_hat(flat, superchains), size, memory, agreement(grouped), hamming)
