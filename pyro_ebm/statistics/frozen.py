"""Units that never change, which R-hat and ESS do not show.

A frozen unit has R-hat NaN and looks perfect in an average over units; frozen at different values
in different chains, its R-hat is infinite, and ArviZ says NaN or some huge number.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .arrays import Array, tensor_of


class FrozenUnits(NamedTuple):
    """Which units never change in any chain.

    Example:
        >>> import torch
        >>> from pyro_ebm.statistics import frozen_units
        >>> draws = torch.tensor([[[0, 0, 1], [0, 0, 1]], [[0, 1, 1], [0, 1, 0]]])
        >>> found = frozen_units(draws)  # of two chains of two draws of three units
        >>> found.constant, found.stuck
        (tensor([ True, False, False]), tensor([False,  True, False]))
    """

    constant: Tensor  # (*shape), bool: one and the same value in every chain
    stuck: Tensor  # (*shape), bool: different values in different chains, R-hat is infinite


def frozen_units(draws: Array) -> FrozenUnits:  # (chain, draw, *shape) -> (*shape)
    """Finds the units that no chain ever moves.

    `constant` units may be rightly so (a pixel at the edge is always 0) or frozen from the start:
    chains alone cannot tell. `stuck` ones are a failure to mix. A single chain shows only
    `constant` ones.

    Args:
        draws: The draws of one site.

    Raises:
        ValueError: If there are no draws, or some are NaN.

    Example:
        >>> import torch
        >>> from pyro_ebm.statistics import frozen_units
        >>> draws = torch.tensor([[[0, 0, 1], [0, 0, 1]], [[0, 1, 1], [0, 1, 0]]])
        >>> frozen_units(draws).constant
        tensor([ True, False, False])
    """
    draws = tensor_of(draws, "draws")
    if draws.dim() < 2 or 0 in draws.shape[:2]:
        raise ValueError(
            f"'draws' has shape {tuple(draws.shape)}; wanted (chain, draw, *shape) with at least "
            "one chain and one draw. A single chain is draws[None]."
        )
    if bool(draws.isnan().any()):
        raise ValueError("'draws' contains NaN; look for the first one: the chain broke there.")
    still = (draws == draws[:, :1]).all(1).all(0)
    agreed = (draws[:, 0] == draws[0, 0]).all(0)
    return FrozenUnits(constant=still & agreed, stuck=still & ~agreed)


def describe_frozen(frozen: FrozenUnits, names: Sequence[str]) -> str:
    """The frozen units in words, by name.

    Args:
        frozen: What `frozen_units` found.
        names: One name for each unit, in the order of the flattened site.

    Raises:
        ValueError: If the number of names is not the number of units.

    Example:
        >>> import torch
        >>> from pyro_ebm.statistics import describe_frozen, frozen_units
        >>> draws = torch.tensor([[[0, 0, 1], [0, 0, 1]], [[0, 1, 1], [0, 1, 0]]])
        >>> print(describe_frozen(frozen_units(draws), ["a", "b", "c"]))
        1 of 3 units keep one value in all draws of all chains (R-hat is undefined): a.
        1 of 3 units never change, but differ from chain to chain (R-hat is infinite; the chains
        have not mixed): b.
    """
    count = frozen.constant.numel()
    if len(names) != count:
        raise ValueError(
            f"'names' has {len(names)} names for {count} units; give one for each unit, in the "
            "order of the flattened site."
        )
    constant, stuck = named(frozen.constant, names), named(frozen.stuck, names)
    if not constant and not stuck:
        return f"Every one of the {count} units changes."
    sentences = []
    if constant:
        sentences.append(
            f"{len(constant)} of {count} units keep one value in all draws of all chains (R-hat "
            f"is undefined): {', '.join(constant)}."
        )
    if stuck:
        sentences.append(
            f"{len(stuck)} of {count} units never change, but differ from chain to chain (R-hat "
            f"is infinite; the chains have not mixed): {', '.join(stuck)}."
        )
    return "\n".join(sentences)


def named(mask: Tensor, names: Sequence[str]) -> list[str]:
    """The names of the units at which a mask is true."""
    return [names[k] for k in torch.nonzero(mask.flatten()).flatten().tolist()]
