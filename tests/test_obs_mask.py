"""Statements that are observed in part: what is missing is drawn, what is observed stays."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC as PyroMCMC, NUTS, Predictive
from torch import Tensor
from torch.distributions import biject_to, constraints

from pyro_ebm.diagnostics import to_arviz
from pyro_ebm.energies import ModelEnergy
from pyro_ebm.infer import MCMC, EnergyKernel, WithinGibbs
from pyro_ebm.kernels import HMC, Gibbs, RandomWalk, choose_kernel, run
from tests.support.models import real, vector

SEEN = torch.tensor([1, 1, 1, 0, 1, 1]).bool()
COUNTS = vector([2.0, 5, 2, 0, 6, 3])


def counts(seen: Tensor = SEEN) -> None:
    mean = pyro.sample("mean", dist.Gamma(real(2.0), real(0.5)))
    with pyro.plate("n", 6):
        pyro.sample("y", dist.Poisson(mean), obs=COUNTS, obs_mask=seen)


def labels() -> None:
    """Labels of which two are missing, and what each of them makes likely."""
    shift = pyro.sample("shift", dist.Normal(real(0.0), 1.0))
    with pyro.plate("n", 4):
        mask = torch.tensor([True, False, True, False])
        law = dist.Categorical(vector([0.2, 0.5, 0.3]))
        label = pyro.sample("label", law, obs=torch.tensor([2, 0, 1, 0]), obs_mask=mask)
        seen = vector([1.5, 0.2, 1.0, 2.5])
        pyro.sample("seen", dist.Normal(label + shift, 1.0), obs=seen)


def shares() -> None:
    """Points of a simplex, one of them missing, and numbers below a latent end."""
    end = pyro.sample("end", dist.Gamma(real(3.0), real(0.5)))
    with pyro.plate("n", 2):
        mask = torch.tensor([True, False])
        point = dist.Dirichlet(vector([1.0, 2.0, 3.0]))
        data = vector([0.2, 0.3, 0.5]).expand(2, 3)
        pyro.sample("share", point, obs=data, obs_mask=mask)
        pyro.sample("part", dist.Uniform(real(0.0), end), obs=vector([2.0, 9.0]), obs_mask=mask)


def test_the_energy_has_the_missing_elements_only() -> None:
    energy = ModelEnergy(counts)
    assert energy.sites["y_unobserved"].shape == (1,)
    u, k = real(1.1), 4.0
    mean = u.exp()
    law = dist.Poisson(mean)
    wanted = dist.Gamma(real(2.0), real(0.5)).log_prob(mean) + u
    wanted = wanted + law.log_prob(COUNTS[SEEN]).sum() + law.log_prob(real(k))
    assert float(energy({"mean": u, "y_unobserved": vector([k])})) == pytest.approx(
        -float(wanted), abs=1e-12
    )
    whole = energy.constrain({"mean": u, "y_unobserved": vector([k])})["y_unobserved"]
    assert whole.tolist() == [2, 5, 2, 4, 6, 3]
    back = energy.unconstrain({"mean": mean[None], "y_unobserved": whole[None]})
    assert back["y_unobserved"].tolist() == [[k]]


def test_laws_of_vectors_and_supports_that_move_are_observed_in_part() -> None:
    """Volumes of what is held would count the latent end twice."""
    energy = ModelEnergy(shares)
    assert energy.sites["share_unobserved"].shape == (2,)
    assert energy.sites["part_unobserved"].shape == (1,)
    x = {
        "end": real(1.5),
        "share_unobserved": vector([0.3, -0.4]),
        "part_unobserved": vector([0.2]),
    }
    end, to_simplex = real(1.5).exp(), biject_to(constraints.simplex)
    share = to_simplex(x["share_unobserved"])
    point = dist.Dirichlet(vector([1.0, 2.0, 3.0]))
    log_p = dist.Gamma(real(3.0), real(0.5)).log_prob(end) + 1.5
    log_p = log_p + point.log_prob(vector([0.2, 0.3, 0.5])) + point.log_prob(share)
    log_p = log_p + to_simplex.log_abs_det_jacobian(x["share_unobserved"], share)
    p = torch.sigmoid(x["part_unobserved"]).squeeze()
    log_p = log_p - 2 * end.log() + end.log() + p.log() + (1 - p).log()
    assert float(energy(x)) == pytest.approx(-float(log_p), abs=1e-10)


def test_all_or_nothing_observed() -> None:
    everything = ModelEnergy(counts, torch.ones(6).bool())
    assert list(everything.sites) == ["mean"]
    law = dist.Gamma(2.0 + COUNTS.sum(), 6.5)  # conjugate; in ln mean
    a, b = (float(everything({"mean": real(math.log(m))})) for m in (2.0, 3.0))
    wanted = law.log_prob(real(3.0)) + math.log(3) - law.log_prob(real(2.0)) - math.log(2)
    assert a - b == pytest.approx(float(wanted), abs=1e-10)
    assert ModelEnergy(counts, torch.zeros(6).bool()).sites["y_unobserved"].shape == (6,)


def label_law() -> np.ndarray:
    """P(label of element 1, of element 3), the shift integrated out: normal laws."""
    found = np.zeros((3, 3))
    prior, seen = [0.2, 0.5, 0.3], np.array([1.5, 0.2, 1.0, 2.5])
    inverse = np.linalg.inv(np.eye(4) + 1)
    for a in range(3):
        for b in range(3):
            away = seen - np.array([2, a, 1, b])
            found[a, b] = prior[a] * prior[b] * math.exp(-away @ inverse @ away / 2)
    return found / found.sum()


def test_missing_labels_are_drawn_from_their_law() -> None:
    energy = ModelEnergy(labels)
    assert energy.sites["label_unobserved"].shape == (2,)
    assert [block.tolist() for block in energy.blocks("label_unobserved")] == [[0, 1]]
    chains = run(choose_kernel(energy), energy, 200, warmup=200, chains=200, seed=1)
    draws = chains.draws["label_unobserved"].long()
    shares = torch.bincount((3 * draws[..., 0] + draws[..., 1]).flatten(), minlength=9) / 40_000
    # Six standard errors of 5,000 independent draws, of 40,000 that remember little.
    assert np.abs(shares.numpy() - label_law().flatten()).max() < 6 * math.sqrt(0.25 / 5000)


@pytest.mark.parametrize("driver", [MCMC, PyroMCMC])
def test_observed_and_imputed_elements_come_back_together(driver: Any) -> None:
    kernel = EnergyKernel(choose_kernel(ModelEnergy(counts)), counts)
    mcmc = driver(kernel, 200, 100)
    mcmc.run()
    samples = mcmc.get_samples()
    assert bool((samples["y_unobserved"][:, SEEN] == COUNTS[SEEN]).all())
    assert Predictive(counts, samples)()["y"].shape[1:] == (6,)
    posterior: Any = to_arviz(mcmc)["posterior"]
    assert "y_unobserved" not in posterior
    y = posterior["y"].values
    assert y.dtype.kind == "i"
    assert (y[..., SEEN.numpy()] == COUNTS[SEEN].int().numpy()).all()
    assert y[..., 3].std() > 0


def test_what_is_observed_enters_no_statistic() -> None:
    kernel = EnergyKernel(choose_kernel(ModelEnergy(counts)), counts)
    mcmc = MCMC(kernel, 400, 300, num_chains=8, seed=0)
    mcmc.run()
    found = mcmc.diagnostics()["y_unobserved"]
    assert found["r_hat"].shape == (1,)
    assert float(found["r_hat"]) < 1.1
    mcmc.summary()


def test_draws_of_pyros_own_kernels_are_joined_too() -> None:
    def heights() -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("n", 3):
            data, seen = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([True, True, False])
            pyro.sample("y", dist.Normal(mean, 1.0), obs=data, obs_mask=seen)

    mcmc = PyroMCMC(NUTS(heights), 20, 20, disable_progbar=True)
    mcmc.run()
    data = to_arviz(mcmc, include=["log_likelihood"])
    assert data["posterior"]["y"].values[0, 5, :2].tolist() == [1.0, 2.0]
    assert "y_unobserved" not in data["posterior"]
    blocks = WithinGibbs(heights, [(NUTS, ["mean", "y_unobserved"])])
    with pytest.raises(ValueError, match="observed in part"):
        PyroMCMC(blocks, 5, 5, disable_progbar=True).run()
    blocks = WithinGibbs(heights, [(NUTS, ["mean"]), (HMC(), ["y_unobserved"])])
    PyroMCMC(blocks, 5, 5, disable_progbar=True).run()


def test_blocks_within_gibbs_take_missing_labels() -> None:
    walk = RandomWalk(scale=0.5)
    blocks = WithinGibbs(labels, [(Gibbs(), ["label_unobserved"]), (walk, ["shift"])])
    mcmc = PyroMCMC(blocks, 20, 5, disable_progbar=True)
    mcmc.run()
    assert mcmc.get_samples()["label_unobserved"][:, [0, 2]].unique(dim=0).tolist() == [[2, 1]]
