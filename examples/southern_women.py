"""Who attends together? A Boltzmann machine at exact maximum likelihood.

Eighteen women and fourteen social events (Davis, Gardner & Gardner, 1941): each woman is a row of
fourteen bits. A fully visible machine of 14 units has 16,384 states, so log Z is exact. At maximum
likelihood every mean and every pair moment of the machine equals the data's, which the last line
checks. Some events never share a guest, so the best couplings of these pairs are infinite: the
moments are matched in the limit, and the optimiser stops where they agree to 1e-8. The
couplings that are read off below are therefore those of a second fit, with a normal prior.
"""

import functools

import torch

from pyro_ebm import BoltzmannMachine, ExactLikelihood, datasets, exact, fit

attendance, women, events = datasets.southern_women()
data = attendance.double()
lbfgs = functools.partial(
    torch.optim.LBFGS,
    max_iter=200,
    tolerance_grad=1e-9,
    tolerance_change=1e-14,
    line_search_fn="strong_wolfe",
)


def largest_difference(machine: BoltzmannMachine) -> float:
    """Between the pair moments (means on the diagonal) of machine and data."""
    of_data = data.T @ data / len(data)
    return float((exact.moments(machine).second - of_data).abs().max())


likeliest = BoltzmannMachine.fully_visible(len(events)).double()
history = fit(likeliest, data, ExactLikelihood(), epochs=2, optimizer=lbfgs)
print(f"{len(women)} women, {len(events)} events; log-likelihood a woman, in nats:")
print(f"  maximum likelihood    {history.metrics[-1]['log_likelihood']:.4f}")

# An objective is a loss like any other: add what you like to it, and take any optimiser.
regular = BoltzmannMachine.fully_visible(len(events)).double()
optimizer = lbfgs(regular.parameters())


def closure() -> torch.Tensor:
    """Minus the log-likelihood and minus the log of the prior, a normal of scale 2, per row."""
    optimizer.zero_grad()
    loss, *_ = ExactLikelihood().loss(regular, data, None)
    prior = sum(p.square().sum() for p in regular.parameters()) / (2 * 2.0**2 * len(data))
    (loss + prior).backward()
    return loss + prior


optimizer.step(closure)
coupling = regular.couplings["visible_visible"].weight.detach().triu(1)
print(f"  with a normal prior   {exact.log_prob(regular, data).mean().item():.4f}")
for name, chosen in (
    ("together", coupling.flatten().topk(3)),
    ("apart", (-coupling).flatten().topk(3)),
):
    pairs = [(int(k) // len(events), int(k) % len(events)) for k in chosen.indices]
    print(f"Most {name}: " + ", ".join(f"{events[i]} and {events[j]}" for i, j in pairs))

print(f"Largest difference of a moment at maximum likelihood: {largest_difference(likeliest):.1e}")
