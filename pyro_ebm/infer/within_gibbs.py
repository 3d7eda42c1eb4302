"""Several kernels of one Pyro model, each for some of its sites, one after another."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pyro.infer.mcmc.mcmc_kernel import MCMCKernel

from pyro_ebm.energies import InitStrategy, ModelEnergy
from pyro_ebm.sites import Sites

from .movers import BlockMover, mover_of
from .tally import SampleStatistics, Tally

Block = tuple[Any, Sequence[str]]  # a kernel, and the sites that it moves


class WithinGibbs(MCMCKernel):
    """Blocks of sites, each moved by a kernel of its own given all the rest, as a Pyro kernel.

    A block is a kernel with the names of the sites that it moves. A kernel is

    - one of this library that has `sites`: `Gibbs()`, `HMC()`, `MALA()`, `RandomWalk(...)`;
    - Pyro's `NUTS` or `HMC`, as a class or as `functools.partial(NUTS, max_tree_depth=5)`: it is
      made on the model conditioned on all the other sites;
    - a function from the values of all latent sites, in the model's space, to new values of its
      own: a draw from their conditional law.

    Caches are renewed where another block has moved since; each block adapts its own settings
    during Pyro's warm-up.

    Args:
        model: The Pyro model.
        blocks: Kernels with their sites, in the order of a sweep.
        init_strategy: Where the real sites start: one of Pyro's `init_to_...`.

    Raises:
        TypeError: If a block is not what is wanted.
        ValueError: If blocks name no sites, or a Pyro kernel is to be compiled.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro.infer import MCMC, NUTS
        >>> from pyro_ebm import Gibbs, WithinGibbs
        >>> def model():
        ...     label = pyro.sample("label", dist.Bernoulli(0.5))
        ...     pyro.sample("mean", dist.Normal(label, 1.0))
        >>> kernel = WithinGibbs(model, [(Gibbs(), ["label"]), (NUTS, ["mean"])])
        >>> mcmc = MCMC(kernel, num_samples=5, warmup_steps=5, disable_progbar=True)
        >>> mcmc.run()
        >>> mcmc.get_samples()["label"].shape
        torch.Size([5])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        blocks: Sequence[Block],
        *,
        init_strategy: InitStrategy | None = None,
    ) -> None:
        if not callable(model):
            raise TypeError(f"model is {model!r}; wanted a Pyro model.")
        self.model, self.init_strategy = model, init_strategy
        pairs = [require_pair(block) for block in require_blocks(blocks)]
        self.blocks = [
            (require_sites(sites), mover_of(kernel, tuple(sites))) for kernel, sites in pairs
        ]
        self.transforms: dict[str, Any] | None = None
        self.first: Sites | None = None
        self.movers: dict[str, BlockMover] = {}
        self.tally = Tally()

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Builds the energy and the movers of the blocks.

        Raises:
            ValueError: If a site is unknown or belongs to no block, or if the support of a real
                site depends on others.
        """
        energy = ModelEnergy(self.model, *args, **kwargs)
        named = [site for sites, _ in self.blocks for site in sites]
        energy.require_known(named)
        if left := [site for site in energy.sites if site not in named]:
            raise ValueError(f"No block moves {left}; give each latent site to a block.")
        if moving := sorted(energy.moving & energy.real):
            raise ValueError(
                f"The supports of {moving} depend on other sites, and pyro.infer.MCMC maps draws "
                f"back by fixed transforms. Use pyro_ebm.infer.MCMC with a Cycle of kernels."
            )
        self.energy, self.warmup_steps = energy, warmup_steps
        self.transforms = energy.to_free
        self.movers = {"+".join(sites): make(energy, warmup_steps) for sites, make in self.blocks}

    @property
    def initial_params(self) -> Sites:
        """The start of one chain."""
        if self.first is None:
            x = self.energy.initial(1, self.init_strategy)
            self.first = {name: value[0] for name, value in x.items()}
        return self.first

    @initial_params.setter
    def initial_params(self, params: Sites) -> None:
        self.first = params

    def sample(self, params: Sites) -> Sites:
        """The values after one sweep."""
        x = {name: value.detach().to(self.energy.dtype)[None] for name, value in params.items()}
        reports: dict[str, SampleStatistics] = {}
        for name, mover in self.movers.items():
            x, reports[name] = mover.move(x)
        self.tally.add(reports, self.warmup_steps)
        return {name: value[0] for name, value in x.items()}

    def logging(self) -> "OrderedDict[str, str]":
        """What the progress bar shows."""
        return self.tally.in_words()

    def diagnostics(self) -> dict[str, Any]:
        """Divergent draws, and the mean acceptance."""
        return self.tally.summary()

    def cleanup(self) -> None:
        """Forgets the chain: the next one begins anew."""
        self.first, self.movers, self.tally = None, {}, Tally()


def require_blocks(blocks: Sequence[Block]) -> Sequence[Block]:
    """Refuses what is no list of blocks.

    Raises:
        TypeError: If it is none, as a dict.
        ValueError: If it is empty.
    """
    wanted = "wanted pairs of a kernel and its sites, for example [(Gibbs(), ['label'])]"
    if not isinstance(blocks, Sequence) or isinstance(blocks, str):
        raise TypeError(f"blocks is a {type(blocks).__name__}; {wanted}.")
    if not blocks:
        raise ValueError(f"There are no blocks; {wanted}.")
    return blocks


def require_pair(block: Block) -> Block:
    """Refuses a block that is no kernel with its sites.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(block, Sequence) or isinstance(block, str) or len(block) != 2:
        raise TypeError(
            f"A block is {block!r}; wanted a pair of a kernel and its sites, for example "
            f"(Gibbs(), ['label'])."
        )
    return block


def require_sites(sites: Sequence[str]) -> tuple[str, ...]:
    """Refuses what are no names of sites.

    Raises:
        TypeError: If they cannot be listed.
        ValueError: If it is a bare string, or empty.
    """
    wanted = "wanted names, for example ['label']"
    if not isinstance(sites, Iterable):
        raise TypeError(f"A block has the sites {sites!r}; {wanted}, after their kernel.")
    if isinstance(sites, str) or not sites:
        raise ValueError(f"A block has the sites {sites!r}; {wanted}.")
    return tuple(sites)
