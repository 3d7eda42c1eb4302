"""What must hold of a random energy, whatever it is."""

import numpy as np
import torch
from hypothesis import note

from pyro_ebm import (
    Cycle,
    DiscreteLangevin,
    Gibbs,
    GibbsWithGradients,
    Kernel,
    RandomBlocks,
    exact,
    mode,
)
from pyro_ebm.distributions import EnergyDistribution
from pyro_ebm.sites import Sites
from tests.support.outcomes import matrix_of

from .strategies import DOUBLE, Case

CLOSE = 1e-9


def states_of(case: Case) -> Sites:  # (states, *shape) by site
    """All states as the library takes them."""
    found = case.table.by_site(case.table.states())
    return {site: torch.tensor(value, dtype=DOUBLE) for site, value in found.items()}


def close(found: torch.Tensor, wanted: np.ndarray, what: str) -> None:
    """Compares numbers of which some may be infinite."""
    shape = tuple(found.shape)
    assert shape == wanted.shape, f"{what} has the shape {shape}, wanted {wanted.shape}"
    same = np.allclose(found.detach().double().numpy(), wanted, rtol=CLOSE, atol=CLOSE)
    assert same, f"{what} is {found}, wanted {wanted}"


def with_rows(case: Case, x: Sites) -> Sites:
    """States in front of the axis of parameters."""
    if not case.batch:
        return x
    return {site: value[:, None].expand(-1, *case.batch, -1) for site, value in x.items()}


def energies_are_right(case: Case) -> None:
    """E of every state, for every row of parameters."""
    note(case.said)
    found = case.energy(with_rows(case, states_of(case)))
    wanted = case.table.energy.T if case.batch else case.table.energy[0]
    close(found.expand(wanted.shape), wanted, "the energy")


def exact_answers_are_right(case: Case) -> None:
    """log Z, log-probabilities, and the lowest energy."""
    note(case.said)
    log_z = case.table.log_z
    close(exact.log_partition(case.energy), log_z if case.batch else log_z[0], "log Z")
    x = with_rows(case, states_of(case))
    with np.errstate(divide="ignore"):
        every = np.log(case.table.law)
    log_p = every.T if case.batch else every[0]
    close(exact.log_prob(case.energy, x), log_p, "ln p")
    if not case.batch:
        moments_are_right(case)
        low = mode(case.energy)
        assert abs(float(low.energy) - case.table.energy.min()) < CLOSE, f"the mode is {low}"


def moments_are_right(case: Case) -> None:
    """Means of numbers, and probabilities of labels, of each element."""
    means = exact.moments(case.energy).mean
    law, states = case.table.law[0], case.table.by_site(case.table.states())
    for site, levels in case.table.levels.items():
        labels = exact.states(case.energy, [site])[site]
        assert len(labels) == np.prod([len(each) for each in levels])
        if case.family == "field" or any(len(each) > 2 for each in levels):
            wanted = [
                law @ (states[site][:, k] == value)
                for k, each in enumerate(levels)
                for value in each
            ]
        else:
            wanted = list(law @ states[site])
        close(means[site], np.array(wanted), f"the mean of {site}")


def distributions_are_right(case: Case) -> None:
    """`EnergyDistribution` of each site, the others summed out."""
    note(case.said)
    states = case.table.by_site(case.table.states())
    for site, each in case.table.levels.items():
        own = EnergyDistribution(case.energy, site)
        assert own.batch_shape == torch.Size(case.batch)
        values = np.unique(states[site], axis=0)
        same = (states[site][None] == values[:, None]).all(-1)
        with np.errstate(divide="ignore"):
            wanted = np.log(same @ case.table.law.T)  # (values, rows)
        x = torch.tensor(values, dtype=DOUBLE)
        x = x[:, None].expand(-1, *case.batch, -1) if case.batch else x
        if len(each) == 0:
            continue
        found = own.log_prob(x)
        close(found, wanted if case.batch else wanted[:, 0], f"ln p of {site}")


KERNELS: dict[str, Kernel] = {
    "Gibbs": Gibbs(),
    "GibbsWithGradients": GibbsWithGradients(),
    "DiscreteLangevin": DiscreteLangevin(step_size=0.7),
    "RandomBlocks": RandomBlocks(size=1),
    "Cycle": Cycle((Gibbs(), GibbsWithGradients())),
}
REFUSED = (TypeError, ValueError)


def is_refused(case: Case, name: str) -> bool:
    """Whether mathematics leaves a kernel nothing to go by.

    Of a function nothing is known but values: no conditional law, and no gradient in a label.
    """
    labels = any(each not in ((0, 1), (-1, 1)) for s in case.table.levels.values() for each in s)
    if case.family != "function" or name == "RandomBlocks":
        return False
    return name in ("Gibbs", "Cycle") or labels


def transitions_leave_the_law(case: Case, name: str) -> str:
    """π P = π for one step of a kernel; the answer says whether it was refused.

    The step starts from all possible states at once, so the parameters have no batch.
    """
    note(f"{name} on {case.said}")
    kernel = KERNELS[name]
    possible = np.isfinite(case.table.energy[0])
    x = {site: value[torch.tensor(possible)] for site, value in states_of(case).items()}
    try:
        kernel.init(case.energy, x)
    except REFUSED:
        assert is_refused(case, name)
        return "refused"
    torch.manual_seed(0)
    if isinstance(kernel, RandomBlocks):
        kernel = kernel.decided(case.energy, 0)

    def step(start: Sites) -> Sites:
        return kernel.step(case.energy, kernel.init(case.energy, start))[0].x

    try:
        matrix = matrix_of(step, x)
    except AssertionError as error:
        if "outcomes are too many" in str(error) or "depends on their outcomes" in str(error):
            return "left out: too many outcomes"
        raise
    law = torch.tensor(case.table.law[0][possible])
    rows = float((matrix.sum(1) - 1).abs().max())
    moved = float((law @ matrix - law).abs().max())
    assert rows < CLOSE, f"a row of the transition matrix sums to 1 ± {rows}"
    assert moved < CLOSE, f"the law is moved by {moved}"
    return "kept"
