"""The conditional laws of the discrete sites of a Pyro model."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_ebm.energies.structure import Block, SweptInField, only_block, times
from pyro_ebm.sites import Site, Sites, bounded
from pyro_ebm.units import FiniteLaw

from .discrete_site import DiscreteSite
from .energy_site import EnergySite

if TYPE_CHECKING:
    from .model import ModelEnergy


@dataclass(frozen=True, eq=False)
class ModelLaws:
    """The conditional laws of a model's discrete sites.

    Args:
        of: The energy of the model.
    """

    of: "ModelEnergy"

    @property
    def sites(self) -> Mapping[str, Site]:
        """Those of the energy."""
        return self.of.sites

    def swept(self, site: str) -> SweptInField | None:
        """How a site that is an energy is swept."""
        known = self.of.energy_sites.get(site)
        if known is None:
            return None
        sweep = functools.partial(self.sweep_in_field, site)
        return SweptInField(known.levels, known.is_bare, sweep)

    def blocks(self, site: str) -> tuple[Block, ...]:
        """The elements of a site drawn at once, as indices into the flattened site.

        Raises:
            ValueError: If the site is real, or its values cannot be listed or depend on others.
        """
        blocks = self.of.discrete_site(site).blocks
        return self.of.imputed[site].blocks(blocks) if site in self.of.imputed else blocks

    def conditional(self, site: str, x: Sites, block: Block | None = None) -> FiniteLaw:
        found = self.of.discrete_site(site)
        if block is None:
            block = only_block(self, site)
        if site in self.of.imputed:
            block = self.of.imputed[site].free[block]
        program = found.program
        needed = x if isinstance(program, str) else {name: x[name] for name in program.sites}
        batch, rows = self.of.as_rows(needed)
        return self.law_at(site, rows, batch, block)

    def law_at(self, site: str, rows: Sites, batch: torch.Size, block: Block) -> FiniteLaw:
        """The conditional law of a block.

        Args:
            site: The site.
            rows: Values of the sites that its terms depend on (rows, *shape), each whole.
            batch: The batch shape that the rows make.
            block: Elements of the whole site.
        """
        found = self.of.discrete_site(site)
        program = found.program
        tried = found.tried(rows[site], block)  # (states, rows, *shape)
        states = len(tried)
        repeated = {name: v.expand(states, *v.shape).flatten(0, 1) for name, v in rows.items()}
        repeated[site] = tried.flatten(0, 1)
        with torch.no_grad():
            if isinstance(program, str):
                own = functools.partial(self.log_weights, found)
                weights = self.of.each(own, repeated)["weights"]
            else:
                weights = found.total(program(self.of.native(repeated)), rows=1)
        logits = weights.reshape(states, *batch, -1)[..., found.places(block)].movedim(0, -1)
        if found.inside is not None:
            logits = logits.masked_fill(~found.inside[block], -torch.inf)
        return FiniteLaw(found.values, logits.to(self.of.dtype), validate_args=False)

    def log_weights(self, found: DiscreteSite, x: Sites) -> Sites:
        """ln p of one chain up to what the site does not touch, for each parallel element."""
        if self.of.model.evaluator is not None:
            return {"weights": -self.of.minus_log_joint(x)["energy"].reshape(1)}
        terms = self.of.model.at(self.of.native(x), self.of.real, found.terms).terms
        return {"weights": found.total(terms).reshape(-1)}

    def sweep_in_field(
        self, site: str, x: Sites, weight: Tensor | None = None, outer: Tensor | None = None
    ) -> Tensor:  # (*batch, *site.shape)
        r"""A sweep over a site that is an energy, of :math:`w E(x) - \sum_i f_i(x_i)`.

        Args:
            site: One of `energy_sites`; with a weight one without hidden units.
            x: Values of all the sites.
            weight: w (*batch,); 1 if left out.
            outer: f, at each value of each element (states, *batch, *site.shape); 0 if left out.
        """
        known = self.of.energy_sites[site]
        batch, rows = self.of.as_rows(x)
        states, shape = len(known.levels), self.of.sites[site].shape
        with torch.no_grad():
            field = self.weights_of_levels(site, rows).movedim(1, 0)  # (states, rows, *shape)
            if weight is not None:
                weight = weight.expand(batch).reshape(-1)
                field = times(weight[(..., *[None] * len(shape))], field)
            if outer is not None:
                field = field + outer.expand(states, *batch, *shape).reshape(field.shape)
            found = known.sweep(rows[site], field, weight)
        return found.reshape(batch + found.shape[1:])

    def weights_of_levels(self, site: str, rows: Sites) -> Tensor:  # (rows, states, *shape)
        """ln p of the rest of the model at each value of each element of a site."""
        known = self.of.energy_sites[site]
        return self.of.each(functools.partial(self.at_levels, site, known), rows)["weights"]

    def at_levels(self, site: str, known: EnergySite, x: Sites) -> Sites:
        """`weights_of_levels` of one chain."""
        found = []
        for level in known.levels.unbind():
            value = torch.full_like(x[site], float(level))
            at = self.of.native({**x, site: bounded(self.of.sites[site].support, value)})
            found.append(known.log_weights(self.of.model.entries_at(at, self.of.real, known.terms)))
        return {"weights": torch.stack(found)}
