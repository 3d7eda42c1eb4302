"""Gibbs sampling through `run`, draws kept, on one thread, beside the products that bound it.

Block Gibbs of an RBM: v W and h Wᵀ. Sequential Gibbs of a dense layer: the fields of 64 units at a
time, for all chains. Coloured Gibbs has no products; its rate stands alone.
"""

import networkx as nx
import torch
from _paired import paired, table

import pyro_ebm as pe


def rbm(chains: int, sweeps: int) -> None:
    machine = pe.BoltzmannMachine.restricted(784, 500)
    weight = machine.couplings["visible_hidden"].weight.detach()
    v, h = torch.rand(chains, 784).round(), torch.rand(chains, 500).round()

    def bare() -> None:
        for _ in range(sweeps):
            v @ weight, h @ weight.T

    length = {"draws": sweeps, "warmup": 0}
    thinned = {"draws": sweeps // 10, "warmup": 0, "thinning": 10}
    works = {
        "pyro_ebm.run, every sweep kept": lambda: pe.run(
            pe.Gibbs(), machine, **length, chains=chains, seed=0
        ),
        "pyro_ebm.run, every tenth kept": lambda: pe.run(
            pe.Gibbs(), machine, **thinned, chains=chains, seed=0
        ),
    }
    table(f"RBM 784x500, {chains} chains", "chain-sweeps/s", chains * sweeps, paired(bare, works))


def dense(n: int, chains: int, sweeps: int) -> None:
    machine = pe.BoltzmannMachine.fully_visible(n, couplings=0.05 * torch.randn(n, n))
    weight = machine.couplings["visible_visible"].weight.detach()
    weight = weight + weight.T
    x = torch.rand(n, chains).round()

    def bare() -> None:
        for _ in range(sweeps):
            for block in weight.split(64):
                block @ x

    length = {"draws": sweeps, "warmup": 0}
    works = {"pyro_ebm.run": lambda: pe.run(pe.Gibbs(), machine, **length, chains=chains, seed=0)}
    table(
        f"dense machine of {n} units, {chains} chains, sequential",
        "updates/s",
        n * chains * sweeps,
        paired(bare, works),
    )


def lattice(side: int, chains: int, sweeps: int) -> None:
    graph = nx.grid_2d_graph(side, side, periodic=True)
    machine = pe.BoltzmannMachine.on_graph(graph, couplings=torch.tensor([0.4]))
    length = {"draws": 1, "warmup": sweeps}
    works = {"pyro_ebm.run": lambda: pe.run(pe.Gibbs(), machine, **length, chains=chains, seed=0)}
    n = side * side
    _, found = paired(lambda: None, works)
    rate = n * chains * (sweeps + 1) / found["pyro_ebm.run"][0]
    print(f"\nIsing {side}x{side}, {chains} chains, by colours{rate:20.3g} updates/s")


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rbm(chains=100, sweeps=200)
    rbm(chains=1000, sweeps=20)
    dense(500, chains=1, sweeps=2)
    dense(500, chains=64, sweeps=5)
    dense(500, chains=1024, sweeps=5)
    dense(2000, chains=1024, sweeps=1)
    lattice(256, chains=64, sweeps=4)


if __name__ == "__main__":
    main()
