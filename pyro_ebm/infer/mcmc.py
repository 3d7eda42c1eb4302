"""Pyro's MCMC with all chains at once."""

from typing import Any, Literal

import torch
from pyro.infer.mcmc.api import AbstractMCMC
from pyro.infer.mcmc.util import diagnostics, print_summary, select_samples

from pyro_ebm.energies import Energy, ModelEnergy
from pyro_ebm.kernels import Chains, Schedule, resume, run
from pyro_ebm.seeding import chosen_seed, forked
from pyro_ebm.sites import Sites

from .energy_kernel import EnergyKernel


class MCMC(AbstractMCMC):
    """Markov chains of a Pyro model, all of them in one process, batched.

    It is used as `pyro.infer.MCMC` is. Draws are (chain, draw, *shape) in the model's space and
    its dtypes; `chains` has them in the energy's space, discrete ones as small integers, with the
    statistics of each draw, the tuned kernel and what it takes to go on. Ctrl-C keeps the draws
    made so far. `Predictive` takes `get_samples()`, and `to_arviz` the whole.

    Args:
        kernel: The kernel with its model.
        num_samples: Draws to keep, of each chain.
        warmup_steps: Steps before the first draw; as many as draws if left out.
        num_chains: The number of chains.
        initial_params: Where the chains start: unconstrained values (chain, *shape) by site.
        thinning: Steps from one draw to the next.
        keep: "draws", or "everything" to keep the (thinned) warm-up as well.
        seed: Of this run; the global generators stay untouched. If left out it is drawn from them.

    Raises:
        TypeError: If the kernel is not an `EnergyKernel`.
        ValueError: If a count is out of its range.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro_ebm import EnergyKernel, HMC, infer
        >>> def model(data):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("rows", len(data)):
        ...         pyro.sample("row", dist.Normal(mean, 1.0), obs=data)
        >>> kernel = EnergyKernel(HMC(step_size=0.5, trajectory_length=1.5), model)
        >>> mcmc = infer.MCMC(kernel, num_samples=50, warmup_steps=20, num_chains=100, seed=0)
        >>> mcmc.run(torch.ones(3))
        >>> mcmc.get_samples(group_by_chain=True)["mean"].shape
        torch.Size([100, 50])
        >>> mcmc.get_samples()["mean"].mean()  # 3 / 4
        tensor(0.7...)
    """

    def __init__(  # noqa: PLR0913 (the host's signature, and what it lacks)
        self,
        kernel: EnergyKernel,
        num_samples: int = 1000,
        warmup_steps: int | None = None,
        initial_params: Sites | None = None,
        num_chains: int = 4,
        *,
        thinning: int = 1,
        keep: Literal["draws", "everything"] = "draws",
        seed: int | None = None,
    ) -> None:
        if not isinstance(kernel, EnergyKernel):
            raise TypeError(
                f"kernel is {kernel!r}; wanted an EnergyKernel, for example EnergyKernel(HMC(), "
                f"model). Pyro's own kernels move one chain: give them to pyro.infer.MCMC."
            )
        super().__init__(kernel, num_chains, {})
        warmup = num_samples if warmup_steps is None else warmup_steps
        self.schedule = Schedule(warmup, num_samples, thinning, keep)
        self.warmup_steps, self.initial_params, self.seed = warmup, initial_params, seed
        self.num_samples = num_samples
        self._samples: Sites | None = None
        self.warmup_samples: Sites = {}

    def run(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 (the model's)
        """Draws the samples.

        Args:
            args: The model's arguments.
            kwargs: Its keyword arguments.

        Raises:
            TypeError, ValueError: If the model is no energy, or the kernel cannot move it.
            NonFiniteEnergyError: If an energy becomes NaN; it carries the draws so far.
        """
        self._args, self._kwargs = args, kwargs
        self.energy: Energy = self.kernel.energy_of(*args, **kwargs)
        seed, start = chosen_seed(self.seed), self.initial_params
        if start is None:
            with forked(seed, self.energy.device):
                start = self.kernel.start(self.energy, self.num_chains)
        self.take(
            run(
                self.kernel.kernel,
                self.energy,
                self.schedule,
                chains=self.num_chains,
                initial=start,
                seed=seed,
            )
        )

    def resume(self, num_samples: int) -> None:
        """The same chains with more draws: 60 draws and 40 more are the 100 of one longer run.

        Args:
            num_samples: How many more.

        Raises:
            ValueError: If the number is not positive, or there has been no run.
        """
        if self._samples is None:
            raise ValueError("There are no draws to go on from; call run(...) first.")
        self.take(resume(self.chains, self.energy, num_samples))

    def take(self, chains: Chains) -> None:
        """Keeps chains, with their draws in the model's space."""
        self.chains = chains
        self.num_samples = chains.statistics["lp"].shape[1]
        self.num_chains = chains.statistics["lp"].shape[0]
        self._samples = self.constrained(chains.draws)
        self.warmup_samples = self.constrained(chains.warmup_draws)

    @torch.no_grad()
    def constrained(self, draws: Sites) -> Sites:
        """Draws in the model's space."""
        if not draws or not isinstance(self.energy, ModelEnergy):
            return draws
        return self.energy.constrain({n: v.to(self.energy.like) for n, v in draws.items()})

    def get_samples(
        self,
        num_samples: int | None = None,
        group_by_chain: bool = False,  # noqa: FBT001, FBT002 (the host's)
    ) -> Sites:
        """The draws (chain · draw, *shape), or (chain, draw, *shape).

        Args:
            num_samples: How many to pick, with replacement; all of them if left out.
            group_by_chain: Whether chains stay apart.

        Raises:
            ValueError: If there has been no run.
        """
        if self._samples is None:
            raise ValueError("There are no draws yet; call run(...) first.")
        found: Sites = select_samples(self._samples, num_samples, group_by_chain)
        return found

    def latent(self) -> Sites:
        """The draws (chain, draw, *shape) without elements that are observed."""
        samples = self.get_samples(group_by_chain=True)
        return self.energy.reduced(samples) if isinstance(self.energy, ModelEnergy) else samples

    def diagnostics(self) -> dict[str, Any]:
        """As Pyro's: n_eff and R-hat by site, divergent draws and acceptance by chain."""
        found: dict[str, Any] = diagnostics(in_floats(self.latent()))
        statistics = self.chains.statistics
        never = torch.zeros_like(statistics["lp"], dtype=torch.bool)
        diverging = statistics.get("diverging", never)
        found["divergences"] = {
            f"chain {k}": row.nonzero().flatten().tolist() for k, row in enumerate(diverging)
        }
        if "acceptance_rate" in statistics:
            rates = statistics["acceptance_rate"].mean(1).tolist()
            found["acceptance rate"] = {f"chain {k}": rate for k, rate in enumerate(rates)}
        return found

    def summary(self, prob: float = 0.9) -> None:
        """Prints Pyro's table: mean, spread, median, interval, n_eff and R-hat.

        Args:
            prob: The probability in the interval.
        """
        print_summary(in_floats(self.latent()), prob=prob)


def in_floats(samples: Sites) -> Sites:
    """Draws as Pyro's statistics take them: integers have no mean there."""
    return {n: v if v.is_floating_point() else v.double() for n, v in samples.items()}
