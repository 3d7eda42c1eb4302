"""Exact maximum likelihood and persistent contrastive divergence, on the same binary data.

A fully visible machine of 16 units: the middle pixels of the digits, or the data of an .npz file
with binary arrays `train` and `test`, named on the command line. Exact maximum likelihood is the
yardstick; PCD, which never computes log Z, should end within a few hundredths of a nat of it. The
offsets (centring) do not change what can be learned, only how well conditioned learning is.
"""

import functools
import sys
import time

import numpy as np
import torch

import pyro_ebm as pe

torch.set_num_threads(1)
torch.manual_seed(0)
if len(sys.argv) > 1:
    arrays = np.load(sys.argv[1])
    train, test = (torch.tensor(arrays[name]).double() for name in ("train", "test"))
else:
    middle = [8 * row + column for row in range(2, 6) for column in range(2, 6)]
    train, test = (rows[:, middle].double() for rows in pe.datasets.digits()[:2])
n, epochs = train.shape[1], 60


def report(name: str, value: float, begin: float) -> None:
    """One line of the table."""
    print(f"{name:34s}{value:10.4f}{time.perf_counter() - begin:8.1f}")


class Slower(pe.AfterEpoch):
    """Lets the learning rate fall by torch's scheduler."""

    def __init__(self, scheduler: torch.optim.lr_scheduler.LRScheduler) -> None:
        self.scheduler = scheduler

    def after_epoch(self, progress: pe.Progress) -> None:
        """Sets the rate of the next epoch."""
        self.scheduler.step()


print(f"{len(train)} rows of {n} units.  Mean test log-likelihood in nats, and seconds:")
report(
    "independent units", pe.statistics.independent_log_likelihood(train, test), time.perf_counter()
)
report("Chow-Liu tree", pe.statistics.chow_liu_log_likelihood(train, test), time.perf_counter())

begin = time.perf_counter()
likeliest = pe.BoltzmannMachine.fully_visible(n).double()
lbfgs = functools.partial(torch.optim.LBFGS, max_iter=200, line_search_fn="strong_wolfe")
last = pe.Monitor(every=epochs, held_out=test)
exact = pe.fit(likeliest, train, pe.ExactLikelihood(), epochs=1, optimizer=lbfgs, observers=[last])
report("exact maximum likelihood", exact.metrics[-1]["held_out_log_likelihood"], begin)

begin = time.perf_counter()
machine = pe.BoltzmannMachine.fully_visible(n, offset=train.mean(0))
pe.init_biases_from_data(machine, train)
optimizer = torch.optim.Adam(machine.parameters(), lr=0.05)
scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.01 ** (1 / epochs))
pcd = pe.fit(
    machine,
    train,
    pe.PersistentContrastiveDivergence(steps=1, chains=500),
    epochs=epochs,
    batch_size=min(500, len(train) // 10),
    optimizer=optimizer,
    observers=[last, Slower(scheduler)],
    seed=0,
)
report("persistent contrastive divergence", pcd.metrics[-1]["held_out_log_likelihood"], begin)
