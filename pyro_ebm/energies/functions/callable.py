"""Any function or network as an energy."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_ebm.energies.base import AbstractTyped
from pyro_ebm.energies.structure import Structure
from pyro_ebm.energies.without_terms import WithoutTerms
from pyro_ebm.seeding import forked, generator_state
from pyro_ebm.sites import (
    Site,
    Sites,
    batch_shape,
    is_count,
    is_trusting,
    of_one_element,
    random_values,
    whole,
)
from pyro_ebm.stopping import at_last

PROBES = 3  # rows that a new energy is tried on


class CallableEnergy(AbstractTyped):
    r"""Any function, or `nn.Module`, as an energy.

    .. math:: E(x) = f(x)

    The parameters of a module, or of the module whose method is given, are the energy's: they are
    learned, saved, moved and converted with it. What a plain function has closed over stays the
    caller's. A lambda cannot be pickled, hence neither can an energy made of one.

    For a network with a well-defined Z see `mlp_energy`; for a Pyro model `ModelEnergy`.

    Args:
        function: From values with exactly one batch dimension, (rows, *shape), to one number for
            each row, (rows,). With one site it is called as `function(x)`, with several by their
            names, `function(position=..., labels=...)`. It must be deterministic, leave what it is
            given unchanged, and treat every row alone; it may answer +inf, where p(x) is 0. It is
            tried on a few random rows at once, which moves no random numbers and no buffers.
        sites: The sites by name; or the shape of one real site called `visible`, for example 2.
        dtype: That states are computed in; if left out that of the module's parameters, else
            torch's default.
        device: As `dtype`.

    Raises:
        TypeError: If `function` is no callable, or does not answer with a tensor of real numbers,
            or if `sites` or `dtype` are no such thing.
        ValueError: If there are no sites; if `function` fails on the random rows, does not answer
            with one number for each, changes them, draws random numbers, or lets a row's energy
            depend on other rows.

    Example:
        >>> import torch
        >>> from pyro_ebm import CallableEnergy
        >>> ring = CallableEnergy(lambda x: (x.norm(dim=-1) - 2).square() / 0.1, 2)
        >>> ring(torch.tensor([[2.0, 0.0], [0.0, 0.0]]))
        tensor([ 0., 40.])
    """

    typed_by = "template"

    def __init__(
        self,
        function: Callable[..., Tensor],
        sites: Mapping[str, Site] | Sequence[int] | int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if not callable(function):
            raise TypeError(f"function is {function!r}; wanted a callable or an nn.Module.")
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(f"dtype is {dtype}; wanted one of real numbers, also for discrete x.")
        self.function = function
        # A method does not make its module ours; a module that is the function already is.
        self.owner = module_of(function) if inspect.ismethod(function) else None
        self.sites = named_sites(sites)
        self.follows_module = dtype is None and device is None
        own = parameter_like(module_of(function))
        # Follows the energy where it is moved or converted.
        self.register_buffer(
            "like",
            torch.empty(
                0,
                dtype=dtype or (own.dtype if own is not None else torch.get_default_dtype()),
                device=device or (own.device if own is not None else None),
            ),
            persistent=False,
        )
        self.like: Tensor
        if not is_trusting():  # else it was tried in the pass before, and vmap allows no tries
            self.try_out()

    @property
    def template(self) -> Tensor:
        """A tensor of the dtype and on the device that states are to have."""
        # The module may have been moved or converted without its energy.
        own = parameter_like(module_of(self.function)) if self.follows_module else None
        return self.like if own is None else own

    def extra_repr(self) -> str:
        if isinstance(self.function, nn.Module):
            return f"of {self.function!r}"
        return f"of {getattr(self.function, '__qualname__', type(self.function).__name__)}"

    def evaluate(self, x: Sites) -> Tensor:
        batch = batch_shape(x, self.sites)
        rows = {name: self.as_rows(name, value, batch) for name, value in x.items()}
        energies = self.checked(self.call(rows), batch.numel())
        return energies if len(batch) == 1 else energies.reshape(batch)

    def structure(self) -> Structure:
        return WithoutTerms(self)

    def as_rows(self, name: str, value: Tensor, batch: torch.Size) -> Tensor:  # (rows, *shape)
        """The values of a site with one batch dimension, contiguous: a function may use `view`."""
        shape = self.sites[name].shape
        if value.shape != (batch.numel(), *shape):
            value = value.expand((*batch, *shape)).reshape((batch.numel(), *shape))
        return value.contiguous()

    def call(self, rows: Sites) -> Any:  # noqa: ANN401 (it has to be looked at)
        """The function's answer."""
        if len(rows) == 1:
            return self.function(*rows.values())
        return self.function(**rows)

    def checked(self, answer: object, rows: int) -> Tensor:  # (rows,)
        """The answer, if it is one real number for each row.

        Raises:
            TypeError, ValueError: If it is not.
        """
        if not isinstance(answer, Tensor) or answer.dtype.is_complex:
            raise TypeError(
                f"The function answered {describe_answer(answer)}; wanted a tensor of real "
                f"numbers ({rows},), one for each row."
            )
        if answer.shape != (rows,):
            raise ValueError(
                f"The function answered with the shape {tuple(answer.shape)} for {rows} rows; "
                f"wanted ({rows},), one number for each row: sum over the sites' own dimensions "
                f"only, for example .flatten(1).sum(1), and squeeze(-1) a network's last one."
            )
        # Counts, such as (x != y).sum(1), are energies too.
        return answer if answer.is_floating_point() else answer.to(self.dtype)

    @torch.no_grad()
    def try_out(self) -> None:
        """Refuses a function whose answer is not one energy for each row on its own.

        Raises:
            TypeError, ValueError: If it is not.
        """
        with forked(0, self.device), buffers_kept(module_of(self.function)):
            try:
                rows = {
                    name: probes(site, self.template).contiguous()
                    for name, site in self.sites.items()
                }
            except (NotImplementedError, ValueError):
                return  # no value is known; every call checks the shape
            given = {name: value.clone() for name, value in rows.items()}
            before = generator_state(self.device)
            together = self.tried(rows)
            after = generator_state(self.device)
            if changed := [name for name in rows if not torch.equal(rows[name], given[name])]:
                raise ValueError(
                    f"The function changes the values of {changed} in place; it may only read "
                    f"them. Replace x.add_(...) and the like by x + ... in the function."
                )
            if any(not torch.equal(before[place], after[place]) for place in before):
                raise ValueError(
                    "The function draws random numbers, but an energy is a function of x alone: "
                    "call eval() on dropout. For a module with random parameters (PyroSample), "
                    "make the energy from the plain module first and its parameters random then."
                )
            alone = torch.cat(
                [self.tried({n: v[k : k + 1] for n, v in rows.items()}) for k in range(PROBES)]
            )
            if not alike(together, alone) or not alike(together, self.tried(rows)):
                raise ValueError(
                    f"The energies of {PROBES} rows are {together.tolist()} together and "
                    f"{alone.tolist()} one by one. A row's energy must not depend on other rows, "
                    f"on earlier calls, nor on chance: call eval() on batch normalisation."
                )

    def tried(self, rows: Sites) -> Tensor:  # (rows,)
        """The energies of trial rows.

        Raises:
            TypeError: If the answer is no tensor of real numbers.
            ValueError: If the function fails, or answers in the wrong shape.
        """
        try:
            answer = self.call(rows)
        except Exception as error:
            shapes = ", ".join(f"{name!r} {tuple(value.shape)}" for name, value in rows.items())
            called = "by their names" if len(rows) > 1 else "with one argument"
            raise ValueError(
                f"The function fails on trial rows of the shapes {shapes}, given {called} in "
                f"{self.dtype}: {type(error).__name__}: {error}. Check `sites` and `dtype` against "
                f"what it takes; it must take any number of rows (call eval() on batch "
                f"normalisation)."
            ) from error
        return self.checked(answer, len(next(iter(rows.values()))))


def probes(site: Site, like: Tensor) -> Tensor:  # (PROBES, *site.shape)
    """Values to try an energy on.

    Raises:
        NotImplementedError, ValueError: If none is known for the support.
    """
    return random_values(site, (PROBES,), like)


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether energies agree, up to what arithmetic does to rows in batches of different size."""
    eps = torch.finfo(one.dtype).eps
    finite = one[one.isfinite()].abs()
    largest = float(finite.max()) if len(finite) else 0.0
    # Convolutions on a GPU keep ten bits of each factor unless told otherwise.
    tolerance = max(5e-3, 16 * eps) * largest + 100 * eps
    return torch.allclose(one, other, rtol=0, atol=tolerance, equal_nan=True)


@contextmanager
def buffers_kept(module: nn.Module | None) -> Iterator[None]:
    """Puts back what forward passes write into buffers, such as batch normalisation's means."""
    held = [(b, b.clone()) for b in module.buffers()] if module is not None else []

    def put_back() -> None:
        for buffer, value in held:
            buffer.copy_(value)

    with at_last(put_back):
        yield


def named_sites(sites: Mapping[str, Site] | Sequence[int] | int) -> dict[str, Site]:
    """Sites by name, from what stands for one real site too.

    Raises:
        TypeError, ValueError: If it is neither.
    """
    if isinstance(sites, Mapping):
        if not sites:
            raise ValueError(
                "sites is empty; wanted a Site for each name, for example "
                "{'x': Site(constraints.real, torch.Size([2]))}."
            )
        return {name: proper_site(name, site) for name, site in sites.items()}
    shape: object = sites if whole(sites) is None else (sites,)
    if not isinstance(shape, Sequence) or not all(is_count(size) for size in shape):
        raise ValueError(
            f"sites is {sites!r}; wanted sites by name, or the shape of one real site: a positive "
            f"whole number such as 2, or several such as (1, 8, 8)."
        )
    return {"visible": Site(constraints.real, torch.Size(int(size) for size in shape))}


def proper_site(name: str, site: Site) -> Site:
    """The site, checked.

    Raises:
        TypeError: If name, site or support are of another kind.
        ValueError: If the shape is none, or too short for one value of the support.
    """
    if not isinstance(name, str) or not isinstance(site, Site):
        raise TypeError(
            f"sites has {name!r}: {site!r}; wanted a name and a Site, for example "
            f"'x': Site(constraints.real, torch.Size([2]))."
        )
    if not isinstance(site.support, Constraint):
        raise TypeError(
            f"The support of {name!r} is {site.support!r}; wanted a constraint, for example "
            f"constraints.real or constraints.interval(0.0, 1.0)."
        )
    shape = torch.Size(site.shape)
    if len(shape) < site.support.event_dim or any(size < 1 for size in shape):
        raise ValueError(
            f"The site {name!r} has the shape {tuple(shape)}; wanted positive sizes, and at least "
            f"{site.support.event_dim} of them for one value in {site.support}."
        )
    return Site(of_one_element(site.support), shape)


def module_of(function: Callable[..., Tensor]) -> nn.Module | None:
    """The module that a function is, or is a method of."""
    owner = function.__self__ if inspect.ismethod(function) else function
    return owner if isinstance(owner, nn.Module) else None


def parameter_like(module: nn.Module | None) -> Tensor | None:
    """A parameter of real numbers, where there is one."""
    if module is None:
        return None
    return next((p for p in module.parameters() if p.is_floating_point()), None)


def describe_answer(answer: object) -> str:
    """What a function answered, in words."""
    if isinstance(answer, Tensor):
        return f"with a tensor of {answer.dtype}"
    return "with None" if answer is None else f"with a {type(answer).__name__}"
