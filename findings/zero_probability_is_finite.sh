#!/usr/bin/env bash
# A discrete law of probability 0 gives its impossible value a finite log-probability, by law another.
#
# torch 2.13.0 and Pyro 1.9.2. With `probs`, Bernoulli, Categorical, OneHotCategorical, Binomial and
# Geometric clamp at the rounding unit: an impossible value has ln p of about -16 in float32 and -36
# in float64. Categorical(logits=[0, -inf]) has -inf, and ZeroInflatedPoisson too.
# Bernoulli(logits=-inf) has NaN for both values. So an absorbing state that is written
# Bernoulli(alive * survival) only costs e^-16 to leave: a sampler neither sees a forbidden state nor
# crosses the barrier, a posterior may end in a state that the model excludes, and the same model
# written with logits has another support. DiscreteHMM sums such paths into a likelihood of 6e-8.
#
# Seen: the numbers below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 pyro-ppl==1.9.2 numpy==2.4.6
"$folder/env/bin/python" - <<'PYTHON'
import math

import pyro.distributions as dist
import torch

one, off = torch.tensor(1.0), torch.tensor([0.0, -math.inf])
sure, never = torch.tensor([1.0, 0.0]), torch.tensor(-math.inf)
stay = torch.tensor([[0.0, -math.inf], [-math.inf, 0.0]])  # a state that is never left
seen = dist.Categorical(probs=torch.eye(2))  # and always seen as it is
found = {
    "Bernoulli(probs=0) of 1": dist.Bernoulli(probs=torch.tensor(0.0)).log_prob(one),
    "the same in float64": dist.Bernoulli(probs=torch.tensor(0.0).double()).log_prob(one.double()),
    "Bernoulli(logits=-inf) of 0": dist.Bernoulli(logits=never).log_prob(torch.tensor(0.0)),
    "Categorical(probs=[1, 0]) of 1": dist.Categorical(probs=sure).log_prob(torch.tensor(1)),
    "Categorical(logits=[0, -inf]) of 1": dist.Categorical(logits=off).log_prob(torch.tensor(1)),
    "Binomial(5, probs=0) of 1": dist.Binomial(5, probs=torch.tensor(0.0)).log_prob(one),
    "Geometric(probs=1) of 1": dist.Geometric(probs=one).log_prob(one),
    "ZeroInflatedPoisson(gate=1) of 1": dist.ZeroInflatedPoisson(one, gate=one).log_prob(one),
    "DiscreteHMM of 0, 1, 0": dist.DiscreteHMM(torch.zeros(2), stay, seen).log_prob(
        torch.tensor([0, 1, 0])
    ),
}
wanted = [-15.942, -36.044, math.nan, -15.942, -math.inf, -14.333, -15.942, -math.inf, -16.636]
print("torch", torch.__version__)
for (name, value), answer in zip(found.items(), wanted, strict=True):
    print(f"{name}: ln p = {float(value):.3f}")
    same = math.isclose(float(value), answer, abs_tol=1e-3) or (
        math.isnan(answer) and math.isnan(float(value))
    )
    assert same, f"{name} has changed"
print("as described")
PYTHON
