"""Headers that lie, and bombs: the verbs of the table of bad inputs for what comes before the voxels."""

from __future__ import annotations

import gzip
import struct
import zlib

import SimpleITK as sitk

from bad_files import Place, Spoil
from petct.case import Tracer


def header(tracer: Tracer, what: str, *, mha: dict[str, str | None], nifti: list[tuple[int, str, float]]) -> Spoil:
    """Fields of the header of an uncompressed image, whatever its format: texts by key (None drops it), or numbers."""

    def spoil(place: Place) -> None:
        path = place.image(tracer, what)
        if place.is_platform:
            sitk.WriteImage(sitk.ReadImage(path), path, useCompression=False)
            path.write_bytes(with_fields(path.read_bytes(), mha))
        else:
            path.write_bytes(gzip.compress(with_numbers(gzip.decompress(path.read_bytes()), nifti)))

    return spoil


def with_fields(content: bytes, fields: dict[str, str | None]) -> bytes:
    """A .mha file with lines of its header changed; keys that are not there come before the last two lines."""
    end = content.index(b"LOCAL\n")
    lines = dict(line.split(" = ", 1) for line in (content[:end] + b"LOCAL").decode().split("\n"))
    tail = {key: lines.pop(key) for key in ("ElementType", "ElementDataFile")}
    lines.update({key: value for key, value in fields.items() if key not in tail and value is not None})
    tail.update({key: value for key, value in fields.items() if key in tail and value is not None})
    kept = {key: value for key, value in (lines | tail).items() if fields.get(key, "") is not None}
    text = "".join(f"{key} = {value}\n" for key, value in kept.items())
    return text.encode("latin-1") + content[end + len(b"LOCAL\n") :]


def with_numbers(content: bytes, numbers: list[tuple[int, str, float]]) -> bytes:
    """An uncompressed NIfTI file with header fields changed: offset, struct code, value."""
    changed_content = bytearray(content)
    for offset, code, value in numbers:
        struct.pack_into(f"<{code}", changed_content, offset, value)
    return bytes(changed_content)


def zlib_of_zeros(block_bytes: int, *, blocks: int) -> bytes:
    """What `blocks` times as many zeros compress to, made without compressing them all."""
    packer = zlib.compressobj(9)
    first = packer.compress(bytes(block_bytes)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(block_bytes)) + packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush nothing refers back, so a block may be repeated; the checksum is of a bomb, and wrong.
    return first + again * (blocks - 1) + packer.flush()


def gzip_of_zeros(start: bytes, block_bytes: int, *, blocks: int) -> bytes:
    """A gzip file of some bytes and then many zeros, in members that follow each other."""
    return gzip.compress(start) + gzip.compress(bytes(block_bytes)) * blocks


def image_of_zeros(shape_zyx: tuple[int, int, int]) -> Spoil:
    """An honest PET of float32 in which every voxel is 0, and which takes hundreds of MiB."""
    z, y, x = shape_zyx
    needed = 4 * z * y * x
    block = 1 << 24

    def spoil(place: Place) -> None:
        path = place.image(Tracer.PSMA, "pet")
        if place.is_platform:
            packer = zlib.compressobj(9)
            pieces = [packer.compress(bytes(block)) for _ in range(needed // block)]
            payload = b"".join([*pieces, packer.compress(bytes(needed % block)), packer.flush()])
            fields = {"DimSize": f"{x} {y} {z}", "CompressedData": "True", "CompressedDataSize": f"{len(payload)}"}
            content = with_fields(path.read_bytes(), {**fields, "ElementSpacing": "2 2 2"})
            path.write_bytes(content[: content.index(b"LOCAL\n") + len(b"LOCAL\n")] + payload)
        else:
            start = gzip.decompress(path.read_bytes())[:352]
            start = with_numbers(start, [(42, "h", x), (44, "h", y), (46, "h", z)])
            path.write_bytes(gzip_of_zeros(start, block, blocks=needed // block + 1))

    return spoil
