"""What `torch.save` wrote, read without executing anything in it: archives that unpack to no more than they are."""

import errno
import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from impasto.errors import UnreadableError, UserError, one_line
from impasto.memory import is_shortage


def load_archive(path: str | os.PathLike[str], mapped: bool = True) -> Any:
    """The content of a file of torch.save; `mapped` tensors are to be copied, and until then hold the file in place.

    Raises `UnreadableError` where the system or the memory fails, `UserError` for a missing or damaged file, one that
    holds more than tensors and plain data, and one that unpacks to more than its size.
    """
    shown, path = repr(os.fspath(path)), Path(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint {shown}")
    try:
        packed = zipfile.is_zipfile(path)  # files from before torch 1.6 are not
        if packed and unpacked_size(path) > path.stat().st_size:  # torch.save does not compress
            raise UserError(f"{shown} claims more weights than it holds")
        with warnings.catch_warnings(action="ignore"):  # on programs, which it then refuses
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and packed)
    except UserError:
        raise
    except Exception as error:  # no common base, and torch's texts advise to execute the file
        if reason := _failing_system(error):
            raise UnreadableError(f"{shown} cannot be read: {reason}") from None
        if isinstance(error, OSError):
            raise UserError(f"{shown} is damaged: its end is missing") from None
        raise UserError(f"{shown} is damaged, or holds more than weights: nothing in it is executed") from None


def _failing_system(error: Exception) -> str | None:
    """What kept the system from reading a file, where that and not the file itself is to blame."""
    if isinstance(error, MemoryError) or is_shortage(error):
        return "it takes more memory than there is"
    if isinstance(error, UnicodeEncodeError):  # of torch's reader
        return "its path is not UTF-8"
    if isinstance(error, OSError) and error.errno != errno.EINVAL:  # of a look beyond the file's end
        return error.strerror or str(error)
    return one_line(error) if "unable to mmap" in str(error) else None  # which not every file system does


def check_weights(weights: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Raise `UserError` unless all are plain tensors of floating-point numbers that the file has room for."""
    shown = repr(os.fspath(path))
    for name, value in weights.items():
        if (
            not isinstance(value, Tensor)
            or not value.is_floating_point()
            or value.layout != torch.strided
            or value.is_meta
        ):
            raise UserError(f"{shown} is no state dict of a network: its {name[:80]!r} is no tensor of weights")
    # a tensor can repeat one number for ever, which would take memory only once it is copied
    if sum(tensor.numel() * tensor.element_size() for tensor in weights.values()) > Path(path).stat().st_size:
        raise UserError(f"{shown} claims more weights than it holds")


def check_sums(path: Path) -> None:
    """Raise `UserError` where the bytes of an archive are not those that were written: torch itself does not look.

    Raises `UnreadableError` where the system or the memory fails.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
    except Exception as error:  # of zipfile and zlib: no common base
        if reason := _failing_system(error):
            raise UnreadableError(f"{str(path)!r} cannot be read: {reason}") from None
        part = one_line(error)
    if part is not None:
        raise UserError(f"{str(path)!r} is damaged: its checksums are wrong, first in {one_line(part)}")


def unpacked_size(path: Path) -> int:
    """Bytes that a zip archive says it unpacks to."""
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist())
