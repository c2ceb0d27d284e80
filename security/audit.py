"""What is known against the locked packages: pip-audit's findings, less those that are explained, said plainly.

pip-audit leaves a package out when the service knows nothing of it, and says that nothing was found; here that is no
result at all.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any


class Result(IntEnum):
    """What came of an audit, as an exit code."""

    NOTHING_UNEXPLAINED = 0
    UNEXPLAINED = 1
    NOT_AUDITED = 3


@dataclass(frozen=True)
class Explained:
    """A vulnerability that does not endanger a case.

    Attributes:
        package: Whose.
        ids: Any of the names that it goes by.
        why: Why it does not.
    """

    package: str
    ids: frozenset[str]
    why: str


def read_explained(path: Path) -> tuple[Explained, ...]:
    """What is explained in a file.

    Raises:
        ValueError: An entry lacks its package, names or reason, or has something else.
    """
    found = []
    for entry in tomllib.loads(path.read_text(encoding="utf-8"))["vulnerability"]:
        if entry.keys() != {"package", "ids", "why"} or not all(entry.values()):
            raise ValueError(f"{path.name}: entry must have package, ids and why, got {entry}")
        found.append(Explained(entry["package"], frozenset(entry["ids"]), entry["why"]))
    return tuple(found)


def judge(
    report: Mapping[str, Any] | None, *, packages: Collection[str], explained: Sequence[Explained]
) -> tuple[Result, list[str]]:
    """What came of an audit, and lines that say so.

    Args:
        report: pip-audit's JSON; None if it gave none.
        packages: The packages that are to be judged, by their normalised names.
        explained: What is explained.
    """
    entries = {entry["name"]: entry for entry in (report or {}).get("dependencies", [])}
    unjudged = [name for name in packages if "vulns" not in entries.get(name, {})]
    lines, used, unexplained = [], set(), 0
    for name, entry in entries.items():
        for found in entry.get("vulns", []):
            ids = {found["id"], *found.get("aliases", [])}
            reasons = [one for one in explained if one.package == name and one.ids & ids]
            used.update(reasons)
            unexplained += not reasons
            fixed = ", ".join(found.get("fix_versions", [])) or "no version"
            said = f"explained: {reasons[0].why}" if reasons else "NOT EXPLAINED"
            lines.append(f"{name} {entry['version']}: {' '.join(sorted(ids))}, fixed in {fixed}; {said}")
    if not unjudged:
        for stale in (one for one in explained if one not in used):
            lines.append(f"{stale.package}: {' '.join(sorted(stale.ids))} is explained and was not found: remove it")
    if unexplained:
        lines.append(f"{unexplained} to be renewed or explained in security/explained.toml")
    if unjudged:
        lines.append(
            f"NOT AUDITED: {len(unjudged)} of {len(packages)} packages were not judged, because the service gave no "
            f"answer for them ({', '.join(sorted(unjudged)[:3])}, ...); this says nothing about their safety"
        )
        return (Result.UNEXPLAINED if unexplained else Result.NOT_AUDITED), lines
    if not unexplained:
        lines.append(f"{len(packages)} packages audited, nothing unexplained")
    return (Result.UNEXPLAINED if unexplained else Result.NOTHING_UNEXPLAINED), lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge pip-audit's report of a lock."""
    from security.lock import read_lock

    parser = argparse.ArgumentParser(prog="security/audit.sh", description=main.__doc__)
    parser.add_argument("report", type=Path, help="pip-audit's report as JSON; may be missing or empty")
    parser.add_argument("--lock", type=Path, required=True, help="the lock that it is of")
    options = parser.parse_args(arguments)
    try:
        report = json.loads(options.report.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        report = None
    packages = read_lock(options.lock.read_text(encoding="utf-8"))
    explained = read_explained(Path(__file__).with_name("explained.toml"))
    result, lines = judge(report, packages=packages, explained=explained)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return result


if __name__ == "__main__":
    sys.exit(main())
