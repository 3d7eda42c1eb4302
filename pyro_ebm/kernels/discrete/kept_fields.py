r"""Single changes of a machine's units, with the fields kept up to date.

In fields that are linear in the other units, a change of unit i adds one row of the couplings to
the fields of those that it is coupled to, and leaves all others as they are: nothing is multiplied
by the whole matrix. Nor does the test of a proposal :math:`\propto e^{-\Delta E / 2}` need an
energy, because ΔE cancels, forwards and backwards. The logarithm of its ratio is

.. math:: \ln \sum_y e^{-\Delta E(x \to y) / 2} - \ln \sum_y e^{-\Delta E(x' \to y) / 2}

Fields that are added to are off by a rounding error for each change. So they are computed from the
values again after `RENEWED` steps.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.energies import Energy, PairwiseTerms
from pyro_ebm.kernels import chance
from pyro_ebm.kernels.metropolis import metropolis
from pyro_ebm.sites import Sites

from .alphabets import Alphabet, change_one, single_changes

RENEWED = 1000  # steps


class Proposals(NamedTuple):
    """All single changes, weighted by exp(−ΔE/2).

    Args:
        cumulative: Running sums of the weights, each over the largest (*batch, changes).
        log_total: ln of the sum of the weights (*batch,).
    """

    cumulative: Tensor
    log_total: Tensor


class KeptFields(NamedTuple):
    """The position, the fields there, and what follows from them.

    Args:
        x: The values.
        terms: The parameters, as a copy: those of a machine may change where they are.
        halves: Half the fields on the sites that are moved, by feature (*batch, n * width).
        proposals: Of the next step.
        age: The steps since the fields were last computed from x.
        alphabets: Of the sites that are moved.
    """

    x: Sites
    terms: PairwiseTerms
    halves: Sites
    proposals: Proposals
    age: int
    alphabets: dict[str, Alphabet]

    @property
    def energy(self) -> Tensor:  # (*batch,)
        """E(x)."""
        features = self.terms.features(self.x)
        if len(self.halves) < len(self.x):
            return self.terms.energy(features)
        fields = {site: 2 * half for site, half in self.halves.items()}
        return self.terms.energy_in_fields(fields, features)


def can_be_kept(terms: PairwiseTerms) -> bool:
    """Whether fields can: where all chains have the same couplings, up to a factor."""
    return not any(link.weight_batch for link in terms.links)


@torch.no_grad()
def started(terms: PairwiseTerms, x: Sites, alphabets: dict[str, Alphabet]) -> KeptFields:
    """The state at x, with fields that are computed from it."""
    features = terms.features(x)
    halves = {
        site: (terms.field(site, features) / 2).expand(features[site].shape) for site in alphabets
    }
    return KeptFields(x, terms, halves, proposals(terms, x, halves, alphabets), 0, alphabets)


def refreshed(state: KeptFields, terms: PairwiseTerms, x: Sites) -> KeptFields:
    """The state at x with these parameters; the same fields, to the last bit, if nothing changed.

    Else a run that is resumed would differ from an unbroken one by rounding errors.
    """
    unchanged = terms.equals(state.terms)
    if unchanged and all(torch.equal(x[site], value) for site, value in state.x.items()):
        return state._replace(x=x)
    return started(state.terms if unchanged else copied(terms), x, state.alphabets)


@torch.no_grad()
def copied(terms: PairwiseTerms) -> PairwiseTerms:
    """The terms in memory of their own."""
    return terms.mapped(torch.clone)


def proposals(
    terms: PairwiseTerms, x: Sites, halves: Sites, alphabets: dict[str, Alphabet]
) -> Proposals:
    """The weights of all single changes."""
    batch = next(iter(halves.values())).shape[:-1]
    # −ΔE/2, as the gradient is minus the field.
    weights = {}
    for site, alphabet in alphabets.items():
        own = terms.level_potentials(site)
        own = None if own is None else own / -2
        weights[site] = alphabet.differences(x[site], halves[site], own)
    every = single_changes(weights, x, alphabets, batch)
    largest = every.amax(-1, keepdim=True)
    cumulative = every.sub_(largest).exp_().cumsum(-1)
    return Proposals(cumulative, cumulative[..., -1].log() + largest[..., 0])


def step(energy: Energy, state: KeptFields) -> tuple[KeptFields, Tensor]:
    """The state after a proposal and its test, and the probability of acceptance (*batch,)."""
    alphabets = state.alphabets
    if state.age == RENEWED:
        state = started(state.terms, state.x, alphabets)
    chosen = chance.choose_cumulated(state.proposals.cumulative)
    changed = change_one(state.x, chosen, alphabets, energy)
    halves = state.halves
    for site, change in changed.features.items():
        half = change._replace(amounts=change.amounts / 2)
        halves = state.terms.fields_after(halves, site, half)
    made = proposals(state.terms, changed.x, halves, alphabets)
    verdict = metropolis(state.proposals.log_total - made.log_total)
    new = state._replace(x=changed.x, halves=halves, proposals=made, age=state.age + 1)
    return put_back(new, state, ~verdict.accepted), verdict.acceptance_rate


def put_back(new: KeptFields, old: KeptFields, rejected: Tensor) -> KeptFields:
    """The new state, in place the old one for the chains that have rejected it (*batch,)."""
    # Few chains reject: torch.where would read and write every number of all.
    if bool(rejected.any()):
        pairs = [(value, old.x[site]) for site, value in new.x.items()]
        pairs += [(half, old.halves[site]) for site, half in new.halves.items()]
        for value, before in (*pairs, *zip(new.proposals, old.proposals, strict=True)):
            if value is not before:
                value[rejected] = before[rejected]
    return new
