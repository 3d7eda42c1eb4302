"""Sites that a model's energy sums out: what a scale means there, and how to have them drawn."""

import math

import pyro
import pyro.distributions as dist
import pytest
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.infer.mcmc.util import initialize_model

from pyro_ebm.energies import ModelEnergy
from pyro_ebm.infer import WithinGibbs
from pyro_ebm.kernels import HMC, Gibbs
from tests.support.models import real, vector


def scaled() -> None:
    shift = pyro.sample("shift", dist.Normal(real(0.0), 1.0))
    with poutine.scale(scale=2.0):
        label = pyro.sample(
            "label", dist.Categorical(vector([0.2, 0.3, 0.5])), infer={"enumerate": "parallel"}
        )
        pyro.sample("seen", dist.Normal(label + shift, 1.0), obs=real(2.0))


def drawn() -> None:
    poutine.infer_config(scaled, lambda site: {"enumerate": None})()


def test_a_scaled_sum_is_the_marginal_of_the_scaled_joint() -> None:
    at = {"shift": real(0.3)}
    each = [
        math.log(p) - (2 - k - 0.3) ** 2 / 2 - math.log(2 * math.pi) / 2
        for k, p in enumerate((0.2, 0.3, 0.5))
    ]
    prior = -0.045 - math.log(2 * math.pi) / 2
    marginal = prior + math.log(sum(math.exp(2 * one) for one in each))
    assert -float(ModelEnergy(scaled)(at)) == pytest.approx(marginal, abs=1e-10)
    # The same where the label is a site of the energy,
    whole = ModelEnergy(drawn)
    labels = -whole({"shift": real(0.3), "label": vector([0.0, 1.0, 2.0])})
    assert float(labels.logsumexp(0)) == pytest.approx(marginal, abs=1e-10)
    # and in Pyro's HMC.
    _, potential, _, _ = initialize_model(scaled, max_plate_nesting=0, num_chains=1)
    assert -float(potential(at)) == pytest.approx(marginal, abs=1e-10)


def test_an_elbo_counts_a_scaled_site_twice() -> None:
    """Which is another meaning, that of two rows; written as two rows it is ours too."""
    model = poutine.condition(scaled, {"shift": real(0.3)})
    elbo = -TraceEnum_ELBO(max_plate_nesting=0).loss(model, lambda: None)

    @config_enumerate
    def twice() -> None:
        shift = pyro.sample("shift", dist.Normal(real(0.0), 1.0))
        with pyro.plate("copies", 2):
            label = pyro.sample("label", dist.Categorical(vector([0.2, 0.3, 0.5])))
            pyro.sample("seen", dist.Normal(label + shift, 1.0), obs=vector([2.0, 2.0]))

    found = -float(ModelEnergy(twice)({"shift": real(0.3)}))
    assert found == pytest.approx(float(elbo), abs=1e-10)


def test_a_summed_site_under_a_kernel_is_refused_with_the_cure() -> None:
    energy = ModelEnergy(scaled)
    assert energy.summed == ("label",)
    x = energy.initial(2)
    with pytest.raises(ValueError, match=r"\['label'\] are summed out.*infer_config"):
        Gibbs(("label",)).init(energy, x)
    with pytest.raises(ValueError, match="summed out"):
        energy.blocks("label")
    with pytest.raises(ValueError, match="summed out"):
        WithinGibbs(scaled, [(Gibbs(), ["label"]), (HMC(), ["shift"])]).setup(1)
    whole = ModelEnergy(drawn)
    Gibbs(("label",)).init(whole, whole.initial(2))
    with pytest.raises(ValueError, match=r"Unknown sites \['no'\]"):
        Gibbs(("no",)).init(energy, x)
