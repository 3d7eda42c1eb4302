"""Which kernel moves which site of a model: asked for at the site, else chosen by structure."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from pyro_ebm.energies import ModelEnergy
from pyro_ebm.kernels import Kernel, Part, joined, parts_of

ASKED = "it was asked for at the site"


class Plan(NamedTuple):
    """What moves each site of a model; `print` shows it.

    Args:
        parts: The kernels, with their sites and why each was chosen.
        summed: Sites that are summed out.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro_ebm import infer
        >>> def model():
        ...     rain = pyro.sample("rain", dist.Bernoulli(0.3))
        ...     pyro.sample("level", dist.Normal(rain, 1.0))
        >>> mcmc = infer.MCMC(model, num_samples=100, warmup_steps=50, num_chains=16, seed=0)
        >>> mcmc.run()
        >>> mcmc.plan
        Gibbs for rain: conditional laws are known
        HMC for level: continuous, with a gradient
    """

    parts: tuple[Part, ...]
    summed: tuple[str, ...] = ()

    def __repr__(self) -> str:
        lines = [
            f"{type(part.kernel).__name__} for {', '.join(part.sites)}: {part.reason}"
            for part in self.parts
        ]
        if self.summed:
            lines.append(f"summed out, as the model marks them: {', '.join(self.summed)}")
        return "\n".join(lines)

    @property
    def kernel(self) -> Kernel:
        """One kernel of all."""
        return joined(list(self.parts))


def plan_of(energy: ModelEnergy) -> Plan:
    """The kernels for the sites of a model, those that it asks for among them.

    A site asks by `pyro.sample(name, law, infer={"kernel": HMC()})`. Sites that ask for one kernel
    are moved by it together.

    Raises:
        TypeError: If what a site asks for is no kernel.
        ValueError: If there is a site that none of our kernels can move.
    """
    asked = list(asked_parts(energy))
    free = [name for name in energy.sites if not any(name in part.sites for part in asked)]
    chosen = [named(part, energy) for part in parts_of(energy)] if free else []
    kept = [narrowed(part, free) for part in chosen if set(part.sites) & set(free)]
    marked = [n for n, node in energy.nodes.items() if node["infer"].get("enumerate") == "parallel"]
    summed = [n for n in marked if n not in energy.sites and not energy.nodes[n]["is_observed"]]
    return Plan((*kept, *asked), tuple(summed))


def asked_parts(energy: ModelEnergy) -> Iterator[Part]:
    """The kernels that sites ask for, each with its sites.

    Raises:
        TypeError: If one is no kernel.
    """
    asked: list[tuple[Kernel, list[str]]] = []
    for name in energy.sites:
        kernel = energy.nodes[name]["infer"].get("kernel")
        if kernel is None:
            continue
        if not isinstance(kernel, Kernel):
            raise TypeError(
                f"The site {name!r} asks for {kernel!r}; wanted a kernel of pyro_ebm, for example "
                f"infer={{'kernel': HMC()}}."
            )
        same = next((sites for other, sites in asked if other is kernel or other == kernel), None)
        if same is None:
            asked.append((kernel, [name]))
        else:
            same.append(name)
    for kernel, sites in asked:
        yield Part(moving(kernel, tuple(sites)), tuple(sites), ASKED)


def moving(kernel: Kernel, sites: tuple[str, ...]) -> Kernel:
    """A kernel that moves these sites, where it is not said which."""
    own: Any = kernel
    if getattr(own, "sites", sites) is None:
        moved: Kernel = replace(own, sites=sites)
        return moved
    return kernel


def named(part: Part, energy: ModelEnergy) -> Part:
    """A part whose sites are said; a kernel that says none moves all."""
    return part if part.sites else part._replace(sites=tuple(energy.sites))


def narrowed(part: Part, names: list[str]) -> Part:
    """A part for some of its sites."""
    sites = tuple(name for name in part.sites if name in names)
    own: Any = part.kernel
    return (
        part
        if sites == part.sites
        else part._replace(kernel=replace(own, sites=sites), sites=sites)
    )
