"""Random energies, sums, clamps, kernels and Pyro models against enumeration.

`make test` runs a fixed few of each; `make fuzz` sets PYRO_EBM_FUZZ to the number of cases of each
kind. A failing case is shrunk to a small one, and printed.
"""

import os

import pytest
from hypothesis import HealthCheck, given, settings

from . import laws
from .models import RandomModel, gibbs_leaves_the_law, models
from .strategies import Case, anything, one_law

CASES = int(os.environ.get("PYRO_EBM_FUZZ", "0"))
FEW = settings(
    max_examples=CASES or 25,
    derandomize=not CASES,
    deadline=None,
    database=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)


@FEW
@given(anything)
def test_energies_of_all_states_are_right(case: Case) -> None:
    laws.energies_are_right(case)


@FEW
@given(anything)
def test_exact_answers_are_right(case: Case) -> None:
    laws.exact_answers_are_right(case)


@FEW
@given(anything)
def test_distributions_of_energies_are_right(case: Case) -> None:
    laws.distributions_are_right(case)


@pytest.mark.parametrize("name", laws.KERNELS)
def test_kernels_leave_the_law(name: str) -> None:
    answers = []

    @FEW
    @given(one_law)
    def look(case: Case) -> None:
        answers.append(laws.transitions_leave_the_law(case, name))

    look()
    assert answers.count("kept") > 0.2 * len(answers)


@FEW
@given(models())
def test_gibbs_on_pyro_models_leaves_the_law(case: RandomModel) -> None:
    gibbs_leaves_the_law(case)
