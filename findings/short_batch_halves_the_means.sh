#!/usr/bin/env bash
# scikit-learn's BernoulliRBM learns half of the data's means where a batch has half of the rows.
#
# scikit-learn 1.9.1. `batch_size` (10 by default) is also the number of persistent chains, and the
# update subtracts the sum over the chains from the sum over the rows of the batch, whatever their
# number. With 5 rows the fixed point has 10 m(model) = 5 m(data): columns of mean 1 and 0.8 are drawn
# with 0.49 and 0.40 by the learned machine. With batch_size=5 the same rows give 1.00 and 0.82.
# Nothing is said; the last batch of any data whose rows are no multiple of batch_size is short too.
#
# Seen: means of 20,000 chains after 50 steps of `gibbs`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6
"$folder/env/bin/python" - <<'PYTHON'
import numpy as np
import sklearn
from sklearn.neural_network import BernoulliRBM

rows = np.array([[1, 1, 0]] * 4 + [[1, 0, 0]], dtype=float)
print("scikit-learn", sklearn.__version__, "means of the rows", rows.mean(0))
found = {}
for size in (10, 5):
    machine = BernoulliRBM(2, learning_rate=0.05, batch_size=size, n_iter=2000, random_state=0)
    machine.fit(rows)
    states = np.ones((20_000, 3))
    for _ in range(50):
        states = machine.gibbs(states)
    found[size] = states.mean(0)
    print(f"batch_size={size}: means of the machine", found[size].round(3))
assert np.abs(found[10][:2] - rows.mean(0)[:2] / 2).max() < 0.05, "short batches are right now"
assert np.abs(found[5] - rows.mean(0)).max() < 0.05
print("as described")
PYTHON
