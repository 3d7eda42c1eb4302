"""How strongly do six spins on a ring hold together? The posterior of a coupling and a field.

The spins have one coupling and one field for all, and both are unknown, with normal priors. Their
log-likelihood contains −log Z of the coupling and the field, which is where an Ising model differs
from a regression: with it left out the posterior would run away to ever stronger couplings. Here
Z is a sum of 64 terms, exact and differentiable, so Pyro's NUTS finds the posterior. It is compared
with sums over a grid, which two parameters still allow.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS

from pyro_ebm.distributions import Ising

torch.set_default_dtype(torch.float64)
pyro.set_rng_seed(1)
ring = [(i, (i + 1) % 6) for i in range(6)]
true_coupling, true_field = torch.tensor(0.35), torch.tensor(-0.15)
data = Ising(ring, true_coupling, true_field).sample((80,))
prior = dist.Normal(torch.tensor(0.0), torch.tensor(1.0))


def model(spins: torch.Tensor) -> None:
    coupling = pyro.sample("coupling", prior)
    field = pyro.sample("field", prior)
    with pyro.plate("rows", len(spins)):
        pyro.sample("spins", Ising(ring, coupling, field), obs=spins)


mcmc = MCMC(NUTS(model), num_samples=350, warmup_steps=100, disable_progbar=True)
mcmc.run(data)
draws = mcmc.get_samples()

# The same by sums over a grid, whose ends the posterior does not reach: a batch of machines.
axis = torch.linspace(-0.4, 0.9, 131)
coupling, field = (g.reshape(-1, 1) for g in torch.meshgrid(axis, axis, indexing="ij"))
likelihood = Ising(ring, coupling, field).log_prob(data[:, None]).sum(0)
log_posterior = likelihood + (prior.log_prob(coupling) + prior.log_prob(field))[:, 0]
weights = log_posterior.softmax(0)

print(f"{len(data)} rows of six spins; posterior mean and standard deviation")
differences = []
for name, values in (("coupling", coupling[:, 0]), ("field", field[:, 0])):
    mean = weights @ values
    deviation = (weights @ (values - mean) ** 2).sqrt()
    found = draws[name].mean(), draws[name].std()
    print(f"  {name:8}  NUTS {found[0]:7.4f} ± {found[1]:.4f}   grid {mean:7.4f} ± {deviation:.4f}")
    differences += [abs(found[0] - mean), abs(found[1] - deviation)]
print(f"Largest difference: {max(differences):.4f} (wanted: below 0.02)")
assert max(differences) < 0.02
