"""An image in three labels, seen through noise: how much a Potts field knows about it.

A label image of 8 × 48 pixels is drawn from shapes, and every pixel is replaced with probability
0.3 by one of the other two labels. The posterior of the image is a Potts field in which the data
are the nodes' log-potentials. A lattice eight pixels high is narrow enough for exact elimination:
the evidence of each coupling (a difference of two log Z, by which the coupling is chosen), the
likeliest image, the likeliest label of each pixel, and independent draws. Gibbs sampling, which
needs no narrow lattice, is held beside the exact marginals. (With unknown grey levels and noise, by
chains of a Pyro model: image_segmentation.py.)
"""

import networkx as nx
import torch

from pyro_ebm import Gibbs, RandomField, elimination, run

torch.manual_seed(0)
rows, columns, labels, noise = 8, 48, 3, 0.3

row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
truth = torch.zeros(rows, columns, dtype=torch.int64)
for k in range(4):
    truth[(row - 2.5) ** 2 + (column - 6 - 12 * k) ** 2 < 12] = 1 + k % 2
truth[-2:] = 2
other = (truth + torch.randint(1, labels, truth.shape)) % labels
seen = torch.where(torch.rand(truth.shape) < noise, other, truth)

# log p(seen | label): 1 − noise for the right label, noise / 2 for each other one.
likelihood = torch.full((labels, labels), noise / (labels - 1)).double().fill_diagonal_(1 - noise)
data = likelihood.log()[seen.flatten()]


def potts(coupling: float, field: torch.Tensor) -> RandomField:
    strength = torch.tensor([coupling], dtype=torch.float64)
    return RandomField.potts(
        nx.grid_2d_graph(rows, columns), labels, couplings=strength, biases=field
    )


def error(image: torch.Tensor) -> float:
    """The share of wrong pixels."""
    return float((image.reshape(truth.shape) != truth).double().mean())


def show(title: str, image: torch.Tensor) -> None:
    """The image in letters."""
    print(f"\n{title}: {error(image):.1%} of the pixels are wrong")
    for line in image.reshape(truth.shape).tolist():
        print("".join(".ox"[int(label)] for label in line))


evidence = {}
for coupling in (0.8, 0.9, 1.0, 1.1, 1.2):
    prior = potts(coupling, torch.zeros(1, labels).double())
    posterior = potts(coupling, data)
    evidence[coupling] = (
        elimination.log_partition(posterior) - elimination.log_partition(prior)
    ).item()
    print(f"coupling {coupling}: log evidence {evidence[coupling]:.2f}")
posterior = potts(max(evidence, key=evidence.__getitem__), data)
plan = elimination.plan(posterior)
print(f"width {plan.width}, {plan.bytes_kept / 2**20:.0f} MiB for marginals and draws")

marginals = elimination.node_marginals(posterior)
draws = elimination.sample(posterior, 100, seed=0)["visible"]
show("seen", seen)
show("likeliest image", elimination.mode(posterior).x["visible"])
show("likeliest label of each pixel", marginals.argmax(-1))
print(f"\nexact draws of the posterior: {sum(map(error, draws)) / len(draws):.1%} wrong")

chains = run(Gibbs(), posterior, draws=400, warmup=100, chains=16, seed=0)
pixels = chains.draws["visible"].flatten(0, 1).long()
frequencies = torch.nn.functional.one_hot(pixels, labels).double().mean(0)
gap = (frequencies - marginals).abs()
print(f"Gibbs, likeliest label of each pixel: {error(frequencies.argmax(-1)):.1%} wrong")
print(f"Gibbs less exact marginals: {gap.mean():.4f} on average, {gap.max():.3f} at most")
