"""An image in three labels, seen through noise: how much a Potts field knows about it.

A label image of 10 × 60 pixels is drawn from shapes, and every pixel is replaced with probability
0.45 by one of the other two labels. The posterior of the image is a Potts field in which the data
are the nodes' log-potentials. A lattice ten pixels high is narrow enough for exact elimination: the
likeliest image (the mode), the likeliest label of every pixel (from exact marginals), and exact
draws. Gibbs sampling, which needs no narrow lattice, is held beside the exact marginals.
"""

import networkx as nx
import torch

from pyro_ebm import Gibbs, RandomField, Schedule, elimination, run

torch.manual_seed(0)
rows, columns, labels, noise, coupling = 10, 60, 3, 0.45, 0.9

row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
truth = torch.zeros(rows, columns, dtype=torch.int64)
for k in range(5):
    disc = (row - 4.5) ** 2 + (column - 6 - 12 * k) ** 2 < 18
    truth[disc] = 1 + k % 2
truth[8:] = 2

other = (truth + torch.randint(1, labels, truth.shape)) % labels
seen = torch.where(torch.rand(truth.shape) < noise, other, truth)

# log p(seen | label): the right label with 1 − noise, each other one with noise / 2.
likelihood = torch.full((labels, labels), noise / (labels - 1)).double()
likelihood.fill_diagonal_(1 - noise)
posterior = RandomField.potts(
    nx.grid_2d_graph(rows, columns),
    labels,
    coupling=torch.tensor([coupling], dtype=torch.float64),
    field=likelihood.log()[seen.flatten()],
)


def error(image: torch.Tensor) -> float:
    """The share of wrong pixels."""
    return float((image.reshape(truth.shape) != truth).float().mean())


def show(title: str, image: torch.Tensor) -> None:
    """The image in letters."""
    print(f"\n{title}: {error(image):.1%} of the pixels are wrong")
    for line in image.reshape(truth.shape).tolist():
        print("".join(".ox"[int(label)] for label in line))


plan = elimination.plan(posterior)
print(f"width {plan.width}, {plan.bytes_kept / 2**20:.0f} MiB")
mode = elimination.mode(posterior)
marginals = elimination.node_marginals(posterior)
draws = elimination.sample(posterior, 100, seed=0)["visible"]
show("seen", seen)
show("likeliest image", mode.x["visible"])
show("likeliest label of each pixel", marginals.argmax(-1))
print(
    f"\nan exact draw of the posterior: {sum(map(error, draws)) / len(draws):.1%} wrong on average"
)

chains = run(Gibbs(), posterior, Schedule(warmup=200, draws=500), chains=8, seed=0)
pixels = chains.draws["visible"].flatten(0, 1).long()
frequencies = torch.nn.functional.one_hot(pixels, labels).double().mean(0)
print(f"Gibbs, likeliest label of each pixel: {error(frequencies.argmax(-1)):.1%} wrong")
gap = (frequencies - marginals).abs()
print(f"Gibbs less exact marginals: {gap.mean():.4f} on average, {gap.max():.3f} at most")
