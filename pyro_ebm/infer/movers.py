"""What moves one block of sites given all the rest: a kernel of ours, one of Pyro's, or a function.

A mover takes the values of all sites of one chain, with a batch dimension of one, as the energy has
them; what other movers did since its last turn is its own business to notice.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from pyro import poutine
from pyro.infer import HMC, NUTS
from torch import Tensor

from pyro_ebm.energies import ModelEnergy
from pyro_ebm.kernels import EVERY, Kernel, KernelState, Watch, after_warmup, in_warmup
from pyro_ebm.sites import Sites

from .tally import SampleStatistics

Update = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


class BlockMover(ABC):
    """Moves a block of sites given all the rest."""

    @abstractmethod
    def move(self, x: Sites) -> tuple[Sites, SampleStatistics]:
        """All the values after one step, and what is to be told of it."""


class OurMover(BlockMover):
    """A kernel of this library.

    Args:
        kernel: The kernel.
        energy: The energy.
        warmup_steps: For how many steps it adapts its settings.
    """

    def __init__(self, kernel: Kernel, energy: ModelEnergy, warmup_steps: int) -> None:
        self.kernel, self.energy = in_warmup(kernel, warmup_steps), energy
        self.warmup_steps, self.steps = warmup_steps, 0
        self.watch = Watch(energy.structure(), seed=0)
        self.state: KernelState | None = None

    @torch.no_grad()
    def move(self, x: Sites) -> tuple[Sites, SampleStatistics]:
        if self.state is None:
            self.state = self.kernel.init(self.energy, x)
        elif any(self.state.x[name] is not value for name, value in x.items()):
            self.state = self.kernel.refresh(self.energy, self.state, x)
        self.state, info = self.kernel.step(self.energy, self.state)
        if self.steps % EVERY == 0:
            self.watch.look(self.state.x)
        self.steps += 1
        if self.steps == self.warmup_steps:
            self.kernel, self.state = after_warmup(self.kernel, self.state)
        return self.state.x, {name: float(value) for name, value in info._asdict().items()}


class PyroMover(BlockMover):
    """Pyro's NUTS or HMC, on the model conditioned on the other sites as they are now.

    Args:
        make: Makes the kernel of a model.
        energy: The energy of the unconditioned model.
        sites: The sites to move.
        warmup_steps: For how many steps it adapts its settings.

    Raises:
        ValueError: If a site is discrete or observed in part, or the kernel is to be compiled.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        energy: ModelEnergy,
        sites: tuple[str, ...],
        warmup_steps: int,
    ) -> None:
        if discrete := [site for site in sites if site not in energy.real]:
            raise ValueError(
                f"{discrete} are discrete, and Pyro's HMC and NUTS move real sites: give them to a "
                f"block with Gibbs(), or mark them infer={{'enumerate': 'parallel'}}."
            )
        if partly := [site for site in sites if site in energy.imputed]:
            raise ValueError(
                f"{partly} are observed in part, and Pyro's kernels would move the observed "
                f"elements too: give them to a block with a kernel of pyro_ebm, for example HMC()."
            )
        self.energy, self.sites, self.warmup_steps = energy, sites, warmup_steps
        self.others: dict[str, Tensor] = {}
        self.kernel = make(self.conditioned)
        if getattr(self.kernel, "_jit_compile", False):
            raise ValueError(
                "jit_compile=True would freeze the values of the other blocks into the compiled "
                "model. Leave it out."
            )
        self.left: Sites | None = None  # the values as the last move left them
        self.divergent = 0

    def conditioned(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (the model's)
        """The model, given what the other blocks hold now."""
        return poutine.condition(self.energy.model.function, self.others)(*args, **kwargs)

    def move(self, x: Sites) -> tuple[Sites, SampleStatistics]:
        values = self.energy.constrain(x)
        self.others.update({n: v[0] for n, v in values.items() if n not in self.sites})
        free = {site: x[site][0] for site in self.sites}
        if self.left is None:
            self.kernel.initial_params = free
            model = self.energy.model
            self.kernel.setup(self.warmup_steps, *model.args, **model.kwargs)
        elif any(self.left[name] is not value for name, value in x.items()):
            # Nothing in Pyro does so: it would go on with the energy and slope of an old model.
            self.kernel.clear_cache()
        moved = self.kernel.sample(free)
        self.left = {**x, **{site: moved[site].detach()[None] for site in self.sites}}
        divergences = len(self.kernel.diagnostics()["divergences"]) if self.past_warmup else 0
        report = {
            "acceptance_rate": float(self.kernel._mean_accept_prob),
            "step_size": float(self.kernel.step_size),
            "diverging": float(divergences > self.divergent),
        }
        self.divergent = divergences
        return self.left, report

    @property
    def past_warmup(self) -> bool:
        """Whether the kernel counts its draws."""
        return bool(self.kernel._t > self.warmup_steps)


class FunctionMover(BlockMover):
    """A function that draws the block from its conditional law.

    Args:
        update: From the values of all sites in the model's space to new ones of the block.
        energy: The energy.
        sites: The sites to move.
    """

    def __init__(self, update: Update, energy: ModelEnergy, sites: tuple[str, ...]) -> None:
        self.update, self.energy, self.sites = update, energy, sites

    @torch.no_grad()
    def move(self, x: Sites) -> tuple[Sites, SampleStatistics]:
        """Draws the block.

        Raises:
            ValueError: If the function's answer is not a value for each site of the block.
        """
        values = {name: value[0] for name, value in self.energy.constrain(x).items()}
        new = dict(self.update(values))
        if set(new) != set(self.sites):
            raise ValueError(
                f"The function for {list(self.sites)} answered with values of {list(new)}; wanted "
                f"one for each of its own sites."
            )
        for name, value in new.items():
            if value.shape != values[name].shape:
                raise ValueError(
                    f"The function gave {name!r} the shape {tuple(value.shape)}; wanted "
                    f"{tuple(values[name].shape)}."
                )
            law = self.energy.nodes[name]["fn"]
            if not bool(law.support.check(value).all()):
                raise ValueError(f"The function gave {name!r} a value outside of {law.support}.")
        free = self.energy.unconstrain({n: v[None] for n, v in {**values, **new}.items()})
        # Only its own: the others' way to the model's space and back would lose the last bits.
        return {**x, **{site: free[site] for site in self.sites}}, {}


def mover_of(
    kernel: Any,  # noqa: ANN401 (one of three kinds, or refused)
    sites: tuple[str, ...],
) -> Callable[[ModelEnergy, int], BlockMover]:
    """Makes the mover of a block, once the energy is there.

    Raises:
        TypeError: If the kernel is of no kind that is known.
    """
    if isinstance(kernel, Kernel):
        if not hasattr(kernel, "sites"):
            raise TypeError(
                f"{type(kernel).__name__} does not say which sites it moves. Give the kernels it "
                f"is made of as blocks of their own."
            )
        own: Any = replace(kernel, sites=sites)  # type: ignore[type-var]
        return lambda energy, warmup_steps: OurMover(own, energy, warmup_steps)
    make = kernel.func if isinstance(kernel, functools.partial) else kernel
    if isinstance(make, type) and issubclass(make, HMC | NUTS):
        return lambda energy, warmup_steps: PyroMover(kernel, energy, sites, warmup_steps)
    if isinstance(kernel, HMC | NUTS) or isinstance(make, type) or not callable(make):
        raise TypeError(
            f"A block has the kernel {kernel!r}; wanted a kernel of pyro_ebm such as Gibbs(), "
            f"Pyro's NUTS or HMC as a class (functools.partial(NUTS, ...) for its settings), or a "
            f"function that draws the block's sites."
        )
    return lambda energy, _: FunctionMover(kernel, energy, sites)
