"""The command line: `pyro-ebm demo`, or `python -m pyro_ebm demo`."""

import argparse
import functools
import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .datasets import Digits, digits
from .diagnostics import to_arviz
from .energies import BoltzmannMachine
from .kernels import Chains, Gibbs, run
from .learning import (
    AfterEpoch,
    History,
    Monitor,
    PersistentContrastiveDivergence,
    Progress,
    fit,
    init_biases_from_data,
)
from .partition import exact
from .plots import energy_histograms, filters, images, learning_curve, restoration
from .restoration import Restored, complete, deviation, flipped, restore, wrong_pixels
from .statistics import (
    chow_liu_log_likelihood,
    describe_frozen,
    frozen_units,
    independent_log_likelihood,
)

HIDDEN = 20
LEARNING_RATE = 0.015
PIXELS = [f"row {k // 8} column {k % 8}" for k in range(64)]
FLIPPED = 0.1  # of a digit's pixels, before it is restored


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script; returns the exit status."""
    parser = argparse.ArgumentParser(prog="pyro-ebm", description="Energy-based models for Pyro.")
    commands = parser.add_subparsers(dest="command", required=True)
    demo_parser = commands.add_parser(
        "demo", help="learn handwritten digits, sample the machine, restore noisy digits"
    )
    demo_parser.add_argument(
        "--out", type=Path, default=Path("out"), help="where figures and chains go (%(default)s)"
    )
    demo_parser.add_argument("--seed", type=int, default=0, help="of everything (%(default)s)")
    demo_parser.add_argument(
        "--epochs", type=int, default=150, help="passes over the data (%(default)s)"
    )
    demo_parser.add_argument(
        "--digits", type=int, default=8, help="how many are restored (%(default)s)"
    )
    options = parser.parse_args(arguments)
    for name in ("epochs", "digits"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; wanted a positive whole number")
    if not 0 <= options.seed < 2**63:
        parser.error(f"--seed is {options.seed}; wanted a whole number from 0 to 2**63 - 1")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out is {options.out}, which is no folder: {error.strerror}")
    if not os.access(options.out, os.W_OK):
        parser.error(f"--out is {options.out}, in which nothing can be written")
    threads = torch.get_num_threads()
    # At these sizes a second thread gains nothing, and beside a busy neighbour it costs much.
    torch.set_num_threads(1)
    try:
        demo(options.out, options.seed, options.epochs, options.digits)
    finally:
        torch.set_num_threads(threads)
    return 0


def demo(out: Path, seed: int, epochs: int, restored: int) -> None:
    """A Boltzmann machine on real digits: learned, measured exactly, sampled; then used as a prior.

    Args:
        out: The folder for figures and chains.
        seed: Of everything.
        epochs: Passes over the data.
        restored: How many test digits are restored and completed.
    """
    begin = time.perf_counter()
    data = digits()
    print(
        f"Digits: {len(data.train)} to learn from, {len(data.test)} to test on, "
        f"8x8 pixels of 0 and 1."
    )
    torch.manual_seed(seed)
    machine = BoltzmannMachine.restricted(64, HIDDEN)
    history = learn_digits(machine, data, seed, epochs)
    baselines = {
        "independent pixels": independent_log_likelihood(data.train, data.test),
        "Chow-Liu tree": chow_liu_log_likelihood(data.train, data.test),
    }
    report_likelihood(machine, data, baselines)
    chains = run(Gibbs(), machine, 1000, warmup=1000, thinning=5, chains=16, seed=seed)
    report_chains(machine, chains, out)
    draw_figures(machine, data, chains, history, baselines, out)
    restore_digits(machine, data.test[:restored], data.test_labels, seed, out)
    complete_digits(machine, data.test[:restored], data.train.mean(0), seed, out)
    print(f"\nFigures and chains are in {out}/. {time.perf_counter() - begin:.0f} seconds in all.")


class SlowDown(AfterEpoch):
    """Lets the learning rate fall in the second half."""

    def after_epoch(self, progress: Progress) -> None:
        """Sets the rate of the next epoch."""
        for group in progress.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, 2.02 - 2 * progress.epoch / progress.epochs)


def learn_digits(machine: BoltzmannMachine, data: Digits, seed: int, epochs: int) -> History:
    """Persistent contrastive divergence, with a learning rate that falls in the second half."""
    init_biases_from_data(machine, data.train)

    print(f"\nLearning a restricted Boltzmann machine, 64 visible and {HIDDEN} hidden units …")
    begin = time.perf_counter()
    history = fit(
        machine,
        data.train,
        PersistentContrastiveDivergence(steps=5, chains=500),
        epochs=epochs,
        batch_size=100,
        optimizer=functools.partial(torch.optim.Adam, lr=LEARNING_RATE),
        observers=[Monitor(every=-(-epochs // 10), held_out=data.test), SlowDown()],
        seed=seed,
    )
    last = history.metrics[-1]
    print(
        f"  {epochs} epochs in {time.perf_counter() - begin:.1f} seconds: "
        f"free-energy gap {last['free_energy_gap']:.2f} nats, "
        f"moment mismatch {last['moment_mismatch']:.4f}."
    )
    return history


def report_likelihood(machine: BoltzmannMachine, data: Digits, baselines: dict[str, float]) -> None:
    """The exact log-likelihood beside simpler models'."""
    with torch.no_grad():
        log_z = exact.log_partition(machine)
        train = float(exact.log_prob(machine, data.train, log_z=log_z).mean())
        test = float(exact.log_prob(machine, data.test, log_z=log_z).mean())
    print(f"\nMean test log-likelihood, in nats an image (log Z = {log_z:.3f} is exact):")
    for name, value in baselines.items():
        print(f"  {name:30s}{value:8.2f}")
    print(f"  {'Boltzmann machine':30s}{test:8.2f}    (train {train:.2f})")


def report_chains(machine: BoltzmannMachine, chains: Chains, out: Path) -> None:
    """What ArviZ says of the chains, which pixels are frozen, and the exact means beside it."""
    import arviz as az

    print(f"\nGibbs: {chains.attributes['chains']} chains, ArviZ's judgement of them:")
    judged = chains.to_arviz(feature_names={"visible": PIXELS})
    judged.to_netcdf(str(out / "chains.nc"))
    print(az.summary(judged, var_names=["model_energy", "magnetisation"]).to_string())
    moments = exact.moments(machine)
    exact_magnetisation = {site: float((2 * m - 1).mean()) for site, m in moments.mean.items()}
    print(
        "Exactly: "
        + ", ".join(f"magnetisation[{site}] {m:.4f}" for site, m in exact_magnetisation.items())
    )
    print(describe_frozen(frozen_units(chains.draws["visible"]), PIXELS))


def draw_figures(
    machine: BoltzmannMachine,
    data: Digits,
    chains: Chains,
    history: History,
    baselines: dict[str, float],
    out: Path,
) -> None:
    """Filters, digits next to fantasies, energies, and the learning curve."""
    fantasies = chains.draws["visible"][:, -1]
    weight = machine.couplings["visible_hidden"].weight.detach()
    filters(weight).savefig(out / "filters.png", dpi=150)
    images(data.test[: len(fantasies)], fantasies.float()).savefig(out / "digits.png", dpi=150)
    with torch.no_grad():
        free_energies = {
            "training digits": machine.free_energy(data.train),
            "test digits": machine.free_energy(data.test),
            "fantasies": machine.free_energy(chains.draws["visible"].flatten(0, 1)),
        }
    energy_histograms(free_energies).savefig(out / "free_energies.png", dpi=150)
    epochs, train = history.series("log_likelihood")
    _, test = history.series("held_out_log_likelihood")
    learning_curve(
        epochs,
        {"training digits": train, "test digits": test},
        {f"{name}, test": value for name, value in baselines.items()},
        quantity="exact log-likelihood (nats an image)",
    ).savefig(out / "learning_curve.png", dpi=150)


def restore_digits(
    machine: BoltzmannMachine, digits: Tensor, labels: Tensor, seed: int, out: Path
) -> None:
    """The machine as the prior of a Pyro model: pixels flipped at an unknown rate are restored."""
    noisy = flipped(digits, FLIPPED, seed=seed)
    print(f"\nRestoring {len(digits)} test digits with {FLIPPED:.0%} of the pixels flipped …")
    begin = time.perf_counter()
    found = restore(machine, noisy, seed=seed)
    report_restored(found, digits, noisy, labels)
    print(f"  {time.perf_counter() - begin:.1f} seconds.")
    to_arviz(found.mcmc).to_netcdf(str(out / "restored.nc"))
    rows = {"true": digits, "noisy": noisy, "restored": found.mean}
    restoration(rows, found.deviation).savefig(out / "restored.png", dpi=150)


def report_restored(found: Restored, digits: Tensor, noisy: Tensor, labels: Tensor) -> None:
    """Wrong pixels before and after, and what is known of the flip rates."""
    before, after = wrong_pixels(noisy, digits), wrong_pixels(found.mean, digits)
    print("  digit   wrong pixels   after   flip rate, 90 % interval    R-hat")
    for row in zip(labels.tolist(), before, after, found.intervals, found.r_hat, strict=False):
        label, old, new, (low, high), judged = row
        print(f"  {label:5d}{old:15d}{new:8d}          {low:.3f} to {high:.3f}       {judged:8.3f}")
    held = ((found.intervals[:, 0] <= FLIPPED) & (found.intervals[:, 1] >= FLIPPED)).sum()
    print(
        f"  in all{before.sum():14d}{after.sum():8d}   ({after.sum() / before.sum():.2f} of them); "
        f"{held} of {len(digits)} intervals hold the true rate, {FLIPPED}."
    )


def complete_digits(
    machine: BoltzmannMachine, digits: Tensor, means: Tensor, seed: int, out: Path
) -> None:
    """The right half of each digit, drawn by the machine with the left half held."""
    held = torch.arange(digits.shape[1]) % 8 < 4
    completed = complete(machine, digits, held, seed=seed)
    wrong = wrong_pixels(completed, digits).sum()
    guessed = wrong_pixels(torch.where(held, digits, means), digits).sum()
    print(
        f"\nFilling in the right halves of these digits, {int((~held).sum())} pixels each: "
        f"{wrong} pixels are wrong, and {guessed} where the means are filled in."
    )
    halves = digits.masked_fill(~held, torch.nan)
    rows = {"true": digits, "known": halves, "completed": completed}
    restoration(rows, deviation(completed)).savefig(out / "completed.png", dpi=150)
