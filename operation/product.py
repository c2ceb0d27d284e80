"""Which program this is: its name and version, and a digest of its code, which no image can get wrong."""

from __future__ import annotations

import functools
import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_ENTRY_POINT = "inference.py"
_PACKAGES = ("operation", "petct", "postprocessing", "segmentation")
_TABLES = "resources/*.json"  # organ names and numbers


@dataclass(frozen=True)
class Product:
    """The program.

    Attributes:
        name: Its name, by pyproject.toml; None where that file is missing.
        version: Its version, likewise. Between two versions the code differs and this does not.
        code_sha256: One digest over the names and contents of all Python files and tables that a case goes through.
    """

    name: str | None
    version: str | None
    code_sha256: str


@functools.cache
def this_product() -> Product:
    """The program that runs, by its files when this is called first."""
    return product_in(_ROOT)


def product_in(root: Path) -> Product:
    """The program in a folder, an image's or a checkout's.

    Raises:
        OSError: A file cannot be read.
    """
    described: dict[str, str] = {}
    project = root / "pyproject.toml"
    if project.is_file():
        described = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    files = [root / _ENTRY_POINT, *root.glob(_TABLES)]
    for package in _PACKAGES:
        files.extend((root / package).rglob("*.py"))
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.relative_to(root).as_posix()):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{content}  {file.relative_to(root).as_posix()}\n".encode())
    return Product(described.get("name"), described.get("version"), digest.hexdigest())
