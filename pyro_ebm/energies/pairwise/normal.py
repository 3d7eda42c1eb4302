"""Gaussian units that are coupled among themselves: together they are one multivariate normal."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_ebm.sites import Sites

from .links import Link, coupling_matrix


def joint_precision(precisions: Mapping[str, Tensor], links: Sequence[Link]) -> Tensor:
    """The precision matrix diag(λ) − W (*batch, n, n) over the units of some sites in order.

    Args:
        precisions: λ by site (*batch, n).
        links: The couplings among these sites.

    Raises:
        TypeError: If they are of a dtype in which torch decomposes no matrix.
    """
    if bad := [v.dtype for v in precisions.values() if v.dtype in (torch.float16, torch.bfloat16)]:
        raise TypeError(
            f"The coupled real units of {list(precisions)} are of {bad[0]}, in which there is no "
            f"Cholesky decomposition of their precision; give float32 or float64, for example "
            f"weight.float()."
        )
    sizes = {site: value.shape[-1] for site, value in precisions.items()}
    batch = torch.broadcast_shapes(*(value.shape[:-1] for value in precisions.values()))
    diagonal = torch.cat([v.expand(*batch, v.shape[-1]) for v in precisions.values()], -1)
    return diagonal.diag_embed() - coupling_matrix(sizes, links, diagonal)


@dataclass(frozen=True, eq=False)
class MultivariateNormal:
    r"""Real units x with :math:`p(x) \propto \exp(\mathrm{field}^\top x - \tfrac12 x^\top P x)`.

    Args:
        sizes: The number of units of each site.
        factor: L, lower triangular with P = L Lᵀ (*batch, n, n).
    """

    sizes: Mapping[str, int]
    factor: Tensor

    def mean(self, field: Tensor) -> Tensor:  # (*batch, n) -> (*batch, n)
        """P⁻¹ field."""
        if self.factor.dim() == 2:
            # One factor for all rows: not copied to each of them.
            rows = field.reshape(-1, field.shape[-1])
            return torch.cholesky_solve(rows.mT, self.factor).mT.reshape(field.shape)
        return torch.cholesky_solve(field.unsqueeze(-1), self.factor).squeeze(-1)

    def cumulant(self, fields: Sites) -> Tensor:  # (*batch,)
        """ln ∫ exp(fieldᵀx − ½ xᵀPx) = ½ (fieldᵀ P⁻¹ field + n ln 2π − ln det P)."""
        field = self.joined(fields)
        log_determinant = 2 * self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        squares = (field * self.mean(field)).sum(-1)
        return (squares + field.shape[-1] * math.log(2 * math.pi) - log_determinant) / 2

    def covariance(self) -> Tensor:  # (*batch, n, n)
        """P⁻¹."""
        return torch.cholesky_inverse(self.factor)

    def means(self, fields: Sites) -> Sites:  # (*batch, n) each -> the same
        """E[x] by site."""
        return self.parted(self.mean(self.joined(fields)))

    def sample(self, fields: Sites) -> Sites:  # (*batch, n) each -> the same
        """Independent draws by site."""
        mean = self.mean(self.joined(fields))
        noise = torch.randn_like(mean)
        # x = L⁻ᵀ noise, in rows noiseᵀ L⁻¹; one factor for all rows is not copied to each of them.
        one = self.factor.dim() == 2
        rows = noise.reshape(-1, noise.shape[-1]) if one else noise.unsqueeze(-2)
        spread = torch.linalg.solve_triangular(self.factor, rows, upper=False, left=False)
        return self.parted(mean + spread.reshape(mean.shape))

    def joined(self, fields: Sites) -> Tensor:
        """Fields by site as one tensor."""
        batch = torch.broadcast_shapes(*(field.shape[:-1] for field in fields.values()))
        return torch.cat([fields[s].expand(*batch, fields[s].shape[-1]) for s in self.sizes], -1)

    def parted(self, x: Tensor) -> Sites:
        """One tensor by site."""
        return dict(zip(self.sizes, x.split(list(self.sizes.values()), -1), strict=True))
