"""A kernel of this library as a kernel of Pyro's MCMC."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor

from pyro_ebm.energies import Energy, InitStrategy, ModelEnergy
from pyro_ebm.kernels import (
    EVERY,
    Kernel,
    KernelState,
    Watch,
    after_warmup,
    brief,
    in_warmup,
    parts_of,
    read_structure,
    unmoved_sites,
)
from pyro_ebm.sites import Sites

from .plan import Plan, narrowed, plan_of
from .tally import Tally


class EnergyKernel(MCMCKernel):
    """Any kernel of this library as a Pyro kernel, of a Pyro model or of an energy.

    `pyro_ebm.infer.MCMC` runs it with all chains at once; under `pyro.infer.MCMC` it moves one
    chain, as Pyro's kernels do. What the kernel leaves to a warm-up is found in Pyro's.

    Under `pyro.infer.MCMC` every site comes back in one float dtype, for that is how Pyro keeps
    draws; `to_arviz` and `pyro_ebm.infer.MCMC` know integers.

    Args:
        kernel: The kernel, for example `HMC()`, or `Cycle((Gibbs(("label",)), HMC()))`; None
            chooses one by structure once the model's arguments are known (`plan` tells it).
        model: A Pyro model, whose arguments are those of `run`; or an energy.
        init_strategy: Where the real sites of a model start: one of Pyro's `init_to_...`.

    Raises:
        TypeError: If `kernel` is no kernel of this library, or `model` neither.
        ValueError: In `run`, if the kernel does not move a latent site of the model.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro_ebm import EnergyKernel, Gibbs, infer
        >>> def model():
        ...     pyro.sample("rain", dist.Bernoulli(0.3))
        >>> mcmc = infer.MCMC(EnergyKernel(Gibbs(), model), num_samples=20, warmup_steps=0, seed=0)
        >>> mcmc.run()
        >>> mcmc.get_samples(group_by_chain=True)["rain"].shape
        torch.Size([4, 20])
    """

    def __init__(
        self,
        kernel: Kernel | None,
        model: Callable[..., Any] | Energy,
        *,
        init_strategy: InitStrategy | None = None,
    ) -> None:
        if not isinstance(kernel, Kernel | None):
            raise TypeError(
                f"kernel is {kernel!r}; wanted a kernel of pyro_ebm, for example HMC(), or None, "
                f"which takes the one that suits. Pyro's own run under pyro.infer.MCMC, and in "
                f"blocks of WithinGibbs."
            )
        if not callable(model):
            raise TypeError(f"model is {model!r}; wanted a Pyro model or an energy.")
        self.given, self.target, self.init_strategy = kernel, model, init_strategy
        self.plan: Plan | None = None
        self.model = None if isinstance(model, Energy) else model
        # Pyro maps draws back by these; None has it call `setup` for them in the main process.
        self.transforms: dict[str, Any] | None = {} if self.model is None else None
        self.first: Sites | None = None
        self.last: dict[str, Tensor] = {}
        self.state: KernelState | None = None
        self.tally = Tally()

    def energy_of(self, *args: Any, **kwargs: Any) -> Energy:  # noqa: ANN401 (the model's)
        """The energy of the model with its arguments; the energy itself where there is no model.

        Raises:
            ValueError: If the kernel leaves a latent site of a model where it starts.
        """
        if isinstance(self.target, Energy):
            self.plan = Plan(tuple(parts_of(self.target))) if self.given is None else None
            return self.target
        energy = ModelEnergy(self.target, *args, **kwargs)
        self.plan = plan_of(energy) if self.given is None else None
        require_all_moved(self.kernel, energy)
        return energy

    @property
    def kernel(self) -> Kernel:
        """The kernel, given or chosen.

        Raises:
            ValueError: If none was given and none has been chosen yet.
        """
        if self.given is not None:
            return self.given
        if self.plan is None:
            raise ValueError("The kernel is chosen when the model's arguments are known: call run.")
        return self.plan.kernel

    def start(self, energy: Energy, chains: int) -> Sites | None:
        """Where chains start, in the energy's space; None has `run` choose."""
        if not isinstance(energy, ModelEnergy):
            return None
        return energy.initial(chains, self.init_strategy)

    # --- Pyro's protocol -------------------------------------------------------------------------

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Builds the energy.

        Raises:
            ValueError: If the support of a real site depends on other sites, since Pyro would map
                all draws back by the first one's.
        """
        self.energy = self.energy_of(*args, **kwargs)
        self.watch = Watch(read_structure(self.energy), seed=0)
        self.warmup_steps = warmup_steps
        self.moving = in_warmup(self.kernel, warmup_steps)
        if isinstance(self.energy, ModelEnergy):
            if moving := sorted(self.energy.moving & self.energy.real):
                raise ValueError(
                    f"The supports of {moving} depend on other sites, and pyro.infer.MCMC maps "
                    f"draws back by fixed transforms. Use pyro_ebm.infer.MCMC."
                )
            self.transforms = self.energy.to_free

    @property
    def initial_params(self) -> Sites:
        """The start of one chain."""
        if self.first is None:
            x = self.start(self.energy, 1)
            if x is None:
                raise ValueError("An energy needs initial_params: MCMC(..., initial_params={...}).")
            self.first = {name: value[0] for name, value in x.items()}
        return self.first

    @initial_params.setter
    def initial_params(self, params: Sites) -> None:
        self.first = params

    def sample(self, params: Sites) -> Sites:
        """The values after one step.

        Raises:
            WrongDependenceError: If a conditional law turns out not to be that of the energy.
        """
        x = {name: value.detach().to(self.energy.dtype)[None] for name, value in params.items()}
        moving, state = self.moving, self.state
        if state is None:
            state = moving.init(self.energy, self.energy.accept(x))
        elif any(params[name] is not value for name, value in self.last.items()):
            state = moving.refresh(self.energy, state, x)
        with torch.no_grad():
            state, info = moving.step(self.energy, state)
        report = {n: float(value) for n, value in info._asdict().items() if value.numel() == 1}
        if self.tally.steps + 1 == self.warmup_steps:
            moving, state = after_warmup(moving, state)
        last = {name: value[0] for name, value in state.x.items()}
        # All at once, so that an exception leaves a whole step.
        self.moving, self.state, self.last = moving, state, last
        self.tally.add({"": report}, self.warmup_steps)
        if self.tally.steps % EVERY == 1:
            self.watch.look(state.x)
        return dict(last)

    def logging(self) -> "OrderedDict[str, str]":
        """What the progress bar shows."""
        return self.tally.in_words()

    def diagnostics(self) -> dict[str, Any]:
        """Divergent draws, and the mean acceptance."""
        return self.tally.summary()

    def cleanup(self) -> None:
        """Forgets the chain: the next one begins anew."""
        self.first, self.last, self.state, self.tally = None, {}, None, Tally()


def require_all_moved(kernel: Kernel, energy: ModelEnergy) -> None:
    """Refuses a kernel that leaves a latent site of a model where it starts.

    Raises:
        ValueError: If it does; the message says which kernel moves it, and how to hold it.
    """
    if left := unmoved_sites(kernel, energy):
        parts = parts_of(energy)
        others = [narrowed(part, left).kernel for part in parts if set(part.sites) & set(left)]
        held = ", ".join(f"{name!r}: value" for name in left)
        raise ValueError(
            f"The kernel does not move the latent sites {left}: they would stay where the chains "
            f"start. Move them too, Cycle(({', '.join(map(brief, [kernel, *others]))})), or hold "
            f"them, pyro.condition(model, {{{held}}})."
        )
