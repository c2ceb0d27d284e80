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
from petct.errors import CaseError, one_line, shown
from petct.images import IMAGE_SUFFIXES, check_regular, has_image_name
from petct.scan_files import CaseFile, ScanFiles, read_json

log = logging.getLogger(__name__)

INPUTS_NAME = "inputs.json"
_MOST_ENTRIES = 1000
_MOST_ODD_ENTRIES_SHOWN = 5
_LONGEST_NAME_BYTES, _LONGEST_PATH_BYTES = 255, 2048  # Linux's own, less what comes before it

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

    The input folder may be a link, and so may its files, as long as they stay inside it: what a stranger uploads must
    not point at other files of this machine.

    Raises:
        CaseError: A socket other than the organ maps has no file, or one has several, is listed in two places, or is a
            link that leads out of the folder.
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
        entries = read_json(_case_file(folder / INPUTS_NAME, INPUTS_NAME, folder=folder))
        if not isinstance(entries, list):
            raise CaseError(INPUTS_NAME, "must be a list of sockets", type(entries).__name__)
        if len(entries) > _MOST_ENTRIES:
            raise CaseError(INPUTS_NAME, f"must list at most {_MOST_ENTRIES} sockets", f"{len(entries)}")
    except CaseError as error:
        log.warning("%s; the known places of the sockets are used", error)
        return places
    listed = _listed(entries)
    needed = [slug for slugs in SOCKETS.values() for slug in (slugs.pet, slugs.ct, slugs.threshold)]
    missing = [slug for slug in needed if slug not in listed]
    for slug in (slugs.organs for slugs in SOCKETS.values()):
        if slug in listed and _image(folder, slug=slug, place=listed[slug]) is None:
            log.warning("%s: %s is listed and holds no image; the organs are computed", INPUTS_NAME, slug)
    if missing:
        log.warning("%s: %s not listed; the known places are used", INPUTS_NAME, ", ".join(missing))
    places.update({slug: place for slug, place in listed.items() if slug in places})
    return places


def _listed(entries: list[object]) -> dict[str, str]:
    """Slug to place of the entries that name them; odd ones are warned of, the first few by their content."""
    listed: dict[str, str] = {}
    odd = 0
    for entry in entries:
        fault = None
        try:
            slug, place = _place(entry)
        except CaseError as error:
            fault = error
        if fault is not None:
            odd += 1
            if odd <= _MOST_ODD_ENTRIES_SHOWN:
                log.warning("%s; it is ignored", fault)
        elif listed.setdefault(slug, place) != place:
            got = f"{shown(listed[slug])} and {shown(place)}"
            raise CaseError(INPUTS_NAME, f"{one_line(slug)[:80]} must be listed once, or in one place", got)
    if odd > _MOST_ODD_ENTRIES_SHOWN:
        log.warning("%s: %d more odd entries are ignored", INPUTS_NAME, odd - _MOST_ODD_ENTRIES_SHOWN)
    return listed


def _place(entry: object) -> tuple[str, str]:
    """Slug and place of an entry; its socket is under `interface`, `socket` or both.

    Raises:
        CaseError: It names none, or a place outside the input folder.
    """
    socket = (entry.get("socket") or entry.get("interface")) if isinstance(entry, dict) else None
    slug = socket.get("slug") if isinstance(socket, dict) else None
    place = socket.get("relative_path") if isinstance(socket, dict) else None
    if not isinstance(slug, str) or not isinstance(place, str) or not place:
        raise CaseError(INPUTS_NAME, "entry must name a slug and a relative_path", shown(entry))
    if not _is_below_input(place):
        rule = "relative_path must stay inside the input folder"
        raise CaseError(f"{INPUTS_NAME}: {slug[:80]}", rule, shown(place))
    return slug, place


def _is_below_input(place: str) -> bool:
    """Whether this is a path that a file can have, and not one out of the folder."""
    try:
        encoded = place.encode("utf-8")  # half a surrogate pair, as JSON may hold, is no text
    except UnicodeEncodeError:
        return False
    path = PurePosixPath(place)
    is_path = b"\0" not in encoded and len(encoded) <= _LONGEST_PATH_BYTES
    is_path = is_path and all(len(part.encode()) <= _LONGEST_NAME_BYTES for part in path.parts)
    return is_path and not path.is_absolute() and ".." not in path.parts


def _required_image(folder: Path, *, slug: str, place: str) -> CaseFile:
    image = _image(folder, slug=slug, place=place)
    if image is None:
        held = sorted(path.name for path in (folder / place).glob("*")) if (folder / place).is_dir() else []
        rule = f"{place} must hold one image ({', '.join(IMAGE_SUFFIXES)})"
        raise CaseError(slug, rule, ", ".join(held[:5]) if held else "nothing")
    return image


def _image(folder: Path, *, slug: str, place: str) -> CaseFile | None:
    """The one image in a socket's folder, or None without any; hidden files do not count."""
    images = sorted(filter(has_image_name, (folder / place).glob("*")))
    for path in images:
        check_regular(path, where=f"{place}/{path.name}")
    if len(images) > 1:
        names = ", ".join(path.name for path in images[:5])
        raise CaseError(slug, f"{place} must hold one image", f"{len(images)}: {names}")
    return _case_file(images[0], f"{place}/{images[0].name}", folder=folder) if images else None


def _json_file(folder: Path, *, slug: str, place: str) -> CaseFile:
    check_regular(folder / place, where=place)
    if not (folder / place).exists():
        raise CaseError(slug, f"file {place} is missing")
    return _case_file(folder / place, place, folder=folder)


def _case_file(path: Path, where: str, *, folder: Path) -> CaseFile:
    """A file of the case, unless it is a link, or behind one, that leads out of the folder."""
    try:
        target = path.resolve()
    except RuntimeError as error:  # Python's word for links in a circle
        raise CaseError(where, "must not be a link in a circle") from error
    if not target.is_relative_to(folder.resolve()):
        raise CaseError(where, "must not be a link that leads out of the input folder", str(target))
    return CaseFile(path, one_line(where))
