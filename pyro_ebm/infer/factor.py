"""An energy as a factor of a model's joint density."""

from collections.abc import Iterator
from typing import Any

import pyro
import pyro.distributions as dist
from pyro.poutine.block_messenger import BlockMessenger
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import is_validation_enabled
from torch import Tensor

from pyro_ebm.distributions import read_once
from pyro_ebm.energies import Energy
from pyro_ebm.sites import Sites, as_tensor, batch_shape, check_names, check_shape, covers

# Pyro's own plates, in which a whole model is run several times.
COPIES = {
    "num_particles_vectorized",
    "num_sleep_particles_vectorized",
    "_num_predictive_samples",
}


def energy_factor(name: str, energy: Energy, /, **sites: Tensor) -> None:
    r"""Multiplies the joint density of a model by :math:`e^{-E(x)}`: an undirected potential.

    No log Z enters: what is normalised is the whole joint, by the inference. So with random
    parameters :math:`\theta` the joint is :math:`p(\theta) e^{-E(x; \theta)} \cdots`, which is not
    :math:`p(\theta) p(x \mid \theta)`; for that write a statement with `EnergyDistribution`.

    Within plates the energy must give one number for each of their elements: one number alone would
    count as often as the plate has elements. The statement is no observation: its site is marked
    auxiliary and holds no data, so that `to_arviz` makes no log-likelihood of it.

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
    value = evaluated(read_once(energy), dict(sites))
    check_plates(name, value)
    unit = dist.Unit(-value)
    pyro.sample(name, unit, obs=unit.sample(), infer={"is_auxiliary": True})


def evaluated(energy: Energy, x: Sites) -> Tensor:  # (*batch,)
    """E(x): at the door, or without the check of supports where Pyro's validation is off.

    Samplers switch it off, because a trajectory that diverges may reach infinite values.

    Raises:
        TypeError, ValueError: As `energy_factor`.
    """
    if is_validation_enabled():
        return energy(x)
    check_names(x, energy.sites)
    x = {
        name: check_shape(
            as_tensor(value, name, energy.dtype, energy.device), name, energy.sites[name]
        )
        for name, value in x.items()
    }
    value, batch = energy.evaluate(x), batch_shape(x, energy.sites)
    if not covers(value.shape, batch):
        raise ValueError(
            f"The energy has shape {tuple(value.shape)} for the batch {tuple(batch)}; wanted one "
            f"number for each element of the batch."
        )
    return value


def check_plates(name: str, value: Tensor) -> None:
    """Refuses an energy that is not one number for each element of the plates around it.

    Raises:
        ValueError: If it is not; the message names the plate.
    """
    for plate, dim in plates_around(name):
        size = getattr(plate, "subsample_size", plate.size)
        found = value.shape[dim] if value.dim() >= -dim else 1
        if found != size:
            raise ValueError(
                f"The energy of {name!r} has shape {tuple(value.shape)} inside the plate "
                f"{plate.name!r} of size {size} at dimension {dim}; wanted {size} numbers "
                f"there. One number would count {size} times: if it belongs to all of the plate, "
                f"move the statement out of it."
            )


def plates_around(name: str) -> Iterator[tuple[IndepMessenger, int]]:
    """The plates that a statement stands in, with their dimensions; not those of COPIES."""
    message: Any = {"type": "sample", "name": name, "is_observed": True, "infer": {}}
    for messenger in reversed(_PYRO_STACK):
        if isinstance(messenger, BlockMessenger) and messenger.hide_fn(message):
            return
        if not isinstance(messenger, IndepMessenger) or messenger.name in COPIES:
            continue
        if messenger.dim is not None:  # a plate that is a loop has none
            yield messenger, messenger.dim
