"""A bill of materials: what cyclonedx-bom finds of Python's packages, with the locks' digests and Debian's packages."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from security.lock import Locked, normalised, read_lock


def complete(bom: dict[str, Any], *, lock: Mapping[str, Locked], debian: Iterable[str]) -> dict[str, Any]:
    """A CycloneDX bill with what cyclonedx-bom cannot know.

    Args:
        bom: Its bill, as JSON; it is not changed.
        lock: The lock that was installed from: the digest of each package's file.
        debian: Debian's packages, a line each: `name<tab>version<tab>architecture`.
    """
    components = [_with_digest(component, lock=lock) for component in bom.get("components", [])]
    components += [_debian_component(line) for line in debian if line.strip()]
    return {**bom, "components": components}


def packages_of(bom: Mapping[str, Any]) -> dict[str, str]:
    """Version per normalised name of the Python packages in a bill."""
    parts = [one for one in bom.get("components", []) if str(one.get("purl", "")).startswith("pkg:pypi/")]
    return {normalised(part["name"]): part["version"] for part in parts}


def _with_digest(component: dict[str, Any], *, lock: Mapping[str, Locked]) -> dict[str, Any]:
    package = lock.get(normalised(component["name"]))
    if package is None or package.version != component.get("version"):
        return component
    return {**component, "hashes": [{"alg": "SHA-256", "content": package.sha256}]}


def _debian_component(line: str) -> dict[str, Any]:
    name, version, architecture = line.rstrip("\n").split("\t")
    purl = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='')}?arch={quote(architecture)}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def main(arguments: Sequence[str] | None = None) -> int:
    """Complete a bill of materials, and say what is in it."""
    parser = argparse.ArgumentParser(prog="security/sbom.sh", description=main.__doc__)
    parser.add_argument("bom", type=Path, help="cyclonedx-bom's bill, JSON")
    parser.add_argument("output", type=Path, help="the completed one to write")
    parser.add_argument("--lock", type=Path, required=True, help="the lock that was installed from")
    parser.add_argument("--debian", type=Path, help="Debian's packages, by dpkg-query")
    options = parser.parse_args(arguments)
    if options.output.is_dir():
        parser.error(f"output must be a file, got the folder {options.output}")
    lock = read_lock(options.lock.read_text(encoding="utf-8"))
    lines = options.debian.read_text(encoding="utf-8").splitlines() if options.debian else []
    bom = complete(json.loads(options.bom.read_text(encoding="utf-8")), lock=lock, debian=lines)
    found = packages_of(bom)
    other = [name for name in lock if found.get(name) != lock[name].version]
    if other:
        sys.stderr.write(f"sbom: packages must be those of {options.lock.name}, got others: {', '.join(other[:5])}\n")
        return 1
    partial = options.output.with_name(f".{options.output.name}.partial")
    partial.write_text(json.dumps(bom, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(options.output)
    digests = sum("hashes" in component for component in bom["components"])
    sys.stdout.write(
        f"{options.output}: {len(found)} Python packages, {digests} with the digest of their file, "
        f"{len(lines)} Debian packages\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
