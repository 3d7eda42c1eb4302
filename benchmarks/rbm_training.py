"""RBM training, 784x500, one step of the chain for each step of learning, on one thread.

The bound is the five matrix products of a step and nothing else: v W, h Wᵀ, v' W, vᵀ h, v'ᵀ h'.
"""

import functools
import warnings

import torch
from _paired import paired, table
from sklearn.neural_network import BernoulliRBM
from threadpoolctl import threadpool_limits
from torch import Tensor

import pyro_ebm as pe

ROWS, EPOCHS, VISIBLE, HIDDEN = 4096, 4, 784, 500


def bare(batch: int, weight: Tensor) -> None:
    """The products of so many epochs."""
    v, h = torch.rand(batch, VISIBLE).round(), torch.rand(batch, HIDDEN).round()
    for _ in range(EPOCHS * -(-ROWS // batch)):
        v @ weight, h @ weight.T, v @ weight, v.T @ h, v.T @ h


def fit(machine: pe.BoltzmannMachine, data: Tensor, objective: pe.Objective, batch: int) -> None:
    """The library's epochs, with its metrics read once."""
    pe.fit(
        machine,
        data,
        objective,
        epochs=EPOCHS,
        batch_size=batch,
        optimizer=functools.partial(torch.optim.SGD, lr=0.01),
        observers=[pe.Monitor(every=EPOCHS, rows=batch)],
        seed=0,
    )


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = torch.bernoulli(torch.rand(VISIBLE).expand(ROWS, -1))
    weight = 0.01 * torch.randn(VISIBLE, HIDDEN)
    machine = pe.BoltzmannMachine.restricted(VISIBLE, HIDDEN)
    pe.init_biases_from_data(machine, data)
    for batch in (100, 512):
        peer = BernoulliRBM(
            HIDDEN, batch_size=batch, learning_rate=0.01, n_iter=EPOCHS, random_state=0
        )
        cd, pcd = pe.ContrastiveDivergence(), pe.PersistentContrastiveDivergence(chains=batch)
        works = {
            "pyro_ebm.fit, CD-1": functools.partial(fit, machine, data, cd, batch),
            "pyro_ebm.fit, PCD-1": functools.partial(fit, machine, data, pcd, batch),
            "scikit-learn BernoulliRBM (PCD-1)": functools.partial(peer.fit, data.numpy()),
        }
        result = paired(functools.partial(bare, batch, weight), works)
        table(f"batch {batch}", "rows/s", EPOCHS * ROWS, result)


if __name__ == "__main__":
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main()
