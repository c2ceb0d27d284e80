"""The platform's model tarball: a manifest as `manifest.toml`, with the weight folders that it names beside it.

Both `python -m training pack` and export.sh use it; export.sh also where nothing but Python itself is installed, so it
imports nothing but the standard library and what of ours needs no more.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from petct.errors import CaseError
from petct.written_whole import written_whole

MANIFEST_NAME = "manifest.toml"  # petct.manifest says so too, and needs numpy
README_NAME = "README.md"
SUFFIX = ".tar.gz"
_COMPRESSION = 6  # gzip's own default; weights hardly shrink


def check_tarball(tarball: Path, *, overwrite: bool) -> None:
    """Refuse a tarball that could not be written, before any work goes into its content.

    Raises:
        CaseError: It is not called `<name>.tar.gz`, its folder is missing, or it is there and is not to be replaced.
    """
    if not tarball.name.endswith(SUFFIX):
        raise CaseError("tarball", f"must be called <name>{SUFFIX}", tarball.name)
    if not tarball.resolve().parent.is_dir():
        raise CaseError("tarball", "folder must exist", str(tarball.parent))
    if tarball.exists() and not overwrite:
        raise CaseError("tarball", f"{tarball} must not exist yet; --overwrite replaces it")


def write_tarball(manifest: Path, *, tarball: Path, overwrite: bool) -> None:
    """Pack a manifest and its weights; the tarball appears whole or not at all.

    The same files give the same bytes: sorted, without owners, dates or a date in gzip's header. Links are followed.
    Organ weights that are not there are left out when the manifest has no digests for them; then every case has to
    bring its organ maps. A README.md in the folder of the manifest's name goes along.

    Args:
        manifest: A manifest; its weights lie below its folder.
        tarball: `<name>.tar.gz`.
        overwrite: Whether a tarball that is there already is replaced.

    Raises:
        CaseError: As `check_tarball`; or the manifest is missing or no manifest, or a folder that it names is missing
            or lies elsewhere.
    """
    check_tarball(tarball, overwrite=overwrite)
    folders = weight_folders(manifest)
    with (
        written_whole(tarball) as partial,
        partial.open("wb") as stream,
        gzip.GzipFile(filename="", mode="wb", compresslevel=_COMPRESSION, fileobj=stream, mtime=0) as zipped,
        # GNU's format, which holds files above 8 GiB. Dereferenced: one file under two names is two files.
        tarfile.open(fileobj=zipped, mode="w|", format=tarfile.GNU_FORMAT, dereference=True) as archive,
    ):
        _add(archive, manifest, name=MANIFEST_NAME)
        for name in folders:
            for path in _below(manifest.parent / name):
                _add(archive, path, name=path.relative_to(manifest.parent).as_posix())


def weight_folders(manifest: Path) -> list[str]:
    """What a manifest's weights are, relative to it: folders, and the file that explains them if there is one.

    Raises:
        CaseError: As `write_tarball`, of the manifest.
    """
    where = manifest.name
    if not manifest.is_file():
        raise CaseError(where, "manifest file is missing", str(manifest))
    try:
        content = tomllib.loads(manifest.read_text(encoding="utf-8"))
        members = [member["folder"] for tracer in ("psma", "fdg") for member in content[tracer]["members"]]
        organs, has_digests = content["organs"]["weights"], bool(content["organs"]["sha256"])
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise CaseError(where, "must be a manifest", f"{type(error).__name__}: {error}") from error
    named = {*members, organs} if has_digests or (manifest.parent / organs).is_dir() else set(members)
    for folder in named:
        place = PurePosixPath(folder)
        if place.is_absolute() or ".." in place.parts:
            raise CaseError(where, "weights must lie below the manifest's folder", folder)
        if not (manifest.parent / folder).is_dir():
            raise CaseError(where, "folder of weights is missing", folder)
    readme = f"{manifest.stem}/{README_NAME}"
    return sorted(named | ({readme} if (manifest.parent / readme).is_file() else set()))


def _below(path: Path) -> Iterator[Path]:
    """A file, or a folder with all that lies in it, in the order of the names; links are followed."""
    yield path
    if path.is_dir():
        for inner in sorted(path.iterdir(), key=lambda entry: entry.name):
            yield from _below(inner)


def _add(archive: tarfile.TarFile, path: Path, *, name: str) -> None:
    entry = archive.gettarinfo(path, arcname=name)
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    # The container's user is not the one who packed.
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o111 else 0o644
    if entry.isfile():
        with path.open("rb") as stream:
            archive.addfile(entry, stream)
    else:
        archive.addfile(entry)


def main(arguments: list[str] | None = None) -> int:
    """What export.sh calls; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.weights.tarball", description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("tarball", type=Path)
    parser.add_argument("--overwrite", action="store_true", help="replace a tarball that is there")
    options = parser.parse_args(arguments)
    try:
        write_tarball(options.manifest, tarball=options.tarball, overwrite=options.overwrite)
    except CaseError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
