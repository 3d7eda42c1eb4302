"""Numbers from wherever they come, as tensors."""

import numpy as np
import torch
from torch import Tensor

Array = Tensor | np.ndarray

WIDE = (torch.uint16, torch.uint32, torch.uint64)  # for which torch has hardly an operation


def tensor_of(value: object, name: str) -> Tensor:
    """A tensor, or a numpy array of any layout, byte order and width, as a tensor on its device.

    Raises:
        TypeError: If it is neither, or not of bool, integers or real numbers.
    """
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            raise TypeError(
                f"{name!r} is an array of {value.dtype}; wanted bool, integers or real numbers."
            )
        # Torch has no numbers of more than eight bytes, and none of the other byte order.
        wide = value.dtype.kind == "f" and value.dtype.itemsize > 8
        dtype = np.dtype(np.float64) if wide else value.dtype.newbyteorder("=")
        value = torch.from_numpy(np.array(value, dtype, order="C"))
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name!r} is a {type(value).__name__}; wanted a torch tensor or a numpy array. "
            "torch.as_tensor(...) makes one of a list."
        )
    if value.dtype.is_complex:
        raise TypeError(f"{name!r} is complex; wanted bool, integers or real numbers.")
    if value.dtype not in WIDE:
        return value
    signed = value.to(torch.int64)
    # Beyond 2^63 it has become negative.
    return signed if bool((signed >= 0).all()) else value.to(torch.float64)
