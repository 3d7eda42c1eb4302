"""Layers of a network divided by their largest singular value."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .networks import SMALLEST


# --- layers that vary slowly ---------------------------------------------------------------------
class Largest(NamedTuple):
    """A matrix, and the singular vectors of its largest singular value."""

    matrix: Tensor  # (m, n)
    left: Tensor  # (m,)
    right: Tensor  # (n,)


class SpectralNormalisation(nn.Module):
    r"""A weight, divided by its spectral norm: :math:`c W / \sigma(W)`.

    σ(W) is the largest singular value of the weight as a matrix with one row for each output. Its
    singular vectors are those of the weight at hand, computed whenever that has changed: an energy
    made of such layers is a function of x and its parameters alone, whatever was computed before.
    The gradient goes through σ = uᵀWv with u and v constant, which is exact.
    """

    def __init__(self, bound: float) -> None:
        super().__init__()
        if not 0 < bound < math.inf:
            raise ValueError(f"bound is {bound!r}; wanted a positive number.")
        self.bound = float(bound)
        self.largest: Largest | None = None

    def forward(self, weight: Tensor) -> Tensor:  # (m, *rest) -> the same
        """The normalised weight."""
        matrix = weight.flatten(1)
        largest = self.largest
        # The numbers are compared, not their version: a weight drawn anew has versions of its own.
        if largest is None or not same(largest.matrix, matrix):
            largest = self.largest = largest_of(matrix.detach())
        norm = largest.left @ matrix @ largest.right
        return weight * (self.bound / norm.clamp_min(SMALLEST))


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two matrices are the same numbers of the same kind in the same place."""
    alike = (one.dtype, one.device, one.shape) == (other.dtype, other.device, other.shape)
    return alike and torch.equal(one, other)


@torch.no_grad()
def largest_of(matrix: Tensor) -> Largest:
    """The singular vectors of the largest singular value, from the smaller Gram matrix."""
    wide = matrix.double()
    if matrix.shape[0] <= matrix.shape[1]:
        left = torch.linalg.eigh(wide @ wide.mT).eigenvectors[:, -1]
        right = nn.functional.normalize(left @ wide, dim=0)
    else:
        right = torch.linalg.eigh(wide.mT @ wide).eigenvectors[:, -1]
        left = nn.functional.normalize(wide @ right, dim=0)
    return Largest(matrix.clone(), left.to(matrix.dtype), right.to(matrix.dtype))


class SpectralLinear(nn.Module):
    r"""A linear layer of bounded slope: :math:`y = c\, W x / \sigma(W) + b`.

    ‖y(x) − y(x')‖ ≤ c ‖x − x'‖, with equality in one direction. The singular vectors take an
    eigendecomposition of the smaller side's size at every change of W, not at every call.

    Args:
        inputs: The number of inputs.
        outputs: The number of outputs.
        bound: The slope c.

    Raises:
        ValueError: If the bound is not positive.

    Example:
        >>> import torch
        >>> from pyro_ebm.energies import SpectralLinear
        >>> layer = SpectralLinear(3, 2, bound=0.5)
        >>> torch.linalg.matrix_norm(torch.func.jacrev(layer)(torch.zeros(3)), 2)
        tensor(0.5000, ...)

    References:
        | Spectral normalization for generative adversarial networks (Miyato, Kataoka, Koyama &
        | Yoshida, 2018) https://arxiv.org/abs/1802.05957
    """

    def __init__(self, inputs: int, outputs: int, bound: float = 1.0) -> None:
        super().__init__()
        start = nn.Linear(inputs, outputs)
        self.weight, self.bias = start.weight, start.bias
        self.normalise = SpectralNormalisation(bound)

    def forward(self, x: Tensor) -> Tensor:  # (*batch, inputs) -> (*batch, outputs)
        """The outputs."""
        return nn.functional.linear(x, self.normalise(self.weight), self.bias)


class SpectralConvolution(nn.Module):
    r"""A convolution of images whose kernel, as a matrix, has the spectral norm c.

    The kernel (outputs, inputs, k, k) counts as a matrix with a row for each output, as in Miyato
    et al.: each patch of the image is mapped with slope c at most. The convolution as a whole may
    be steeper, up to c k, since a pixel lies in up to k² patches.

    Args:
        inputs: The number of channels that come in.
        outputs: The number of channels that go out.
        size: The side k of the kernel.
        stride: From one patch to the next.
        padding: Zeros around the image.
        bound: The norm c.

    Raises:
        ValueError: If the bound is not positive.

    Example:
        >>> import torch
        >>> from pyro_ebm import convolutional_energy
        >>> from pyro_ebm.energies import SpectralConvolution
        >>> energy = convolutional_energy((1, 8, 8), (4,), convolution=SpectralConvolution)
        >>> energy(torch.rand(5, 1, 8, 8)).shape
        torch.Size([5])

    References:
        | Spectral normalization for generative adversarial networks (Miyato, Kataoka, Koyama &
        | Yoshida, 2018) https://arxiv.org/abs/1802.05957
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bound: float = 1.0,
    ) -> None:
        super().__init__()
        start = nn.Conv2d(inputs, outputs, size)
        assert start.bias is not None  # it is unless refused
        self.weight, self.bias = start.weight, start.bias
        self.stride, self.padding = stride, padding
        self.normalise = SpectralNormalisation(bound)

    def forward(self, x: Tensor) -> Tensor:  # (*batch, inputs, h, w) -> (*batch, outputs, h', w')
        """The outputs."""
        weight = self.normalise(self.weight)
        return nn.functional.conv2d(x, weight, self.bias, self.stride, self.padding)
