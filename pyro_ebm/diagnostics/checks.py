"""The checks that a verdict is made of, and what they ask for."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.sites import Sites, unit_names
from pyro_ebm.statistics import frozen_units

from .evidence import INDEPENDENT, Evidence, Verdict
from .fixed import fixed_by_form, fixed_by_support
from .judgement import Judgement
from .reading import Material

MIXED, NOT_MIXED, CANNOT_TELL = Verdict.MIXED, Verdict.NOT_MIXED, Verdict.CANNOT_TELL

OBSERVABLES = "observables"

ALPHA = 1e-4  # rate of false alarms, of all tests of chance together
HARMLESS = 1.01  # R-hat up to which a difference does not matter, certain as it may be
DOUBTFUL = 1.05  # R-hat
GROSS = 1.1  # R-hat from which the reason does not matter
SHORT = 10  # effective draws of a chain, with fewer of which a gross R-hat is no bad luck
UNCERTAIN = 2  # times a memory that short chains understate, and that has an error of its own
FEW_DRAWS = 100  # of a chain, with fewer of which its memory is hardly known
SIZE = 400  # effective draws for an observable
SIZE_OF_UNIT = 100  # and for each unit
SIZE_OF_CHAIN = 20  # effective draws of each chain, with which it can be compared with others
LEAST_DRAWS = 8  # that can be split and correlated
DIVERGING = 0.001  # share of draws, up to which nothing follows from it alone
ACCEPTED = 0.05  # rate
SWAPPED = 0.05  # rate
TRIPS = 1  # round trips of each chain's replicas

LONGER = "Run longer: the chains remember too long for their number of draws."
SLOW = (
    "Chains have not gone everywhere the others have been: move in larger or better steps (blocks, "
    "other coordinates, adaptation), temper (parallel tempering), or run many times longer."
)
TRAPPED = (
    "The chains sit in different modes, which more draws will not cure: temper "
    "(parallel tempering), move clusters (SwendsenWang, where all couplings can be satisfied) or "
    "blocks together, or sample another way."
)
SLOW_ON_LADDER = (
    "The ladder has not brought each chain everywhere the others have been: run many times longer, "
    "or move better on every level (clusters or blocks together, other coordinates)."
)
FROZEN = (
    "Look at the units that never change: a saturated or wrongly clamped unit, a site that no "
    "kernel moves (leave a clamped one out with sites=...), or too strong couplings."
)
REJECTED = "Shorten the step size or the proposals: hardly one is accepted."
NO_TRIPS = (
    "Replicas hardly come from the lowest level back to the highest: run longer, put more levels "
    "between, or give a reference nearer to the target."
)
NOT_SWAPPED = (
    "Put more temperatures between the first and the last: hardly a swap is accepted. Whether "
    "replicas come through, `round_trips` tells."
)
PINNED = (
    "Move units together that forbidden states tie: `choose_kernel(energy)` does, and so does "
    "RandomBlocks with a size of 2 or more; or temper from β = 0, where nothing is forbidden "
    "(ParallelTempering); or draw exactly (`exact.sample`), where the energy is small enough."
)
DIVERGED = "Shorten the step size, or change to coordinates in which the scales are alike."


class Group(NamedTuple):
    """Quantities of one kind, with their names and what was found."""

    names: list[str]
    judgement: Judgement


class Setting(NamedTuple):
    """What R-hat and chance depend on beside the draws' own memory."""

    chains: int
    draws: int
    superchains: int | None
    comparisons: int  # quantities that share the rate of false alarms
    slow: str  # what to try where chains move, but not everywhere
    trapped: str  # and where they sit in different modes


def not_finite(material: Material) -> list[Evidence]:
    """NaN and infinity, if there are any."""
    values = dict(material.sites)
    if material.energy is not None:
        values["energy"] = material.energy
    return [
        Evidence(
            f"NaN or infinite in {name!r}",
            float((~x.isfinite()).sum()),
            "0",
            NOT_MIXED,
            first_break(x),
            "Find what breaks at that draw: parameters, step size, or the energy itself.",
        )
        for name, x in values.items()
        if x.is_floating_point() and not bool(x.isfinite().all())
    ]


def first_break(x: Tensor) -> str:
    """Where the first number that is none stands."""
    where = (~x.isfinite()).flatten(2).any(-1) if x.dim() > 2 else ~x.isfinite()
    chain, draw = min(where.nonzero().tolist(), key=lambda place: place[1])
    return f"first in chain {chain} at draw {draw}"


def independent_evidence(material: Material) -> list[Evidence]:
    """That draws are exact and independent of each other, if they are."""
    if not material.independent:
        return []
    count = material.chains * material.draws
    return [Evidence(INDEPENDENT, count, "any", MIXED, material.independent)]


def pinned_evidence(material: Material) -> list[Evidence]:
    """Units that forbidden states hold in place, if there are any."""
    units, by = material.pinned
    names = [name for name in units.split("; ") if name.partition("[")[0] in material.sites]
    if not names:
        return []
    name = "units held in place, every other value being forbidden"
    return [Evidence(name, len(names), "0", NOT_MIXED, f"{'; '.join(names)}, by {by}", PINNED)]


def frozen_evidence(material: Material, rows: Sites) -> list[Evidence]:
    """Units and chains that never move."""
    found = []
    moves = torch.zeros(material.chains, dtype=torch.bool)
    for site, x in material.sites.items():
        frozen = frozen_units(x)
        names = unit_names(site, x.shape[2:])
        stuck, constant = frozen.stuck.flatten(), frozen.constant.flatten()
        changed = (x != x[:, :1]).flatten(1).any(1)
        moves |= changed
        found.append(
            Evidence(
                f"units of {site!r} stuck at different values (R-hat = ∞)",
                float(stuck.sum()),
                "0",
                NOT_MIXED if bool(stuck.any()) else MIXED,
                listed(stuck, names),
                FROZEN,
            )
        )
        fixed = fixed_units(material, site, frozen.constant)
        if bool(fixed.any()):
            name, shown = f"units of {site!r} fixed by its support", listed(fixed, names)
            found.append(Evidence(name, float(fixed.sum()), "any", MIXED, shown))
        constant &= ~fixed
        if site in rows:
            constant &= ~((rows[site] == rows[site][:1]).all(0).flatten())
        known = " and not in the data" if site in rows else ""
        found.append(
            Evidence(
                f"units of {site!r} constant in all chains{known}",
                float(constant.sum()),
                "0",
                CANNOT_TELL if bool(constant.any()) else MIXED,
                listed(constant, names),
                "Units that never change may be right or frozen, which chains cannot tell: give "
                "data=..., or start them at other values.",
            )
        )
    found.append(
        Evidence(
            "chains that never move",
            float((~moves).sum()),
            "0",
            NOT_MIXED if not bool(moves.all()) and material.draws > 1 else MIXED,
            ", ".join(str(k) for k in (~moves).nonzero().flatten().tolist()[:10]),
            FROZEN,
        )
    )
    return found


def fixed_units(material: Material, site: str, constant: Tensor) -> Tensor:  # (*shape) -> (n)
    """Which of the constant units of a site can have no other value."""
    if not bool(constant.any()):
        return torch.zeros_like(constant).flatten()
    if site in material.known:
        return (constant & fixed_by_support(material.known[site])).flatten()
    return fixed_by_form(material.sites[site], constant).flatten()


def left_out(material: Material) -> list[Evidence]:
    """Variables that are not looked at, if there are any."""
    if not material.left_out:
        return []
    name = "variables left out, not numbers by chain and draw"
    shown = ", ".join(material.left_out)
    return [Evidence(name, len(material.left_out), "any", MIXED, shown)]


def listed(mask: Tensor, names: list[str], most: int = 5) -> str:
    """The first names at which a mask is true."""
    chosen = [names[k] for k in mask.nonzero().flatten().tolist()]
    return ", ".join(chosen[:most]) + (", …" if len(chosen) > most else "")


def enough(material: Material, superchains: int | None) -> list[Evidence]:
    """Whether there is something to compare."""
    found = [
        Evidence(
            "chains",
            material.chains,
            "2 or more",
            CANNOT_TELL if material.chains < 2 else MIXED,
            advice="Run several chains from scattered starts: one alone cannot show that it is "
            "trapped.",
        )
    ]
    if superchains is None:
        found.append(
            Evidence(
                "draws of each chain",
                material.draws,
                f"{LEAST_DRAWS} or more",
                CANNOT_TELL if material.draws < LEAST_DRAWS else MIXED,
                advice=LONGER,
            )
        )
    return found


def mixing_evidence(
    material: Material, judged: Mapping[str, Group], superchains: int | None
) -> list[Evidence]:
    """R-hat, agreement and effective sample sizes, of observables and units."""
    comparisons = sum(len(group.names) for group in judged.values())
    on_ladder = "swap_rate" in material.statistics
    cures = (SLOW_ON_LADDER, SLOW_ON_LADDER) if on_ladder else (SLOW, TRAPPED)
    setting = Setting(material.chains, material.draws, superchains, comparisons, *cures)
    found = []
    for what, group in judged.items():
        found.append(r_hat_evidence(what, group, setting))
        found.append(agreement_evidence(what, group, setting))
    least = max(SIZE, 0 if superchains else SIZE_OF_CHAIN * material.chains)
    for what, (names, judgement) in judged.items():
        of_all = what == OBSERVABLES
        name = f"effective draws, least of {what}"
        found.append(size_evidence(name, judgement.size, least if of_all else SIZE_OF_UNIT, names))
        if not of_all:
            name = f"effective configurations, {what}"
            found.append(size_evidence(name, judgement.hamming[None], least, [""]))
    return [evidence for evidence in found if not math.isnan(evidence.value)]


def r_hat_evidence(what: str, group: Group, setting: Setting) -> Evidence:
    """The worst R-hat.

    A gross one means "not mixed" where chains of that memory would not have it by chance, or where
    chains have so few effective draws that there is no chance to speak of.
    """
    r_hat, size, memory = group.judgement[:3]
    chains, draws, superchains, comparisons = setting[:4]
    if superchains is None:
        name, groups, each, slack = "R-hat", 2 * chains, draws // 2, 1.0
        short = (size < SHORT * chains) & (draws >= FEW_DRAWS)
    else:
        # Groups of m independent chains differ even where all is well, by a variance of 1 / m.
        name, groups, each = "nested R-hat", superchains, chains // superchains * draws
        slack = math.sqrt(1 + superchains / chains)
        short = torch.zeros_like(r_hat, dtype=torch.bool)
    freedom = torch.tensor((groups - 1) / 2, dtype=torch.float64)
    ratio = (each / (UNCERTAIN * memory) * (r_hat.square() - 1) + 1).clamp_min(0)
    chance = torch.special.gammaincc(freedom, freedom * ratio) * comparisons
    bad = (r_hat == math.inf) | (r_hat > GROSS * slack) & (short | (chance < ALPHA))
    k, worst = largest(r_hat.masked_fill(~bad, torch.nan) if bool(bad.any()) else r_hat)
    verdict = CANNOT_TELL if worst > DOUBTFUL * slack else MIXED
    if bool(bad.any()):
        verdict = NOT_MIXED
    return Evidence(
        f"{name}, largest of {len(group.names)} {what}",
        worst,
        f"at most {DOUBTFUL * slack:.3g}",
        verdict,
        group.names[k],
        setting.slow if verdict is NOT_MIXED else LONGER,
    )


def agreement_evidence(what: str, group: Group, setting: Setting) -> Evidence:
    """The least probability that chains of one law would differ so much."""
    matters = ~(group.judgement.r_hat <= HARMLESS)
    return chance_evidence(
        f"chance that chains differ so, least of {what}",
        group.judgement.disagreement.masked_fill(~matters, 1.0),
        group.names,
        setting.comparisons,
        setting.trapped,
    )


def chance_evidence(
    name: str, chance: Tensor, names: list[str], comparisons: int, advice: str
) -> Evidence:
    """The least of many probabilities, times the number of comparisons."""
    k = int(chance.argmin())
    value = min(1.0, float(chance[k]) * comparisons)
    verdict = NOT_MIXED if value < ALPHA else MIXED
    detail = names[k] if value < 1 else ""
    return Evidence(name, value, f"at least {ALPHA:g}", verdict, detail, advice)


def size_evidence(name: str, sizes: Tensor, least: int, names: list[str]) -> Evidence:
    """The smallest effective sample size."""
    k, smallest = largest(-sizes)
    return Evidence(
        name,
        -smallest,
        f"at least {least}",
        CANNOT_TELL if -smallest < least else MIXED,
        names[k],
        LONGER,
    )


def largest(values: Tensor) -> tuple[int, float]:
    """The place and the size of the largest number that is one; NaN if none is."""
    k = int(values.nan_to_num(-torch.inf, torch.inf, -torch.inf).argmax())
    return k, float(values[k])


def kernel_evidence(statistics: Mapping[str, Tensor], so_far: list[Evidence]) -> list[Evidence]:
    """What the kernel has reported: divergences, acceptance, swaps.

    Of a long tail that ends in a wall, as the logarithm of a positive number has, a trajectory in a
    thousand begins so far out that it overshoots: a few divergences are harmless where all else
    is well. They are not where other evidence is wanting, for what chains cannot enter, they
    leave and come back to slowly.
    """
    found = []
    if "diverging" in statistics:
        share = float(statistics["diverging"].double().mean())
        doubted = any(evidence.verdict is not MIXED for evidence in so_far)
        most = 0 if doubted else DIVERGING
        verdict = NOT_MIXED if share > most else MIXED
        detail = "too few to matter, all else being well" if 0 < share <= most else ""
        name, wanted = "share of diverging draws", f"at most {most:g}"
        found.append(Evidence(name, share, wanted, verdict, detail, DIVERGED))
    # NaN are the draws of which nothing is reported: of a mixture's other kernels.
    if "acceptance_rate" in statistics:
        rates = statistics["acceptance_rate"].double().nanmean(1)
        name = "acceptance rate, least of chains"
        found.append(rate_evidence(name, float(-largest(-rates)[1]), ACCEPTED, REJECTED))
    if "swap_rate" in statistics:
        rate = float(statistics["swap_rate"].double().nanmean())
        found.append(rate_evidence("swap rate", rate, SWAPPED, NOT_SWAPPED))
    return [evidence for evidence in found if not math.isnan(evidence.value)]


def ladder_evidence(material: Material) -> list[Evidence]:
    """What the replicas of each ladder have done since the warm-up."""
    name, wanted = "round trips on the ladder, mean of chains", f"at least {TRIPS}"
    return [
        Evidence(name, trips, wanted, MIXED if trips >= TRIPS else CANNOT_TELL, "", NO_TRIPS)
        for trips in material.round_trips
    ]


def rate_evidence(name: str, rate: float, least: float, advice: str) -> Evidence:
    """A rate that should not be close to zero."""
    verdict = MIXED if rate >= least else CANNOT_TELL
    return Evidence(name, rate, f"at least {least:g}", verdict, "", advice)
