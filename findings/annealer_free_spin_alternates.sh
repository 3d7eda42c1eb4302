#!/usr/bin/env bash
# dwave-samplers' annealer with its default acceptance flips a free spin in every sweep.
#
# dwave-samplers 1.8.0, dimod 0.12.23. `SimulatedAnnealingSampler` visits the spins in order and takes
# every move that costs nothing. At a fixed beta, which people use to draw from a Boltzmann law (its
# documentation offers a custom schedule), a spin without a field and without couplings is therefore
# the parity of the number of sweeps: all 4,000 reads agree, where half should be up. The second spin,
# in a field of 0.3, is right (-tanh 0.3 = -0.291). proposal_acceptance_criteria="Gibbs" draws the law.
# Nothing is said; a machine that is learned from such samples sees perfect correlations among all
# units that are still without couplings, which at the start of learning is every unit.
#
# Seen: mean of the free spin -1, 1, -1, 1 after 9, 10, 11, 12 sweeps from +1; by "Gibbs" within 0.05 of 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
    dwave-samplers==1.8.0 dimod==0.12.23 numpy==2.4.6
"$folder/env/bin/python" - <<'PYTHON'
import math
from importlib.metadata import version

import dimod
from dwave.samplers import SimulatedAnnealingSampler

model = dimod.BinaryQuadraticModel({"free": 0.0, "held": 0.3}, {}, 0.0, "SPIN")


def means(sweeps, acceptance):
    """The means of both spins over reads that all start at +1, at beta = 1 throughout."""
    found = SimulatedAnnealingSampler().sample(
        model,
        num_reads=4000,
        beta_schedule_type="custom",
        beta_schedule=[1.0] * sweeps,
        num_sweeps=sweeps,
        proposal_acceptance_criteria=acceptance,
        initial_states={"free": 1, "held": 1},
        initial_states_generator="tile",
        seed=3,
    )
    mean = dict(zip(found.variables, found.record.sample.mean(0).tolist(), strict=True))
    return mean["free"], mean["held"]


print("dwave-samplers", version("dwave-samplers"), "dimod", dimod.__version__)
for sweeps in (9, 10, 11, 12):
    free, held = means(sweeps, "Metropolis")
    right = means(sweeps, "Gibbs")
    print(f"{sweeps} sweeps: Metropolis {free:+.3f} {held:+.3f}, Gibbs {right[0]:+.3f} {right[1]:+.3f}")
    assert free == (1 if sweeps % 2 == 0 else -1), "the free spin is random now"
    assert abs(right[0]) < 0.08 and abs(right[1] + math.tanh(0.3)) < 0.08
print("as described")
PYTHON
