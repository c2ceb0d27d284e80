"""Reading the voxels of an image file that is all there, not cut off, and no bomb: ITK makes up what is missing."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from isal import igzip, isal_zlib

from petct.errors import CaseError
from petct.headers import Header

Voxels = npt.NDArray[Any]

_CHUNK_BYTES = 1 << 20
# What readers say of compressed bytes that are cut off or not what their checksum says.
_DAMAGE: tuple[type[Exception], ...] = (OSError, EOFError, isal_zlib.error)  # type: ignore[assignment]  # it is a class
_ANY_ZLIB = 32 + zlib.MAX_WBITS  # MetaImage holds zlib's or gzip's format; this reads both
_MOST_SURPLUS_BYTES = 1 << 20  # some tools pad a NIfTI file
# zlib packs nothing tighter than 1030 to 1, and that only where nothing ever changes. Noise leaves a scan above a
# tenth, anatomy a label map above a hundredth.
_CONSTANT_RATIO = 900
_CONSTANT_ABOVE_BYTES = 1 << 28


def read_nifti_voxels(path: Path, header: Header, *, where: str) -> Voxels:
    """The voxels of a NIfTI file, compressed or not, after making sure that it holds them and nothing else.

    Args:
        path: A .nii or .nii.gz file.
        header: What it says of its voxels.
        where: The file, as the user knows it.

    Returns:
        (z, y, x), as stored: a scale is not applied.

    Raises:
        CaseError: The file is cut off, damaged, holds much more than its voxels, or a voxel that is nan or infinite.
    """
    needed_bytes = header.voxels_at + header.stored_bytes
    is_gzip = path.name.endswith(".gz")
    file_bytes = path.stat().st_size
    if is_gzip:
        _check_ratio(header, compressed_bytes=file_bytes, where=where)
    else:
        _check_length(file_bytes, needed_bytes=needed_bytes, where=where)
    voxels = np.empty(header.stored_bytes, dtype=np.uint8)
    held_bytes = 0
    try:
        with igzip.open(path) if is_gzip else path.open("rb") as file:
            file.seek(header.voxels_at)
            # A multiple of every number's length, so none lies across two chunks.
            while count := file.readinto(voxels[held_bytes : held_bytes + _CHUNK_BYTES].data):
                _check_finite(voxels[held_bytes : held_bytes + count], header, where=where)
                held_bytes += count
            # To the end, where the checksum is.
            while held_bytes <= header.stored_bytes + _MOST_SURPLUS_BYTES and (surplus := file.read(_CHUNK_BYTES)):
                held_bytes += len(surplus)
    except _DAMAGE as error:
        raise _damaged(where, error) from error
    _check_length(header.voxels_at + held_bytes, needed_bytes=needed_bytes, where=where)
    return _as_stored(voxels, header)


def _check_finite(chunk: npt.NDArray[np.uint8], header: Header, *, where: str) -> None:
    """ITK reads nan and infinite voxels of a NIfTI file as 0, and does not say so."""
    if header.is_float:
        numbers = chunk[: len(chunk) // header.component_bytes * header.component_bytes].view(header.dtype)
        if not np.isfinite(numbers).all():
            raise CaseError(where, "every voxel must be finite", "nan or infinite voxels")


def read_metaimage_voxels(path: Path, header: Header, *, where: str) -> Voxels:
    """The voxels of a MetaImage file, after making sure that it holds them and nothing else.

    Args:
        path: A .mha file.
        header: What it says of its voxels.
        where: The file, as the user knows it.

    Returns:
        (z, y, x), as stored.

    Raises:
        CaseError: The voxels are cut off, damaged, or more than the file says.
    """
    compressed_bytes = header.compressed_bytes
    if compressed_bytes is None:
        _check_length(path.stat().st_size - header.voxels_at, needed_bytes=header.stored_bytes, where=where)
    else:
        _check_ratio(header, compressed_bytes=compressed_bytes, where=where)
    voxels = np.empty(header.stored_bytes, dtype=np.uint8)
    held_bytes = 0
    try:
        with path.open("rb") as file:
            file.seek(header.voxels_at)
            if compressed_bytes is None:
                held_bytes = file.readinto(voxels.data)
            else:
                for piece in _inflate(file, compressed_bytes=compressed_bytes):
                    if held_bytes + len(piece) > header.stored_bytes:
                        rule = f"image file must hold {header.stored_bytes} bytes of voxels"
                        raise CaseError(where, rule, "more compressed ones")
                    voxels[held_bytes : held_bytes + len(piece)] = np.frombuffer(piece, dtype=np.uint8)
                    held_bytes += len(piece)
    except _DAMAGE as error:
        raise _damaged(where, error) from error
    _check_length(held_bytes, needed_bytes=header.stored_bytes, where=where)
    return _as_stored(voxels, header)


def _inflate(file: BinaryIO, *, compressed_bytes: int) -> Iterator[bytes]:
    """The uncompressed voxels, a MiB at a time however much of them a compressed MiB holds."""
    inflater = isal_zlib.decompressobj(_ANY_ZLIB)
    while not inflater.eof and (chunk := inflater.unconsumed_tail or file.read(min(_CHUNK_BYTES, compressed_bytes))):
        if not inflater.unconsumed_tail:
            compressed_bytes -= len(chunk)
        yield inflater.decompress(chunk, _CHUNK_BYTES)
    while not inflater.eof and (piece := inflater.decompress(b"", _CHUNK_BYTES)):
        yield piece
    if not inflater.eof:
        raise EOFError("compressed voxels end before their end mark")


def _check_ratio(header: Header, *, compressed_bytes: int, where: str) -> None:
    """Refuse a large image that claims to be the same voxel all over, before hundreds of MiB of it are unpacked."""
    if header.stored_bytes > max(_CONSTANT_ABOVE_BYTES, _CONSTANT_RATIO * compressed_bytes):
        rule = f"an image of {header.stored_bytes >> 20} MiB must hold more than {_CONSTANT_RATIO} times less"
        raise CaseError(where, rule, f"{compressed_bytes} bytes of compressed voxels")


def _check_length(held_bytes: int, *, needed_bytes: int, where: str) -> None:
    if held_bytes < needed_bytes:
        raise CaseError(where, "image file must be whole", f"{held_bytes} of {needed_bytes} bytes")
    if held_bytes > needed_bytes + _MOST_SURPLUS_BYTES:
        raise CaseError(where, f"image file must end after its {needed_bytes} bytes", f"{held_bytes} bytes or more")


def _as_stored(voxels: npt.NDArray[np.uint8], header: Header) -> Voxels:
    numbers: Voxels = voxels.view(header.dtype).reshape(header.size[::-1])
    return numbers.astype(header.dtype.newbyteorder("="), copy=False)


def _damaged(where: str, error: Exception) -> CaseError:
    return CaseError(where, "image file must be whole and undamaged", str(error))
