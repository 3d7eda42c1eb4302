"""The log joint of a Pyro model as an energy over its latent sites, many chains at once."""

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import biject_to, constraints

from pyro_ebm.energies.base import AbstractTyped
from pyro_ebm.energies.structure import Structure
from pyro_ebm.energies.without_terms import WithoutTerms
from pyro_ebm.seeding import forked
from pyro_ebm.sites import Site, Sites, batch_shape, describe

from .check import Changes, Choice, in_words, numbers_of, other_values, with_values
from .dependence import Prober, Reach, differ, recorded
from .discrete_site import DiscreteSite
from .energy_site import EnergySite
from .first_pass import (
    RADIUS,
    InitStrategy,
    extreme_pass,
    first_pass,
    is_discrete,
    like,
    listed_values,
    random_pass,
)
from .imputed import Completion
from .laws import ModelLaws
from .log_joint import AtValues, Message, Model, is_latent
from .passes import batched, require_same_sites, stacked
from .programs import recorded_terms
from .recording import Graph
from .replay import Program
from .report import Dependence, Dependences

SEED = 0  # of the passes on which a model is tried
EXTREME = 4.0  # the spread of real sites, unconstrained, in passes far out
STARTS = 3  # passes with other values, on which what is claimed of a model is tried
WHOLE = constraints.integer_interval(-(2**31), 2**31 - 1)  # where bounds are not known
EXTREMES = (0.0, 1.0, *[None] * 14)  # passes that tell whether a support moves
TRIES = 100  # before a chain without a finite energy is given up
WIDER = 0.2  # by which chains without a finite energy look farther, try by try
NOT_COPIED = "the record of a pass is not copied"
ELEMENTS = 2**24  # numbers of one batched pass, about: more rows are taken in turns


class UnbatchedModelWarning(UserWarning):
    """A model cannot be batched over chains: they are evaluated one after another.

    Example:
        >>> import warnings
        >>> from pyro_ebm.energies import UnbatchedModelWarning
        >>> warnings.filterwarnings("ignore", category=UnbatchedModelWarning)  # slow is fine here
    """


class ModelEnergy(AbstractTyped):
    r"""A Pyro model's log joint as an energy over its latent sites.

    .. math:: E(u) = -\ln p(x(u), \text{data}) - \ln \left| \partial x / \partial u \right|

    A real site is unconstrained: u is mapped to its support by Pyro's `biject_to`, also where the
    support depends on other sites. A discrete site is as it is. Sites that the model marks with
    `infer={"enumerate": "parallel"}` are summed out; of one observed in part, by `obs_mask`, only
    the missing elements are sites of the energy. `constrain` leads back to the model's space.

    Summing a site out leaves the law of the others as it is where the site is drawn: under
    `poutine.scale(2)` it gives :math:`\ln \sum p^2`, the marginal of the scaled joint, as in Pyro's
    HMC. (`TraceEnum_ELBO` has :math:`2 \ln \sum p` there, that of two copies of the site: for these
    write the rows twice, without a scale.)

    A first, validated pass finds the sites; then chains are batched by `torch.func.vmap`. Where
    that fails, or gives other numbers than one chain alone, chains are evaluated one after another,
    and a warning says so.

    A site that is an energy of its own (an `EnergyDistribution` that no other site enters) is swept
    as that energy is, if the rest of the model looks at its elements one by one. The elements of
    another discrete site are drawn given all the rest by trying each value in the terms that depend
    on it; those of a plate at once where it is proved that they are independent given the rest,
    otherwise one after another. `dependences` tells what is claimed of each site and why, and
    `one_by_one` makes no claims. Runs compare what is claimed with the log joint.

    `infer.MCMC` with an `EnergyKernel` makes it for you.

    Args:
        model: A Pyro model: a callable, or a `PyroModule`. Its sites must be the same in every
            pass, and it may draw random numbers at sample sites only.
        args: Its arguments, data among them.
        kwargs: Its keyword arguments.

    Raises:
        TypeError: If `model` is no callable.
        ValueError: If it subsamples, has no latent site or one whose support is unknown, has other
            sites in another pass, or another log joint for the same values.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> from pyro_ebm import ModelEnergy
        >>> def model(data):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     pyro.sample("data", dist.Normal(mean, 1.0), obs=data)
        >>> ModelEnergy(model, torch.tensor(1.0))({"mean": torch.tensor([0.5])})  # ln 2π + ¼
        tensor([2.0879])
    """

    def __init__(self, model: Callable[..., Any], *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__()
        if not callable(model):
            raise TypeError(f"model is {model!r}; wanted a Pyro model, which is a callable.")
        self.module = model if isinstance(model, nn.Module) else None
        # What is claimed of a model does not hang on the state of the caller's generator.
        with forked(SEED, torch.device("cpu")):
            first = first_pass(Model(model, args, kwargs))
            self.model, self.nodes = first.model, first.nodes
            self.sites: Mapping[str, Site] = first.sites
            self.real = frozenset(first.transforms)
            self.transforms = first.transforms
            self.kinds = {name: first.nodes[name]["value"].dtype for name in self.sites}
            self.like = like(first)
            passes = [random_pass(self.model) for _ in range(STARTS)]
            require_same_sites(self.nodes, passes)
            moving, graph = self.find_moving(passes)
            for name, error in first.outside.items():
                if name not in moving:
                    raise error
            self.moving = moving & self.sites.keys()
            self.model = self.model._replace(guarded=moving - self.real)
            # Data forbid some values of these.
            bounding = [self.bounding(name, graph) for name in moving - self.sites.keys()]
            self.walled = self.real & frozenset().union(*bounding)
            # The values of the first pass do not bound those of another.
            whole = {site: Site(WHOLE, self.sites[site].shape) for site in self.moving - self.real}
            self.sites = {name: whole.get(name, site) for name, site in self.sites.items()}
            self.whole_sites = self.sites
            self.batched = True
            starts = [self.values_in(nodes) for nodes in passes]
            self.try_out(starts)
            # A site that is guarded has another term than was recorded.
            graph = None if self.model.guarded else graph
            self.conditionals, swept = self.find_conditionals(starts, graph)
            # From here on, sites that are observed in part have their other elements only.
            self.imputed = first.imputed
            # The energy of such a site is of the whole.
            self.energy_sites = {n: own for n, own in swept.items() if n not in self.imputed}
            for name, part in self.imputed.items():
                free = Site(self.sites[name].support, part.free.shape)
                self.sites = {**self.sites, name: free}

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of: programs are left out, and recorded anew."""
        state = dict(self.__dict__)
        state["conditionals"] = {
            site: found
            if found is None or isinstance(found.program, str)
            else replace(found, program=NOT_COPIED)
            for site, found in self.conditionals.items()
        }
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if any(found and found.program == NOT_COPIED for found in self.conditionals.values()):
            self.renew()

    @property
    def discrete(self) -> tuple[str, ...]:
        """The discrete sites."""
        return tuple(name for name in self.sites if name not in self.real)

    def evaluate(self, x: Sites) -> Tensor:
        batch, rows = self.as_rows(x)
        energy = self.each(self.minus_log_joint, rows)["energy"]
        return energy.reshape(batch).to(self.dtype)

    # --- the model's space -----------------------------------------------------------------------

    def constrain(self, x: Sites) -> Sites:
        """Values in the model's space and dtypes, discrete ones among them.

        Args:
            x: Values of all sites, as the energy takes them, with any batch shape.
        """
        if not self.moving & self.real:
            return {
                name: self.transforms[name](value)
                if name in self.real
                else value.to(self.kinds[name])
                for name, value in self.completed(x).items()
            }
        batch, rows = self.as_rows(x)
        found = self.each(self.in_model_space, rows)
        return {name: found[name].reshape(batch + found[name].shape[1:]) for name in x}

    def unconstrain(self, values: Sites) -> Sites:
        """The energy's values of values in the model's space; what `constrain` undoes.

        Args:
            values: Values of all latent sites, with the same batch shape.
        """
        if missing := [name for name in self.sites if name not in values]:
            raise ValueError(f"Values are missing for the sites {missing}.")
        first = next(iter(self.sites))
        own = self.nodes[first]["value"].dim()
        batch = values[first].shape[: values[first].dim() - own]
        rows = {
            name: values[name].reshape(-1, *self.nodes[name]["value"].shape) for name in self.sites
        }
        found = self.each(self.in_free_space, rows)
        free = {
            name: found[name].reshape(batch + found[name].shape[1:]).to(self.dtype)
            for name in self.sites
        }
        return self.reduced(free)

    def initial(self, chains: int, init_strategy: InitStrategy | None = None) -> Sites:
        """Where chains may start, each on its own: values of finite energy.

        Args:
            chains: How many.
            init_strategy: One of Pyro's `init_to_...`, for the real sites; if left out, numbers
                between −2 and 2 in unconstrained space, and farther out where no finite energy is
                found there. Discrete sites are drawn from the model.

        Raises:
            ValueError: If no finite energy is found in a hundred tries.
        """
        if not isinstance(chains, int) or chains < 1:
            raise ValueError(f"chains is {chains!r}; wanted a positive whole number.")
        found: list[Sites] = []
        for number in range(TRIES):
            radius = RADIUS + WIDER * number
            tried = [self.random_values(init_strategy, radius) for _ in range(chains - len(found))]
            with torch.no_grad():
                energies = self.evaluate(stacked(tried))
            found += [x for x, e in zip(tried, energies.tolist(), strict=True) if math.isfinite(e)]
            if len(found) == chains:
                return stacked(found)
        raise ValueError(
            f"Only {len(found)} of {chains} chains found a start of finite energy in {TRIES} "
            f"tries. Give `initial` another init_strategy, or look for terms that are −∞ or NaN."
        )

    # --- conditional laws ------------------------------------------------------------------------

    def structure(self) -> Structure:
        laws = ModelLaws(self)
        return WithoutTerms(
            self,
            laws=laws,
            swept=laws.swept,
            machines=torch.Size(),
            claims=self,
            starts=self,
            walled=self.walled,
            causes=self.what_forbids,
        )

    def what_forbids(self, x: Sites) -> tuple[str, ...]:
        """In words, the sample sites whose terms are −∞ in one state (*shape)."""
        terms = self.model.at(self.native(x), self.real).terms
        return tuple(
            f"the term of the site {name!r}"
            for name, value in terms.items()
            if not bool((value > -torch.inf).all())
        )

    @property
    def dependences(self) -> Dependences:
        """By discrete site, which terms it enters, which elements are drawn at once, and why."""
        return Dependences(
            {
                site: self.dependence(site, found)
                for site, found in self.conditionals.items()
                if found is not None
            }
        )

    def dependence(self, site: str, found: DiscreteSite) -> Dependence:
        """What is claimed of one discrete site."""
        frames = self.nodes[site]["cond_indep_stack"]
        plates = [f.name for f in frames if f.vectorized and f.dim in found.parallel]
        if site in self.energy_sites:
            way = "swept as its own energy in the field of the rest"
        elif isinstance(found.program, str):
            way = f"by passes of the whole model: {found.program}"
        else:
            way = "from these terms alone"
        return Dependence(
            tuple(sorted(found.terms)), tuple(plates), found.obstacles, len(found.blocks), way
        )

    def one_by_one(self) -> "ModelEnergy":
        """The same energy without claims: every element is drawn alone, from the whole log joint.

        It is the slow and certain way where a model misleads what is claimed of it.
        """
        made = copy.copy(self)
        made.energy_sites = {}
        made.conditionals = {
            site: found and self.drawn_alone(site, found)
            for site, found in self.conditionals.items()
        }
        return made

    def drawn_alone(self, site: str, found: DiscreteSite) -> DiscreteSite:
        """How a site is drawn where nothing is claimed."""
        law, own, why = self.nodes[site]["fn"], self.whole_sites[site], "asked for"
        plates = [f.name for f in self.nodes[site]["cond_indep_stack"] if f.vectorized]
        reach = Reach(frozenset(self.nodes), (), dict.fromkeys(plates, why))
        return DiscreteSite.of(law, own, found.values, reach, why)

    # --- what is claimed, against the log joint ------------------------------------------------

    @torch.no_grad()
    def contradiction(self, x: Sites, generator: torch.Generator) -> str | None:
        """As `Claims.contradiction`."""
        if self.model.evaluator is not None:  # conditional laws are those of the log joint itself
            return None
        known = [site for site, found in self.conditionals.items() if found is not None]
        if not known:
            return None
        site = known[int(torch.randint(len(known), (), generator=generator))]
        rows = {name: value[:1] for name, value in self.as_rows(x)[1].items()}
        state = generator.get_state()
        found = self.contradiction_at(site, rows, generator)
        if found is not None and not isinstance(self.discrete_site(site).program, str):
            # The program may be out of date: tensors that the model reads may have changed.
            self.renew()
            generator.set_state(state)
            found = self.contradiction_at(site, rows, generator)
        return found

    def contradiction_at(self, site: str, x: Sites, generator: torch.Generator) -> str | None:
        """What is wrong with the claims of one site in a random move of it.

        Args:
            site: The site.
            x: Values of one chain (1, *shape).
            generator: Chooses the move.
        """
        found = self.discrete_site(site)
        is_swept = site in self.energy_sites
        block = found.blocks[int(torch.randint(len(found.blocks), (), generator=generator))]
        if is_swept:
            block = torch.arange(self.sites[site].shape.numel(), device=self.device)
        old = numbers_of(found, x[site][0], block)
        allowed = None if found.inside is None else found.inside[block]
        choice = other_values(old, len(found.values), allowed, generator)
        after = with_values(found, x[site][0], block, choice.new)
        both = {name: torch.cat([value, value]) for name, value in x.items()}
        both[site] = torch.stack([x[site][0], after])
        terms = self.each(lambda own: self.model.at(self.native(own), self.real).terms, both)
        if is_swept:
            del terms[site]
        changes = Changes.of(terms)
        if is_swept:
            claimed = choice.change(self.field_of_rest(site, x))
        else:
            law = ModelLaws(self).law_at(site, x, torch.Size([1]), block)
            claimed = choice.change(law.logits[0])
        if not changes.is_known or math.isnan(claimed) or changes.agrees(claimed, self.dtype):
            return None
        wrong = [] if is_swept else self.wrong_terms(site, x, block, choice, changes)
        return in_words(site, found, changes, claimed, wrong)

    def wrong_terms(
        self, site: str, x: Sites, block: Tensor, choice: Choice, changes: Changes
    ) -> list[str]:
        """The terms of which too much was claimed in a move of a block."""
        found = self.discrete_site(site)
        tried = found.tried(x[site], block)[:, 0]  # (states, *shape)
        rows = {name: value.expand(len(tried), *value.shape[1:]) for name, value in x.items()}
        terms = self.each(
            lambda own: self.model.at(self.native(own), self.real, found.terms).terms,
            {**rows, site: tried},
        )
        wrong = []
        for name, entry in terms.items():
            weights = found.total({name: entry}, rows=1).reshape(len(tried), -1).mT
            weights = weights.expand(found.blocks[0].shape[0], -1)[found.places(block)]
            own = changes._replace(by_term={name: changes.by_term[name]})
            if not own.agrees(choice.change(weights), self.dtype):
                wrong.append(name)
        return wrong

    def field_of_rest(self, site: str, x: Sites) -> Tensor:  # (elements, states)
        """ln p of the rest of the model at each value of each element of a site."""
        found = ModelLaws(self).weights_of_levels(site, x)[0]
        return found.reshape(len(found), -1).mT

    def renew(self) -> None:
        """Records the model anew; nothing more is claimed than before."""
        old, swept = self.conditionals, self.energy_sites
        with forked(SEED, self.device):
            starts = [self.values_in(random_pass(self.model)) for _ in range(STARTS)]
            new, sites = self.find_conditionals(starts)
        self.energy_sites = {n: own for n, own in sites.items() if n in swept}
        # What is not computed from a record stays as it is.
        self.conditionals = {
            site: known
            if known is None or (isinstance(known.program, str) and known.program != NOT_COPIED)
            else new[site]
            for site, known in old.items()
        }

    def discrete_site(self, site: str) -> DiscreteSite:
        """How a discrete site is drawn.

        Raises:
            ValueError: If it cannot be.
        """
        self.require_known((site,))
        if site in self.real:
            raise ValueError(
                f"{site!r} is real and has no conditional law that could be drawn from: move it "
                f"with HMC, MALA or RandomWalk, and join the kernels in a Cycle."
            )
        found = self.conditionals[site]
        if found is None:
            raise ValueError(
                f"The values of {site!r}, {describe(self.sites[site].support)}, are too many or "
                f"depend on other sites: move it with IntegerWalk(({site!r},)) or with "
                f"MetropolisHastings, and join the kernels in a Cycle."
            )
        return found

    @property
    def summed(self) -> tuple[str, ...]:
        """The sites that are summed out."""
        return tuple(
            name
            for name, msg in self.nodes.items()
            if is_latent(msg) and name not in self.sites and is_discrete(msg["fn"])
        )

    def require_known(self, names: Sequence[str]) -> None:
        """Refuses names that are none of the energy's sites.

        Raises:
            ValueError: If there is one; of a site that is summed out, how to have it drawn.
        """
        if summed := [name for name in names if name in self.summed]:
            raise ValueError(
                f"The sites {summed} are summed out, since the model marks them "
                f"infer={{'enumerate': 'parallel'}}. To draw them, leave the mark out, or take it "
                f"off: poutine.infer_config(model, lambda site: {{'enumerate': None}})."
            )
        if unknown := [name for name in names if name not in self.sites]:
            raise ValueError(f"Unknown sites {unknown}; the model has {list(self.sites)}.")

    def find_conditionals(
        self, starts: list[Sites], graph: Graph | None = None
    ) -> tuple[dict[str, DiscreteSite | None], dict[str, EnergySite]]:
        """By discrete site, how it is drawn, None where it cannot be; and those that are energies.

        Args:
            starts: Values of all the sites, several times.
            graph: A recorded pass; a new one is recorded if left out.
        """
        values = {
            site: found.to(self.like)
            for site in self.discrete
            if site not in self.moving
            and (found := listed_values(self.nodes[site]["fn"])) is not None
        }
        swept: dict[str, EnergySite] = {}
        if self.model.evaluator is not None:
            # Summed sites tie terms together, so that only the total is a function of x.
            tied = Reach(frozenset(), (), {})
            reaches = dict.fromkeys(values, tied)
            programs: dict[str, Program | str] = dict.fromkeys(values, "sites are summed out")
        else:
            starts = [self.native(x) for x in [*starts, *map(self.extreme, starts)]]
            graph = graph or self.record(self.model, starts[0])
            prober = Prober(self.model, self.real, self.nodes, starts, self.each, graph)
            reaches = prober.reaches(values)
            programs = recorded_terms(self.model, self.real, graph, reaches, starts)
            if not self.moving:
                for site, reach in reaches.items():
                    known = prober.energy_site(site, reach)
                    if known is not None:
                        swept[site] = known
        drawn = dict.fromkeys(self.discrete) | {
            site: DiscreteSite.of(
                self.nodes[site]["fn"], self.whole_sites[site], own, reaches[site], programs[site]
            )
            for site, own in values.items()
        }
        return drawn, swept

    def extreme(self, x: Sites) -> Sites:
        """The same values with real sites far out."""
        return {
            name: EXTREME * torch.randn_like(value) if name in self.real else value
            for name, value in x.items()
        }

    def record(self, model: Model, x: Sites) -> Graph | None:
        """A pass at given values, operation by operation; None where it fails."""
        try:
            return recorded(model, x, self.real)
        except Exception:
            return None

    def find_moving(self, passes: list[dict[str, Message]]) -> tuple[frozenset[str], Graph | None]:
        """The sites whose support depends on others, and the record of a pass that says so.

        All the terms that the value of a real one enters depend on these others too, since the
        value is made of unconstrained numbers and the support.
        """
        seen = frozenset(name for name in self.nodes if self.moves_in(name, passes))
        # Sites that are to be summed out are given here like the others.
        model = self.model._replace(plates=None, evaluator=None)
        latent = {name: msg for name, msg in passes[0].items() if is_latent(msg)}
        x = {name: self.free_value(name, msg) for name, msg in latent.items()}
        x |= {name: value.to(self.like) for name, value in x.items() if name in self.real}
        graph = self.record(model, x)
        if graph is None:
            return self.real | seen, None
        supports = graph.supports.items()
        found = {name for name, parts in supports if graph.sites_of(parts) - {name}}
        # Bounds are often computed together with parameters, which makes them no less fixed.
        if found <= seen:
            return seen, graph
        extremes = [extreme_pass(self.model, share) for share in EXTREMES]
        return seen | {name for name in found if self.moves_in(name, extremes)}, graph

    def moves_in(self, name: str, passes: list[dict[str, Message]]) -> bool:
        """Whether the support of a site is another one in some passes than in the first."""
        law = self.nodes[name]["fn"]
        return any(differ(law, nodes[name]["fn"]) for nodes in passes)

    def bounding(self, name: str, graph: Graph | None) -> frozenset[str]:
        """The sites that the support of a site depends on; all where no pass was recorded."""
        return frozenset(self.sites if graph is None else graph.sites_of(graph.supports[name]))

    # --- passes ----------------------------------------------------------------------------------

    def native(self, x: Sites) -> Sites:
        """Discrete values in the model's own dtypes."""
        return {
            name: value if name in self.real else value.to(self.kinds[name])
            for name, value in x.items()
        }

    def minus_log_joint(self, x: Sites) -> Sites:
        """E of one chain, under a name."""
        return {"energy": -self.model.log_joint(self.native(x), self.real)}

    def in_model_space(self, x: Sites) -> Sites:
        """The values of one chain as the model has them."""
        return self.model.at(self.native(x), self.real, frozenset()).values

    def in_free_space(self, values: Sites) -> Sites:
        """The values of one chain as the energy has them."""
        handler = AtValues(self.native(values), frozenset(), frozenset())
        nodes: dict[str, Any] = self.model.trace(handler).nodes
        return {
            name: biject_to(nodes[name]["fn"].support).inv(value) if name in self.real else value
            for name, value in handler.told().values.items()
        }

    def random_values(self, strategy: InitStrategy | None = None, radius: float = RADIUS) -> Sites:
        """Values of one chain, as `random_pass` has them."""
        with pyro.validation_enabled(False):  # values far out may make a parameter invalid
            return self.reduced(self.values_in(random_pass(self.model, strategy, radius)))

    def values_in(self, nodes: dict[str, Message]) -> Sites:
        """The values of a pass as the energy has them."""
        return {
            name: self.free_value(name, nodes[name]).to(self.like).detach() for name in self.sites
        }

    def free_value(self, name: str, msg: Message) -> Tensor:
        """A node's value as the energy has it."""
        return biject_to(msg["fn"].support).inv(msg["value"]) if name in self.real else msg["value"]

    def as_rows(self, x: Sites) -> tuple[torch.Size, Sites]:
        """The batch shape, and values with it flattened to one dimension."""
        batch = batch_shape(x, self.sites)
        rows = {
            name: value.expand(batch + self.sites[name].shape).reshape(-1, *self.sites[name].shape)
            for name, value in x.items()
        }
        return batch, self.completed(rows)

    def completed(self, x: Sites) -> Sites:
        """Values with those of sites that are observed in part made whole."""
        wholes = {name: part.complete(x[name]) for name, part in self.imputed.items() if name in x}
        return {**x, **wholes}

    def reduced(self, x: Sites) -> Sites:
        """Values with those of sites that are observed in part left to their free elements."""
        free = {name: part.reduce(x[name]) for name, part in self.imputed.items() if name in x}
        return {**x, **free}

    @property
    def to_free(self) -> dict[str, Any]:
        """By site whose values in the model's space are others, what Pyro maps draws back by."""
        transforms = {name: transform.inv for name, transform in self.transforms.items()}
        completions = {
            name: Completion(part, self.transforms.get(name)) for name, part in self.imputed.items()
        }
        return {**transforms, **completions}

    def each(self, function: Callable[[Sites], Sites], rows: Sites) -> Sites:
        """A function of one chain for every row: batched where the model can be."""
        count = len(next(iter(rows.values())))
        if not self.batched or count == 1:
            return stacked([function({n: v[k] for n, v in rows.items()}) for k in range(count)])
        return batched(function, rows, max(1, ELEMENTS // max(1, self.largest)))

    @property
    def largest(self) -> int:
        """The largest number of elements that a site of the model has."""
        return max(
            msg["value"].numel()
            for msg in self.nodes.values()
            if msg["type"] == "sample" and isinstance(msg["value"], Tensor)
        )

    @torch.no_grad()
    def try_out(self, starts: list[Sites]) -> None:
        """Looks whether the log joint is a function, and whether it can be batched.

        Raises:
            ValueError: If two passes at the same values differ.
        """
        rows = stacked(starts)
        one_by_one = [self.minus_log_joint(x)["energy"] for x in starts]
        again = [self.minus_log_joint(x)["energy"] for x in starts]
        if not torch.equal(torch.stack(one_by_one).nan_to_num(), torch.stack(again).nan_to_num()):
            raise ValueError(
                "The model's log joint differs between two passes at the same values: it draws "
                "random numbers outside of pyro.sample. Move them to a site, or call eval() on "
                "dropout."
            )
        try:
            together = self.each(self.minus_log_joint, rows)["energy"]
        except Exception as error:
            reason = str(error).splitlines()[0].partition(". ")[0]
        else:
            tolerance = 1e-3 if torch.finfo(self.dtype).eps > 1e-10 else 1e-6
            alone = torch.stack(one_by_one)
            if torch.allclose(together, alone, rtol=tolerance, atol=tolerance, equal_nan=True):
                return
            reason = f"energies {together.tolist()} together, {alone.tolist()} alone"
        self.batched = False
        warnings.warn(
            f"The model cannot be batched over chains, which are therefore evaluated one after "
            f"another: {reason}",
            UnbatchedModelWarning,
            stacklevel=3,
        )
