"""Whether an image file is all there: ITK reads many that are cut off or damaged, and makes up the rest."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from petct.errors import CaseError

_CHUNK_BYTES = 1 << 20
_META_HEADER_BYTES = 1 << 16  # ten times any header seen; voxels follow it in the same file
_META_HEADER = re.compile(rb".*?^ElementDataFile *= *LOCAL *\r?\n", re.DOTALL | re.MULTILINE)
_META_COMPRESSED = re.compile(rb"^CompressedData *= *True", re.MULTILINE | re.IGNORECASE)
_ANY_ZLIB = 32 + zlib.MAX_WBITS  # MetaImage holds zlib's or gzip's format; this reads both


def check_nifti_is_whole(path: Path, *, needed_bytes: int, where: str) -> None:
    """Refuse a NIfTI file, compressed or not, that holds fewer bytes than it must or fails its own checksum.

    Args:
        path: A .nii or .nii.gz file.
        needed_bytes: Header and voxels, uncompressed.
        where: The file, as the user knows it.

    Raises:
        CaseError: The file is cut off or damaged.
    """
    try:
        if path.name.endswith(".gz"):
            with gzip.open(path) as file:
                held_bytes = sum(len(chunk) for chunk in _chunks(file))
        else:
            held_bytes = path.stat().st_size
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(where, error) from error
    _check_length(held_bytes, needed_bytes=needed_bytes, where=where)


def check_metaimage_is_whole(path: Path, *, needed_bytes: int, where: str) -> None:
    """Refuse a MetaImage file whose voxels are cut off, damaged, or in another file.

    Args:
        path: A .mha file.
        needed_bytes: The voxels, uncompressed.
        where: The file, as the user knows it.

    Raises:
        CaseError: The voxels are not all in the file.
    """
    try:
        with path.open("rb") as file:
            header = _META_HEADER.match(file.read(_META_HEADER_BYTES))
            if header is None:
                raise CaseError(where, "voxels must be inside the .mha file")
            if _META_COMPRESSED.search(header[0]):
                file.seek(header.end())
                held_bytes = sum(len(chunk) for chunk in _inflate(_chunks(file)))
            else:
                held_bytes = path.stat().st_size - header.end()
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(where, error) from error
    _check_length(held_bytes, needed_bytes=needed_bytes, where=where)


def _chunks(file: BinaryIO | gzip.GzipFile) -> Iterator[bytes]:
    return iter(lambda: file.read(_CHUNK_BYTES), b"")


def _inflate(chunks: Iterable[bytes]) -> Iterator[bytes]:
    inflater = zlib.decompressobj(_ANY_ZLIB)
    for chunk in chunks:
        yield inflater.decompress(chunk)
    if not inflater.eof:
        raise EOFError("compressed voxels end before their end mark")


def _check_length(held_bytes: int, *, needed_bytes: int, where: str) -> None:
    if held_bytes < needed_bytes:
        raise CaseError(where, "image file must be whole", f"{held_bytes} of {needed_bytes} bytes")


def _damaged(where: str, error: Exception) -> CaseError:
    return CaseError(where, "image file must be whole and undamaged", str(error))
