"""Exact log Z of a dense machine, with gradient, beside its one matrix product, on one thread."""

import resource

import torch
from _paired import paired, table

import pyro_ebm as pe


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for n in (16, 20, 25, 30):
        weight = torch.nn.Parameter(torch.randn(n, n, dtype=torch.float64) / n**0.5)
        machine = pe.BoltzmannMachine.fully_visible(n, couplings=weight)
        side = 2 ** (n // 3)
        b = torch.rand(side, 2 ** (n - 2 * (n // 3)), dtype=torch.float64)
        c = torch.rand(b.shape[1], side, dtype=torch.float64)

        def value(machine: pe.BoltzmannMachine = machine) -> None:
            with torch.no_grad():
                pe.exact.log_partition(machine)

        works = {
            "exact.log_partition": value,
            "the same with its gradient": lambda m=machine: pe.exact.log_partition(m).backward(),
        }
        table(f"{n} units", "1/s", 1, paired(lambda b=b, c=c: b @ c, works))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\npeak memory {peak:.2f} GiB")


if __name__ == "__main__":
    main()
