"""Where learning starts: biases, and precisions, with which uncoupled units follow the data."""

import torch
from torch import Tensor, nn

from pyro_ebm.energies import BoltzmannMachine, Layer
from pyro_ebm.sites import Sites
from pyro_ebm.units import Gaussian, Unit

from .base import rows_of


def init_biases_from_data(
    energy: BoltzmannMachine, data: Sites | Tensor, *, pseudocount: float = 1.0
) -> None:
    """Sets the biases of the observed layers so that, uncoupled, they have the data's means.

    Learned precisions of Gaussian layers are set to one over the data's variances.

    Args:
        energy: A machine whose biases are learned.
        data: Observed sites (rows, n), or a bare tensor for `visible`.
        pseudocount: Added to the count of each value of a unit that has finitely many, so that the
            biases are finite.

    Raises:
        TypeError: If the energy has no layers with biases.
        ValueError: If biases are given and not learned, the pseudocount is not positive, or a
            column whose precision is learned has the same value in every row.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, init_biases_from_data
        >>> machine = BoltzmannMachine.restricted(2, 2, couplings=torch.zeros(2, 2))
        >>> init_biases_from_data(machine, torch.tensor([[1.0, 0.0], [1.0, 1.0]]), pseudocount=0.5)
        >>> machine.layers["visible"].bias.detach()
        tensor([1.6094, 0.0000])

    References:
        | A practical guide to training restricted Boltzmann machines (Hinton, 2012), §8
        | https://doi.org/10.1007/978-3-642-35289-8_32
    """
    if not isinstance(energy, BoltzmannMachine):
        raise TypeError(
            f"init_biases_from_data needs a BoltzmannMachine; {type(energy).__name__} is none."
        )
    if not pseudocount > 0:
        raise ValueError(f"pseudocount is {pseudocount}; wanted a positive number.")
    x = energy.accept(data)
    rows_of(x, energy.sites)
    for site, value in x.items():
        layer = energy.layers[site]
        if not isinstance(layer.bias, nn.Parameter):
            raise ValueError(
                f"The biases of {site!r} were given as a plain tensor, which is kept as it is. "
                f"Give them as nn.Parameter, or leave them out, for them to be learned."
            )
        with torch.no_grad():
            learn_precision(layer, site, value)
            unit = layer.read_unit()
            wanted = unit.field(smoothed_mean(unit, value, pseudocount))
            # Self-couplings are a bias too.
            layer.bias.add_(wanted - energy.uncoupled_bias(site))


def smoothed_mean(unit: Unit, value: Tensor, pseudocount: float) -> Tensor:  # (n * width,)
    """The mean of the features, as if each of finitely many values stood in some more rows."""
    features = unit.features(value)
    if unit.levels is None:
        return features.mean(0)
    levels = unit.features(value.new_tensor(unit.levels)[:, None])  # (levels, width)
    more = pseudocount * levels.sum(0).repeat(value.shape[-1])
    return (features.sum(0) + more) / (len(value) + pseudocount * len(levels))


def learn_precision(layer: Layer, site: str, value: Tensor) -> None:
    """Sets the precisions of a Gaussian layer, where they are learned.

    Raises:
        ValueError: If a column has no variance.
    """
    own = dict(layer.named_parameters(recurse=False)).get("log_precision")
    if own is None or not isinstance(layer.unit, Gaussian):
        return
    variance = value.var(0, correction=0)
    if constant := (variance == 0).nonzero()[:, 0].tolist():
        raise ValueError(
            f"The units {constant[:10]} of {site!r} have the same value in every row, so their "
            f"precisions would grow without end. Leave these columns out, or give the precisions."
        )
    own.copy_(-(variance.mean().log() if own.dim() == 0 else variance.log()))
