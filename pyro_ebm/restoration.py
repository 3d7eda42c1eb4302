"""What the demo does with a learned prior: noisy digits restored, and halves filled in.

A Boltzmann machine of digits becomes the prior of a Pyro model in which pixels are flipped at an
unknown rate. Gibbs moves the pixels, the machine's hidden units being drawn for the sweep, and
Hamiltonian Monte Carlo the rates.
"""

from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from .distributions import EnergyDistribution
from .energies import Energy, clamp
from .infer import MCMC, EnergyKernel
from .kernels import HMC, Cycle, Gibbs, run
from .seeding import chosen_seed, forked
from .statistics import r_hat

CHAINS = 64
RATES = (1.0, 9.0)  # of the Beta law of flip rates: one pixel in ten on average


def noisy_digits(prior: Energy, noisy: Tensor) -> None:
    """The Pyro model: digits from a prior, of which each pixel is flipped at the digit's own rate.

    Args:
        prior: An energy of bits, whose site `visible` is a digit.
        noisy: The digits as they are seen (digits, pixels).
    """
    with pyro.plate("digits", len(noisy)):
        rate = pyro.sample("rate", dist.Beta(*RATES))[..., None]
        pixels = pyro.sample("pixels", EnergyDistribution.up_to_constant(prior))
        one = pixels * (1 - rate) + (1 - pixels) * rate
        pyro.sample("seen", dist.Bernoulli(one).to_event(1), obs=noisy)


class Restored(NamedTuple):
    """What is known of digits given their noisy or incomplete images.

    Args:
        mean: The probability that a pixel is 1 (digits, pixels).
        mcmc: The draws, of the sites `rate` and `pixels`.
    """

    mean: Tensor
    mcmc: MCMC

    @property
    def deviation(self) -> Tensor:  # (digits, pixels)
        """The posterior standard deviation of each pixel."""
        return deviation(self.mean)

    @property
    def rates(self) -> Tensor:  # (chain, draw, digits)
        """The draws of the flip rates."""
        rates: Tensor = self.mcmc.get_samples(group_by_chain=True)["rate"]
        return rates

    @property
    def intervals(self) -> Tensor:  # (digits, 2)
        """The central intervals of the flip rates that hold 90 % of the probability."""
        rates = self.rates.flatten(0, 1)
        return rates.quantile(rates.new_tensor([0.05, 0.95]), 0).mT

    @property
    def r_hat(self) -> Tensor:  # (digits,)
        """R-hat of the flip rates."""
        return r_hat(self.rates)


def restore(
    prior: Energy, noisy: Tensor, draws: int = 150, *, warmup: int = 100, seed: int = 0
) -> Restored:
    """The posterior of digits and flip rates, by 64 chains at once.

    Args:
        prior: An energy of bits, whose site `visible` is a digit.
        noisy: The digits as they are seen (digits, pixels). All share the Metropolis tests of their
            rates, so that dozens go well together and hundreds do not.
        draws: How many to keep of each chain.
        warmup: Steps before the first draw.
        seed: Of the chains.
    """
    kernel = Cycle((Gibbs(("pixels",)), HMC(("rate",))))
    mcmc = MCMC(
        EnergyKernel(kernel, noisy_digits),
        num_samples=draws,
        warmup_steps=warmup,
        num_chains=CHAINS,
        seed=seed,
    )
    mcmc.run(prior, noisy)
    pixels = mcmc.get_samples(group_by_chain=True)["pixels"]
    return Restored(pixels.to(noisy.dtype).mean((0, 1)), mcmc)


def complete(
    prior: Energy,
    digits: Tensor,
    held: Tensor,
    draws: int = 150,
    *,
    warmup: int = 100,
    seed: int = 0,
) -> Tensor:  # (digits, pixels)
    """The probability that a pixel is 1 given the pixels that are held, which are as they were.

    Args:
        prior: An energy of bits, whose site `visible` is a digit.
        digits: Digits (digits, pixels), of which only the held pixels are read.
        held: Which pixels are held (pixels,).
        draws: How many to keep of each chain.
        warmup: Steps before the first draw.
        seed: Of the chains.
    """
    means = []
    for number, digit in enumerate(digits):
        rest = clamp(prior, {"visible": digit}, mask={"visible": held})
        chains = run(Gibbs(), rest, draws, warmup=warmup, chains=CHAINS, seed=seed + number)
        free = chains.draws["visible"].to(digit.dtype).mean((0, 1))
        means.append(digit.masked_scatter(~held, free))
    return torch.stack(means)


def flipped(digits: Tensor, rate: float, *, seed: int = 0) -> Tensor:
    """Bits of which each was flipped with the same probability."""
    with forked(chosen_seed(seed), digits.device):
        return (digits - (torch.rand_like(digits) < rate).to(digits.dtype)).abs()


def deviation(mean: Tensor) -> Tensor:
    """The standard deviation of bits with these means."""
    return (mean * (1 - mean)).sqrt()


def wrong_pixels(image: Tensor, truth: Tensor) -> Tensor:  # (*batch, pixels) -> (*batch,)
    """The number of pixels that are wrong, after rounding."""
    return ((image > 0.5) != (truth > 0.5)).sum(-1)
