r"""Quadratic polynomials of named variables, as other libraries write energies.

.. math:: p(x) = \sum_u a_u x_u + \sum_{(u, v)} Q_{uv} x_u x_v

over all the pairs that are given: (u, v) and (v, u) are added, and (u, u) is a square.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .edges import Names, ordered

Array: TypeAlias = Tensor | np.ndarray
Linear: TypeAlias = Mapping[Hashable, float] | Sequence[float] | Array
Quadratic: TypeAlias = Mapping[tuple[Hashable, Hashable], float] | Array


@dataclass(frozen=True, eq=False)
class Polynomial:
    """The coefficients of a polynomial, each pair once.

    Args:
        names: The variables.
        linear: Of each variable (n,).
        squares: Of its square (n,).
        edges: Pairs of different variables, by number, the smaller one first (pairs, 2).
        pairs: Their coefficients (pairs,).
    """

    names: Names
    linear: Tensor
    squares: Tensor
    edges: Tensor
    pairs: Tensor

    @classmethod
    def of(cls, linear: Linear, quadratic: Quadratic, dtype: torch.dtype | None) -> "Polynomial":
        """A polynomial from its coefficients.

        Args:
            linear: a, by variable, or (n,) for the variables 0, …, n − 1.
            quadratic: Q, by pair of variables, or a square matrix of any kind (n, n).
            dtype: Of the coefficients; that of the arrays, else torch's default, if left out.

        Raises:
            TypeError, ValueError: If they are not what is wanted.
        """
        by_variable = coefficients("linear term", as_mapping("linear terms", linear, 1))
        by_pair = coefficients("quadratic term", as_mapping("quadratic terms", quadratic, 2))
        if bad := [pair for pair in by_pair if not (isinstance(pair, tuple) and len(pair) == 2)]:
            raise ValueError(f"A quadratic term is of {bad[0]!r}; wanted a pair of variables.")
        ends = [end for pair in by_pair for end in pair]
        # An array has a number for every variable, a mapping only for those that it names.
        names = ordered(dict.fromkeys([*by_variable, *ends]))
        sized = [given for given in (linear, quadratic) if not isinstance(given, Mapping)]
        sized = [given for given in sized if len(given)]
        for given in sized:
            if len(names) > len(given):
                raise ValueError(
                    f"The variables are {list(names)[:10]}, but an array has {len(given)}, which "
                    f"are 0 to {len(given) - 1}; give mappings by name, or arrays of all."
                )
        if not names:
            raise ValueError("There is no variable; wanted one linear or quadratic term at least.")
        number = {name: k for k, name in enumerate(names)}
        pairs: dict[tuple[int, int], float] = {}
        squares = [0.0] * len(names)
        for (one, other), value in by_pair.items():
            if one == other:
                squares[number[one]] += value
                continue
            low, high = sorted((number[one], number[other]))
            pairs[low, high] = pairs.get((low, high), 0.0) + value
        own = dtype or next((d for d in map(dtype_of, (linear, quadratic)) if d is not None), None)
        return cls(
            names,
            torch.tensor([by_variable.get(name, 0.0) for name in names], dtype=own),
            torch.tensor(squares, dtype=own),
            torch.tensor(list(pairs), dtype=torch.int64).reshape(-1, 2),
            torch.tensor(list(pairs.values()), dtype=own),
        )


def coefficients(what: str, given: Mapping[Any, object]) -> dict[Any, float]:
    """Coefficients as Python's numbers.

    Raises:
        TypeError: If one is no number.
        ValueError: If one is not finite.
    """
    found = {}
    for key, value in given.items():
        try:
            found[key] = float(value)  # type: ignore[arg-type] # which refuses what is none
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"The {what} of {key!r} is {value!r}; wanted a real number.") from None
        if not math.isfinite(found[key]):
            raise ValueError(f"The {what} of {key!r} is {found[key]}; wanted a finite number.")
    return found


def as_mapping(what: str, given: object, dims: int) -> Mapping[Any, object]:
    """Coefficients by index; of a matrix those that are not zero, and its diagonal.

    Raises:
        TypeError: If they are neither a mapping nor an array of numbers.
        ValueError: If the array has another shape.
    """
    if isinstance(given, Mapping):
        return given
    wanted = "numbers (n,)" if dims == 1 else "a square matrix (n, n)"
    try:
        array = torch.as_tensor(given).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"The {what} are a {type(given).__name__}; wanted a mapping, or {wanted}."
        ) from None
    if array.dim() != dims or len(set(array.shape)) != 1:
        raise ValueError(
            f"The {what} have shape {tuple(array.shape)}; wanted {wanted}, or a mapping."
        )
    if dims == 1:
        return dict(enumerate(array.tolist()))
    kept = (array != 0) | torch.eye(len(array), dtype=torch.bool)
    pairs = map(tuple, kept.nonzero().tolist())
    return dict(zip(pairs, array[kept].tolist(), strict=True))


def dtype_of(given: object) -> torch.dtype | None:
    """The floating-point dtype of an array; None where there is none."""
    if isinstance(given, np.ndarray) and given.dtype.kind == "f":
        return torch.from_numpy(np.zeros(0, given.dtype.newbyteorder("="))).dtype
    if isinstance(given, Tensor) and given.is_floating_point():
        return given.dtype
    return None
