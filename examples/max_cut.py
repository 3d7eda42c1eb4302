"""Maximum cuts as ground states: by annealing, and by the coldest level of tempering.

A cut of a graph with weights w is a spin for each node, and its value is Σ (w − w s s) / 2 over the
edges: the lower Σ w s s, the larger the cut. Give a folder with graphs of the G-set (lines
"i j w" or "i j", nodes from 1) to see the cuts that are found beside the best ones known:

    python examples/max_cut.py maxcut/
"""

import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from pyro_ebm import BoltzmannMachine, Gibbs, ParallelTempering, anneal, descend, run

BEST_KNOWN = {"G1": 11624, "G2": 11620, "G3": 11622, "G11": 564, "G12": 556, "G14": 3063}
WANTED = ("G11", "G14")


def read_graph(path: Path) -> tuple[int, Tensor, Tensor]:
    """The number of nodes, edges (edges, 2) and weights (edges,) of a file, 1 where it has none."""
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    (n, _), *rows = [tuple(map(int, line)) for line in lines]
    table = torch.tensor([row if len(row) > 2 else (*row, 1) for row in rows])
    return n, table[:, :2] - 1, table[:, 2].float()


def random_torus(rows: int, columns: int) -> tuple[int, Tensor, Tensor]:
    """Weights −1 and 1 on a torus, as in G11."""
    number = torch.arange(rows * columns).reshape(rows, columns)
    edges = [torch.stack([number, number.roll(-1, dim)], -1).reshape(-1, 2) for dim in (0, 1)]
    weight = 2.0 * torch.randint(0, 2, (2 * number.numel(),)) - 1
    return rows * columns, torch.cat(edges), weight


def cut_of(energy: Tensor, weight: Tensor) -> int:
    """The largest cut among chains, from the energies Σ w s s."""
    return round(float(weight.sum() - energy.min()) / 2)


torch.manual_seed(0)
graphs = {"torus": random_torus(10, 12)}
if len(sys.argv) > 1:
    graphs = {name: read_graph(Path(sys.argv[1]) / f"{name}.txt") for name in WANTED}
sweeps = 2500 if len(sys.argv) > 1 else 500

for name, (n, edges, weight) in graphs.items():
    machine = BoltzmannMachine.on_graph(edges, n, couplings=-weight)

    begin = time.perf_counter()
    cooled = anneal(machine, torch.linspace(0.1, 3, sweeps), chains=64, seed=1)
    found = descend(machine, cooled.x)
    annealed, seconds = cut_of(found.energy, weight), time.perf_counter() - begin

    begin = time.perf_counter()
    cold = BoltzmannMachine.on_graph(edges, n, couplings=-2.5 * weight)  # at the temperature 0.4
    ladder = ParallelTempering(Gibbs(), tuple(torch.linspace(0.1, 1, 12).tolist()))
    chains = run(ladder, cold, draws=sweeps // 3, warmup=sweeps // 25, chains=16, seed=1)
    # Only the places near the lowest energies that each chain has seen are worth a descent.
    lowest = chains.statistics["lp"].argmax(1)
    visited = chains.draws["visible"][torch.arange(16), lowest].float()
    tempered = cut_of(descend(machine, visited).energy, weight)
    report = ladder.report(chains.state)

    known = BEST_KNOWN.get(name)
    print(f"{name}: {n} nodes, best known cut {known or 'unknown'}")
    print(f"  annealing  {annealed}  in {seconds:.0f} s, 64 chains")
    print(f"  tempering  {tempered}  in {time.perf_counter() - begin:.0f} s, 16 chains, ", end="")
    print(f"barrier {report.barrier:.1f}, {int(report.round_trips.sum())} round trips")
    if known:
        print(f"  share of the best known: {max(annealed, tempered) / known:.4f}")
