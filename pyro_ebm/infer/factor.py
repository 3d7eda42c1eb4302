"""An energy as a factor of a model's joint density."""

from collections.abc import Iterator
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.block_messenger import BlockMessenger
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import is_validation_enabled
from torch import Tensor

from pyro_ebm.distributions import (
    Context,
    cut_off,
    dependences,
    dependences_at,
    factor_without_constant,
    read_once,
    site_name,
    watched_context,
)
from pyro_ebm.energies import Energy
from pyro_ebm.sites import (
    Sites,
    as_tensor,
    batch_shape,
    check_names,
    check_shape,
    covers,
    is_trusting,
)

# Pyro's own plates, in which a whole model is run several times.
COPIES = {
    "num_particles_vectorized",
    "num_sleep_particles_vectorized",
    "_num_predictive_samples",
}


def energy_factor(
    name: str,
    energy: Energy,
    /,
    *,
    normalizer: Literal["constant", "left out"] = "constant",
    **sites: Tensor,
) -> None:
    r"""Multiplies the joint density of a model by :math:`e^{-E(x)}`: an undirected potential.

    No log Z enters: what is normalised is the whole joint, by the inference. So with random
    parameters :math:`\theta` the joint is :math:`p(\theta) e^{-E(x; \theta)} \cdots`, which is not
    :math:`p(\theta) p(x \mid \theta)`; for that write a statement with `EnergyDistribution`. An
    energy with such parameters is refused, unless the undirected joint is asked for.

    Within plates the energy must give one number for each of their elements: one number alone would
    count as often as the plate has elements. The statement is no observation: its site is marked
    auxiliary and holds no data, so that `to_arviz` makes no log-likelihood of it.

    Args:
        name: The name of the factor's site.
        energy: The energy.
        normalizer: "constant": refuse an energy that depends on latent sites or on Pyro's param
            store otherwise than through the values of its sites. "left out": take it as it is.
        sites: A value (*batch, *site.shape) for each site of the energy, by name.

    Raises:
        TypeError: If `energy` is no energy.
        ValueError: If a value is missing, unknown, of the wrong shape or outside its support, or if
            the energy's shape is not that of the plates around it; or if `normalizer` is neither.
        IntractableNormalizerError: If the energy's parameters are random or learned, and the
            normaliser was not said to be left out.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> from pyro_ebm import CallableEnergy, energy_factor
        >>> near = CallableEnergy(lambda x: 9 * (x[..., 0] - x[..., 1]).square(), 2)
        >>> def model():
        ...     x = pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...     energy_factor("near", near, visible=x)
        >>> held = pyro.poutine.condition(model, {"x": torch.tensor([0.0, 1.0])})
        >>> pyro.poutine.trace(held).get_trace().log_prob_sum()  # −ln 2π − ½ − 9
        tensor(-11.3379)
    """
    if not isinstance(energy, Energy):
        raise TypeError(f"energy is {energy!r}; wanted an energy, for example a BoltzmannMachine.")
    if normalizer not in ("constant", "left out"):
        raise ValueError(f"normalizer is {normalizer!r}; wanted 'constant' or 'left out'.")
    energy, x = read_once(energy), accepted(energy, sites)
    value = evaluated(energy, x)
    check_plates(name, value)
    context = None if normalizer == "left out" or is_trusting() else watched_context()
    unit = Factor(energy, x, value, context)
    pyro.sample(name, unit, obs=unit.sample(), infer={"is_auxiliary": True})


class Factor(dist.Unit):
    """What a factor's site holds: −E, looked at when it is asked for, after the model has run.

    Args:
        energy: The energy.
        x: The values of its sites.
        value: E(x).
        context: The run that the factor stands in; None where nothing is to be looked at.
    """

    def __init__(self, energy: Energy, x: Sites, value: Tensor, context: Context | None) -> None:
        super().__init__(-value)
        self.energy, self.x, self.value, self.context = energy, x, value, context
        self.token = object()

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Factor":  # noqa: ANN401
        """The same for a larger batch."""
        value = self.value.expand(torch.Size(batch_shape))
        new = Factor(self.energy, self.x, value, self.context)
        new.token = self.token
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """−E(x).

        Raises:
            IntractableNormalizerError: If E depends on what inference moves otherwise than
                through x.
        """
        if self.context is not None:
            require_constant(self, self.context)
            self.context.forget()
        return super().log_prob(value)


def require_constant(factor: Factor, context: Context) -> None:
    """Refuses an energy that depends on what inference moves otherwise than through its values.

    Raises:
        IntractableNormalizerError: If it does.
    """
    name = site_name(context, factor.token)
    held = {key: own.detach() for key, own in factor.x.items()}
    found = dependences(factor.value, context, factor.energy, list(factor.x.values()))
    found = found or dependences_at(name, context, lambda unit: energy_at(unit, held))
    if found:
        raise factor_without_constant(name or "", found)


def energy_at(unit: Any, x: Sites) -> Tensor:  # noqa: ANN401 (a factor, however it is wrapped)
    """The energy of given values in the factor of another run."""
    while hasattr(unit, "base_dist"):
        unit = unit.base_dist
    energy: Energy = unit.energy
    return energy.evaluate(x)


def accepted(energy: Energy, sites: Sites) -> Sites:
    """The values, each a step of its own in autograd's graph: at the door, or names and shapes.

    Samplers switch Pyro's validation off, because a trajectory that diverges may reach infinite
    values: supports are not checked then.

    Raises:
        TypeError, ValueError: As `energy_factor`.
    """
    check_names(sites, energy.sites)
    if is_validation_enabled():
        x = energy.accept(sites, preferred=None)
    else:
        x = {
            name: check_shape(
                as_tensor(value, name, energy.dtype, energy.device), name, energy.sites[name]
            )
            for name, value in sites.items()
        }
    return {name: cut_off(value) for name, value in x.items()}


def evaluated(energy: Energy, x: Sites) -> Tensor:  # (*batch,)
    """E(x) of values that have passed the door.

    Raises:
        ValueError: If it is not one number for each element of the batch.
    """
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
