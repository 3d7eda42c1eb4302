"""Which tensors an energy learns, and whether an optimiser moves them."""

from collections.abc import Callable, Iterable

import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.optim import Optimizer

from pyro_ebm.energies import Energy, Structure

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]

NAMED = 5  # of a list in a message


def learned_parameters(energy: Energy, structure: Structure) -> dict[str, nn.Parameter]:
    """The parameters that are learned, by name; each once, however often it is used.

    Args:
        energy: What is to be learned.
        structure: What is known of it.

    Raises:
        ValueError: If there is none, or a given tensor has gradients that no step would follow.
        FloatingPointError: If a parameter is NaN, or not finite in a machine.
    """
    learned = {name: p for name, p in energy.named_parameters() if p.requires_grad}
    # Layers and couplings keep a plain tensor, with its history, as a buffer.
    if kept := {name: value for name, value in energy.named_buffers() if value.requires_grad}:
        raise ValueError(not_learned(kept))
    if not learned:
        raise ValueError(
            "The energy has no learned parameters: those given as plain tensors are kept as they "
            "are, and those with requires_grad=False too. Give an nn.Parameter, or nothing, for "
            "what is to be learned; energy.requires_grad_() frees parameters that were frozen. "
            "What a plain function or a distribution was made of is not the energy's: make it an "
            "nn.Parameter of a module and give that, CallableEnergy(module, sites)."
        )
    structure.require_finite()
    bad = [name for name, value in energy.named_parameters() if bool(value.isnan().any())]
    if bad:
        raise FloatingPointError(
            f"The parameters {some(bad)} contain NaN before the first step. Begin at finite "
            f"numbers, for example those of an earlier machine."
        )
    return learned


def not_learned(kept: dict[str, Tensor]) -> str:
    """Why tensors with gradients are not learned, and what to do."""
    made = [name for name, value in kept.items() if not value.is_leaf]
    if not made:
        return (
            f"The tensors {some(kept)} require gradients, but are no parameters, so no step would "
            f"move them. Give each as an nn.Parameter to learn it, or as value.detach() to keep it."
        )
    module, _, name = made[0].rpartition(".")
    owner = f"energy.get_submodule({module!r})" if module else "energy"
    return (
        f"The tensors {some(made)} were computed from others when the energy was made, so learning "
        f"would move neither. Give the result as an nn.Parameter to learn it freely, or as "
        f"value.detach() to keep it. To learn what it is computed from, give an nn.Parameter and "
        f"call torch.nn.utils.parametrize.register_parametrization({owner}, {name!r}, module), "
        f"where module computes it and module.right_inverse goes back."
    )


def optimizer_of(given: Optimizer | MakeOptimizer, learned: dict[str, nn.Parameter]) -> Optimizer:
    """The optimiser that is given, or made of the parameters.

    Raises:
        TypeError: If it is none.
    """
    wanted = (
        "wanted a torch optimiser, or what makes one of the parameters, for example "
        "functools.partial(torch.optim.SGD, lr=0.05)."
    )
    if isinstance(given, PyroOptim):
        raise TypeError(
            f"optimizer is an optimiser of Pyro, which moves what pyro.param names; {wanted} Of "
            f"this one it is {torch_in_place_of(given)}."
        )
    if isinstance(given, Optimizer):
        return given
    if not callable(given):
        raise TypeError(f"optimizer is {given!r}; {wanted}")
    made = given(list(learned.values()))
    if not isinstance(made, Optimizer):
        raise TypeError(f"optimizer made {made!r} of the parameters; {wanted}")
    return made


def torch_in_place_of(optimizer: PyroOptim) -> str:
    """What makes the torch optimiser that one of Pyro wraps."""
    make, settings = optimizer.pt_optim_constructor, optimizer.pt_optim_args
    told = "lr=..."  # where they are a function of the name
    if isinstance(settings, dict):
        told = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    name = getattr(make, "__name__", "SGD")
    home = "torch.optim" if hasattr(torch.optim, name) else make.__module__
    return f"functools.partial({home}.{name}, {told})"


def require_moved(optimizer: Optimizer, learned: dict[str, nn.Parameter]) -> None:
    """Refuses an optimiser that does not move all that is learned.

    Raises:
        ValueError: If it leaves a parameter out.
    """
    moved = {id(p) for group in optimizer.param_groups for p in group["params"]}
    left = [name for name, parameter in learned.items() if id(parameter) not in moved]
    if not left:
        return
    own = type(optimizer).__name__
    if len(left) == len(learned):
        raise ValueError(
            f"The optimizer moves none of the energy's parameters {some(left)}: it was made of "
            f"others. Make it of this energy's, {own}(energy.parameters(), ...), or give what "
            f"makes it, functools.partial(torch.optim.{own}, ...)."
        )
    raise ValueError(
        f"The optimizer does not move the parameters {some(left)}. Make it of all, "
        f"{own}(energy.parameters(), ...), or keep these as they are: "
        f"energy.get_parameter({left[0]!r}).requires_grad_(False)."
    )


class Loose:
    """Watches the first two losses for tensors with gradients that no step moves.

    A plain function, or a distribution, has tensors that are not the energy's. Those that are no
    parameters may be made by the objective itself for one loss: they are judged by the second.

    Args:
        energy: What is learned.
        optimizer: Moves parameters.
    """

    def __init__(self, energy: Energy, optimizer: Optimizer) -> None:
        own = [p for group in optimizer.param_groups for p in group["params"]]
        self.moved = {id(tensor) for tensor in (*energy.parameters(), *own)}
        self.before: list[Tensor] | None = None
        self.is_over = False

    def look(self, loss: Tensor) -> None:
        """Refuses a loss whose gradient goes where no step follows.

        Raises:
            ValueError: If so.
        """
        if self.is_over:
            return
        loose = [leaf for leaf in leaves_of(loss) if id(leaf) not in self.moved]
        known = {id(leaf) for leaf in self.before or ()}
        for leaf in loose:
            if isinstance(leaf, nn.Parameter) or id(leaf) in known:
                raise ValueError(
                    f"The loss depends on a tensor of shape {tuple(leaf.shape)} that requires "
                    f"gradients, but is no parameter of the energy, so no step would move it; a "
                    f"plain function or a distribution may have it. To learn it, make it an "
                    f"nn.Parameter of a module and give that, CallableEnergy(module, sites); or, "
                    f"where nothing was computed from it beforehand, give an optimizer of it too, "
                    f"torch.optim.Adam([*energy.parameters(), tensor]). To keep it, call "
                    f"tensor.requires_grad_(False)."
                )
        self.before, self.is_over = loose, self.before is not None or not loose


def leaves_of(loss: Tensor) -> list[Tensor]:
    """The tensors that a loss was computed from and that get its gradient."""
    leaves, seen, left = [], {loss.grad_fn}, [loss.grad_fn]
    while left:
        node = left.pop()
        if node is None:
            continue
        if hasattr(node, "variable"):  # where gradients are added up
            leaves.append(node.variable)
        new = {before for before, _ in node.next_functions} - seen
        seen |= new
        left += new
    return leaves


def some(names: Iterable[str]) -> str:
    """Names for a message, the first few where there are many."""
    names = list(names)
    return f"{names[:NAMED]}{' …' if len(names) > NAMED else ''}"
