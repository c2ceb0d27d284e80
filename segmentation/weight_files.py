"""Are the weight files there, and are they the ones that the manifest means? Asked before anything is computed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from petct.errors import CaseError
from petct.manifest import Member

PLANS_FILE = "plans.json"
DATASET_FILE = "dataset.json"
MODEL_FILE = "model.json"

_LFS_HEAD = b"version https://git-lfs.github.com/spec/"  # how every git-LFS pointer starts, by its specification


def fold_file(fold: int, checkpoint: str) -> str:
    """Where a fold's weights lie inside a packed model's folder.

    Args:
        fold: nnU-Net's fold number.
        checkpoint: `final` or `best`.
    """
    return f"fold_{fold}/checkpoint_{checkpoint}.safetensors"


def member_files(member: Member) -> tuple[str, ...]:
    """The files that a member is read from, relative to its folder."""
    folds = (fold_file(fold, member.checkpoint) for fold in member.folds)
    return (PLANS_FILE, DATASET_FILE, MODEL_FILE, *folds)


def check_files(folder: Path, sha256: Mapping[str, str], *, where: str) -> None:
    """Check that every listed file is there, is no git-LFS pointer and has the listed digest.

    Args:
        folder: What the paths are relative to.
        sha256: Hex digest per relative path; nothing is checked when it is empty.
        where: Whose files they are, for the error.

    Raises:
        CaseError: A file is missing, is a git-LFS pointer, or differs from its digest. A missing file is named first.
    """
    _check_present(folder, sha256, where=where)
    for file, expected in sha256.items():
        actual = sha256_of(folder / file)
        if actual != expected:
            raise CaseError(where, f"sha256 of {folder / file} must be {expected}", actual)


def check_member_files(member: Member) -> None:
    """Check that a member's plans and weights are there and are the ones that its manifest means.

    Raises:
        CaseError: As `check_files`, or a file that the member needs has no digest in the manifest. What is missing on
            the disk is named before what is missing in the manifest.
    """
    where = f"member {member.name}"
    needed = member_files(member)
    _check_present(member.folder, needed, where=where)
    for file in needed:
        if file not in member.sha256:
            raise CaseError(where, f"manifest must give the sha256 of {file}")
    check_files(member.folder, member.sha256, where=where)


def sha256_of(path: Path) -> str:
    """The file's SHA-256 as 64 lower-case hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_present(folder: Path, files: Iterable[str], *, where: str) -> None:
    for file in files:
        path = folder / file
        if not path.is_file():
            raise CaseError(where, f"file is missing: {path}")
        try:
            with path.open("rb") as stream:
                head = stream.read(len(_LFS_HEAD))
        except OSError as error:
            raise CaseError(where, f"{path} must be readable", error.strerror) from error
        if head == _LFS_HEAD:
            raise CaseError(where, f"{path} is a git-LFS pointer, not the weights: run git lfs pull")
