"""Frozen dataclasses as JSON and back, every key there and every value of its declared type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from petct.errors import CaseError, shown

Kind = TypeVar("Kind")

_NAMES = {str: "a text", int: "a whole number", float: "a finite number", bool: "true or false"}


def to_json(value: object) -> Any:
    """A value out of dataclasses, mappings with texts as keys, tuples, enumerations, texts, numbers, flags and None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(entry) for entry in value]
    return value.value if isinstance(value, StrEnum) else value


def from_json(kind: type[Kind], content: object, *, where: str) -> Kind:
    """What `to_json` made JSON of.

    Args:
        kind: The dataclass. Its fields may be dataclasses, mappings, tuples, enumerations, texts, numbers, flags, any
            of these or None, and `object`, which takes any JSON.
        content: Parsed JSON.
        where: The file, for the error.

    Raises:
        CaseError: A key is missing or unknown, or a value is of another type.
    """
    read: Kind = _read(kind, content, where=where, place="")
    return read


def _read(kind: Any, value: object, *, where: str, place: str) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    at = f"{where} {place}".rstrip()
    if kind is object:
        return value
    if origin is UnionType:
        if value is None and NoneType in parts:
            return None
        (kind,) = (part for part in parts if part is not NoneType)
        return _read(kind, value, where=where, place=place)
    if origin is tuple:
        return _read_list(parts, value, where=where, place=place)
    if origin is Mapping:
        keys, values = parts
        return _read_mapping(keys, values, _object(value, at=at), where=where, place=place)
    if is_dataclass(kind):
        return _read_object(kind, value, where=where, place=place)
    if issubclass(kind, StrEnum):
        if value not in [choice.value for choice in kind]:
            raise CaseError(at, f"must be one of {', '.join(kind)}", shown(value))
        return kind(value)
    return _read_plain(kind, value, at=at)


def _read_mapping(keys: Any, values: Any, content: dict[str, object], *, where: str, place: str) -> dict[Any, Any]:
    read = {}
    for key, entry in content.items():
        key_read = _read(keys, key, where=where, place=f"{place} key")
        read[key_read] = _read(values, entry, where=where, place=f"{place}.{key}")
    return read


def _read_plain(kind: Any, value: object, *, at: str) -> Any:
    is_right = isinstance(value, (int, float) if kind is float else kind)
    # bool is an int to Python only.
    if not is_right or (isinstance(value, bool) and kind is not bool):
        raise CaseError(at, f"must be {_NAMES[kind]}", shown(value))
    if kind is not float:
        return value
    try:
        number = float(value)  # type: ignore[arg-type]  # a number, as was just found
    except OverflowError:  # a whole number of hundreds of digits
        number = math.inf
    if not math.isfinite(number):
        raise CaseError(at, f"must be {_NAMES[kind]}", shown(value))
    return number


def _read_list(parts: tuple[Any, ...], value: object, *, where: str, place: str) -> tuple[Any, ...]:
    at = f"{where} {place}"
    if not isinstance(value, list):
        raise CaseError(at, "must be a list", shown(value))
    kinds = [parts[0]] * len(value) if parts[-1] is Ellipsis else list(parts)
    if len(kinds) != len(value):
        raise CaseError(at, f"must hold {len(kinds)} values", f"{len(value)}")
    pairs = enumerate(zip(kinds, value, strict=True))
    return tuple(_read(kind, entry, where=where, place=f"{place}.{number}") for number, (kind, entry) in pairs)


def _read_object(kind: Any, value: object, *, where: str, place: str) -> Any:
    at = f"{where} {place}".rstrip()
    content = _object(value, at=at)
    hints = get_type_hints(kind)
    missing = [field.name for field in fields(kind) if field.name not in content]
    if missing:
        raise CaseError(at, f"key {missing[0]} is missing")
    unknown = sorted(set(content) - {field.name for field in fields(kind)})
    if unknown:
        raise CaseError(at, "key is not known", shown(unknown[0]))
    dot = f"{place}." if place else ""
    return kind(**{key: _read(hints[key], content[key], where=where, place=dot + key) for key in content})


def _object(value: object, *, at: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise CaseError(at, "must be an object", shown(value))
    return value
