"""What is held while the rest is free: whole sites, and elements of others."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from pyro_ebm.sites import (
    Site,
    Sites,
    as_tensor,
    batch_shape,
    check_shape,
    check_support,
    part_of,
    settled,
)

from .modules import register


def stored(kind: str, name: str) -> str:
    """Under which name a module keeps a tensor of a site; torch allows no dots in it."""
    return f"{kind}_{name.replace('.', '/')}"


class Held(nn.Module):
    """What is held: whole sites, and elements of others.

    Args:
        sites: All sites of the energy.
        values: Of the sites that are held wholly or in part (*batch, *site.shape).
        free: The free elements of those held in part, by number.
    """

    def __init__(
        self, sites: Mapping[str, Site], values: Sites, free: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        self.names, self.whole = list(values), [name for name in values if name not in free]
        for name, value in values.items():
            register(self, stored("value", name), value)
        for name, index in free.items():
            self.register_buffer(stored("free", name), index)
        self.whole_sites = dict(sites)
        self.sites = {
            name: Site(part_of(site.support, free[name]), torch.Size([len(free[name])]))
            if name in free
            else site
            for name, site in sites.items()
            if name not in self.whole
        }

    @classmethod
    def of(
        cls,
        sites: Mapping[str, Site],
        x: Sites,
        mask: Mapping[str, Tensor | np.ndarray],
        like: Tensor,
    ) -> "Held":
        """What is held, after the checks at the door.

        Args:
            sites: All sites of the energy.
            x: Values of what is held.
            mask: Which elements of a site are held; all where left out.
            like: Has the dtype and the device of the energy.
        """
        if unknown := [name for name in mask if name not in x]:
            raise ValueError(f"mask is given for {unknown}, of which x has no values.")
        values, free = {}, {}
        for name, value in x.items():
            if name not in sites:
                raise ValueError(f"Unknown site {name!r}; the energy has {list(sites)}.")
            site = sites[name]
            tensor = check_shape(as_tensor(value, name, like.dtype, like.device), name, site)
            tensor = settled(tensor, site.support)
            own = checked_mask(mask[name], name, site) if name in mask else None
            if own is None or bool(own.all()):
                values[name] = check_support(tensor, name, site)
                continue
            # What is free may hold anything, NaN for missing pixels too.
            inside = Site(part_of(site.support, own.flatten().nonzero()[:, 0]), torch.Size([-1]))
            own = own.to(like.device)
            check_support(tensor[..., own], name, inside)
            values[name] = tensor.masked_fill(~own, 0)
            free[name] = (~own).flatten().nonzero()[:, 0]
        held = cls(sites, values, free)
        if not held.sites:
            raise ValueError("Every site is held, so nothing is free; leave one out, or mask it.")
        return held

    def value(self, name: str) -> Tensor:  # (*batch, *shape)
        """The value of a site that is held; what it has at its free elements means nothing."""
        found: Tensor = getattr(self, stored("value", name))
        return found

    def free(self, name: str) -> Tensor | None:
        """The free elements of a site, by number; None where all of them are."""
        if name not in self.names:
            return None
        found: Tensor = getattr(self, stored("free", name))
        return found

    @property
    def parts(self) -> list[str]:
        """The sites that are held in part."""
        return [name for name in self.names if name not in self.whole]

    @property
    def batch(self) -> torch.Size:
        """The batch shape of the values that are held."""
        values = {name: self.value(name) for name in self.names}
        return batch_shape(values, self.whole_sites) if values else torch.Size()

    def in_words(self) -> str:
        """What is held, and for how many rows."""
        held = [*self.whole]
        for name in self.parts:
            count = self.whole_sites[name].shape.numel()
            held.append(f"{count - self.sites[name].shape.numel()} of {count} of {name}")
        rows = "×".join(map(str, self.batch))
        return ", ".join(held) + (f", in {rows} rows" if rows else "")

    def elements(self, name: str) -> Tensor:  # bool (elements,)
        """Which elements of a site held in part are held."""
        free = self.free(name)
        assert free is not None
        every = torch.ones(self.whole_sites[name].shape.numel(), dtype=torch.bool)
        return every.to(free.device).index_fill(0, free, False)

    def complete(self, x: Sites) -> Sites:
        """Values of all the sites, from those of the free ones."""
        found = {}
        for name, site in self.whole_sites.items():
            if name in self.whole:
                found[name] = self.value(name)
                continue
            free = self.free(name)
            if free is None:
                found[name] = x[name]
                continue
            value = self.value(name)
            flat = value.flatten(value.dim() - len(site.shape))
            batch = torch.broadcast_shapes(flat.shape[:-1], x[name].shape[:-1])
            # Not in place: gradients pass through the free elements.
            every = flat.expand(*batch, -1).index_copy(
                -1, free, x[name].expand(*batch, -1).to(flat)
            )
            found[name] = every.unflatten(-1, site.shape)
        return found

    def reduce(self, name: str, whole: Tensor) -> Tensor:  # (*batch, *shape) -> (*batch, free)
        """The free elements of a site, from the whole of it."""
        free = self.free(name)
        if free is None:
            return whole
        return whole.flatten(whole.dim() - len(self.whole_sites[name].shape))[..., free]


def checked_mask(mask: Tensor | np.ndarray, name: str, site: Site) -> Tensor:
    """Which elements of a site are held.

    Raises:
        ValueError: If it is no tensor or array of booleans of the site's shape.
    """
    own = mask
    if isinstance(own, np.ndarray) and own.dtype == bool:
        own = torch.from_numpy(own.copy())
    if not isinstance(own, Tensor) or own.dtype != torch.bool or own.shape != site.shape:
        known = isinstance(own, Tensor | np.ndarray)
        came = (own.dtype, tuple(own.shape)) if known else own
        raise ValueError(
            f"The mask of {name!r} is {came}; wanted booleans {tuple(site.shape)}, True "
            f"where the element is held."
        )
    return own
