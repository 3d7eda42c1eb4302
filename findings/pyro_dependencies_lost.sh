#!/usr/bin/env bash
# Pyro's get_dependencies leaves out an edge, without a word, where a mean is written by slice or by vmap.
#
# Pyro 1.9.2 with torch 2.13.0. `pyro.infer.inspect.get_dependencies` follows tensors that carry the
# names of the sites they come from. The mark survives `torch.stack`, `where`, `einsum`, indexing,
# `m += x`, `copy_` and `index_copy`; it is lost where the tensor is written by `m[:] = x`, by `out=m`, or
# made inside `torch.func.vmap`. The observed site y then has no parent z, though its mean is 2 z. A
# Gibbs sampler, a drawing of the model or a guide that trusts the answer treats z as if y said
# nothing of it; for vmap there is no in-place operation that could warn a reader.
#
# Seen: the posterior dependencies of z are ['y', 'z'] for 'stack', 'add_', and ['z'] for 'slice',
# 'out' and 'vmap'.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 pyro-ppl==1.9.2 numpy==2.4.6
"$folder/env/bin/python" - <<'PYTHON'
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.inspect import get_dependencies


def by_stack(z):
    return torch.stack([2 * z[k] for k in range(3)])


def by_add(z):
    m = torch.zeros(3)
    m += 2 * z
    return m


def by_slice(z):
    m = torch.zeros(3)
    m[:] = 2 * z
    return m


def by_out(z):
    m = torch.empty(3)
    torch.mul(z, 2, out=m)
    return m


def by_vmap(z):
    return torch.func.vmap(lambda one: 2 * one)(z)


def model(mean):
    units = pyro.plate("units", 3)
    with units:
        z = pyro.sample("z", dist.Bernoulli(0.4))
    with units:
        pyro.sample("y", dist.Normal(mean(z), 0.8), obs=torch.tensor([0.5, 2.0, -0.5]))


wanted = {by_stack: ["y", "z"], by_add: ["y", "z"], by_slice: ["z"], by_out: ["z"], by_vmap: ["z"]}
print("pyro", pyro.__version__, "torch", torch.__version__)
for mean, answer in wanted.items():
    found = sorted(get_dependencies(model, (mean,))["posterior_dependencies"]["z"])
    print(f"{mean.__name__}: {found}")
    assert found == answer, f"the answer for {mean.__name__} has changed"
print("as described")
PYTHON
