"""What a warm-up learns from the chains so far: step size, spread, and how far draws reach.

Each is a named tuple, of which a step makes the next one. All chains are one pool.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from .mass import Mass

FAR = 20.0  # times the usual square: as what the deviation of a chain that is far off counts


class Spread(NamedTuple):
    """Where each chain is in a window, and how it moves there.

    Args:
        centre: From where the deviations of each chain are counted (n, d).
        total: The sum of the deviations of each chain (n, d).
        squares: The sum of their squares (n, d).
        products: The sum of their products over all chains (d, d), if a mass is made of them;
            otherwise zeros (d,).
        steps: How many there were.
    """

    centre: Tensor
    total: Tensor
    squares: Tensor
    products: Tensor
    steps: int = 0

    @classmethod
    def around(cls, centre: Tensor, mass: Mass) -> Self:
        """A window without draws, around a place for each chain (n, d)."""
        none = torch.zeros_like(centre)
        return cls(centre, none, none, centre.new_zeros(mass.shape(centre.shape[-1])))

    def after(self, position: Tensor) -> Self:
        """With one draw more of each chain (n, d)."""
        deviations = position - self.centre
        total, squares = self.total + deviations, self.squares + deviations.square()
        products = self.products
        if products.dim() == 2:
            products = products + deviations.mT @ deviations
        return type(self)(self.centre, total, squares, products, self.steps + 1)

    def pooled(self, patience: float) -> "Pool":
        """What the chains say together.

        Args:
            patience: For how many steps chains of one law may wander before they forget where
                they were; infinite, if all are taken for that.
        """
        offset = self.total / self.steps
        variances = (self.squares / self.steps - offset.square()).clamp_min(0)
        usual = upper_median(variances)
        within = variances.minimum(torch.where(usual > 0, FAR * usual, torch.inf)).mean(0)
        place = self.centre + offset
        apart = place - place.mean(0)
        tiny = torch.finfo(apart.dtype).tiny
        between = apart.square().mean(0).clamp_min(tiny)
        share = (patience / self.steps * within / between).clamp(max=1.0)
        share = torch.where(within > 0, share, 1.0)  # of chains that stood still nothing is known
        return Pool(within, share.sqrt() * apart, place - share * apart)

    def mass(self, pool: "Pool", old: Mass) -> Mass:
        """The mass of these draws, drawn a little to the old one."""
        count = len(self.total)
        if self.products.dim() == 1:
            inverse = pool.within + pool.apart.square().mean(0)
        else:
            offset = self.total / self.steps
            inverse = (self.products / self.steps - offset.mT @ offset) / count
            tiny = torch.finfo(inverse.dtype).tiny
            scale = (pool.within / inverse.diagonal().clamp_min(tiny)).sqrt()
            inverse = inverse * scale * scale[:, None] + pool.apart.mT @ pool.apart / count
        return old.estimated(inverse, self.steps * count)


class Pool(NamedTuple):
    """What chains say together of the spread of their law.

    What lies between chains that will not meet says nothing of how far a trajectory should lead.
    Chains that wander for P steps before they forget where they were have, in a window of T steps,
    a variance B between them that is some P / T times the variance W within them. So B counts up
    to (P / T) W, coordinate by coordinate: chains in modes of their own give the mass of a mode,
    slow ones that of their law. A chain that comes from far away hardly says more than the others.
    Any mass is right for the law: only speed is at stake.

    Args:
        within: W, the mean variance in a chain (d,).
        apart: What counts of the distance of each chain's place from the mean of all (n, d).
        centre: Where deviations from it are those in a mode (n, d): the same for all chains that
            may be of one law, and for others nearly the place of each.
    """

    within: Tensor
    apart: Tensor
    centre: Tensor


class Reach(NamedTuple):
    """How far apart draws are in the direction in which they are farthest apart.

    In whitened coordinates z, where momenta are N(0, I): a power iteration with a step a draw.

    Args:
        product: The mean of (z·w) z over draws (d,), which turns to the widest direction w.
        steps: The steps in that mean.
    """

    product: Tensor
    steps: int = 0

    @property
    def direction(self) -> Tensor:  # (d,)
        """The direction w, of length one."""
        return self.product / self.product.norm().clamp_min(torch.finfo(self.product.dtype).tiny)

    @property
    def deviation(self) -> float:
        """The standard deviation along w."""
        return float(self.product.norm().sqrt())

    def after(self, whitened: Tensor) -> Self:
        """With one draw more of each chain, z (n, d); one far off counts as if it were nearer."""
        squares = torch.linalg.vecdot(whitened, whitened)
        tiny = torch.finfo(squares.dtype).tiny
        weight = (FAR * upper_median(squares) / squares.clamp_min(tiny)).clamp(max=1.0)
        new = (weight * (whitened @ self.direction)) @ whitened / len(whitened)
        steps = self.steps + 1
        return type(self)(self.product.lerp(new, 1 / steps), steps)


def upper_median(values: Tensor) -> Tensor:  # (n, ...) -> (...)
    """The larger of the middle values: of one or two, none is too large."""
    return values.sort(0).values[len(values) // 2]
