"""What must come of any input at all: a checked scan, or a refusal in one line; and the files to begin with."""

from __future__ import annotations

import gzip
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from cases import pet_image, write_input
from petct.checks import check_pet, check_threshold
from petct.errors import CaseError
from petct.geometry import grid_of, to_array
from petct.images import read_image
from petct.metaimage_header import read_metaimage_header
from petct.nifti_header import read_nifti_header
from petct.scan_files import CaseFile, read_json
from petct.sockets import find_socket_files
from platform_case import SocketKey


def refusal_of(read: Callable[[], object]) -> CaseError | None:
    """Call a reader; its refusal, whose line must be fit for stderr, or None when it has taken what it was given.

    Nothing may be said past Python's streams meanwhile: ITK's own words are not always UTF-8.
    """
    with tempfile.TemporaryFile() as said:
        kept = {stream: os.dup(stream) for stream in (1, 2)}
        try:
            for stream in kept:
                os.dup2(said.fileno(), stream)
            try:
                read()
                refusal = None
            except CaseError as error:
                refusal = error
        finally:
            for stream, original in kept.items():
                os.dup2(original, stream)
                os.close(original)
        said.seek(0)
        words = said.read()
    assert not words, words
    if refusal is not None:
        line = str(refusal)
        assert line.isprintable(), line
        assert len(line.encode("utf-8")) < 65536, line[:100]
        assert ": " in line, line
    return refusal


def read_pet(path: Path) -> None:
    """A PET that is taken is a finite scalar image on a grid."""
    pet = read_image(path, where="PET")
    grid = grid_of(pet)
    assert min(grid.shape_zyx) > 0
    assert min(grid.spacing_mm_xyz) > 0.0
    direction = np.reshape(grid.direction, (3, 3))
    assert abs(abs(np.linalg.det(direction)) - 1.0) < 0.01
    assert np.all(np.isfinite(grid.corners_mm_xyz()))
    _check_voxels(to_array(pet), path)
    check_pet(pet, suv_threshold=3.0, where="PET")
    assert np.all(np.isfinite(to_array(pet)))


def _check_voxels(voxels: np.ndarray, path: Path) -> None:
    """ITK must have read the file's own bytes, not what was in memory before."""
    content = path.read_bytes()
    if path.name.endswith(".gz"):
        content = gzip.decompress(content)
    read_header = read_metaimage_header if path.name.endswith(".mha") else read_nifti_header
    header = read_header(content, file_bytes=len(content), where="PET")
    if read_header is read_nifti_header and _is_scaled(content, header.byte_order):
        return
    stored = content[header.voxels_at :]
    if header.compressed_bytes is not None:
        stored = zlib.decompress(stored[: header.compressed_bytes], 47)
    expected = np.frombuffer(stored, voxels.dtype.newbyteorder(header.byte_order), count=voxels.size)
    assert np.array_equal(voxels.ravel(), expected, equal_nan=voxels.dtype.kind == "f")


def _is_scaled(content: bytes, byte_order: str) -> bool:
    slope, intercept = struct.unpack_from(f"{byte_order}2f", content, 112)
    # 0 and what is no number mean that there is no scale.
    return np.isfinite(slope) and slope != 0.0 and (slope, intercept) != (1.0, 0.0)


def read_threshold(path: Path) -> None:
    """A threshold that is taken is a number that SUV can be held against."""
    assert 0.1 <= check_threshold(read_json(CaseFile(path, "threshold.json")), where="threshold.json") <= 100.0


def read_inputs(path: Path) -> None:
    """Whatever inputs.json says, the files that are found are there, and in its folder."""
    folder = path.parent
    for files in find_socket_files(folder).values():
        for file in (files.pet, files.ct, files.threshold, *([files.organs] if files.organs else [])):
            assert file.path.is_file()
            assert file.path.resolve().is_relative_to(folder.resolve())
            assert file.where.isprintable()


def seeds(target: str, folder: Path) -> list[bytes]:
    """Files that the reader of a target accepts, in the forms that it knows.

    Args:
        target: `mha`, `nii`, `niigz`, `inputs` or `threshold`.
        folder: Where to write on the way; a case in the platform's layout, for `inputs`, is left at `input`.
    """
    if target == "threshold":
        return [b"3.0", b"4", b'{"suv_threshold": 2.41}', b'\xef\xbb\xbf{"suv_threshold": 3, "unit": "SUV"}']
    if target == "inputs":
        write_input(folder)
        forms = [_inputs_json(folder / key, key=key) for key in SocketKey]
        return [*forms, b"[]", b'[{"socket": {"slug": "fdg-pet", "relative_path": "images/fdg-pet"}}]']
    images = [pet_image(), sitk.Cast(pet_image() * 100, sitk.sitkInt16), sitk.Cast(pet_image(), sitk.sitkUInt8)]
    contents = []
    for image in images:
        for compressed in (True, False) if target == "mha" else (False,):
            path = folder / ("seed.mha" if target == "mha" else "seed.nii")
            sitk.WriteImage(image, path, useCompression=compressed)
            contents.append(path.read_bytes())
    if target == "mha":
        return contents
    contents.append(_with_extension(contents[0]))
    contents.append(_big_endian(contents[0]))
    return [gzip.compress(content, mtime=0) for content in contents] if target == "niigz" else contents


def _inputs_json(folder: Path, *, key: SocketKey) -> bytes:
    content: bytes = (write_input(folder, key=key) / "inputs.json").read_bytes()
    return json.dumps(json.loads(content)).encode()


def _with_extension(content: bytes) -> bytes:
    """A NIfTI file with a note of 32 bytes between header and voxels."""
    note = struct.pack("<ii24s", 32, 6, b"a note")
    header = bytearray(content[:352])
    struct.pack_into("<f", header, 108, 384.0)
    header[348] = 1
    return bytes(header) + note + content[352:]


def _big_endian(content: bytes) -> bytes:
    """The same NIfTI file of float32 with every number the other way round."""
    layout = "i10s18sih2c8h3f4h8f3fh2c4f2i80s24s2h18f16s4s"
    numbers = struct.unpack("<" + layout, content[:348])
    voxels = np.frombuffer(content[352:], dtype="<f4").astype(">f4").tobytes()
    return struct.pack(">" + layout, *numbers) + content[348:352] + voxels
