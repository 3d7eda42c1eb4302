"""Draws follow the law: χ² of 20,000 chains against the enumerated one, at α = 1e-6.

With N = 20,000 chains a law at χ² distance Σ (p' − p)² / p is found (99 times of 100) from 0.006 on
for the 64 states of six units, and from 0.014 for 512. For these machines that is a sweep whose
couplings are 10 % too strong (30 % on the ring with one); smaller faults are for the transition
matrices.
"""

import numpy as np
import pytest

from pyro_ebm.kernels import Gibbs
from tests.support.goodness import ALPHA, agreements, from_exact_start, from_fixed_start
from tests.support.machines import FINITE
from tests.support.transitions import transition_matrix

SEED = 20


@pytest.mark.parametrize("name", FINITE)
def test_exact_draws_stay_exact_draws(name: str) -> None:
    small = FINITE[name]
    assert from_exact_start(small.machine(), Gibbs(), small, seed=SEED) > ALPHA


@pytest.mark.parametrize("name", FINITE)
def test_chains_from_one_state_come_to_follow_the_law(name: str) -> None:
    small = FINITE[name]
    matrix = transition_matrix(small.machine(), Gibbs(), small).numpy()
    law = np.linalg.matrix_power(matrix, 30)[0]
    # What is left of the start after 30 sweeps is too little to be seen.
    assert ((law - small.probabilities) ** 2 / small.probabilities).sum() < 1e-5
    assert from_fixed_start(small.machine(), Gibbs(), small, seed=SEED) > ALPHA


@pytest.mark.parametrize("name", FINITE)
def test_chains_share_no_random_numbers(name: str) -> None:
    small = FINITE[name]
    assert agreements(small.machine(), Gibbs(), small, seed=SEED) > ALPHA


@pytest.mark.slow
@pytest.mark.parametrize("name", FINITE)
def test_four_times_as_many_exact_draws_stay_exact_draws(name: str) -> None:
    small = FINITE[name]
    for seed in range(5):
        found = from_exact_start(small.machine(), Gibbs(), small, chains=80_000, seed=seed)
        assert found > ALPHA / 5
