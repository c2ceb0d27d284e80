"""What is done to a run's folders, before it starts or while it runs."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from faults.fault import Place
from faults.kit import CONVERTED, MANIFEST

_WEIGHTS = "fdg/fold_0/checkpoint_final.safetensors"
_ORGAN_WEIGHTS = "organs"
_LFS_POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"


def flip_byte(file: Path) -> None:
    """One bit, far behind the header."""
    content = bytearray(file.read_bytes())
    content[len(content) * 3 // 4] ^= 0x40
    file.write_bytes(content)


def cut_off(file: Path) -> None:
    """The last third is gone."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])


def weights(spoil: Callable[[Path], None]) -> Callable[[Place], None]:
    """Do something to a member's weights."""
    return lambda place: spoil(place.models / _WEIGHTS)


def point_elsewhere(file: Path) -> None:
    """A git-LFS pointer in the place of a file."""
    file.write_text(_LFS_POINTER, encoding="utf-8")


def organ_weights(spoil: Callable[[Path], None]) -> Callable[[Place], None]:
    """Do something to TotalSegmentator's checkpoint."""

    def prepare(place: Place) -> None:
        (checkpoint,) = (place.models / _ORGAN_WEIGHTS).rglob("checkpoint_final.pth")
        spoil(checkpoint)

    return prepare


def other_digest(place: Place) -> None:
    """The manifest means other weights."""
    digest = hashlib.sha256((place.models / _WEIGHTS).read_bytes()).hexdigest()
    manifest = place.models / MANIFEST
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace(digest, "0" * 64), encoding="utf-8")


def converted(spoil: Callable[[Path], None], *, file: str) -> Callable[[Place], None]:
    """Do something to every converted network in the cache."""

    def prepare(place: Place) -> None:
        for folder in (place.tmp / "cache" / CONVERTED).iterdir():
            spoil(folder / file)

    return prepare


def forget_converted(place: Place) -> None:
    """No network is converted yet."""
    shutil.rmtree(place.tmp / "cache" / CONVERTED)


def lose_output(place: Place) -> None:
    """Somebody takes away what is in the output folder."""
    for path in place.output.iterdir():
        shutil.rmtree(path)


def put_file_into_output(place: Place) -> None:
    """Somebody puts a file where the images go."""
    lose_output(place)
    (place.output / "images").write_text("", encoding="utf-8")
