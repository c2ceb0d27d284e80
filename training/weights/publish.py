"""Putting a packed ensemble in its place: a manifest `<name>.toml` and its weights in the folder `<name>` beside it.

A manifest and a folder cannot be replaced in one step, and a packing may be killed between any two. So the manifest
alone decides: it is replaced, in one step each time, first by one that names the new weights under a hidden name, then
by the final one. At every moment it names one whole set of weights, the old or the new one.
"""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

from petct.errors import CaseError
from petct.manifest import Manifest, TracerSettings, read_manifest
from training.weights.manifest_text import manifest_toml
from training.weights.tarball import README_NAME

_UNFINISHED = "Written by `python -m training pack`, which was stopped before it gave the weights their final name."

log = logging.getLogger(__name__)


def staging_folder(manifest: Path) -> Path:
    """The hidden folder in which an ensemble is built, as it will be beside its manifest."""
    return _hidden(manifest, "partial")


def weights_folder(manifest: Path) -> Path:
    """The folder of a manifest's weights."""
    return manifest.resolve().with_suffix("")


def check_target(manifest: Path, *, overwrite: bool) -> None:
    """Refuse what must not be replaced, and complete or clear away what a killed packing left.

    Args:
        manifest: The manifest to write.
        overwrite: Whether an ensemble that is there is to be replaced.

    Raises:
        CaseError: The manifest is not called `<name>.toml`; it is there and is not to be replaced; or its folder holds
            what no packing put there, which would be lost.
    """
    if manifest.suffix != ".toml" or manifest.name.startswith("."):
        raise CaseError("--manifest", "must be called <name>.toml, because its weights go to <name>", manifest.name)
    _recover(manifest)
    folder = weights_folder(manifest)
    if not manifest.exists():
        if folder.exists():
            raise CaseError("--manifest", f"{folder} must not exist without its manifest {manifest.name}")
        return
    if not overwrite:
        raise CaseError("--manifest", f"{manifest} must not exist yet; --overwrite replaces it and its weights")
    if not folder.exists():
        return
    named = _named_folders(read_manifest(manifest))
    for path in sorted(folder.rglob("*")):
        is_ours = path == folder / README_NAME or any(path.is_relative_to(place) for place in named)
        if not is_ours and not path.is_dir():
            rule = f"{folder} must hold nothing but what {manifest.name} names, because it is replaced"
            raise CaseError("--manifest", rule, path.relative_to(folder).as_posix())


def publish(staged: Manifest, *, manifest: Path) -> None:
    """Move a staged ensemble to its place.

    Args:
        staged: The ensemble, with its weights below `weights_folder` of its own path.
        manifest: Where it goes, on the same disk.
    """
    waiting, final = _hidden(manifest, "new"), _final_text(manifest)
    os.replace(staged.path, final)
    weights_folder(staged.path).rename(waiting)
    first = _moved(staged, folder=waiting, manifest=manifest)
    staged.path.write_text(manifest_toml(first, comment=_UNFINISHED), encoding="utf-8")
    os.replace(staged.path, manifest)  # from here on, it is the new ensemble
    _settle(manifest)


def _recover(manifest: Path) -> None:
    """Complete a publishing that was killed after the manifest was replaced, or clear away one killed before."""
    waiting = _hidden(manifest, "new")
    if waiting.exists() and manifest.exists() and waiting in read_manifest(manifest).organs.weights.parents:
        log.warning("%s: an earlier packing was stopped at its end and is completed", manifest.name)
        _settle(manifest)
    for state in ("new", "old", "link"):
        shutil.rmtree(_hidden(manifest, state), ignore_errors=True)
    _final_text(manifest).unlink(missing_ok=True)


def _settle(manifest: Path) -> None:
    """Give the weights that the manifest names under their hidden name their final one."""
    folder, waiting = weights_folder(manifest), _hidden(manifest, "new")
    old, link = _hidden(manifest, "old"), _hidden(manifest, "link")
    for leftover in (old, link):
        shutil.rmtree(leftover, ignore_errors=True)
    # The manifest goes on naming the waiting files while the same files get their final names.
    shutil.copytree(waiting, link, copy_function=_link_or_copy)
    if folder.exists():
        folder.rename(old)
    link.rename(folder)
    os.replace(_final_text(manifest), manifest)
    for leftover in (waiting, old):
        shutil.rmtree(leftover, ignore_errors=True)


def _moved(staged: Manifest, *, folder: Path, manifest: Path) -> Manifest:
    """The ensemble as it is when its weights lie in another folder."""
    before = weights_folder(staged.path)

    def moved(settings: TracerSettings) -> TracerSettings:
        members = (replace(member, folder=folder / member.folder.relative_to(before)) for member in settings.members)
        return replace(settings, members=tuple(members))

    organs = replace(staged.organs, weights=folder / staged.organs.weights.relative_to(before))
    path = manifest.resolve()
    return replace(staged, path=path, organs=organs, psma=moved(staged.psma), fdg=moved(staged.fdg))


def _named_folders(ensemble: Manifest) -> set[Path]:
    members = (*ensemble.psma.members, *ensemble.fdg.members)
    return {ensemble.organs.weights, *(member.folder for member in members)}


def _final_text(manifest: Path) -> Path:
    """Where the manifest's final text waits."""
    return manifest.resolve().with_name(f".{manifest.name}.new")


def _hidden(manifest: Path, state: str) -> Path:
    folder = weights_folder(manifest)
    return folder.with_name(f".{folder.name}.{state}")


def _link_or_copy(source: str, destination: str) -> None:
    try:
        os.link(source, destination)
    except OSError:  # not every disk has hard links
        shutil.copyfile(source, destination)
