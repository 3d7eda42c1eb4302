"""Random Pyro models of a few discrete units, whose coupling may hide from a look at the prior.

Each mean of the data is a chain of operations on the bits and a real site s. Many of them couple
nothing where s is small, as it is in most passes, or where the bits are as they usually are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from hypothesis import strategies as st
from torch import Tensor

from pyro_ebm import ModelEnergy
from tests.support.discrete import States, error

DOUBLE = torch.float64
GATE = 3.0  # of s, below which gated operations do nothing
LIMIT = 1e-9

Operation = Callable[[Tensor, Tensor], Tensor]  # bits or means (n,), s () -> (n,)


def in_place(z: Tensor, s: Tensor) -> Tensor:
    m = torch.zeros_like(z)
    m[:] = torch.relu(s - GATE) * z
    return m


def neighbours_in_place(z: Tensor, s: Tensor) -> Tensor:
    m = z.clone()
    m[..., 1:] += torch.relu(s - GATE) * z[..., :-1]
    return m


OPERATIONS: dict[str, Operation] = {
    "as they are": lambda z, s: z,
    "scaled": lambda z, s: z * s,
    "gated neighbour": lambda z, s: z + torch.relu(s - GATE) * z.roll(1, -1),
    "flipped behind a gate": lambda z, s: torch.where(s > GATE, z.flip(-1), z),
    "cumulated": lambda z, s: z.cumsum(-1),
    "product of all": lambda z, s: z + z.prod(-1, keepdim=True),
    "largest behind a gate": lambda z, s: z + (s - GATE).clamp(min=0) * z.amax(-1, keepdim=True),
    "most are on": lambda z, s: z + (z.sum(-1, keepdim=True) > 1.5).to(z.dtype),
    "from a table": lambda z, s: torch.tensor([0.3, -0.8, 1.1], dtype=z.dtype)[z.long() % 3],
    "sorted": lambda z, s: z.sort(-1).values,
    "mixed by a matrix": lambda z, s: z @ torch.ones(z.shape[-1], z.shape[-1], dtype=z.dtype),
    "in place": in_place,
    "neighbours in place": neighbours_in_place,
}


@dataclass(frozen=True)
class RandomModel:
    """Bits in a plate, a real site, and data whose mean is made of them.

    Args:
        size: The number of bits.
        prior: P(bit is on).
        operations: Their names, in order.
        data: As many as there are bits.
    """

    size: int
    prior: float
    operations: tuple[str, ...]
    data: tuple[float, ...]

    def mean(self, z: Tensor, s: Tensor) -> Tensor:
        """Of the data."""
        for name in self.operations:
            z = OPERATIONS[name](z, s)
        return z

    def model(self) -> None:
        """The model, as a user would write it."""
        s = pyro.sample("s", dist.Normal(torch.tensor(2.0, dtype=DOUBLE), 1.0))
        bits = dist.Bernoulli(torch.tensor(self.prior, dtype=DOUBLE))
        plate = pyro.plate("units", self.size)
        with plate:
            z = pyro.sample("z", bits)
        mean = self.mean(z, s)
        with plate:
            pyro.sample("y", dist.Normal(mean, 0.8), obs=torch.tensor(self.data, dtype=DOUBLE))

    def log_joint(self, z: Tensor, s: Tensor) -> Tensor:  # () of one state, up to what s decides
        """By hand."""
        prior = torch.tensor(self.prior, dtype=DOUBLE)
        total = (z * prior.log() + (1 - z) * (1 - prior).log()).sum()
        residual = torch.tensor(self.data, dtype=DOUBLE) - self.mean(z.clone(), s)
        return total - 0.5 * (residual / 0.8).square().sum()


@st.composite
def models(draw: st.DrawFn) -> RandomModel:
    """Models of two or three bits, with one to three operations."""
    size = draw(st.integers(2, 3))
    names = st.sampled_from(sorted(OPERATIONS))
    operations = draw(st.lists(names, min_size=1, max_size=3))
    data = st.integers(-4, 8).map(lambda k: k / 4)
    return RandomModel(
        size,
        draw(st.sampled_from([0.1, 0.4, 0.9])),
        tuple(operations),
        tuple(draw(st.lists(data, min_size=size, max_size=size))),
    )


def gibbs_leaves_the_law(case: RandomModel) -> None:
    """The transition matrix of a sweep over the bits, with s on both sides of the gate."""
    energy = ModelEnergy(case.model)
    z = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=DOUBLE)] * case.size)
    for at in (1.0, 5.0):
        s = torch.tensor(at, dtype=DOUBLE)
        log_p = torch.stack([case.log_joint(state, s) for state in z])
        x = {"z": z, "s": s.expand(len(z))}
        wrong = error(energy, States(x, log_p, ("z",)))
        assert wrong < LIMIT, f"a sweep moves the law by {wrong} at s = {at}"
