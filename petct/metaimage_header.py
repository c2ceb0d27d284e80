"""The text at the head of a .mha file, read strictly: whatever ITK could take otherwise than we do is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from petct.errors import CaseError
from petct.headers import MOST_HEADER_BYTES, Header, check_finite, not_an_image

# ITK gives up on a key beyond 500 characters, and SimpleITK on one that is not UTF-8.
_KEY = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,198}[\x21-\x7e])?")
_END = re.compile(rb"^[ \t]*ElementDataFile[ \t]*[=:][^\n]*\n", re.MULTILINE)
_PRINTABLE = re.compile(r"[\x20-\x7e\t]*")
_BLANKS = " \t\r"  # Python knows more of them than ITK
_LINE = re.compile(r"[ \t\r]*([^=:]+?)[ \t]*[=:](.*)", re.DOTALL)
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,4})?")
_WHOLE = re.compile(r"-?\d{1,18}")
_LONGEST_TEXT, _LONGEST_NUMBERS = 250, 480  # ITK has room for 255 and 500, and does not look
_NOT_FINITE = ("nan", "inf", "infinity")  # numbers to some, and refused by what they are for
_PIXELS: Mapping[str, tuple[int, str]] = {
    "MET_CHAR": (1, "8-bit signed integer"),
    "MET_UCHAR": (1, "8-bit unsigned integer"),
    "MET_SHORT": (2, "16-bit signed integer"),
    "MET_USHORT": (2, "16-bit unsigned integer"),
    "MET_INT": (4, "32-bit signed integer"),
    "MET_UINT": (4, "32-bit unsigned integer"),
    "MET_LONG": (4, "32-bit signed integer"),
    "MET_ULONG": (4, "32-bit unsigned integer"),
    "MET_LONG_LONG": (8, "64-bit signed integer"),
    "MET_ULONG_LONG": (8, "64-bit unsigned integer"),
    "MET_FLOAT": (4, "32-bit float"),
    "MET_DOUBLE": (8, "64-bit float"),
}
# The format has several names for one thing, and ITK's choice between them is nobody's business to know.
_ORIGIN = ("Offset", "Origin", "Position", "ImagePosition")
_DIRECTION = ("TransformMatrix", "Rotation", "Orientation")
_SPACING = ("ElementSpacing", "ElementSize")
_GRID_KEYS = (*_ORIGIN, *_DIRECTION, "ElementSpacing")
_NUMBERS_PER_AXIS = (*_ORIGIN, *_SPACING, "CenterOfRotation", "DimSize", "SequenceID")
_FLAGS = ("BinaryData", "CompressedData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB")
_BIG_ENDIAN = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
_WHOLES = ("NDims", "CompressedDataSize", "HeaderSize", "ElementNumberOfChannels", "ID", "ParentID", "ElementNBits")
_NUMBERS = ("ElementMin", "ElementMax", "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset")
_TEXTS = (
    *("ObjectType", "ObjectSubType", "TransformType", "DistanceUnits", "AnatomicalOrientation", "ElementType"),
    *("ElementDataFile", "Name", "Comment", "AcquisitionDate", "Modality"),
)
_COLOR = "Color"  # four numbers, of objects that are drawn; ITK reads on into the next line until it has them
_KNOWN = frozenset((_COLOR, *_NUMBERS_PER_AXIS, *_DIRECTION, *_FLAGS, *_WHOLES, *_NUMBERS, *_TEXTS))
_FREE = ("Name", "Comment")  # of any text
# ITK passes over these in silence, and the voxels would mean something else.
_ONLY_AS: Mapping[str, tuple[str, ...]] = {
    "ObjectType": ("image",),
    "BinaryData": ("true",),
    "HeaderSize": ("0",),
    "DistanceUnits": ("mm", "?"),
    "ElementToIntensityFunctionSlope": ("1",),
    "ElementToIntensityFunctionOffset": ("0",),
}


def read_metaimage_header(head: bytes, *, file_bytes: int, where: str) -> Header:
    """What a .mha file says of its voxels, which must follow its header in the same file.

    Args:
        head: The first 64 KiB of the file, or all of it.
        file_bytes: Length of the file.
        where: The file, as the user knows it.

    Returns:
        Size, type, place and grid; the size and the grid are still to be checked.

    Raises:
        CaseError: A line is not `key = value`, a known key is doubled, missing, of another kind, or asks for something
            that is not read as it is meant.
    """
    end = _END.search(head[:MOST_HEADER_BYTES])
    if not head.lstrip().startswith((b"ObjectType", b"NDims", b"Comment")):
        raise not_an_image(file_bytes, where=where)
    if end is None:
        rule = f"header must end with ElementDataFile within {MOST_HEADER_BYTES} bytes"
        raise CaseError(where, rule, f"{file_bytes} bytes without it")
    fields = _fields(head[: end.end()].decode("latin-1"), where=where)
    if fields["ElementDataFile"] != "LOCAL":
        raise CaseError(where, "voxels must be inside the .mha file")
    axes = int(fields["NDims"])
    if not 1 <= axes <= 10:
        raise CaseError(where, "image must be 3D", f"{axes}D")
    component_bytes, component = _pixel(fields, where=where)
    for key in (*_NUMBERS_PER_AXIS, _COLOR):
        if key in fields:
            _numbers(fields, key, count=4 if key == _COLOR else axes, where=where)
    spacing_mm = _one_of(_SPACING, fields, count=axes, where=where, is_either=False)
    if not spacing_mm:
        raise CaseError(where, "ElementSpacing is missing")
    # Not nan either.
    if not all(mm > 0.0 and math.isfinite(mm) for mm in spacing_mm):
        raise CaseError(where, "spacing must be > 0 mm", f"{spacing_mm} mm (x, y, z)")
    origin_mm = _one_of(_ORIGIN, fields, count=axes, where=where)
    check_finite(origin_mm, rule="origin must be finite", where=where)
    across = _one_of(_DIRECTION, fields, count=axes * axes, where=where)
    check_finite(across, rule="direction must be orthonormal", where=where)
    return Header(
        size=tuple(int(number) for number in fields["DimSize"].split()),
        components=int(fields.get("ElementNumberOfChannels", "1")),
        component_bytes=component_bytes,
        component=component,
        voxels_at=end.end(),
        byte_order=_byte_order(fields, where=where),
        compressed_bytes=_compressed_bytes(fields, held_bytes=file_bytes - end.end(), where=where),
        spacing_mm=spacing_mm,
        origin_mm=origin_mm,
        # The file has a row for each axis, ITK a column.
        direction=tuple(across[row * axes + column] for column in range(axes) for row in range(axes)) if across else (),
    )


def _fields(text: str, *, where: str) -> dict[str, str]:
    """The known keys and their values; what a known key may not hold is refused, unknown keys are anybody's."""
    fields: dict[str, str] = {}
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        if not line.strip(_BLANKS):
            continue
        match = _LINE.fullmatch(line)
        if match is None or not _KEY.fullmatch(match[1]) or "\0" in line:
            raise CaseError(f"{where}, line {number}", "header must hold `key = value` only", f"{line[:40]!r}")
        key, value = match[1], match[2].strip(_BLANKS)
        if key not in _KNOWN:
            continue
        if key in fields:
            raise CaseError(where, f"{key} must not be doubled in the header", f"{fields[key]!r:.40} and {value!r:.40}")
        if key in (*_NUMBERS_PER_AXIS, *_DIRECTION) and "NDims" not in fields:
            raise CaseError(where, f"NDims must come before {key} in the header")
        fields[key] = value
        _check_kind(key, value, where=where)
    # Without BinaryData ITK reads text, or compressed bytes as if they were voxels.
    for key in ("NDims", "BinaryData", "DimSize", "ElementType"):
        if key not in fields:
            raise CaseError(where, f"{key} is missing in the header")
    return fields


def _check_kind(key: str, value: str, *, where: str) -> None:
    if not value and key not in _FREE:
        raise CaseError(where, f"{key} must have a value in the header")
    if key not in _FREE and not _PRINTABLE.fullmatch(value):  # what is white space, programs see differently
        raise CaseError(where, f"{key} must be printable ASCII", f"{value!r:.40}")
    longest = _LONGEST_TEXT if key in _TEXTS else _LONGEST_NUMBERS
    if len(value) > longest:
        raise CaseError(where, f"{key} must have at most {longest} characters", f"{len(value)}")
    if key in _FLAGS and value.lower() not in ("true", "false"):
        raise CaseError(where, f"{key} must be True or False", f"{value:.40}")
    if key in _WHOLES and not _WHOLE.fullmatch(value):
        raise CaseError(where, f"{key} must be one whole number", f"{value:.40}")
    if key == "DimSize" and not all(map(_WHOLE.fullmatch, value.split())):
        raise CaseError(where, f"{key} must be whole numbers", f"{value:.40}")
    if key in _NUMBERS and not _is_number(value):
        raise CaseError(where, f"{key} must be a number", f"{value:.40}")
    if key in _ONLY_AS and value.lower() not in _ONLY_AS[key] and not _is_same_number(value, _ONLY_AS[key][0]):
        rule = f"{key} must be {_ONLY_AS[key][0]}, because nothing else is applied"
        raise CaseError(where, rule, f"{value:.40}")


def _is_number(word: str) -> bool:
    """Whether a word is a finite number to everyone who reads it."""
    return _NUMBER.fullmatch(word) is not None and math.isfinite(float(word))


def _is_same_number(value: str, wanted: str) -> bool:
    return _is_number(value) and _is_number(wanted) and float(value) == float(wanted)


def _pixel(fields: Mapping[str, str], *, where: str) -> tuple[int, str]:
    name = fields["ElementType"]
    if name not in _PIXELS:
        raise CaseError(where, f"ElementType must be one of {', '.join(_PIXELS)}", f"{name:.40}")
    return _PIXELS[name]


def _numbers(fields: Mapping[str, str], key: str, *, count: int, where: str) -> tuple[float, ...]:
    words = fields[key].split()
    if len(words) != count:
        raise CaseError(where, f"{key} must be {count} numbers", f"{len(words)}: {fields[key]:.60}")
    for word in words:
        is_judged_later = key in _GRID_KEYS and word.lower().strip("+-") in _NOT_FINITE
        if not _is_number(word) and not is_judged_later:
            raise CaseError(where, f"{key} must be {count} numbers", f"{word:.40}")
    return tuple(float(word) for word in words)


def _one_of(
    keys: tuple[str, ...], fields: Mapping[str, str], *, count: int, where: str, is_either: bool = True
) -> tuple[float, ...]:
    """The numbers under the key that is there, or (); several are refused unless the first one counts."""
    held = [key for key in keys if key in fields]
    if len(held) > 1 and is_either:
        raise CaseError(where, f"header must have one of {', '.join(keys)}", ", ".join(held))
    return _numbers(fields, held[0], count=count, where=where) if held else ()


def _byte_order(fields: Mapping[str, str], *, where: str) -> str:
    said = [fields[key].lower() for key in _BIG_ENDIAN if key in fields]
    if len(set(said)) > 1:
        raise CaseError(where, f"{' and '.join(_BIG_ENDIAN)} must agree", " and ".join(said))
    return ">" if "true" in said else "<"


def _compressed_bytes(fields: Mapping[str, str], *, held_bytes: int, where: str) -> int | None:
    if fields.get("CompressedData", "false").lower() != "true":
        return None
    claimed = int(fields.get("CompressedDataSize", "0"))
    if claimed < 1:  # without it ITK looks for the voxels in the header, finds none, and gives whatever was in memory
        raise CaseError(where, "CompressedDataSize must be > 0 where CompressedData is True", f"{claimed}")
    if claimed > held_bytes:
        raise CaseError(where, "image file must be whole", f"{held_bytes} of {claimed} bytes of compressed voxels")
    return claimed
