"""Reading a TOML table with every key named, typed and bounded."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

from petct.errors import CaseError
from petct.organs import Organ

Choice = TypeVar("Choice", bound=StrEnum)


class TypedTable:
    """A TOML table that is emptied while it is read, so that what is left over is what nobody knows.

    Every method takes a key out and returns its value, or raises `CaseError` naming file, key, rule and value.

    Args:
        content: The parsed table.
        where: The file, and the table's place in it.
    """

    def __init__(self, content: Mapping[str, Any], *, where: str) -> None:
        self._content = dict(content)
        self._where = where

    def has(self, key: str) -> bool:
        """Whether the key has not been read yet."""
        return key in self._content

    def finish(self) -> None:
        """Refuse keys that nothing has read."""
        if self._content:
            raise CaseError(self._where, "key is not known", ", ".join(sorted(self._content)))

    def text(self, key: str) -> str:
        """A text."""
        return str(self._take(key, str, "a text"))

    def flag(self, key: str) -> bool:
        """True or false."""
        return bool(self._take(key, bool, "true or false"))

    def number(
        self, key: str, *, above: float | None = None, at_least: float | None = None, upto: float = math.inf
    ) -> float:
        """A finite number within bounds."""
        value = float(self._take(key, (int, float), "a number"))
        if not math.isfinite(value):
            raise self._refusal(key, "must be finite", value)
        if above is not None and value <= above:
            raise self._refusal(key, f"must be > {above:g}", value)
        if at_least is not None and value < at_least:
            raise self._refusal(key, f"must be >= {at_least:g}", value)
        if value > upto:
            raise self._refusal(key, f"must be <= {upto:g}", value)
        return value

    def whole(self, key: str) -> int:
        """A whole number >= 0."""
        value = int(self._take(key, int, "a whole number"))
        if value < 0:
            raise self._refusal(key, "must be >= 0", value)
        return value

    def wholes(self, key: str, *, distinct: bool = True) -> tuple[int, ...]:
        """A list of whole numbers >= 0, at least one, by default all different."""
        values = self._take(key, list, "a list of whole numbers")
        if not values or any(isinstance(v, bool) or not isinstance(v, int) or v < 0 for v in values):
            raise self._refusal(key, "must be a list of whole numbers >= 0, at least one", values)
        if distinct and len(set(values)) != len(values):
            raise self._refusal(key, "must not repeat a number", values)
        return tuple(values)

    def choice(self, key: str, kind: type[Choice]) -> Choice:
        """A member of an enumeration, by its value."""
        value = self.text(key)
        if value not in [choice.value for choice in kind]:
            raise self._refusal(key, f"must be one of {', '.join(choice.value for choice in kind)}", value)
        return kind(value)

    def choices(self, key: str, kind: type[Choice]) -> tuple[Choice, ...]:
        """A list of different members of an enumeration, at least one, by their values."""
        values = self._take(key, list, "a list of names")
        known = [choice.value for choice in kind]
        if not values or any(value not in known for value in values):
            raise self._refusal(key, f"must name one or more of {', '.join(known)}", values)
        if len(set(values)) != len(values):
            raise self._refusal(key, "must not repeat a name", values)
        return tuple(kind(value) for value in values)

    def organs(self, key: str) -> frozenset[Organ]:
        """A list of organ classes by name (`spleen`, `urinary_bladder`)."""
        names = self._take(key, list, "a list of organ names")
        known = {organ.name.lower(): organ for organ in Organ}
        for name in names:
            if not isinstance(name, str) or name not in known:
                raise self._refusal(key, f"must name organs out of {', '.join(known)}", name)
        return frozenset(known[name] for name in names)

    def digests(self, key: str) -> dict[str, str]:
        """A table of sha256 hex digests by relative file path."""
        digests = self._take(key, dict, "a table of sha256 digests")
        for file, digest in digests.items():
            if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
                raise self._refusal(f"{key}.{file}", "must be a sha256 of 64 lower-case hex digits", digest)
        return dict(digests)

    def table(self, key: str) -> TypedTable:
        """A nested table."""
        return TypedTable(self._take(key, dict, "a table"), where=f"{self._where} [{key}]")

    def tables(self, key: str) -> list[TypedTable]:
        """A list of nested tables, at least one."""
        entries = self._take(key, list, "a list of tables")
        if not entries or any(not isinstance(entry, dict) for entry in entries):
            raise self._refusal(key, "must be a list of tables, at least one", entries)
        return [TypedTable(entry, where=f"{self._where} [{key} {i + 1}]") for i, entry in enumerate(entries)]

    def _take(self, key: str, kind: type | tuple[type, ...], name: str) -> Any:
        if key not in self._content:
            raise CaseError(self._where, f"key {key} is missing")
        value = self._content.pop(key)
        # bool is an int to Python, never to a reader of a manifest.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self._refusal(key, f"must be {name}", value)
        return value

    def _refusal(self, key: str, rule: str, value: object) -> CaseError:
        return CaseError(f"{self._where} {key}", rule, str(value)[:200])
