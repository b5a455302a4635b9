"""Weights and states on the disk: whole or absent, checked when they are read, and never a pickle that can run code.

A state is torch's zip file, whose every part has a CRC-32 that torch.load does not look at. Weights are safetensors
with a CRC-32 of all names, types, shapes and values in their header. So no flipped bit passes; files without that entry
(of earlier versions) are read as far as their format is right.
"""

from __future__ import annotations

import pickle
import shutil
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rd.errors import UserError
from rd.files import replace_file

WEIGHTS = "best.safetensors"  # of the best validation; not committed, so a clone may have a run's figures without it
CHECK = "crc32"  # its name in the header
BROKEN = (
    *(zipfile.BadZipFile, zlib.error, struct.error, pickle.UnpicklingError),
    *(OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError),
)  # what zipfile and torch raise, one or the other, for a state with a flipped bit


def save_weights(path: Path, model: nn.Module) -> None:
    """All weights of `model`. Raises UserError where the disk is full."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    metadata = {CHECK: _crc32(tensors)}
    replace_file(path, lambda beside: _told(path, save_file, tensors, beside, metadata))


def load_weights(path: Path, model: nn.Module) -> None:
    """What `save_weights` wrote, into `model`. Raises UserError for a file that is damaged or another model's."""
    try:
        with safe_open(path, "pt") as file:
            metadata, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
        own = model.state_dict()
        if CHECK in metadata and metadata[CHECK] != _crc32(tensors):
            raise ValueError("wrong checksum")
        if odd := [name for name in tensors if name in own and tensors[name].dtype != own[name].dtype]:
            raise ValueError(f"{odd[0]} is {tensors[odd[0]].dtype}, and the model's is {own[odd[0]].dtype}")
        model.load_state_dict(tensors)
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        why = str(error).splitlines()[0][:200]
        raise UserError(f"{path}: damaged, or of other settings ({why}); train it again, or get it again") from None


def save_state(path: Path, whole: dict[str, Any]) -> None:
    """A training's state: tensors, numbers, names. Raises UserError where the disk is full."""
    replace_file(path, lambda beside: _told(path, torch.save, whole, beside))


def load_state(path: Path) -> dict[str, Any]:
    """What `save_state` wrote, with its tensors on the CPU. Raises UserError for a damaged file, and for code in it."""
    try:
        with zipfile.ZipFile(path) as parts:
            if broken := parts.testzip():
                raise ValueError(f"wrong checksum of {broken}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except BROKEN as error:
        why = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise UserError(f"{path}: damaged ({why}); delete it to begin again") from None


def _crc32(tensors: dict[str, Tensor]) -> str:
    check = 0
    for name, tensor in sorted(tensors.items()):
        check = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), check)
        check = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy(), check)
    return f"{check:08x}"


def _told(path: Path, write: Any, *arguments: Any) -> None:
    """Both libraries have errors of their own for a disk that takes no more."""
    try:
        write(*arguments)
    except (RuntimeError, SafetensorError) as error:
        free, why = shutil.disk_usage(path.parent).free, str(error).splitlines()[0][:100]
        raise UserError(f"{path}: not written, {free:,} bytes are free on its disk ({why}); make room") from None
