"""Annealing and tempering on one thread, beside what each temperature cannot do without.

The bound of a graph is one random number for each update, that of an RBM the two products and the
random numbers, that of a dense layer the product that makes all fields once.
"""

import networkx as nx
import torch
from _paired import paired, table

import pyro_ebm as pe


def annealed(
    title: str, machine: pe.Energy, chains: int, steps: int, *, weight: torch.Tensor | None = None
) -> None:
    units = [site.shape.numel() for site in machine.sites.values()]
    values = [torch.rand(chains, n).round() for n in units]
    fields = [torch.empty(chains, n) for n in units]

    def bare() -> None:
        for _ in range(steps):
            if weight is not None:
                for x in values:
                    x @ (weight if x.shape[1] == len(weight) else weight.T)
            for field in fields:
                torch.rand_like(field)

    betas = torch.linspace(0.1, 1, steps)
    kernel = pe.Gibbs()
    state = kernel.init(machine, pe.anneal(machine, betas[:1], chains=chains, seed=0).x)

    def sweeps() -> None:
        now = state
        for _ in range(steps):
            now, _ = kernel.step(machine, now)

    works = {
        "pyro_ebm.anneal": lambda: pe.anneal(machine, betas, chains=chains, seed=0),
        "the same sweeps at one temperature": sweeps,
    }
    result = paired(bare, works)
    amount = sum(units) * chains * steps
    table(f"{title}, {chains} chains, {steps} temperatures", "updates/s", amount, result)
    print(f"seconds: bound {result[0]:.3f}, anneal {result[1]['pyro_ebm.anneal'][0]:.3f}")


def tempered(title: str, machine: pe.Energy, chains: int, steps: int) -> None:
    kernel = pe.ParallelTempering(pe.Gibbs(), tuple(torch.linspace(0.1, 1, 12).tolist()))
    state = kernel.init(machine, pe.anneal(machine, [0.1], chains=chains, seed=0).x)
    units = sum(site.shape.numel() for site in machine.sites.values())

    def bare() -> None:
        for _ in range(steps):
            torch.rand(units, chains * 12)

    def moves() -> None:
        now = state
        for _ in range(steps):
            now, _ = kernel.step(machine, now)

    amount = units * chains * 12 * steps
    result = paired(bare, {"ParallelTempering(Gibbs())": moves})
    table(f"{title}, {chains} chains, 12 levels", "updates/s", amount, result)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torus = nx.grid_2d_graph(10, 80, periodic=True)  # as G11
    drawn = nx.gnm_random_graph(800, 4694, seed=0)  # as many edges as G14
    spins = {"torus of 800 spins": torus, "800 spins, 4,694 edges": drawn}
    for name, graph in spins.items():
        weight = 2.0 * torch.randint(0, 2, (graph.number_of_edges(),)) - 1
        machine = pe.BoltzmannMachine.on_graph(graph, couplings=weight)
        annealed(name, machine, chains=64, steps=200)
        tempered(name, machine, chains=16, steps=50)
    weight = 0.05 * torch.randn(784, 20)
    rbm = pe.BoltzmannMachine.restricted(784, 20, couplings=weight)
    annealed("RBM 784x20", rbm, chains=100, steps=1000, weight=weight)
    weight = torch.randn(100, 100) / 10
    glass = pe.BoltzmannMachine.fully_visible(100, unit=pe.Spin(), couplings=weight)
    annealed("dense glass of 100 spins", glass, chains=64, steps=30, weight=weight)


if __name__ == "__main__":
    main()
