#!/usr/bin/env bash
# Pyro's contraction in logarithms has the right value and the wrong gradient where factors disagree.
#
# Pyro 1.9.2, torch 2.13.0: `pyro.ops.contract.einsum` with the backend `pyro.ops.einsum.torch_log`,
# which TraceEnum_ELBO and the enumeration of HMC use. Each factor is shifted by its own maximum; where
# two factors point at different labels all terms of the product are small, and the logarithm's
# derivative 1/x is cut at the rounding unit. log sum_a f(a) g(a) with f = (0, -gap), g = (-gap, 0):
# by symmetry the gradient is 1/2 at each entry. In float32 it is 0.5 at a gap of 10, 0.017 at 20 and
# 8e-7 at 30; in float64 it goes the same way past 36. The value stays right throughout, so a loss
# looks well while parameters stand still, and marginals that are read off as gradients are wrong.
#
# Seen: the gradients below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 pyro-ppl==1.9.2 numpy==2.4.6
"$folder/env/bin/python" - <<'PYTHON'
import math

import pyro
import torch
from pyro.ops.contract import einsum

wanted = {
    (torch.float32, 10): 0.5,
    (torch.float32, 20): 1.729e-2,
    (torch.float32, 30): 7.850e-7,
    (torch.float64, 30): 0.5,
    (torch.float64, 60): 3.944e-11,
}
print("Pyro", pyro.__version__, "torch", torch.__version__)
for (dtype, gap), slope in wanted.items():
    first = torch.tensor([0.0, -gap], dtype=dtype, requires_grad=True)
    second = torch.tensor([-gap, 0.0], dtype=dtype, requires_grad=True)
    (value,) = einsum(
        "a,a->", first, second, backend="pyro.ops.einsum.torch_log", modulo_total=False
    )
    found = torch.autograd.grad(value, first)[0]
    told = (first + second).logsumexp(0)
    right = torch.autograd.grad(told, first)[0]
    print(f"{dtype}, gap {gap}: value {float(value.detach()):.4f}, gradient {found.tolist()}")
    assert math.isclose(float(value.detach()), float(told.detach()), rel_tol=1e-5)
    assert torch.allclose(right, torch.full_like(right, 0.5))
    assert math.isclose(float(found[0]), slope, rel_tol=2e-3), "the gradient has changed"
print("as described")
PYTHON
