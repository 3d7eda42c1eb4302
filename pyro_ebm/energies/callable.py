"""Any function or network as an energy."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_ebm.sites import Site, Sites, batch_shape, random_values

from .base import Energy

PROBES = 3  # rows that a new energy is tried on


class CallableEnergy(Energy):
    r"""Any function, or `nn.Module`, as an energy.

    .. math:: E(x) = f(x)

    Args:
        function: From values with exactly one batch dimension, (rows, *shape), to one number for
            each row, (rows,). With one site it is called as `function(x)`, with several by their
            names, `function(position=..., labels=...)`. It must be deterministic, and no row may
            depend on another.
        sites: The sites by name; or the shape of one real site called `visible`, for example 2.
        dtype: That states are computed in; if left out that of the module's parameters, else
            torch's default.
        device: As `dtype`.

    Raises:
        TypeError: If `function` is no callable, or does not answer with a tensor of real numbers.
        ValueError: If there are no sites, if `function` does not answer with one number for each
            row, or if a row's energy depends on other rows: at once, on a few random rows.
    """

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
        self.function = function
        self.sites = named_sites(sites)
        own = parameter_like(function)
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
        self.try_out()

    @property
    def dtype(self) -> torch.dtype:
        return self.like.dtype

    @property
    def device(self) -> torch.device:
        return self.like.device

    def evaluate(self, x: Sites) -> Tensor:
        batch = batch_shape(x, self.sites)
        rows = {
            name: value.expand((*batch, *self.sites[name].shape)).reshape(
                -1, *self.sites[name].shape
            )
            for name, value in x.items()
        }
        energy = self.call(rows)
        wanted = (batch.numel(),)
        if not isinstance(energy, Tensor) or energy.dtype.is_complex:
            raise TypeError(
                f"The function answered {describe_answer(energy)}; wanted real numbers."
            )
        if energy.shape != wanted:
            raise ValueError(
                f"The function answered with the shape {tuple(energy.shape)} for {wanted[0]} rows; "
                f"wanted {wanted}, one number for each row: sum over the sites' own dimensions "
                f"only, for example .flatten(1).sum(1), and squeeze(-1) a network's last one."
            )
        return energy.reshape(batch)

    def call(self, rows: Sites) -> Any:  # noqa: ANN401 (it has to be looked at)
        """The function's answer."""
        if len(rows) == 1:
            return self.function(*rows.values())
        return self.function(**rows)

    @torch.no_grad()
    def try_out(self) -> None:
        """Refuses a function whose answer is not one energy for each row on its own.

        Raises:
            TypeError, ValueError: If it is not.
        """
        try:
            values = {
                name: random_values(s, (PROBES,), self.like) for name, s in self.sites.items()
            }
        except (NotImplementedError, ValueError):
            return  # no value is known; every call checks the shape
        together = self.evaluate(values)
        alone = torch.cat(
            [self.evaluate({n: v[k : k + 1] for n, v in values.items()}) for k in range(PROBES)]
        )
        tolerance = 1e-3 if torch.finfo(self.dtype).eps > 1e-10 else 1e-6
        if not torch.allclose(together, alone, rtol=tolerance, atol=tolerance, equal_nan=True):
            raise ValueError(
                f"The energies of {PROBES} rows are {together.tolist()} together and "
                f"{alone.tolist()} one by one. A row's energy must not depend on other rows, nor "
                f"on chance: call eval() on batch normalisation and dropout."
            )


def named_sites(sites: Mapping[str, Site] | Sequence[int] | int) -> dict[str, Site]:
    """Sites by name, from what stands for one real site too.

    Raises:
        TypeError, ValueError: If it is neither.
    """
    if isinstance(sites, Mapping):
        if not sites or not all(isinstance(site, Site) for site in sites.values()):
            raise ValueError(
                f"sites is {sites!r}; wanted a Site for each name, for example "
                f"{{'x': Site(constraints.real, torch.Size([2]))}}."
            )
        return {name: Site(site.support, torch.Size(site.shape)) for name, site in sites.items()}
    shape = (sites,) if isinstance(sites, int) else tuple(sites)
    if not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(f"sites is {sites!r}; wanted sites by name, or one shape, for example 2.")
    return {"visible": Site(constraints.real, torch.Size(shape))}


def parameter_like(function: Callable[..., Tensor]) -> Tensor | None:
    """A parameter of the function, where it is a module that has one of real numbers."""
    if not isinstance(function, nn.Module):
        return None
    return next((p for p in function.parameters() if p.is_floating_point()), None)


def describe_answer(answer: object) -> str:
    """What a function answered, in words."""
    if isinstance(answer, Tensor):
        return f"a tensor of {answer.dtype}"
    return f"a {type(answer).__name__}"
