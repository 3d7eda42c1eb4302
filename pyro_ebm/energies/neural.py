r"""Networks as energies, ready made.

.. math:: E(x) = \frac{\|x\|^2}{2 s^2} + f_\theta(x)

A network tilts the normal law of standard deviation s. With s infinite it stands alone, and on an
unbounded site nothing then makes exp(−E) integrable.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_ebm.sites import Site

from .callable import CallableEnergy, named_sites

SMALLEST = 1e-12  # spectral norms below it are not divided by


def mlp_energy(
    sites: Mapping[str, Site] | Sequence[int] | int,
    widths: Sequence[int] = (64, 64),
    *,
    spread: float = 1.0,
    activation: Callable[[], nn.Module] = nn.SiLU,
    linear: Callable[[int, int], nn.Module] = nn.Linear,
) -> CallableEnergy:
    r"""A multilayer perceptron as an energy, :math:`E(x) = \|x\|^2 / 2 s^2 + f_\theta(x)`.

    With a finite spread Z is finite for every θ, if the activation grows at most linearly: f is
    then Lipschitz, and the square outgrows it. With `spread=math.inf` p exists only if f itself
    rises in every direction (a bounded site has no such worry); it need not, and while f is
    learned it may cease to.

    Args:
        sites: The one site by name, or the shape of one real site called `visible`; the network
            reads its values as one vector.
        widths: The widths of the hidden layers; without any, f is linear.
        spread: The standard deviation s of the normal law that the network tilts; that of the data
            is a good one.
        activation: Makes the non-linearity between layers; smooth, for kernels that use gradients.
        linear: Makes a layer from its widths; `SpectralLinear` bounds how fast f varies.

    Raises:
        TypeError, ValueError: If there are several sites, or a width or the spread is not positive.

    References:
        | A theory of generative ConvNet (Xie, Lu, Zhu & Wu, 2016) https://arxiv.org/abs/1602.03264
    """
    site = only(named_sites(sites))
    sizes = (site.shape.numel(), *positive_sizes("widths", widths))
    layers: list[nn.Module] = [Vector()]
    for before, after in itertools.pairwise(sizes):
        layers += [linear(before, after), activation()]
    layers.append(linear(sizes[-1], 1))
    return CallableEnergy(TiltedNormal(nn.Sequential(*layers), spread), sites)


def convolutional_energy(
    sites: Mapping[str, Site] | Sequence[int],
    channels: Sequence[int] = (32, 64),
    *,
    spread: float = 1.0,
    activation: Callable[[], nn.Module] = nn.SiLU,
    convolution: Callable[..., nn.Module] = nn.Conv2d,
    linear: Callable[[int, int], nn.Module] = nn.Linear,
) -> CallableEnergy:
    r"""A convolutional network as an energy of images, :math:`\|x\|^2 / 2 s^2 + f_\theta(x)`.

    Convolutions of 3×3 with stride 2, each halving height and width, then one linear layer. What
    `mlp_energy` says about Z holds here too.

    Args:
        sites: The shape (channels, height, width) of the real site `visible`, or the site by name.
        channels: How many channels each convolution gives.
        spread: The standard deviation s of the normal law that the network tilts.
        activation: Makes the non-linearity after each convolution.
        convolution: Makes a convolution, called as `nn.Conv2d`; or `SpectralConvolution`.
        linear: Makes the last layer; or `SpectralLinear`.

    Raises:
        TypeError, ValueError: If there are several sites, the shape is not that of an image, or a
            count of channels or the spread is not positive.

    References:
        | A theory of generative ConvNet (Xie, Lu, Zhu & Wu, 2016) https://arxiv.org/abs/1602.03264
    """
    site = only(named_sites(sites))
    if len(site.shape) != 3:
        raise ValueError(
            f"The site has the shape {tuple(site.shape)}; wanted (channels, height, width), for "
            f"example (1, 28, 28) for grey images."
        )
    before, height, width = site.shape
    layers: list[nn.Module] = []
    for after in positive_sizes("channels", channels):
        layers += [convolution(before, after, 3, stride=2, padding=1), activation()]
        before, height, width = after, (height + 1) // 2, (width + 1) // 2
    layers += [nn.Flatten(), linear(before * height * width, 1)]
    return CallableEnergy(TiltedNormal(nn.Sequential(*layers), spread), sites)


def only(sites: Mapping[str, Site]) -> Site:
    """The one site.

    Raises:
        ValueError: If there are several.
    """
    if len(sites) > 1:
        raise ValueError(
            f"sites has {list(sites)}; this network reads one site. For several write a module "
            f"with forward({', '.join(sites)}) and make a CallableEnergy of it."
        )
    return next(iter(sites.values()))


def positive_sizes(name: str, sizes: Sequence[int]) -> tuple[int, ...]:
    """The sizes, checked.

    Raises:
        ValueError: If they are not positive whole numbers.
    """
    if isinstance(sizes, int) or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(f"{name} is {sizes!r}; wanted positive whole numbers, such as (64, 64).")
    return tuple(sizes)


def vector(x: Tensor) -> Tensor:  # (rows, *shape) -> (rows, numbers)
    """Each row as one vector; a single number too, which torch's `flatten(1)` refuses."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


class Vector(nn.Module):
    """`vector`, as the first layer of a network."""

    def forward(self, x: Tensor) -> Tensor:  # (rows, *shape) -> (rows, numbers)
        """The vectors."""
        return vector(x)


class TiltedNormal(nn.Module):
    r""":math:`\|x\|^2 / 2 s^2 + f(x)`, for a network f of one row to one number.

    Args:
        network: f, from (rows, *shape) to (rows, 1).
        spread: s, positive; infinite for the network alone.

    Raises:
        ValueError: If the spread is not positive.
    """

    def __init__(self, network: nn.Module, spread: float) -> None:
        super().__init__()
        if not spread > 0:
            raise ValueError(
                f"spread is {spread!r}; wanted a positive number, or math.inf for the network "
                f"alone."
            )
        self.network, self.spread = network, float(spread)

    def forward(self, x: Tensor) -> Tensor:  # (rows, *shape) -> (rows,)
        """The energy of each row."""
        energy = self.network(x).squeeze(-1)
        if math.isinf(self.spread):
            return energy
        return energy + vector(x / self.spread).square().sum(1) / 2


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
