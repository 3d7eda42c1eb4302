"""Pyro's MCMC with all chains at once."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pyro.infer.mcmc.api import AbstractMCMC
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from pyro.infer.mcmc.util import diagnostics, print_summary, select_samples

from pyro_ebm.diagnostics import Diagnosis, Verdict, diagnose
from pyro_ebm.energies import Energy, InitStrategy, ModelEnergy
from pyro_ebm.kernels import Chains, Kernel, Schedule, resume, run
from pyro_ebm.progress import tell
from pyro_ebm.sampling import NotMixedWarning
from pyro_ebm.seeding import chosen_seed, forked
from pyro_ebm.sites import Sites
from pyro_ebm.stopping import warn_with

from .energy_kernel import EnergyKernel
from .plan import Plan
from .switching import in_words, switched_sites

LEAST = 4  # draws of each chain, of which Pyro has n_eff and R-hat


class MCMC(AbstractMCMC):
    """Markov chains of a Pyro model, all of them in one process, batched.

    Given a model alone, it chooses the kernels by structure: discrete sites are drawn from their
    conditional laws or by the gradient, real ones moved by HMC; `plan` says which, and a site may
    ask for its own, `infer={"kernel": ...}`. The chains are then judged, and a warning says where
    they have not mixed, and why. Given an `EnergyKernel` it runs that.

    It is used as `pyro.infer.MCMC` is. Draws are (chain, draw, *shape) in the model's space and
    its dtypes; `chains` has them in the energy's space, discrete ones as small integers, with the
    statistics of each draw, the tuned kernel and what it takes to go on. Ctrl-C, and any exception
    after the first step, keeps the draws made so far, and `resume` goes on from them. `Predictive`
    takes `get_samples()`, and `to_arviz` the whole.

    Args:
        kernel: A Pyro model, or an energy; or an `EnergyKernel`, a kernel with its model.
        num_samples: Draws to keep, of each chain.
        warmup_steps: Steps before the first draw; as many as draws if left out.
        num_chains: The number of chains.
        initial_params: Where the chains start: unconstrained values (chain, *shape) by site.
        thinning: Steps from one draw to the next.
        keep: "draws", or "everything" to keep the (thinned) warm-up as well.
        seed: Of this run; the global generators stay untouched. If left out it is drawn from them.
        init_strategy: Where the real sites of a model start: one of Pyro's `init_to_...`.

    Raises:
        TypeError: If the kernel is neither a model, an energy nor an `EnergyKernel`.
        ValueError: If a count is out of its range, or an `EnergyKernel` comes with a strategy.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro_ebm import EnergyKernel, HMC, infer
        >>> def model(data):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("rows", len(data)):
        ...         pyro.sample("row", dist.Normal(mean, 1.0), obs=data)
        >>> mcmc = infer.MCMC(model, num_samples=50, warmup_steps=50, num_chains=100, seed=0)
        >>> mcmc.run(torch.ones(3))
        >>> mcmc.plan, str(mcmc.diagnosis.verdict)
        (HMC for mean: continuous, with a gradient, 'mixed')
        >>> mcmc.get_samples(group_by_chain=True)["mean"].shape
        torch.Size([100, 50])
        >>> kernel = EnergyKernel(HMC(step_size=0.5, trajectory_length=1.5), model)
        >>> mcmc = infer.MCMC(kernel, num_samples=50, warmup_steps=20, num_chains=100, seed=0)
        >>> mcmc.run(torch.ones(3))
        >>> mcmc.get_samples()["mean"].mean()  # 3 / 4
        tensor(0.7...)
    """

    def __init__(  # noqa: PLR0913 (the host's signature, and what it lacks)
        self,
        kernel: EnergyKernel | Callable[..., Any] | Energy,
        num_samples: int = 1000,
        warmup_steps: int | None = None,
        initial_params: Sites | None = None,
        num_chains: int = 4,
        *,
        thinning: int = 1,
        keep: Literal["draws", "everything"] = "draws",
        seed: int | None = None,
        init_strategy: InitStrategy | None = None,
    ) -> None:
        if isinstance(kernel, EnergyKernel):
            if init_strategy is not None:
                raise ValueError(
                    "An EnergyKernel knows where its chains start: give init_strategy to it, "
                    "EnergyKernel(kernel, model, init_strategy=...)."
                )
        elif isinstance(kernel, MCMCKernel | Kernel) or not callable(kernel):
            raise TypeError(
                f"kernel is {kernel!r}; wanted a Pyro model, an energy, or an EnergyKernel, for "
                f"example EnergyKernel(HMC(), model). Pyro's own kernels move one chain: give them "
                f"to pyro.infer.MCMC."
            )
        else:
            kernel = EnergyKernel(None, kernel, init_strategy=init_strategy)
        super().__init__(kernel, num_chains, {})
        warmup = num_samples if warmup_steps is None else warmup_steps
        self.schedule = Schedule(draws=num_samples, warmup=warmup, thinning=thinning, keep=keep)
        self.warmup_steps, self.initial_params, self.seed = warmup, initial_params, seed
        self.num_samples = num_samples
        self.energy: Energy
        self.made: Chains | None = None
        self.judged: tuple[Chains, Diagnosis] | None = None
        self.in_model_space: dict[str, Sites] = {}

    def run(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 (the model's)
        """Draws the samples.

        Args:
            args: The model's arguments.
            kwargs: Its keyword arguments.

        Raises:
            TypeError, ValueError: If the model is no energy, or the kernel cannot move it.
            NonFiniteEnergyError: If an energy becomes NaN; it carries the draws so far.
        """
        energy = self.kernel.energy_of(*args, **kwargs)
        if self.plan is not None:
            tell(f"{self.plan!r}")
        seed, start = chosen_seed(self.seed), self.initial_params
        if start is None:
            with forked(seed, energy.device):
                start = self.kernel.start(energy, self.num_chains)
        self.take(
            lambda: run(
                self.kernel.kernel,
                energy,
                self.schedule.draws,
                warmup=self.schedule.warmup,
                chains=self.num_chains,
                thinning=self.schedule.thinning,
                keep=self.schedule.keep,
                initial=start,
                seed=seed,
            ),
            energy=energy,
            _args=args,
            _kwargs=kwargs,
        )
        self.judge()

    def resume(self, num_samples: int) -> None:
        """The same chains with more draws: 60 draws and 40 more are the 100 of one longer run.

        Args:
            num_samples: How many more.

        Raises:
            ValueError: If the number is not positive, or there has been no run.
        """
        before = self.chains
        self.take(lambda: resume(before, self.energy, num_samples))
        self.judge()

    @property
    def plan(self) -> Plan | None:
        """Which kernel moves which site, and why; None before a run, or where one was given."""
        found: Plan | None = self.kernel.plan
        return found

    @property
    def diagnosis(self) -> Diagnosis:
        """Whether the chains have mixed, with the evidence; see `diagnose`.

        Raises:
            ValueError: If there has been no run.
        """
        chains = self.chains
        if self.judged is None or self.judged[0] is not chains:
            self.judged = chains, diagnose(chains)
        return self.judged[1]

    def judge(self) -> None:
        """Warns of chains that have not mixed, where the kernels were chosen here.

        A run that was stopped by hand is not judged.
        """
        chains = self.chains
        if self.plan is None or chains.interrupted:
            return
        found = self.diagnosis
        if found.verdict is Verdict.MIXED:
            return
        switched = switched_sites(chains) if found.verdict is Verdict.NOT_MIXED else []
        why = [in_words(switched)] if switched else list(found.advice)
        warn_with(" ".join([found.summary, *why]), NotMixedWarning, 3, chains=chains)

    def take(self, make: Callable[[], Chains], **told: Any) -> None:  # noqa: ANN401
        """Keeps the chains that are made, those of an exception too, and what is told of them."""
        chains: Chains | None = None
        try:
            chains = make()
            self.keep(chains, told)
        except BaseException as error:
            chains = chains or vars(error).get("chains")
            if chains is None:
                raise
            if not isinstance(error, KeyboardInterrupt):
                self.keep(chains, told)
                raise
            attributes = {**chains.attributes, "interrupted": True}
            self.keep(replace(chains, attributes=attributes), told)

    def keep(self, chains: Chains, told: dict[str, Any]) -> None:
        """Keeps chains, all at once."""
        num_chains, num_samples = chains.statistics["lp"].shape
        vars(self).update(
            told, made=chains, num_chains=num_chains, num_samples=num_samples, in_model_space={}
        )

    @property
    def chains(self) -> Chains:
        """What `run` made, in the energy's space.

        Raises:
            ValueError: If there has been no run.
        """
        if self.made is None:
            raise ValueError("There are no draws yet; call run(...) first.")
        return self.made

    @property
    def _samples(self) -> Sites | None:
        """The draws in the model's space, under Pyro's name; None before the first run."""
        return None if self.made is None else self.constrained("draws")

    @property
    def warmup_samples(self) -> Sites:
        """The draws of the warm-up in the model's space, where they were kept."""
        return {} if self.made is None else self.constrained("warmup_draws")

    @torch.no_grad()
    def constrained(self, name: Literal["draws", "warmup_draws"]) -> Sites:
        """Draws in the model's space, which are found when they are first asked for."""
        if name not in self.in_model_space:
            found = self.chains.draws if name == "draws" else self.chains.warmup_draws
            if found and isinstance(self.energy, ModelEnergy):
                # Shapes come from values: of no draws, those of where the chains stand.
                some = {
                    n: v if v.shape[1] else self.chains.last[n][:, None] for n, v in found.items()
                }
                some = self.energy.constrain({n: v.to(self.energy.like) for n, v in some.items()})
                found = {n: v[:, : found[n].shape[1]] for n, v in some.items()}
            self.in_model_space[name] = found
        return self.in_model_space[name]

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
        draws = self.constrained("draws")
        found: Sites = select_samples(draws, num_samples, group_by_chain)
        return found

    def latent(self) -> Sites:
        """The draws (chain, draw, *shape) without elements that are observed."""
        samples = self.get_samples(group_by_chain=True)
        return self.energy.reduced(samples) if isinstance(self.energy, ModelEnergy) else samples

    def diagnostics(self) -> dict[str, Any]:
        """As Pyro's: n_eff and R-hat by site, divergent draws and acceptance by chain.

        Of fewer than four draws n_eff and R-hat are NaN.
        """
        found: dict[str, Any] = diagnostics(enough(self.latent()))
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

    def summary(self, prob: float = 0.9, *, sites: Sequence[str] | None = None) -> None:
        """Prints Pyro's table: mean, spread, median, interval, n_eff and R-hat.

        Of fewer than four draws all are NaN.

        Args:
            prob: The probability in the interval.
            sites: The sites to tell of; all if left out.

        Raises:
            ValueError: If there is no such site.
        """
        latent = self.latent()
        if unknown := [name for name in sites or () if name not in latent]:
            raise ValueError(f"There are no sites {unknown}; the model has {list(latent)}.")
        chosen = latent if sites is None else {name: latent[name] for name in sites}
        print_summary(enough(chosen), prob=prob)


def enough(samples: Sites) -> Sites:
    """Draws as Pyro's statistics take them: floats, and four draws or more, NaN if there are fewer.

    Integers have no mean there, and halves of chains are compared.
    """
    found = {}
    for name, value in samples.items():
        value = value if value.is_floating_point() else value.double()
        chains, draws, *shape = value.shape
        found[name] = value if draws >= LEAST else value.new_full((chains, LEAST, *shape), math.nan)
    return found
