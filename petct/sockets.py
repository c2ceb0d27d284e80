"""Grand Challenge's layout of a case: which socket lies where under the input folder.

The registration between the scans (`psma-to-fdg-registration`) is not read: the method compares the tracers by
anatomical label, not by voxel.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from petct.case import Tracer
from petct.errors import CaseError
from petct.images import IMAGE_SUFFIXES, is_image_file
from petct.scan_files import CaseFile, ScanFiles, read_json

log = logging.getLogger(__name__)

INPUTS_NAME = "inputs.json"

# Where the platform puts each socket unless inputs.json says otherwise.
KNOWN_PLACES: Mapping[str, str] = {
    "psma-pet-ga-68": "images/psma-pet-ga-68",
    "psma-ct-image": "images/psma-ct",
    "psma-ct-image-organ-segmentation": "images/psma-ct-organ-segmentation",
    "psma-pet-suv-threshold": "psma-pet-suv-threshold.json",
    "fdg-pet": "images/fdg-pet",
    "fdg-ct-image": "images/fdg-ct",
    "fdg-ct-image-organ-segmentation": "images/fdg-ct-organ-segmentation",
    "fdg-pet-suv-threshold": "fdg-pet-suv-threshold.json",
}


@dataclass(frozen=True)
class ScanSockets:
    """The slugs of one tracer's sockets."""

    pet: str
    ct: str
    organs: str
    threshold: str


SOCKETS: Mapping[Tracer, ScanSockets] = {
    Tracer.PSMA: ScanSockets(
        pet="psma-pet-ga-68",
        ct="psma-ct-image",
        organs="psma-ct-image-organ-segmentation",
        threshold="psma-pet-suv-threshold",
    ),
    Tracer.FDG: ScanSockets(
        pet="fdg-pet", ct="fdg-ct-image", organs="fdg-ct-image-organ-segmentation", threshold="fdg-pet-suv-threshold"
    ),
}


def is_platform_layout(folder: Path) -> bool:
    """Whether a folder looks like the platform's input."""
    return (folder / INPUTS_NAME).exists() or any((folder / place).exists() for place in KNOWN_PLACES.values())


def find_socket_files(folder: Path) -> dict[Tracer, ScanFiles]:
    """The files of both scans under the platform's input folder; nothing but JSON is opened.

    An inputs.json that is missing, unreadable or odd is logged as a warning, and the known places stand in for what it
    does not say. Sockets that the method does not use are ignored.

    Raises:
        CaseError: A socket other than the organ maps has no file, or one has several.
    """
    places = _places(folder)
    found = {}
    for tracer, slugs in SOCKETS.items():
        found[tracer] = ScanFiles(
            tracer=tracer,
            pet=_required_image(folder, slug=slugs.pet, place=places[slugs.pet]),
            ct=_required_image(folder, slug=slugs.ct, place=places[slugs.ct]),
            organs=_image(folder, slug=slugs.organs, place=places[slugs.organs]),
            threshold=_json_file(folder, slug=slugs.threshold, place=places[slugs.threshold]),
        )
    return found


def _places(folder: Path) -> dict[str, str]:
    """Slug to place under the input folder, for every socket that the method uses."""
    places = dict(KNOWN_PLACES)
    try:
        entries = read_json(CaseFile(folder / INPUTS_NAME, INPUTS_NAME))
        if not isinstance(entries, list):
            raise CaseError(INPUTS_NAME, "must be a list of sockets", type(entries).__name__)
    except CaseError as error:
        log.warning("%s; the known places of the sockets are used", error)
        return places
    listed = dict(place for place in map(_place, entries) if place is not None)
    needed = [slug for slugs in SOCKETS.values() for slug in (slugs.pet, slugs.ct, slugs.threshold)]
    missing = [slug for slug in needed if slug not in listed]
    for slug in (slugs.organs for slugs in SOCKETS.values()):
        if slug in listed and _image(folder, slug=slug, place=listed[slug]) is None:
            log.warning("%s: %s is listed and holds no image; the organs are computed", INPUTS_NAME, slug)
    if missing:
        log.warning("%s: %s not listed; the known places are used", INPUTS_NAME, ", ".join(missing))
    places.update({slug: place for slug, place in listed.items() if slug in places})
    return places


def _place(entry: object) -> tuple[str, str] | None:
    """Slug and place of an entry, or None with a warning; its socket is under `interface`, `socket` or both."""
    socket = (entry.get("socket") or entry.get("interface")) if isinstance(entry, dict) else None
    slug = socket.get("slug") if isinstance(socket, dict) else None
    place = socket.get("relative_path") if isinstance(socket, dict) else None
    if not isinstance(slug, str) or not isinstance(place, str) or not place:
        log.warning("%s: entry must name a slug and a relative_path, got %.80r; it is ignored", INPUTS_NAME, entry)
        return None
    parts = PurePosixPath(place)
    if parts.is_absolute() or ".." in parts.parts or "\0" in place:
        rule = "relative_path must stay inside the input folder"
        log.warning("%s: %s: %s, got %.80r; it is ignored", INPUTS_NAME, slug, rule, place)
        return None
    return slug, place


def _required_image(folder: Path, *, slug: str, place: str) -> CaseFile:
    image = _image(folder, slug=slug, place=place)
    if image is None:
        held = sorted(path.name for path in (folder / place).glob("*")) if (folder / place).is_dir() else []
        rule = f"{place} must hold one image ({', '.join(IMAGE_SUFFIXES)})"
        raise CaseError(slug, rule, ", ".join(held[:5]) if held else "nothing")
    return image


def _image(folder: Path, *, slug: str, place: str) -> CaseFile | None:
    """The one image in a socket's folder, or None without any; hidden files do not count."""
    images = sorted(filter(is_image_file, (folder / place).glob("*")))
    if len(images) > 1:
        names = ", ".join(path.name for path in images[:5])
        raise CaseError(slug, f"{place} must hold one image", f"{len(images)}: {names}")
    return CaseFile(images[0], f"{place}/{images[0].name}") if images else None


def _json_file(folder: Path, *, slug: str, place: str) -> CaseFile:
    if not (folder / place).is_file():
        raise CaseError(slug, f"file {place} is missing")
    return CaseFile(folder / place, place)
