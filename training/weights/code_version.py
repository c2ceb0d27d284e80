"""Which code packed a model: the project's version, its git commit, and the packages that the weights depend on."""

from __future__ import annotations

import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
_PACKAGES = ("nnunetv2", "torch")
_GIT_TIMEOUT_S = 30


def code_version(project: Path = PROJECT) -> str:
    """The project's name and version, and its git commit where there is one.

    Args:
        project: The folder with pyproject.toml.

    Returns:
        Like `psma-fdg-ttb 0.1.0 (2108846...)`; the commit ends in `-dirty` when a file of it was changed since.
    """
    described = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    commit = _commit(project)
    return f"{described['name']} {described['version']}" + (f" ({commit})" if commit else "")


def package_versions() -> dict[str, str]:
    """The installed versions of the packages that read a model."""
    return {package: version(package) for package in _PACKAGES}


def _commit(project: Path) -> str:
    """The commit, or "" when the project was not cloned, or there is no git to ask."""
    if not (project / ".git").exists():
        return ""  # git would go on looking above, and find another project's
    describe = ["git", "-C", str(project), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(describe, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
