#!/usr/bin/env bash
# Bernoulli draws in float32 happen at least 6e-8 of the time, however small their probability is.
#
# torch 2.13.0, CPU. `torch.bernoulli` of float32 probabilities of 1e-9 gives a one in 2^-24 = 6e-8 of
# the draws, sixty times too often: it compares a uniform number of 24 bits, which is 0 that often.
# `pyro.distributions.Bernoulli` (Pyro 1.9.2) draws through it. In float64 the same probability is
# kept. So a Gibbs sampler in float32 turns a frozen unit, and starts a rare transition, at a rate
# that has nothing to do with its energies; a float64 model has the right one.
#
# Seen: of 8e8 draws with probability 1e-9 (0.8 expected) 30 to 65 ones in float32, 0 to 6 in float64.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 pyro-ppl==1.9.2 numpy==2.4.6
"$folder/env/bin/python" - <<'PYTHON'
import pyro.distributions as dist
import torch

torch.set_num_threads(1)
torch.manual_seed(0)
print("torch", torch.__version__)
seen = {}
for dtype in (torch.float32, torch.float64):
    law = dist.Bernoulli(probs=torch.tensor(1e-9, dtype=dtype))
    seen[dtype] = sum(int(law.sample((20_000_000,)).sum()) for _ in range(40))
    print(f"{dtype}: {seen[dtype]} ones in 8e8 draws; wanted about 0.8")
assert 20 <= seen[torch.float32] <= 90, "float32 draws have changed"
assert seen[torch.float64] <= 6, "float64 draws have changed"
print("as described")
PYTHON
