"""A command's JSON file, to which each measurement is added as it is made, and from which a later run goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from petct.errors import CaseError
from petct.written_whole import written_whole

Row = dict[str, Any]
KEY = "key"  # of a row: what its measurement depends on


def row_key(content: Mapping[str, Any]) -> str:
    """What a measurement depends on, in one word.

    Args:
        content: JSON values; the order of keys does not matter.
    """
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def read_rows(file: Path, *, command: str) -> list[Row]:
    """The rows of an earlier run, each with its `key`; none when there is no file.

    Raises:
        CaseError: The file is not one of this command.
    """
    if not file.exists():
        return []
    rule = f"must be a file of `python -m benchmark {command}`"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CaseError(str(file), "file must be readable", error.strerror) from error
    except ValueError as error:
        raise CaseError(str(file), rule, "something else than JSON") from error
    if not isinstance(content, dict) or content.get("command") != command:
        raise CaseError(str(file), rule, "other JSON")
    rows = content.get("rows")
    if not isinstance(rows, list) or any(not isinstance(row, dict) or KEY not in row for row in rows):
        raise CaseError(str(file), rule, "rows without a key")
    return rows


def write_rows(file: Path, rows: Sequence[Row], *, command: str, **more: Any) -> None:
    """Write all rows, and what is known of all of them; the file appears whole or not at all.

    Args:
        file: Where to; its folder must be there.
        rows: JSON values, each with its `key`.
        command: The command that reads them again.
        more: JSON values to put before the rows.

    Raises:
        CaseError: It cannot be written.
    """
    text = json.dumps({"command": command, **more, "rows": list(rows)}, indent=1, ensure_ascii=False, allow_nan=False)
    try:
        with written_whole(file) as partial:
            partial.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise CaseError(str(file), "file must be writable", error.strerror) from error


def check_json(file: Path) -> None:
    """Refuse a file that could not be written, before anything is measured for it.

    Raises:
        CaseError: Its folder is not there, or it is a folder itself.
    """
    if not file.resolve().parent.is_dir():
        raise CaseError("--json", "folder must exist", str(file.parent))
    if file.is_dir():
        raise CaseError("--json", "must be a file", f"the folder {file}")
