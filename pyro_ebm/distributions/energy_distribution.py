r"""Energies as Pyro distributions.

.. math:: p(x) = e^{-F(x)} / Z, \quad F(x) = -\ln \sum_h e^{-E(x, h)}

over one site x of an energy; its other sites h are summed out. A value has shape
(*sample, *batch, *site.shape), and the batch shape is that of the energy's parameters.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Self

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_ebm.energies import Energy
from pyro_ebm.partition import LogPartition
from pyro_ebm.sites import (
    as_tensor,
    check_shape,
    only_site,
    require_precision,
    settled,
    trusting,
)

from . import sampling, summation
from .normalizers import Normalizer, Statement, UpToConstant, known
from .reading import read_once
from .sampling import Sampler


class AbstractEnergyDistribution(TorchDistribution):
    """What every distribution made from an energy does; the kinds differ in how they are made.

    `energy`, `unnormalized_log_prob` and `sample` need no normaliser; `log_prob` does.
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def describe(
        self,
        energy: Energy,
        site: str | None,
        normalizer: Normalizer,
        sampler: Sampler | None,
        validate_args: bool | None,  # noqa: FBT001 (torch's)
    ) -> None:
        """Fills in all attributes; every constructor ends with it.

        Raises:
            TypeError, ValueError: If an argument is not what is wanted.
        """
        if not isinstance(energy, Energy):
            raise TypeError(
                f"energy is {energy!r}; wanted an energy, for example a BoltzmannMachine, or "
                f"CallableEnergy(function, sites)."
            )
        require_precision(energy.dtype)
        self.site = chosen_site(energy, site)
        self.machine = read_once(energy)
        structure = self.machine.structure()
        summation.require_summable(energy, structure, self.site)
        self.machines = structure.batch
        self.normalizer = normalizer.of(self.machine, self.machines)
        self.sampler = Sampler() if sampler is None else sampler
        self.context = self.normalizer.context()
        self.count = summation.number_of_states(self.machine.sites[self.site])
        self.has_enumerate_support = self.count <= summation.MAX_STATES  # 16 bits
        self.token = object()  # carried by copies, so that a trace's site can be recognised
        shape = self.machine.sites[self.site].shape
        super().__init__(self.machines, shape, validate_args=validate_args)

    def __repr__(self) -> str:
        shapes = f"batch {tuple(self.batch_shape)}, event {tuple(self.event_shape)}"
        own = f"{type(self).__name__} of {self.site!r}, {shapes}, log Z {self.normalizer}"
        return "\n".join([own, *(f"  {line}" for line in repr(self.machine).splitlines())])

    # ------------------------------------------------------------------ what it is

    @property
    def support(self) -> Constraint:
        """Where values live."""
        site = self.machine.sites[self.site]
        return constraints.independent(site.support, len(site.shape) - site.support.event_dim)

    def expand(
        self, batch_shape: Sequence[int], _instance: "AbstractEnergyDistribution | None" = None
    ) -> Self:
        """The same law for a larger batch; the parameters stay as they are.

        log Z is that of the machines there are, however many elements of a plate use them.

        Raises:
            ValueError: If the batch shape does not broadcast to it.
        """
        batch_shape = torch.Size(batch_shape)
        try:
            torch.empty(()).expand(self.batch_shape).expand(batch_shape)
        except RuntimeError:
            raise ValueError(
                f"The batch shape {tuple(self.batch_shape)} cannot be expanded to "
                f"{tuple(batch_shape)}."
            ) from None
        # Torch makes copies only of classes that share a constructor with their parent.
        new = type(self).__new__(type(self))
        new.__dict__.update(self.__dict__)
        new._batch_shape = batch_shape
        if not new.context.is_of_a_run:
            new.context = new.normalizer.context()
        return new

    @property
    def statement(self) -> Statement:
        """The law and the run it stands in, as its normaliser is told of them."""
        return Statement(self.machine, self.site, self.context, self.token)

    # ------------------------------------------------------------------ log-probabilities

    def energy(self, value: Tensor) -> Tensor:  # (*sample, *batch)
        """F(value) in nats; E(value) itself where no site is hidden."""
        with self.checks():
            energy = summation.free_energy(self.machine, self.site, self.accept(value))
            return self.shaped(energy, value)

    def unnormalized_log_prob(self, value: Tensor) -> Tensor:  # (*sample, *batch)
        """−F(value) = ln p(value) + log Z."""
        return -self.energy(value)

    def log_prob(self, value: Tensor) -> Tensor:  # (*sample, *batch)
        """ln p(value) in nats, or up to a fixed constant where the distribution was made so.

        Args:
            value: Values (*sample, *batch, *site.shape).

        Raises:
            FloatingPointError: If a parameter or an energy is NaN, where validation is on.
            ValueError: If a value is not in the support.
            IntractableNormalizerError: If log Z is needed and not there.
        """
        with self.checks():
            accepted = self.accept(value)
            found = self.normalizer.log_prob(self.statement, accepted)
            return self.shaped(found, value)

    def score_parts(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (Pyro's)
        """What Pyro asks of a guide's distributions.

        Raises:
            IntractableNormalizerError: If the distribution is known up to a constant only.
        """
        self.normalizer.require_normalised(self.statement)
        return super().score_parts(x, *args, **kwargs)

    def checks(self) -> AbstractContextManager[None]:
        """Looks at numbers inside where validation is on, as torch's distributions do.

        A sampler's trial values and parameters may be infinite.
        """
        return nullcontext() if self._validate_args else trusting()

    def accept(self, value: Tensor) -> Tensor:
        """The door: a value of the site, in the energy's dtype.

        Raises:
            TypeError, ValueError: If it is not what the site wants, or its batch shape does not
                broadcast to that of the distribution.
        """
        accepted = self.of_site(value)
        if not self.batch_shape:
            return accepted
        batch = accepted.shape[: accepted.dim() - len(self.event_shape)]
        try:
            torch.broadcast_shapes(batch, self.batch_shape)
        except RuntimeError:
            raise ValueError(
                f"The value has the batch shape {tuple(batch)}, and the distribution "
                f"{tuple(self.batch_shape)}; wanted one number for each value and parameter, so "
                f"shapes that broadcast, the parameters last."
            ) from None
        return accepted

    def of_site(self, value: Tensor) -> Tensor:
        """A value of the site, its support checked where validation is on.

        Raises:
            TypeError, ValueError: If it is not what the site wants.
        """
        if self._validate_args:
            return self.machine.accept({self.site: value})[self.site]
        tensor = as_tensor(value, self.site, self.machine.dtype, self.machine.device)
        site = self.machine.sites[self.site]
        return settled(check_shape(tensor, self.site, site), site.support)

    def shaped(self, log_prob: Tensor, value: Tensor) -> Tensor:
        """One number for each element of the batch of values and machines.

        Raises:
            ValueError: If the energy gave something else.
        """
        own = len(self.event_shape)
        batch = torch.broadcast_shapes(value.shape[: value.dim() - own], self.batch_shape)
        if self._validate_args:
            summation.require_numbers(self.machine, log_prob)
        try:
            return log_prob.to(self.machine.dtype).expand(batch)
        except RuntimeError:
            raise ValueError(
                f"The energy has shape {tuple(log_prob.shape)} for values with the batch shape "
                f"{tuple(batch)}; wanted one number for each. Sum over the site's own dimensions "
                f"only."
            ) from None

    # ------------------------------------------------------------------ moments

    @property
    def mean(self) -> Tensor:  # (*batch, *site.shape)
        """E[x], exact, without a history; of labels the mean of their numbers.

        Raises:
            NotImplementedError: If there is no affordable sum.
        """
        return self.expanded(summation.mean_and_variance(self.machine, self.site)[0])

    @property
    def variance(self) -> Tensor:  # (*batch, *site.shape)
        """Var[x] of every element, as `mean`.

        Raises:
            NotImplementedError: If there is no affordable sum.
        """
        return self.expanded(summation.mean_and_variance(self.machine, self.site)[1])

    def entropy(self) -> Tensor:  # (*batch,)
        """−E[ln p(x)] in nats, exact and differentiable in the parameters.

        Raises:
            NotImplementedError: If there is no affordable sum.
        """
        return (
            summation.entropy(self.machine, self.site)
            .to(self.machine.dtype)
            .expand(self.batch_shape)
        )

    def expanded(self, value: Tensor) -> Tensor:
        """What is known of the parameters' batch, for that of the distribution."""
        return value.to(self.machine.dtype).expand(self.batch_shape + self.event_shape)

    # ------------------------------------------------------------------ draws and states

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Independent draws (*sample, *batch, *site.shape).

        Exact where the site has at most 2**16 states and the others can be summed out, or where
        exact summation takes no more than about two seconds (a fiftieth of a second, if log Z was
        left out); else each draw is the end of a Markov chain: see `Sampler`.

        Raises:
            FloatingPointError: If a parameter or an energy is NaN.
            ValueError: If a kernel is needed and there is none for all sites, or no start of finite
                energy is found, or none is allowed.
        """
        batch = (*sample_shape, *self.batch_shape)
        count = sampling.repeats(self.machines, batch)
        draws = sampling.draw(self.machine, self.site, count, self.machines, self.sampler)
        return sampling.spread(draws, self.machines, batch)

    @property
    def states(self) -> Tensor:  # (states, *site.shape)
        """All states of the site, the last element fastest.

        Raises:
            ValueError: If there are more than 2**16, or infinitely many.
        """
        if not self.has_enumerate_support:
            raise ValueError(
                f"{self.site!r} has {self.count} states; at most {summation.MAX_STATES} are "
                f"enumerated."
            )
        return summation.states(self.machine, self.site)

    def enumerate_support(self, expand: bool = True) -> Tensor:  # noqa: FBT001, FBT002 (Pyro's)
        """All states in a new leading dimension: (states, *batch, *site.shape).

        Raises:
            ValueError: As `states`.
        """
        states = self.states
        spaced = states.reshape(len(states), *[1] * len(self.batch_shape), *self.event_shape)
        if not expand:
            return spaced
        return spaced.expand(len(states), *self.batch_shape, *self.event_shape)

    def as_categorical(self) -> dist.Categorical:
        """The same law over the numbers of the states: k stands for `states[k]`.

        Pyro's `infer_discrete`, `compute_marginals` and `AutoDiscreteParallel` take no site whose
        value is a vector, and take this one.

        Raises:
            ValueError: As `states`.
            IntractableNormalizerError: If log Z is not exact. (A categorical law normalises.)
        """
        self.normalizer.require_exact(self.statement)
        log_prob = self.log_prob(self.enumerate_support())
        return dist.Categorical(logits=log_prob.movedim(0, -1))


class EnergyDistribution(AbstractEnergyDistribution):
    r"""The law of one site of an energy, as a Pyro distribution; the module has the equation.

    log Z is exact by structure where that is affordable (differentiable in the parameters), or the
    `LogPartition` that is handed in, or left out: `up_to_constant`. Without any of these `log_prob`
    raises; `energy`, `unnormalized_log_prob` and `sample` always work.

    The parameters are read once, here: inside a model, a machine with `PyroSample` parameters gives
    a distribution of the parameters drawn.

    `exact.log_prob` and `exact.sample` answer the same questions outside of Pyro's models.

    Args:
        energy: The energy. Sites other than the distribution's own are summed out.
        site: The site; if left out the only one, or the one called `visible`.
        log_partition: log Z (*batch of the parameters,), estimated elsewhere. Where the parameters
            are being learned its value must carry the gradient; it must be of these parameters.
        sampler: How to draw where no exact draw is possible.
        validate_args: As in torch.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If the site is unknown or ambiguous, or the others cannot be summed out.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine
        >>> from pyro_ebm.distributions import EnergyDistribution
        >>> law = EnergyDistribution(BoltzmannMachine.restricted(3, 2, couplings=torch.zeros(3, 2)))
        >>> law.log_prob(torch.ones(3)).exp(), law.sample((5,)).shape
        (tensor(0.1250, ...), torch.Size([5, 3]))
    """

    def __init__(
        self,
        energy: Energy,
        site: str | None = None,
        *,
        log_partition: LogPartition | None = None,
        sampler: Sampler | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.describe(energy, site, known(log_partition), sampler, validate_args)

    @classmethod
    def up_to_constant(
        cls,
        energy: Energy,
        site: str | None = None,
        *,
        sampler: Sampler | None = None,
        validate_args: bool | None = None,
    ) -> Self:
        """A fixed energy, such as a learned prior, whose Z nobody needs.

        **`log_prob` is −F(x): the log-probability up to a fixed constant, log Z.** MCMC, SVI and
        enumeration need no more, as long as the energy is fixed; evidences and ELBOs are off by
        that constant. Where the energy depends on a latent site, or on anything in Pyro's param
        store, Z is no constant, and `log_prob` raises. Parameters that require grad alone are no
        such dependence: a trained machine can be used as it is.

        Args:
            energy: As for the class.
            site: As for the class.
            sampler: As for the class; if left out, one that sums only what takes no time.
            validate_args: As for the class.

        Raises:
            TypeError, ValueError: As the class.
        """
        sampler = sampling.IN_HASTE if sampler is None else sampler
        new = cls.__new__(cls)
        new.describe(energy, site, UpToConstant(), sampler, validate_args)
        return new


def chosen_site(energy: Energy, site: str | None) -> str:
    """The site that the distribution is over.

    Raises:
        ValueError: If it is unknown, or none is named and there are several, none `visible`.
    """
    if site is None:
        if len(energy.sites) > 1 and "visible" not in energy.sites:
            raise ValueError(
                f"The energy has the sites {list(energy.sites)}, and a distribution is over one: "
                f"name it, EnergyDistribution(energy, site). The others are summed out; to keep "
                f"several, give each its own statement and join them by pyro_ebm.energy_factor, "
                f"or, of a Boltzmann machine, take machine.joined()."
            )
        return only_site(energy.sites, "visible")
    if site not in energy.sites:
        raise ValueError(f"Unknown site {site!r}; the energy has {list(energy.sites)}.")
    return site
