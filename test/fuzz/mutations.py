"""Hostile changes to files that the readers accept: what an attacker, a broken tool or a bad disk would change."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from random import Random

WHOLES = (0, 1, -1, 2, 3, 4, 5, 10, 11, 100, 255, 32767, -32768, 10**6, 2**31 - 1, -(2**31), 2**32, 2**63, 10**30)
NUMBERS = ("0", "-0.0", "1", "-4", "nan", "-nan", "inf", "1e-40", "1e39", "1e300", "1e-320", "1e9999", ".", "1,5")
META_WORDS = (
    *("True", "False", "true", "1", "", " ", "LOCAL", "LIST", "a.raw", "%03d.raw 1 9 1", "Image", "Tube", "mm", "cm"),
    *("MET_UCHAR", "MET_SHORT", "MET_FLOAT", "MET_DOUBLE", "MET_LONG", "MET_OTHER", "MET_STRING", "MET_FLOAT_ARRAY"),
    *("1 0 0 0 1 0 0 0 -1", "0 1 0 1 0 0 0 0 1", "1 0.5 0 0 1 0 0 0 1", "7 9 11 2", "7 9", "\xff\xfe", "a" * 600),
)
META_KEYS = (
    *("ObjectType", "ObjectSubType", "NDims", "DimSize", "BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB"),
    *("CompressedData", "CompressedDataSize", "TransformMatrix", "Rotation", "Orientation", "Offset", "Origin"),
    *("Position", "ImagePosition", "CenterOfRotation", "AnatomicalOrientation", "ElementSpacing", "ElementSize"),
    *("ElementType", "ElementNumberOfChannels", "ElementDataFile", "HeaderSize", "Modality", "Comment", "Name", "ID"),
    *("ParentID", "Color", "DistanceUnits", "TransformType", "SequenceID", "ElementMin", "ElementMax", "ElementNBits"),
    *("AcquisitionDate", "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset", "Anything", ""),
)
# Offset and struct code of the fields of a NIfTI-1 header.
NIFTI_FIELDS = (
    (0, "i"),
    *((40 + 2 * n, "h") for n in range(8)),  # dim
    *((56, "f"), (60, "f"), (64, "f"), (68, "h"), (70, "h"), (72, "h"), (74, "h")),  # intent, datatype, bitpix
    *((76 + 4 * n, "f") for n in range(8)),  # pixdim
    *((108, "f"), (112, "f"), (116, "f"), (120, "h"), (123, "B")),  # vox_offset, slope, intercept, slices, units
    *((252, "h"), (254, "h")),  # qform and sform codes
    *((256 + 4 * n, "f") for n in range(18)),  # quaternion, offsets, rows
    *((344, "i"), (348, "i"), (352, "i")),  # magic, extension flag, first extension
)
NIFTI_FLOATS = (0.0, -1.0, 1.0, 0.5, 352.0, 351.0, 1e6, 4e9, 1e30, 1e-30, float("nan"), float("inf"), float("-inf"))
NIFTI_TYPES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, 255)


def mutate_metaimage(content: bytes, random: Random) -> bytes:
    """A .mha file with one line of its header changed, doubled, moved, dropped or added, or its end changed."""
    end = content.find(b"ElementDataFile")
    if end < 0:
        return mutate_bytes(content, random)
    lines = content[:end].split(b"\n")[:-1]
    rest = content[end:]
    place = random.randrange(len(lines)) if lines else 0
    match random.randrange(7):
        case 0 if lines:
            lines.insert(random.randrange(len(lines) + 1), lines[place])
        case 1 if lines:
            lines.insert(random.randrange(len(lines)), lines.pop(place))
        case 2 if lines:
            del lines[place]
        case 3:
            lines.insert(place, _metaimage_line(random))
        case 4:
            rest = mutate_bytes(rest, random)
        case _ if lines:
            key = lines[place].partition(b"=")[0]
            lines[place] = key + b"= " + _metaimage_value(random, old=lines[place].partition(b"=")[2])
    return b"\n".join([*lines, rest])


def _metaimage_line(random: Random) -> bytes:
    separator = random.choice((b" = ", b"=", b":", b" ", b"\0", b" =\r"))
    return random.choice(META_KEYS).encode() + separator + _metaimage_value(random, old=b"1 2 3")


def _metaimage_value(random: Random, *, old: bytes) -> bytes:
    words = old.split()
    if words and random.random() < 0.5:
        words[random.randrange(len(words))] = random.choice((*map(str, WHOLES), *NUMBERS)).encode()
        return b" ".join(words)
    return random.choice((*META_WORDS, *NUMBERS, *map(str, WHOLES))).encode("latin-1")


def mutate_nifti(content: bytes, random: Random) -> bytes:
    """An uncompressed NIfTI file with some header fields set to telling values, or its bytes changed."""
    changed = bytearray(content)
    if len(changed) < 356 or random.random() < 0.1:
        return mutate_bytes(content, random)
    order = "<" if changed[0] == 92 else ">"  # 348 is 92 + 256
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        offset, code = random.choice(NIFTI_FIELDS)
        value: float = random.choice(NIFTI_FLOATS)
        if code != "f":
            bits = 8 * struct.calcsize(code)
            value = random.choice((*WHOLES, *NIFTI_TYPES)) % 2**bits
            code = code.upper()
        struct.pack_into(order + code, changed, offset, value)
    return bytes(changed)


def mutate_json(content: bytes, random: Random) -> bytes:
    """A JSON document with one value replaced, one text spliced in, or its bytes changed."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return mutate_bytes(content, random)
    if random.random() < 0.2:
        return mutate_bytes(content, random)
    holders = list(_holders(document))
    if not holders:
        return random.choice(_JSON_TEXTS)(random)
    holder = random.choice(holders)
    key = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    marker = "@ here @"
    holder[key] = marker
    return json.dumps(document).encode().replace(f'"{marker}"'.encode(), random.choice(_JSON_TEXTS)(random))


def _holders(document: object, depth: int = 0):
    if isinstance(document, (dict, list)) and document and depth < 50:
        yield document
        for value in document.values() if isinstance(document, dict) else document:
            yield from _holders(value, depth + 1)


_JSON_TEXTS: tuple[Callable[[Random], bytes], ...] = (
    lambda random: str(random.choice(WHOLES)).encode(),
    lambda random: random.choice(NUMBERS).encode(),
    lambda random: random.choice((b"null", b"true", b"false", b"NaN", b"-Infinity", b"1e999", b"-0", b"3.0")),
    lambda random: b"[" * (n := random.choice((1, 50, 900, 2000))) + b"]" * n,
    lambda random: b'{"a":' * (n := random.choice((1, 50, 900, 2000))) + b"3" + b"}" * n,
    lambda random: b'"%s"' % random.choice((b"", b"..", b"/etc", b"\\ud800", b"\\u0000", b"a" * 5000, b"\xff", b".")),
    lambda random: b'{"suv_threshold": ' + random.choice(NUMBERS).encode() + b"}",
    lambda random: b'{"slug": "fdg-pet", "relative_path": "images/fdg-ct"}',
    lambda random: b"9" * random.choice((30, 310, 5000)),
)


def mutate_bytes(content: bytes, random: Random) -> bytes:
    """Any file cut, lengthened, or with a few bytes changed."""
    changed = bytearray(content)
    match random.randrange(4):
        case 0:
            del changed[random.randrange(len(changed) + 1) :]
        case 1:
            place = random.randrange(len(changed) + 1)
            changed[place:place] = random.randbytes(random.choice((1, 2, 16, 4096)))
        case _ if changed:
            for _ in range(random.choice((1, 1, 4, 32))):
                changed[random.randrange(len(changed))] = random.choice((0, 255, 10, 32, random.randrange(256)))
    return bytes(changed)


def compress(content: bytes) -> bytes:
    """What .nii becomes as .nii.gz, the same every time."""
    return gzip.compress(content, compresslevel=1, mtime=0)
