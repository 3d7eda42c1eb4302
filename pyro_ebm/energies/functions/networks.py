r"""Networks as energies, ready made.

.. math:: E(x) = \frac{\|x\|^2}{2 s^2} + f_\theta(x)

A network tilts the normal law of standard deviation s. With s infinite it stands alone, and on an
unbounded site nothing then makes exp(−E) integrable.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from pyro_ebm.sites import Site, is_count

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

    Any other module is an energy as `CallableEnergy(module, sites)`.

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

    Example:
        >>> import torch
        >>> from pyro_ebm import mlp_energy
        >>> energy = mlp_energy(2, widths=(16, 16), spread=3.0)
        >>> energy(torch.randn(5, 2)).shape
        torch.Size([5])

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

    Example:
        >>> import torch
        >>> from pyro_ebm import convolutional_energy
        >>> energy = convolutional_energy((1, 8, 8), channels=(4, 8))
        >>> energy(torch.rand(5, 1, 8, 8)).shape
        torch.Size([5])

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
    if not isinstance(sizes, Sequence) or not all(is_count(size) for size in sizes):
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
