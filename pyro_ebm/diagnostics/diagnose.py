r"""One verdict on chains, in words, with the evidence and what to try next.

"Not mixed" takes one of these: a value that is no number; a unit or a chain that never moves while
others sit elsewhere; chains that differ by more than chance, and by more than is harmless; chains
so short beside their memory that they differ grossly. "Cannot tell" is for what looks right but
may not be, and for chains too few or too short. Chains that are all trapped in one and the same
mode look mixed: only `compare_starts` can find that.

Quantities are many, so that chance is shared: the rate of false alarms is `ALPHA` for all together.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pyro_ebm.sites import Sites, only_site
from pyro_ebm.statistics import frozen_units
from pyro_ebm.statistics.nested import check_superchains

from .evidence import Diagnosis, Evidence, Verdict, weigh
from .judgement import Judgement, agreement_of_sets, judge, judge_superchains
from .observables import observables
from .reading import Draws, Material, read

MIXED, NOT_MIXED, CANNOT_TELL = Verdict.MIXED, Verdict.NOT_MIXED, Verdict.CANNOT_TELL

ALPHA = 1e-4  # rate of false alarms, of all tests of chance together
HARMLESS = 1.01  # R-hat up to which a difference does not matter, certain as it may be
DOUBTFUL = 1.05  # R-hat
GROSS = 1.1  # R-hat from which the reason does not matter
SIZE = 400  # effective draws for an observable
SIZE_OF_UNIT = 100  # and for each unit
SIZE_OF_CHAIN = 20  # effective draws of each chain, with which it can be compared with others
LEAST_DRAWS = 8  # that can be split and correlated
DIVERGING = 0.005  # share of draws
ACCEPTED = 0.05
SWAPPED = 0.05

LONGER = "Run longer: the chains remember too long for their number of draws."
TRAPPED = (
    "The chains sit in different modes, which more draws will not cure: temper (parallel tempering "
    "or annealing), move clusters or blocks together, or sample another way."
)
FROZEN = (
    "Look at the units that never change: a saturated or wrongly clamped unit, a site that no "
    "kernel moves (leave a clamped one out with sites=...), or too strong couplings."
)
DIVERGED = "Shorten the step size, or change to coordinates in which the scales are alike."


def diagnose(
    draws: Draws,
    *,
    data: Tensor | Sites | None = None,
    sites: Sequence[str] | None = None,
    superchains: int | None = None,
) -> Diagnosis:
    """Judges whether chains have mixed.

    Looked at are every unit, the energy, the magnetisation with its sign (or the share of each
    label), projections on principal components, whole configurations by their Hamming distance,
    and what the kernel reports.

    Args:
        draws: `Chains`, or an ArviZ object with `posterior` and perhaps `sample_stats`.
        data: Data rows (rows, *site.shape) of some sites, whose principal components are looked
            at; without them, those of the draws. A bare tensor stands for the only site, or for
            `visible`. Units that are constant in the data may be so in the draws.
        sites: The sites to judge; all if left out. Leave out those that are clamped.
        superchains: For many short chains, the number of groups of chains that started at the
            same point and stand together: they are judged by nested R-hat.

    Raises:
        TypeError, ValueError: If there are no draws, or an argument does not fit them.
    """
    material = chosen(read(draws), sites)
    rows = data_rows(data, material)
    if superchains is not None:
        check_superchains(material.chains, superchains)
    if broken := not_finite(material):
        return weigh(broken)
    evidence = [*frozen_evidence(material, rows), *enough(material, superchains)]
    if superchains is None and material.draws < LEAST_DRAWS:
        return weigh(evidence)
    judged = judgements(material, rows, superchains)
    evidence += mixing_evidence(material, judged, superchains)
    return weigh([*evidence, *kernel_evidence(material.statistics)])


def compare_starts(
    from_data: Draws,
    from_random: Draws,
    *,
    data: Tensor | Sites | None = None,
    sites: Sequence[str] | None = None,
) -> Diagnosis:
    """Judges whether chains that started at the data and at random have come to the same law.

    Chains that are all trapped in one mode agree with each other. Those that started in the data's
    modes and those that did not tell what they cannot.

    Args:
        from_data: Chains that started at the data, as `diagnose` takes them.
        from_random: Chains that started at random, or anywhere else. Where the numbers of chains or
            draws differ, the first chains and the last draws are taken.
        data: As in `diagnose`.
        sites: As in `diagnose`.

    Raises:
        TypeError, ValueError: As `diagnose`; or if the two have different sites.
    """
    pair = [chosen(read(draws), sites) for draws in (from_data, from_random)]
    material = joined(*pair)
    rows = data_rows(data, material)
    if broken := not_finite(material):
        return weigh(broken)
    evidence = [*frozen_evidence(material, rows), *enough(material, None)]
    if material.draws < LEAST_DRAWS:
        return weigh(evidence)
    judged = judgements(material, rows, None)
    evidence += mixing_evidence(material, judged, None)
    evidence.append(start_evidence(material, rows, judged))
    return weigh([*evidence, *kernel_evidence(material.statistics)])


# --- what is judged ------------------------------------------------------------------------------


def chosen(material: Material, sites: Sequence[str] | None) -> Material:
    """The sites asked for.

    Raises:
        ValueError: If there is one that the draws lack.
    """
    if sites is None:
        return material
    if isinstance(sites, str) or not sites or [name for name in sites if name not in material.sites]:
        raise ValueError(f"sites is {sites!r}; wanted some of {list(material.sites)}, in a list.")
    return material._replace(sites={name: material.sites[name] for name in sites})


def data_rows(data: Tensor | Sites | None, material: Material) -> Sites:
    """The data by site.

    Raises:
        ValueError: If a site is unknown, or the rows do not have its shape.
    """
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        data = {only_site(material.sites, "visible"): data}
    for name, rows in data.items():
        if name not in material.sites:
            raise ValueError(f"'data' has the site {name!r}; the draws have {list(material.sites)}.")
        shape = material.sites[name].shape[2:]
        if rows.dim() != 1 + len(shape) or rows.shape[1:] != shape or len(rows) < 2:
            raise ValueError(
                f"'data' has shape {tuple(rows.shape)} for {name!r}; wanted {('rows', *shape)}, "
                "two rows or more."
            )
    return {name: rows.detach().cpu() for name, rows in data.items()}


def joined(first: Material, second: Material) -> Material:
    """Both as chains of one run, as many chains of each.

    Raises:
        ValueError: If they have different sites.
    """
    shapes = [{name: x.shape[2:] for name, x in m.sites.items()} for m in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"The two runs have different sites: {shapes[0]} and {shapes[1]}; judge runs of the "
            "same model, or choose sites that both have."
        )
    chains, draws = min(first.chains, second.chains), min(first.draws, second.draws)

    def together(one: Tensor, other: Tensor) -> Tensor:
        return torch.cat([one[:chains, -draws:], other[:chains, -draws:]])

    energy = None
    if first.energy is not None and second.energy is not None:
        energy = together(first.energy, second.energy)
    return Material(
        {name: together(x, second.sites[name]) for name, x in first.sites.items()},
        energy,
        {
            name: together(x, second.statistics[name])
            for name, x in first.statistics.items()
            if name in second.statistics
        },
    )


def judgements(
    material: Material, rows: Sites, superchains: int | None
) -> dict[str, tuple[list[str], Judgement]]:
    """For the observables and each site: the units' names, and what was found."""
    seen = observables(material, rows)
    groups = {"observables": (list(seen), torch.stack(list(seen.values()), -1))} if seen else {}
    for site, x in material.sites.items():
        groups[f"units of {site!r}"] = (unit_names(site, x.shape[2:]), x)

    def judged(x: Tensor) -> Judgement:
        return judge(x) if superchains is None else judge_superchains(x, superchains)

    return {name: (labels, judged(x)) for name, (labels, x) in groups.items()}


def unit_names(site: str, shape: torch.Size) -> list[str]:
    """visible[0], visible[1], ..."""
    if not shape:
        return [site]
    indices = torch.cartesian_prod(*(torch.arange(size) for size in shape)).reshape(-1, len(shape))
    return [f"{site}[{', '.join(map(str, index))}]" for index in indices.tolist()]


# --- evidence ------------------------------------------------------------------------------------


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
    material: Material,
    judged: Mapping[str, tuple[list[str], Judgement]],
    superchains: int | None,
) -> list[Evidence]:
    """R-hat, agreement and effective sample sizes, of observables and units."""
    comparisons = sum(len(names) for names, _ in judged.values())
    found = []
    for what, (names, judgement) in judged.items():
        found.append(r_hat_evidence(what, names, judgement.r_hat, material, comparisons, superchains))
        found.append(agreement_evidence(what, names, judgement, comparisons))
    least = max(SIZE, 0 if superchains else SIZE_OF_CHAIN * material.chains)
    for what, (names, judgement) in judged.items():
        if what == "observables":
            found.append(size_evidence(f"effective draws, least of {what}", judgement.size, least,
                                       names))
        else:
            found.append(size_evidence(f"effective draws, least of {what}", judgement.size,
                                       SIZE_OF_UNIT, names))
            site = what.removeprefix("units of ")
            found.append(size_evidence(f"effective configurations of {site}",
                                       judgement.hamming[None], least, [""]))
    return [e for e in found if not math.isnan(e.value)]


def r_hat_evidence(
    what: str,
    names: list[str],
    r_hat: Tensor,
    material: Material,
    comparisons: int,
    superchains: int | None,
) -> Evidence:
    """The worst R-hat; gross where even independent draws of that number would not have it."""
    groups, each = (2 * material.chains, material.draws // 2)
    slack = 1.0
    if superchains is not None:
        groups, each = superchains, material.chains // superchains
        slack = math.sqrt(1 + 1 / each)
    k, worst = largest(r_hat)
    freedom = torch.tensor((groups - 1) / 2, dtype=torch.float64)
    statistic = torch.tensor(each * (worst**2 - 1) + 1, dtype=torch.float64).clamp_min(0)
    chance = float(torch.special.gammaincc(freedom, freedom * statistic)) * comparisons
    verdict = MIXED
    if worst > DOUBTFUL * slack:
        verdict = CANNOT_TELL
    if worst == math.inf or (worst > GROSS * slack and chance < ALPHA):
        verdict = NOT_MIXED
    nested = "nested " if superchains is not None else ""
    return Evidence(
        f"{nested}R-hat, largest of {len(names)} {what}",
        worst,
        f"at most {DOUBTFUL * slack:.3g}",
        verdict,
        names[k],
        TRAPPED if verdict is NOT_MIXED else LONGER,
    )


def agreement_evidence(
    what: str, names: list[str], judgement: Judgement, comparisons: int
) -> Evidence:
    """The least probability that chains of one law would differ so much, times all comparisons."""
    matters = ~(judgement.r_hat <= HARMLESS)
    chance = judgement.disagreement.masked_fill(~matters, 1.0)
    k = int(chance.argmin())
    value = min(1.0, float(chance[k]) * comparisons)
    return Evidence(
        f"chance that chains differ so, least of {what}",
        value,
        f"at least {ALPHA:g}",
        NOT_MIXED if value < ALPHA else MIXED,
        names[k] if value < 1 else "",
        TRAPPED,
    )


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


def start_evidence(
    material: Material, rows: Sites, judged: Mapping[str, tuple[list[str], Judgement]]
) -> Evidence:
    """Whether the first half of the chains agrees with the second."""
    seen = observables(material, rows)
    everything = [torch.stack(list(seen.values()), -1)] if seen else []
    everything += list(material.sites.values())
    chance = torch.cat([agreement_of_sets(x) for x in everything])
    r_hat = torch.cat([judgement.r_hat for _, judgement in judged.values()])
    names = [name for labels, _ in judged.values() for name in labels]
    chance = chance.masked_fill(r_hat <= HARMLESS, 1.0)
    k = int(chance.argmin())
    value = min(1.0, float(chance[k]) * len(names))
    return Evidence(
        "chance that data starts and random starts differ so",
        value,
        f"at least {ALPHA:g}",
        NOT_MIXED if value < ALPHA else MIXED,
        names[k] if value < 1 else "",
        "Chains from the data and from elsewhere have not come together: run longer, temper, or, "
        "in learning, distrust what short chains say of the model.",
    )


def kernel_evidence(statistics: Mapping[str, Tensor]) -> list[Evidence]:
    """What the kernel has reported: divergences, acceptance, swaps."""
    found = []
    if "diverging" in statistics:
        share = float(statistics["diverging"].double().mean())
        verdict = NOT_MIXED if share > DIVERGING else CANNOT_TELL if share else MIXED
        found.append(Evidence("share of diverging draws", share, "0", verdict, "", DIVERGED))
    if "acceptance_rate" in statistics:
        rate = float(statistics["acceptance_rate"].double().mean(1).min())
        verdict = CANNOT_TELL if rate < ACCEPTED else MIXED
        advice = "Shorten the step size or the proposals: hardly one is accepted."
        wanted = f"at least {ACCEPTED:g}"
        found.append(
            Evidence("acceptance rate, least of chains", rate, wanted, verdict, "", advice)
        )
    if "swap_rate" in statistics:
        rate = float(statistics["swap_rate"].double().mean())
        verdict = CANNOT_TELL if rate < SWAPPED else MIXED
        advice = "Put more temperatures between the first and the last: hardly a swap is accepted."
        found.append(
            Evidence("swap rate", rate, f"at least {SWAPPED:g}", verdict, "", advice)
        )
    return found
