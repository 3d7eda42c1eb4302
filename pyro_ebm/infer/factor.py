"""An energy as a factor of a model's joint density."""

import pyro
import pyro.distributions as dist
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor

from pyro_ebm.distributions import read_once
from pyro_ebm.energies import Energy


def energy_factor(name: str, energy: Energy, /, **sites: Tensor) -> None:
    r"""Multiplies the joint density of a model by :math:`e^{-E(x)}`: an undirected potential.

    No log Z enters: what is normalised is the whole joint, by the inference. So with random
    parameters :math:`\theta` the joint is :math:`p(\theta) e^{-E(x; \theta)} \cdots`, which is not
    :math:`p(\theta) p(x \mid \theta)`; for that write a statement with `EnergyDistribution`.

    Within plates the energy must give one number for each of their elements: one number alone would
    count as often as the plate has elements. The statement is no observation: its site is marked
    auxiliary and holds no data (`is_factor` tells it), so that no log-likelihood is made of it.

    Args:
        name: The name of the factor's site.
        energy: The energy.
        sites: A value (*batch, *site.shape) for each site of the energy, by name.

    Raises:
        TypeError: If `energy` is no energy.
        ValueError: If a value is missing, unknown, of the wrong shape or outside its support, or if
            the energy's shape is not that of the plates around it.
    """
    if not isinstance(energy, Energy):
        raise TypeError(f"energy is {energy!r}; wanted an energy, for example a BoltzmannMachine.")
    value = read_once(energy)(dict(sites))
    check_plates(name, value)
    unit = dist.Unit(-value)
    pyro.sample(name, unit, obs=unit.sample(), infer={"is_auxiliary": True})


def check_plates(name: str, value: Tensor) -> None:
    """Refuses an energy that is not one number for each element of the plates around it.

    Raises:
        ValueError: If it is not; the message names the plate.
    """
    for plate in _PYRO_STACK:
        if not isinstance(plate, IndepMessenger) or plate.dim is None:
            continue
        size = getattr(plate, "subsample_size", plate.size)
        found = value.shape[plate.dim] if value.dim() >= -plate.dim else 1
        if found != size:
            raise ValueError(
                f"The energy of {name!r} has shape {tuple(value.shape)} inside the plate "
                f"{plate.name!r} of size {size} at dimension {plate.dim}; wanted {size} numbers "
                f"there. One number would count {size} times: if it belongs to all of the plate, "
                f"move the statement out of it."
            )


def is_factor(node: dict[str, object]) -> bool:
    """Whether a site of a trace is a factor, which has no data and is no observation."""
    value = node.get("value")
    return isinstance(node.get("fn"), dist.Unit) or (
        isinstance(value, Tensor) and bool(node.get("is_observed")) and not value.numel()
    )
