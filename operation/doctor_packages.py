"""What the doctor says of Python and the installed packages."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path

from operation.doctor_verdicts import Place, Verdict, fail, ok, warn

_PYTHON = (3, 11)
DIRECT_FILE = "requirements.txt"
LOCK_FILE = "requirements.lock"
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)
_NAMED = 4  # packages that are named in a line


def check_python(_place: Place) -> Iterator[Verdict]:
    """Python is the one that the packages are pinned for."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] != _PYTHON:
        wanted = ".".join(map(str, _PYTHON))
        yield fail("python", f"must be {wanted}, got {version}", remedy=f"run with python{wanted}")
    else:
        yield ok("python", f"{version} ({sys.executable})")


def check_packages(place: Place) -> Iterator[Verdict]:
    """The installed packages are the ones that were tested."""
    installed = installed_versions()
    for file, is_direct in ((DIRECT_FILE, True), (LOCK_FILE, False)):
        path = place.program / file
        if not path.is_file():
            yield warn("packages", f"{file} is missing: {path}", remedy="versions cannot be judged without it")
            continue
        yield _judge(pins(path.read_text(encoding="utf-8")), installed=installed, file=file, is_direct=is_direct)


def pins(text: str) -> dict[str, str]:
    """Version per package, by its normalised name, of the lines `name==version` of a requirements file."""
    return {normalised(name): version for name, version in _PIN.findall(text)}


def normalised(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_versions() -> dict[str, str]:
    """Version per installed package, by its normalised name."""
    # Of two that are installed under one name Python imports the first.
    found: dict[str, str] = {}
    for distribution in distributions():
        found.setdefault(normalised(distribution.metadata["Name"]), distribution.version)
    return found


def _judge(wanted: Mapping[str, str], *, installed: Mapping[str, str], file: str, is_direct: bool) -> Verdict:
    missing = [name for name in wanted if name not in installed]
    # What follows a plus is a build of the same version.
    other = [
        f"{name} {installed[name]} instead of {version}"
        for name, version in wanted.items()
        if name in installed and installed[name].partition("+")[0] != version.partition("+")[0]
    ]
    remedy = f"install what {Path(LOCK_FILE).name} says"
    if missing and is_direct:
        return fail("packages", f"those of {file} must be installed, {_some(missing)} missing", remedy=remedy)
    if missing or other:
        found = "; ".join(filter(None, (_some(other), _some(missing) and f"{_some(missing)} missing")))
        return warn("packages", f"versions must be those of {file}, got {found}", remedy=remedy)
    return ok("packages", f"{len(wanted)} of {file}, in its versions")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
