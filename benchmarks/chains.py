"""A thousand chains at once: log Z, gradient and draws, beside a plain recursion, on one thread."""

import importlib.util

import torch
from _paired import paired
from torch import Tensor

from pyro_ebm import RandomField, elimination

CHAINS, STEPS, LABELS = 1000, 100, 20


def forward(unary: Tensor, pairwise: Tensor) -> Tensor:  # (chains, steps, q), (q, q) -> (chains,)
    """The forward recursion as one would write it in torch."""
    message = unary[:, 0]
    for t in range(1, unary.shape[1]):
        message = (message[:, :, None] + pairwise).logsumexp(1) + unary[:, t]
    return message.logsumexp(-1)


def backward_draws(unary: Tensor, pairwise: Tensor) -> Tensor:  # (chains, steps)
    """One draw of each chain: forward, then backward through the kept messages."""
    messages = [unary[:, 0]]
    for t in range(1, unary.shape[1]):
        joint = messages[-1][:, :, None] + pairwise
        messages.append(joint.logsumexp(1) + unary[:, t])
    label = torch.distributions.Categorical(logits=messages[-1]).sample()
    labels = [label]
    for message in reversed(messages[:-1]):
        logits = message + pairwise[:, label].mT
        label = torch.distributions.Categorical(logits=logits).sample()
        labels.append(label)
    return torch.stack(labels[::-1], -1)


def show(title: str, result: tuple[float, dict]) -> None:
    """Milliseconds, and how many times as fast as the plain recursion."""
    plain, works = result
    print(f"\n{title}\n{'':44s}{'ms':>12s}{'times as fast':>16s}")
    print(f"{'plain torch':44s}{plain * 1e3:12.1f}{1:16.2f}")
    for name, (took, share) in works.items():
        print(f"{name:44s}{took * 1e3:12.1f}{share:16.2f}")


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    unary = torch.randn(CHAINS, STEPS, LABELS, dtype=torch.float64, requires_grad=True)
    pairwise = torch.randn(1, LABELS, LABELS, dtype=torch.float64, requires_grad=True)
    lengths = torch.randint(1, STEPS + 1, (CHAINS,))
    print(f"{CHAINS} chains of {STEPS} steps with {LABELS} labels, float64, one thread")

    def ours(lengths: Tensor | None = None) -> Tensor:
        chains = RandomField.chain(unary, pairwise, lengths=lengths)
        return elimination.log_partition(chains).sum()

    with torch.no_grad():
        works = {
            "elimination": ours,
            "elimination, sequences of unequal length": lambda: ours(lengths),
        }
        show("log Z", paired(lambda: forward(unary, pairwise[0]), works))
        chains = RandomField.chain(unary.detach(), pairwise.detach())
        draws = {
            "elimination, a draw of each": lambda: elimination.sample(chains, 1),
            "elimination, ten draws of each": lambda: elimination.sample(chains, 10),
            "elimination, the mode of each": lambda: elimination.mode(chains),
        }
        show("draws", paired(lambda: backward_draws(unary, pairwise[0]), draws))
    gradients = {
        "elimination": lambda: ours().backward(),
        "elimination, all node marginals": lambda: elimination.node_marginals(chains),
    }
    show(
        "log Z with its gradient (forward-backward)",
        paired(lambda: forward(unary, pairwise[0]).sum().backward(), gradients),
    )
    if importlib.util.find_spec("torch_struct") is None:
        print("\n(pytorch-struct is not installed, and so not compared)")
        return
    import torch_struct

    # It declares no constraints of its own, which torch's validation asks for.
    torch.distributions.Distribution.set_default_validate_args(False)
    # A twentieth of the chains: for all of them it takes a minute and several gigabytes.
    some = unary.detach()[: CHAINS // 20]
    edge = pairwise.detach().mT.expand(len(some), STEPS - 1, LABELS, LABELS).clone()
    edge += some[:, 1:, :, None]
    edge[:, 0] += some[:, 0, None, :]
    chains = RandomField.chain(some, pairwise.detach())
    with torch.no_grad():
        works = {
            "elimination": lambda: elimination.log_partition(chains),
            "pytorch-struct": lambda: torch_struct.LinearChainCRF(edge).partition,
        }
        plain = paired(lambda: forward(some, pairwise[0]), works)
        show(f"log Z of {len(some)} chains, beside pytorch-struct", plain)


if __name__ == "__main__":
    main()
