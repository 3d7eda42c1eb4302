"""The directions in which units vary most together."""

import torch
from torch import Tensor

from .arrays import Array, tensor_of

ROWS = 4096  # that directions are computed from; more are thinned evenly


def principal_directions(rows: Array, count: int) -> Tensor:  # (rows, n) -> (k, n)
    r"""The first principal components of data, as unit vectors, the strongest first.

    Fewer than `count` where the data vary in fewer directions. Each points to where its largest
    element is positive.

    Args:
        rows: The data; more than 4,096 rows are thinned evenly.
        count: The number of directions wanted.

    Raises:
        ValueError: If the data are not (rows, n) with two rows or more, or not finite.

    Example:
        >>> import torch
        >>> from pyro_ebm.statistics import principal_directions
        >>> rows = torch.randn(500, 1) * torch.tensor([3.0, 4.0]) + 0.01 * torch.randn(500, 2)
        >>> principal_directions(rows, 1)
        tensor([[0.6000, 0.8000]], dtype=torch.float64)
    """
    rows = tensor_of(rows, "rows")
    if rows.dim() != 2 or len(rows) < 2 or rows.shape[1] == 0:
        raise ValueError(f"The data have shape {tuple(rows.shape)}; wanted (rows, units), 2 rows.")
    step = -(-len(rows) // ROWS)
    x = rows[::step].double()
    if not bool(x.isfinite().all()):
        raise ValueError("The data contain NaN or infinite values; remove or impute them first.")
    x = x - x.mean(0)
    wide = x.shape[1] > x.shape[0]
    # The smaller of the two matrices that have the same eigenvalues.
    values, vectors = torch.linalg.eigh(x @ x.T if wide else x.T @ x)
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    kept = values > 1e-12 * values[0]
    directions = vectors[:, kept].T
    if wide:
        directions = directions @ x / values[kept, None].sqrt()
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return directions * largest.sign()


def projections(draws: Tensor, directions: Tensor) -> Tensor:  # (chain, draw, n), (k, n)
    """The draws along directions, (chain, draw, k).

    Example:
        >>> import torch
        >>> from pyro_ebm.statistics import principal_directions, projections
        >>> draws = torch.randn(4, 100, 5)
        >>> projections(draws, principal_directions(draws.flatten(0, 1), 2)).shape
        torch.Size([4, 100, 2])
    """
    # Some draws at a time: in the directions' dtype they are eight times as large as bits.
    parts = [part.to(directions.dtype) @ directions.T for part in draws.split(256, 1)]
    return torch.cat(parts, 1)
