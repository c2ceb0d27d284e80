"""Locks: requirements files that name the very file of every package, by its SHA-256, and no place to get it from.

`security/lock.sh` makes them out of what pip would install. They hold for what the image is: Linux on x86-64 with the C
library of Debian bookworm or a newer one, and Python 3.11.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

# Packages that the ones without wheels are built with; they are installed before the others.
BUILD_PACKAGES = ("setuptools",)
_GLIBC_MINOR = 36  # 2.36, of Debian bookworm
_HEADER = """\
# {what}
# Made by security/lock.sh out of requirements*.txt and constraints.txt; not to be changed by hand.
--require-hashes
--only-binary :all:
"""
_ENTRY = re.compile(
    r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>\S+) \\\n    --hash=sha256:(?P<sha256>[0-9a-f]{64})$"
)
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;#]+)", re.MULTILINE)
_INCLUDED = re.compile(r"^--requirement (\S+)$", re.MULTILINE)
_MANYLINUX = re.compile(r"manylinux_2_(\d+)_x86_64")
# The older names of three of them (PEP 600).
_OLD_MANYLINUX = {"manylinux1_x86_64": 5, "manylinux2010_x86_64": 12, "manylinux2014_x86_64": 17}


@dataclass(frozen=True)
class Locked:
    """One package of a lock.

    Attributes:
        name: Its normalised name.
        version: Its version.
        sha256: Hex digest of the file that is installed.
        is_wheel: Whether that file is a wheel; otherwise it is built from source.
    """

    name: str
    version: str
    sha256: str
    is_wheel: bool = True


def normalised(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_report(report: Mapping[str, Any]) -> tuple[Locked, ...]:
    """The packages of pip's installation report, by name.

    Raises:
        ValueError: A package comes from somewhere else than an index, without a digest, or for another machine.
    """
    found = []
    for entry in report["install"]:
        name, version = normalised(entry["metadata"]["name"]), entry["metadata"]["version"]
        url = urlsplit(entry["download_info"]["url"])
        sha256 = entry["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if url.scheme != "https" or sha256 is None:
            raise ValueError(f"{name}: must be a file of an index with its sha256, got scheme {url.scheme}")
        file = unquote(url.path.rsplit("/", 1)[-1])
        _check_platform(file, name=name)
        found.append(Locked(name, version, sha256, is_wheel=file.endswith(".whl")))
    return tuple(sorted(found, key=lambda package: package.name))


def lock_text(packages: Iterable[Locked], *, what: str) -> str:
    """The text of a lock."""
    packages = tuple(packages)
    sources = [f"--no-binary {package.name}\n" for package in packages if not package.is_wheel]
    entries = [f"{one.name}=={one.version} \\\n    --hash=sha256:{one.sha256}\n" for one in packages]
    return _HEADER.format(what=what) + "".join(sources) + "".join(entries)


def read_lock(text: str) -> dict[str, Locked]:
    """The packages of a lock by their normalised names.

    Raises:
        ValueError: A line is none that `lock_text` writes.
    """
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    sources = [line.removeprefix("--no-binary ") for line in lines if line.startswith("--no-binary ")]
    options = {"--require-hashes", "--only-binary :all:", *(f"--no-binary {name}" for name in sources)}
    lines = [line for line in lines if line not in options]
    packages = {}
    for first, second in zip(lines[::2], [*lines[1::2], ""], strict=False):
        entry = _ENTRY.match(f"{first}\n{second}")
        if entry is None:
            raise ValueError(f"lock must hold a version and one sha256 of every package and nothing else, got {first}")
        name = normalised(entry["name"])
        packages[name] = Locked(name, entry["version"], entry["sha256"], is_wheel=name not in sources)
    return packages


def read_pins(path: Path) -> dict[str, str]:
    """Version per normalised name that a requirements file pins, with the files that it includes."""
    text = path.read_text(encoding="utf-8")
    pins: dict[str, str] = {}
    for included in _INCLUDED.findall(text):
        pins |= read_pins(path.parent / included)
    return pins | {normalised(entry["name"]): entry["version"] for entry in _PIN.finditer(text)}


def problems(lock: Mapping[str, Locked], *, wanted: Mapping[str, str], constraints: Mapping[str, str]) -> list[str]:
    """Why a lock does not fit its requirements, a line each; nothing if it does.

    Args:
        lock: The lock.
        wanted: Version per package that must be in it.
        constraints: Version per package that may be in it.
    """
    allowed = {**constraints, **wanted}
    found = [f"{name} must be in the lock, is not" for name in wanted if name not in lock]
    for name, package in lock.items():
        if name not in allowed:
            found.append(f"{name} must be in requirements or constraints, is in the lock only")
        elif package.version != allowed[name]:
            found.append(f"{name} must be {allowed[name]}, got {package.version}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Write locks out of pip's reports, or check that they still fit."""
    parser = argparse.ArgumentParser(prog="security/lock.sh", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="where requirements*.txt and constraints.txt are")
    parser.add_argument("--reports", type=Path, help="folder of pip's reports, one .json for each file; else check")
    options = parser.parse_args(arguments)
    folder: Path = options.folder
    names = [path.stem for path in sorted(folder.glob("requirements*.txt")) if path.stem != "requirements-cluster"]
    if options.reports is not None:
        for name in names:
            report = json.loads((options.reports / f"{name}.json").read_text(encoding="utf-8"))
            _write(folder / f"{name}.lock", lock_text(read_report(report), what=f"What {name}.txt installs."))
        product = read_lock((folder / "requirements.lock").read_text(encoding="utf-8"))
        build = [product[name] for name in BUILD_PACKAGES]
        what = "What builds the packages that come as source; to be installed first."
        _write(folder / "requirements-build.lock", lock_text(build, what=what))
    found = check_folder(folder, names=names)
    for line in found:
        sys.stderr.write(f"{line}; run security/lock.sh\n")
    return 1 if found else 0


def check_folder(folder: Path, *, names: Iterable[str]) -> list[str]:
    """Why the locks of a folder do not fit its requirements, a line each."""
    constraints = read_pins(folder / "constraints.txt")
    found = []
    for name in names:
        try:
            lock = read_lock((folder / f"{name}.lock").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            found.append(f"{name}.lock: {error}")
            continue
        wanted = read_pins(folder / f"{name}.txt")
        found += [f"{name}.lock: {problem}" for problem in problems(lock, wanted=wanted, constraints=constraints)]
    return found


def _check_platform(file: str, *, name: str) -> None:
    if not file.endswith(".whl"):
        return
    platforms = file.removesuffix(".whl").rsplit("-", 1)[-1].split(".")
    glibc = [_OLD_MANYLINUX[one] for one in platforms if one in _OLD_MANYLINUX]
    glibc += [int(found[1]) for found in map(_MANYLINUX.fullmatch, platforms) if found]
    if "any" not in platforms and not any(minor <= _GLIBC_MINOR for minor in glibc):
        raise ValueError(f"{name}: wheel must run with glibc 2.{_GLIBC_MINOR} on x86-64, got {file}")


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
