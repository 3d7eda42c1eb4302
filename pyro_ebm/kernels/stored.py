"""Kernels and their states in files: one row for each class."""

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from pyro_ebm.energies import Energy, Given, Path, Swept
from pyro_ebm.energies import stored_terms as stored_terms
from pyro_ebm.sites import Site
from pyro_ebm.storage import ROWS, Settings

from .chains import Schedule
