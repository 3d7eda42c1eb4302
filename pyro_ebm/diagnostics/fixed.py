"""Units that cannot move: the zeros above a Cholesky factor's diagonal, ones on a correlation's.

Of chains the sites' supports tell which: what is the same in random values all over a support is
part of it. Other draws come without supports; there a square matrix of real numbers tells by its
form.
"""

import torch
from torch import Tensor

from pyro_ebm.seeding import forked
from pyro_ebm.sites import Site, random_values

TRIED = 64  # random values, in which a fair bit is the same once in 1e19
ROUNDING = 1e-12  # of a value in float64


def fixed_by_support(site: Site) -> Tensor:  # (*shape)
    """Which units have one value all over the site's support; none where it cannot be told."""
    like = torch.empty((), dtype=torch.float64)
    try:
        with forked(0, like.device):
            x = random_values(site, (TRIED,), like)
    except (NotImplementedError, ValueError):
        return torch.zeros(site.shape, dtype=torch.bool)
    return (x - x[0]).abs().amax(0) <= ROUNDING


def fixed_by_form(draws: Tensor, constant: Tensor) -> Tensor:  # (chain, draw, *shape), (*shape)
    """Which units of real square matrices are those of a Cholesky factor or a correlation.

    Args:
        draws: The draws.
        constant: Which units have one value in all of them.
    """
    shape = constant.shape
    fixed = torch.zeros_like(constant)
    if not draws.is_floating_point() or len(shape) < 2 or shape[-1] != shape[-2]:
        return fixed
    zero, one = constant & (draws[0, 0] == 0), constant & (draws[0, 0] == 1)
    above = torch.ones(shape[-2:], dtype=torch.bool).triu(1)
    diagonal = torch.eye(shape[-1], dtype=torch.bool)
    triangular = (zero | ~above).flatten(-2).all(-1)[..., None, None]
    correlation = (one | ~diagonal).flatten(-2).all(-1)[..., None, None]
    fixed |= triangular & above | correlation & diagonal
    # The first row of a correlation's factor is a unit vector.
    fixed[..., 0, 0] |= (triangular[..., 0, 0]) & one[..., 0, 0]
    return fixed
