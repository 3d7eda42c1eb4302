"""The file itself: a head, a description in JSON, and the tensors' bytes.

    8 bytes   PYROEBM and a line end
    4 bytes   the version of the format
    8 bytes   the length of the description
    8 bytes   the length of the tensors' bytes
    32 bytes  SHA-256 of all that is before it and after it
    ...       the description, in JSON
    ...       the tensors' bytes, one after another

Nothing in it is code and nothing in it is executed. All lengths are compared with the file's own
before anything is read, and those of the tensors with the bytes that there are before one is made.
"""

import hashlib
import itertools
import json
import math
import os
import struct
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

MAGIC, VERSION = b"PYROEBM\n", 1
HEAD = struct.Struct("<8sIQQ")
DIGEST = hashlib.sha256().digest_size
LEAST = HEAD.size + DIGEST
DTYPES = {
    str(kind).removeprefix("torch."): kind
    for kind in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
OTHERS = {
    b"PK": "a zip archive, as torch.save writes; read it with torch.load(path)",
    b"\x89HDF": "an HDF5 file, as to_netcdf writes; read it with arviz.from_netcdf(path)",
    b"CDF": "a netCDF file; read it with arviz.from_netcdf(path)",
    b"\x80": "a pickle; make the file anew with save",
    b"\x93NUMPY": "an array of NumPy; read it with numpy.load(path)",
}


class UnreadableFileError(ValueError):
    """A file that is not read: it is damaged, of another kind, or of a later version.

    Example:
        >>> import tempfile
        >>> from pyro_ebm.energies import load
        >>> from pyro_ebm.storage import UnreadableFileError
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     try:
        ...         load(file.name)
        ...     except UnreadableFileError as error:
        ...         print(str(error).endswith("from a copy or make it anew with save."))
        True
    """


class Content(NamedTuple):
    """What a file holds: a description, and the tensors that it names by number."""

    tree: Any
    tensors: list[Tensor]


# --- writing -------------------------------------------------------------------------------------
def write(path: str | os.PathLike[str], kind: str, content: Content) -> None:
    """Writes a file that is there whole or not at all: a file of this name stays until then.

    Args:
        path: Where.
        kind: What it is: "energy", "chains".
        content: It.
    """
    target = Path(path)
    specs, pieces = [], []
    for tensor in content.tensors:
        spec, raw = packed(tensor)
        specs.append(spec)
        pieces.append(raw)
    told = {"kind": kind, "by": version("pyro-ebm"), "tree": content.tree, "tensors": specs}
    description = json.dumps(told, separators=(",", ":")).encode()
    head = HEAD.pack(MAGIC, VERSION, len(description), sum(map(len, pieces)))
    digest = hashlib.sha256(head)
    for piece in (description, *pieces):
        digest.update(piece)
    # In the same folder, so that the last step is a change of names; what is there is not touched.
    number, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    try:
        with os.fdopen(number, "wb") as file:
            for piece in (head, digest.digest(), description, *pieces):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, usual_mode(target))
        os.replace(name, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise
    keep_name(target.parent)


def usual_mode(target: Path) -> int:
    """The rights of a file that is replaced, or those of a new one."""
    with suppress(OSError):
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def keep_name(folder: Path) -> None:
    """Has the system write the names in a folder to the disk, where it can."""
    if os.name != "posix":  # a folder cannot be opened elsewhere
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def packed(tensor: Tensor) -> tuple[dict[str, Any], bytes]:
    """What is said of a tensor, and its bytes, in the order in which they lie in memory."""
    # Its copy has the strides of a tensor without gaps: products round by how numbers lie.
    own = tensor.detach().clone()
    strides = own.stride()
    order = sorted(range(own.dim()), key=lambda d: (-strides[d], d))
    flat = torch.empty(own.numel(), dtype=own.dtype)
    flat.copy_(own.cpu().permute(order).reshape(-1))
    raw = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    spec = {
        "dtype": str(own.dtype).removeprefix("torch."),
        "shape": list(own.shape),
        "order": order,
        "learned": isinstance(tensor, nn.Parameter),
        "gradient": tensor.requires_grad and tensor.is_leaf,
        "device": str(own.device),
    }
    return spec, raw


# --- reading -------------------------------------------------------------------------------------
def read(
    path: str | os.PathLike[str], kind: str, device: torch.device | str | None = None
) -> Content:
    """What a file holds.

    Args:
        path: Where.
        kind: What it must be.
        device: Where tensors go that were on no CPU; by default where they were.

    Raises:
        UnreadableFileError: If it is no such file, is damaged, or of a later version.
    """
    name = str(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        first = file.read(LEAST)
        start, lengths = checked_head(name, first, size)
        description = file.read(lengths[0])
        raw = bytearray(lengths[1])
        got = file.readinto(raw)
    digest = hashlib.sha256(start)
    digest.update(description)
    digest.update(raw)
    if got != lengths[1] or digest.digest() != first[HEAD.size :]:
        raise UnreadableFileError(
            f"{name} is damaged: its checksum is not that of what is in it. Take the file from a "
            f"copy or make it anew with save."
        )
    try:
        told = json.loads(description)
        found, tree, specs = told["kind"], told["tree"], told["tensors"]
        if found != kind:
            raise UnreadableFileError(f"{name} holds {found!r}; wanted {kind!r}. {door(found)}")
        return Content(tree, unpacked(specs, raw, device))
    except UnreadableFileError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError, RuntimeError, OverflowError) as error:
        raise UnreadableFileError(
            f"{name} is malformed: {error}. Make it anew with save."
        ) from error


def checked_head(name: str, first: bytes, size: int) -> tuple[bytes, tuple[int, int]]:
    """The head, and the lengths of what follows it.

    Raises:
        UnreadableFileError: If it is none, or the file is of another length.
    """
    if not MAGIC.startswith(first[: len(MAGIC)]):
        for begin, what in OTHERS.items():
            if first.startswith(begin):
                raise UnreadableFileError(f"{name} is no file of pyro_ebm, but {what}.")
        raise UnreadableFileError(
            f"{name} is no file of pyro_ebm; wanted one that save or Chains.save has written."
        )
    again = "Take the file from a copy or make it anew with save."
    if len(first) < LEAST:
        raise UnreadableFileError(f"{name} is cut off after {size} bytes. {again}")
    head = first[: HEAD.size]
    _, number, description, tensors = HEAD.unpack(head)
    if not 1 <= number <= VERSION:
        raise UnreadableFileError(
            f"{name} is of the version {number} of the format, and this pyro_ebm "
            f"({version('pyro-ebm')}) reads versions up to {VERSION}. Install a later pyro_ebm: "
            f"pip install --upgrade pyro-ebm."
        )
    wanted = LEAST + description + tensors
    if wanted != size:
        what = "cut off" if size < wanted else "longer than it says"
        raise UnreadableFileError(f"{name} is {what}: {size} of {wanted} bytes. {again}")
    return head, (description, tensors)


def door(kind: str) -> str:
    """How a file of a kind is read."""
    doors = {"energy": "pyro_ebm.energies.load(path)", "chains": "Chains.load(path)"}
    return f"Read it with {doors[kind]}." if kind in doors else "Give the path of another file."


def unpacked(
    specs: Sequence[Mapping[str, Any]], raw: bytearray, device: torch.device | str | None
) -> list[Tensor]:
    """The tensors of some bytes.

    Raises:
        ValueError: If their sizes are not those of the bytes.
    """
    counts = []
    for spec in specs:
        shape = spec["shape"]
        if not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"a tensor has the shape {shape}")
        if sorted(spec["order"]) != list(range(len(shape))):
            raise ValueError(f"a tensor of {len(shape)} dimensions has the order {spec['order']}")
        counts.append(math.prod(shape) * DTYPES[spec["dtype"]].itemsize)
    if sum(counts) != len(raw):
        raise ValueError(f"its tensors take {sum(counts)} bytes, and there are {len(raw)}")
    if sys.byteorder != "little":
        raise ValueError("its numbers are little-endian, and those of this machine are not")
    begins = itertools.accumulate(counts, initial=0)
    return [
        made(spec, raw, range(begin, begin + count), device)
        for spec, begin, count in zip(specs, begins, counts, strict=False)
    ]


def made(
    spec: Mapping[str, Any], raw: bytearray, where: range, device: torch.device | str | None
) -> Tensor:
    """A tensor of some of the bytes."""
    shape, order = spec["shape"], spec["order"]
    flat = torch.empty(math.prod(shape), dtype=DTYPES[spec["dtype"]])
    if where:
        own = torch.frombuffer(raw, dtype=torch.uint8, count=len(where), offset=where.start)
        flat.view(torch.uint8).copy_(own)
    value = flat.reshape([shape[d] for d in order])
    value = value.permute([order.index(d) for d in range(len(order))])
    if spec["device"] != "cpu":
        value = value.to(placed(spec["device"], device))
    if spec["learned"]:
        return nn.Parameter(value, requires_grad=spec["gradient"])
    return value.requires_grad_() if spec["gradient"] else value


def placed(own: str, device: torch.device | str | None) -> torch.device:
    """Where a tensor goes that was on a device of its own.

    Raises:
        UnreadableFileError: If there is no such device.
    """
    place = torch.device(own if device is None else device)
    if place.type == "cuda" and not torch.cuda.is_available():
        raise UnreadableFileError(
            f"Its tensors were on {own}, and there is no such device. Give device='cpu'."
        )
    return place
