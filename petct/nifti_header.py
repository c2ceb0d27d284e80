"""The 348 bytes at the head of a NIfTI-1 file, read strictly before ITK believes them."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence

from petct.errors import CaseError
from petct.headers import Header, check_finite, not_an_image

HEADER_BYTES = 348
_NIFTI_2_BYTES = 540
_FIRST_VOXEL_AT_LEAST = 352
_LAST_VOXELS_AT = 1 << 20  # extensions are notes of a few KB
_PIXELS: Mapping[int, tuple[int, int, str]] = {  # code: numbers per voxel, bytes per number, name
    2: (1, 1, "8-bit unsigned integer"),
    4: (1, 2, "16-bit signed integer"),
    8: (1, 4, "32-bit signed integer"),
    16: (1, 4, "32-bit float"),
    32: (2, 4, "32-bit float"),
    64: (1, 8, "64-bit float"),
    128: (3, 1, "8-bit unsigned integer"),
    256: (1, 1, "8-bit signed integer"),
    512: (1, 2, "16-bit unsigned integer"),
    768: (1, 4, "32-bit unsigned integer"),
    1024: (1, 8, "64-bit signed integer"),
    1280: (1, 8, "64-bit unsigned integer"),
    1792: (2, 8, "64-bit float"),
    2304: (4, 1, "8-bit unsigned integer"),
}
_COMPLEX = (32, 1792)
_HIGHEST_FORM = 5  # codes of the qform and the sform
_VECTOR_AXIS = 4  # the fifth: NIfTI's place for the components of a voxel


def read_nifti_header(head: bytes, *, file_bytes: int, where: str) -> Header:
    """What a NIfTI-1 file says of its voxels, which must follow its header in the same file.

    The grid is left to ITK; here its numbers are only checked to be numbers.

    Args:
        head: The first MiB of the uncompressed file, or all of it.
        file_bytes: Length of the file on disk, for the error.
        where: The file, as the user knows it.

    Returns:
        Size, type and place; the size is still to be checked.

    Raises:
        CaseError: It is no such file, or a field breaks its own standard.
    """
    order = _byte_order(head, file_bytes=file_bytes, where=where)
    if head[344:348] != b"n+1\0":
        raise CaseError(where, "voxels must be inside the NIfTI file", f"magic {head[344:348]!r}")
    axes, *lengths = struct.unpack_from(f"{order}8h", head, 40)
    if not 1 <= axes <= 7:
        raise CaseError(where, "image must be 3D", f"{axes}D")
    code, bits = struct.unpack_from(f"{order}2h", head, 70)
    if code not in _PIXELS:
        raise CaseError(where, "NIfTI datatype must be whole numbers or floats", f"code {code}")
    components, component_bytes, component = _PIXELS[code]
    if bits != 8 * components * component_bytes:
        raise CaseError(where, f"NIfTI bitpix must be {8 * components * component_bytes} for {component}", f"{bits}")
    pixdim = struct.unpack_from(f"{order}8f", head, 76)
    spacing_mm = pixdim[1:4]
    if not all(mm > 0.0 and math.isfinite(mm) for mm in spacing_mm[:axes]):
        raise CaseError(where, "spacing must be > 0 mm", f"{spacing_mm} mm (x, y, z)")
    _check_forms(head, order=order, where=where)
    slope, intercept = struct.unpack_from(f"{order}2f", head, 112)
    # No scale is written as 0 or nan; ITK adds the intercept even then, nobody else does.
    if (slope == 0.0 or not math.isfinite(slope)) and math.isfinite(intercept) and intercept != 0.0:
        raise CaseError(where, f"NIfTI scl_inter must be 0 with a scl_slope of {slope:g}", f"{intercept:g}")
    if code in _COMPLEX:
        raise CaseError(where, "image must be scalar", f"2 components (complex of {component})")
    size, vector = _size(lengths[:axes])
    return Header(
        size=size,
        components=components * vector,
        component_bytes=component_bytes,
        component=component,
        voxels_at=_voxels_at(head, order=order, where=where),
        byte_order=order,
        is_scaled=math.isfinite(slope) and slope != 0.0 and (slope, intercept) != (1.0, 0.0),
    )


def _byte_order(head: bytes, *, file_bytes: int, where: str) -> str:
    if len(head) >= _FIRST_VOXEL_AT_LEAST:
        for order in "<>":
            (length,) = struct.unpack_from(f"{order}i", head)
            if length == _NIFTI_2_BYTES:
                raise CaseError(where, "NIfTI file must be of version 1", "version 2")
            if length == HEADER_BYTES:
                return order
    raise not_an_image(file_bytes, where=where)


def _size(lengths: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Voxels along the axes without those at the end that hold one, and the components of a vector."""
    size = list(lengths)
    vector = size.pop() if len(size) == _VECTOR_AXIS + 1 and size[3] == 1 else 1
    while len(size) > 3 and size[-1] == 1:
        size.pop()
    return tuple(size), vector


def _check_forms(head: bytes, *, order: str, where: str) -> None:
    """The two ways in which a header says where the voxels lie; at least one is needed."""
    qform, sform = struct.unpack_from(f"{order}2h", head, 252)
    if not (0 <= qform <= _HIGHEST_FORM and 0 <= sform <= _HIGHEST_FORM):
        raise CaseError(where, f"NIfTI qform and sform codes must be 0-{_HIGHEST_FORM}", f"{qform} and {sform}")
    if qform == sform == 0:
        raise CaseError(where, "NIfTI header must say where the voxels lie", "qform and sform code 0")
    (handedness,) = struct.unpack_from(f"{order}f", head, 76)
    quaternion = struct.unpack_from(f"{order}6f", head, 256)
    rows = struct.unpack_from(f"{order}12f", head, 280)
    if qform:
        check_finite((handedness, *quaternion), rule="NIfTI qform must be finite", where=where)
        length = math.hypot(*quaternion[:3])
        if length > 1.001:  # float32 rounds it
            raise CaseError(where, "NIfTI quaternion must be of length 1 at most", f"{length:g}")
    if sform:
        check_finite(rows, rule="NIfTI sform must be finite", where=where)


def _voxels_at(head: bytes, *, order: str, where: str) -> int:
    """Where the voxels begin, after extensions that follow each other up to there."""
    (offset,) = struct.unpack_from(f"{order}f", head, 108)
    if not (_FIRST_VOXEL_AT_LEAST <= offset <= _LAST_VOXELS_AT and offset == int(offset)):
        rule = f"NIfTI vox_offset must be a whole number of {_FIRST_VOXEL_AT_LEAST}-{_LAST_VOXELS_AT}"
        raise CaseError(where, rule, f"{offset:g}")
    place = _FIRST_VOXEL_AT_LEAST
    while head[HEADER_BYTES] and place + 8 <= min(offset, len(head)):
        (length,) = struct.unpack_from(f"{order}i", head, place)
        if length < 16 or length % 16 or place + length > offset:
            raise CaseError(where, "NIfTI extension must be 16-byte blocks before the voxels", f"{length} bytes")
        place += length
    return int(offset)
