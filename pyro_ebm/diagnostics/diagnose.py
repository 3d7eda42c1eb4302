r"""One verdict on chains, in words, with the evidence and what to try next.

"Not mixed" takes one of these: a value that is no number; a unit or a chain that never moves while
others sit elsewhere; chains that differ by more than chance, and by more than is harmless; chains
so short beside their memory that they differ grossly. "Cannot tell" is for what looks right but
may not be, and for chains too few or too short. Chains that are all trapped in one and the same
mode look mixed: only `compare_starts` can find that.

Quantities are many, so that chance is shared: the rate of false alarms is `ALPHA` for all together.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pyro_ebm.sites import Sites, only_site, unit_names
from pyro_ebm.statistics import Array, check_superchains, indicators, labels, tensor_of

from .checks import (
    HARMLESS,
    LEAST_DRAWS,
    OBSERVABLES,
    Group,
    chance_evidence,
    enough,
    frozen_evidence,
    independent_evidence,
    kernel_evidence,
    ladder_evidence,
    left_out,
    mixing_evidence,
    not_finite,
    pinned_evidence,
)
from .evidence import Diagnosis, Evidence, weigh
from .judgement import Judgement, agreement_of_sets, judge, judge_superchains
from .observables import observables
from .reading import Draws, Material, read

APART = (
    "Chains from the data and from elsewhere have not come together: run longer, temper, or, in "
    "learning, distrust what short chains say of the model."
)


def diagnose(
    draws: Draws,
    *,
    data: Array | Mapping[str, Array] | None = None,
    sites: Sequence[str] | None = None,
    superchains: int | None = None,
) -> Diagnosis:
    """Judges whether chains have mixed.

    Looked at are every unit, the energy, the magnetisation with its sign (or the share of each
    label), projections on principal components of each site and of all together, products of two
    of them, whole configurations by their Hamming distance, and what the kernel reports. Variables
    that are not numbers by chain and draw are left out, and named in the evidence.

    `sample` asks it by itself.

    Args:
        draws: `Chains`, or an ArviZ object with `posterior` and perhaps `sample_stats`.
        data: Data rows (rows, *site.shape) of some sites, whose principal components are looked
            at; without them, those of the draws. A bare tensor stands for the only site, or for
            `visible`. Units that are constant in the data may be so in the draws.
        sites: The sites to judge; all if left out. Leave out those that are clamped.
        superchains: For many short chains, the number of groups of chains that started at the
            same point and stand together: they are judged by nested R-hat.

    Raises:
        TypeError, ValueError: If there are no chains, or an argument does not fit them.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, Gibbs, diagnose, run
        >>> machine = BoltzmannMachine.restricted(6, 4)
        >>> chains = run(Gibbs(), machine, 100, warmup=20, chains=16, seed=0)
        >>> str(diagnose(chains).verdict)
        'mixed'
    """
    material = chosen(read(draws), sites)
    rows = data_rows(data, material)
    if superchains is not None:
        check_superchains(material.chains, superchains)
    if not material.draws:
        return weigh(enough(material, None))
    if broken := not_finite(material):
        return weigh(broken)
    if independent := independent_evidence(material):
        return weigh([*left_out(material), *independent])
    evidence = [
        *left_out(material),
        *pinned_evidence(material),
        *frozen_evidence(material, rows),
        *enough(material, superchains),
    ]
    if superchains is not None or material.draws >= LEAST_DRAWS:
        groups = quantities(material, rows)
        evidence += mixing_evidence(material, judged(groups, superchains), superchains)
    evidence += ladder_evidence(material)
    return weigh([*evidence, *kernel_evidence(material.statistics, evidence)])


def compare_starts(
    from_data: Draws,
    from_random: Draws,
    *,
    data: Array | Mapping[str, Array] | None = None,
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

    Example:
        >>> import torch
        >>> from pyro_ebm import CallableEnergy, RandomWalk, UnitMass, compare_starts, run
        >>> wells = CallableEnergy(lambda x: ((x.abs() - 5) * 3).square(), ())
        >>> walk, start = RandomWalk(scale=0.2, mass=UnitMass()), torch.full((8,), 5.0)
        >>> left, right = (run(walk, wells, 100, warmup=20, initial=x) for x in (-start, start))
        >>> str(compare_starts(left, right).verdict)
        'not mixed'
    """
    pair = [chosen(read(draws), sites) for draws in (from_data, from_random)]
    material = joined(*pair)
    rows = data_rows(data, material)
    if not material.draws:
        return weigh(enough(material, None))
    if broken := not_finite(material):
        return weigh(broken)
    evidence = [*left_out(material), *frozen_evidence(material, rows), *enough(material, None)]
    if material.draws >= LEAST_DRAWS:
        groups = quantities(material, rows)
        found = judged(groups, None)
        evidence += [*mixing_evidence(material, found, None), start_evidence(groups, found)]
    return weigh([*evidence, *kernel_evidence(material.statistics, evidence)])


# --- what is judged ------------------------------------------------------------------------------


def chosen(material: Material, sites: Sequence[str] | None) -> Material:
    """The sites asked for.

    Raises:
        ValueError: If there is one that the draws lack.
    """
    if sites is None:
        return material
    if (
        isinstance(sites, str)
        or not sites
        or [name for name in sites if name not in material.sites]
    ):
        raise ValueError(f"sites is {sites!r}; wanted some of {list(material.sites)}, in a list.")
    return material._replace(sites={name: material.sites[name] for name in sites})


def data_rows(data: Array | Mapping[str, Array] | None, material: Material) -> Sites:
    """The data by site.

    Raises:
        TypeError: If they are neither tensors nor arrays.
        ValueError: If a site is unknown, or the rows do not have its shape.
    """
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        data = {only_site(material.sites, "visible"): data}
    found = {}
    for name, value in data.items():
        if name not in material.sites:
            raise ValueError(
                f"'data' has the site {name!r}; the draws have {list(material.sites)}."
            )
        shape, rows = material.sites[name].shape[2:], tensor_of(value, "data")
        if rows.dim() != 1 + len(shape) or rows.shape[1:] != shape or len(rows) < 2:
            raise ValueError(
                f"'data' has shape {tuple(rows.shape)} for {name!r}; wanted {('rows', *shape)}, "
                "two rows or more."
            )
        found[name] = rows.detach().cpu()
    return found


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
        first.known,
        tuple(dict.fromkeys(first.left_out + second.left_out)),
    )


def quantities(material: Material, rows: Sites) -> dict[str, tuple[list[str], Tensor]]:
    """Names and draws (chain, draw, ...) of the observables, and of the units of each site."""
    seen = observables(material, rows)
    found = {OBSERVABLES: (list(seen), torch.stack(list(seen.values()), -1))} if seen else {}
    for site, x in material.sites.items():
        names, values = unit_names(site, x.shape[2:]), labels(x)
        if values is not None and len(values) > 2:  # each value is a unit
            names = [f"{name} = {value}" for name in names for value in values.tolist()]
        found[f"units of {site!r}"] = (names, indicators(x))
    return found


def judged(
    groups: Mapping[str, tuple[list[str], Tensor]], superchains: int | None
) -> dict[str, Group]:
    """What is found of each group of quantities."""

    def of(x: Tensor) -> Judgement:
        return judge(x) if superchains is None else judge_superchains(x, superchains)

    return {what: Group(names, of(x)) for what, (names, x) in groups.items()}


def start_evidence(
    groups: Mapping[str, tuple[list[str], Tensor]], found: Mapping[str, Group]
) -> Evidence:
    """Whether the first half of the chains agrees with the second."""
    chance = torch.cat([agreement_of_sets(x) for _, x in groups.values()])
    r_hat = torch.cat([group.judgement.r_hat for group in found.values()])
    names = [name for group in found.values() for name in group.names]
    return chance_evidence(
        "chance that the two kinds of starts differ so",
        chance.masked_fill(r_hat <= HARMLESS, 1.0),
        names,
        len(names),
        APART,
    )
