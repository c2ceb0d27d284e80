"""Spoiling single files of a healthy case, in either layout: the verbs that the table of bad inputs is made of."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from petct.case import Tracer
from petct.folders import SCAN_FOLDERS
from petct.geometry import Grid, grid_of, to_array, to_image
from petct.sockets import KNOWN_PLACES, SOCKETS

_STEMS = {"pet": "PET", "ct": "CT", "organs": "totseg_24"}


@dataclass(frozen=True)
class Place:
    """A case to be spoilt.

    Attributes:
        folder: Its folder.
        is_platform: Whether it is laid out as on the platform.
    """

    folder: Path
    is_platform: bool

    def image(self, tracer: Tracer, what: str) -> Path:
        """The file of a `pet`, `ct` or `organs`."""
        if self.is_platform:
            (path,) = (self.folder / KNOWN_PLACES[getattr(SOCKETS[tracer], what)]).iterdir()
            return path
        return self.folder / SCAN_FOLDERS[tracer] / f"{_STEMS[what]}.nii.gz"

    def file(self, tracer: Tracer, what: str) -> Path:
        """The same, or the `threshold`."""
        if what != "threshold":
            return self.image(tracer, what)
        name = KNOWN_PLACES[SOCKETS[tracer].threshold] if self.is_platform else f"{SCAN_FOLDERS[tracer]}/threshold.json"
        return self.folder / name

    @property
    def inputs(self) -> Path:
        """The platform's inputs.json."""
        return self.folder / "inputs.json"

    @property
    def elsewhere(self) -> Path:
        """A folder beside the case's, made when it is asked for."""
        path = self.folder.parent / f"{self.folder.name}-elsewhere"
        path.mkdir(exist_ok=True)
        return path


Spoil = Callable[[Place], None]
Change = Callable[[sitk.Image], sitk.Image]
Row = tuple[str, Spoil, str]


def missing(tracer: Tracer, what: str) -> Spoil:
    return lambda place: place.file(tracer, what).unlink()


def rewritten(tracer: Tracer, what: str, content: bytes | Callable[[bytes], bytes]) -> Spoil:
    """Other bytes in the same file."""

    def spoil(place: Place) -> None:
        path = place.file(tracer, what)
        path.write_bytes(content if isinstance(content, bytes) else content(path.read_bytes()))

    return spoil


def doubled(tracer: Tracer, what: str) -> Spoil:
    """A second file for the same image."""

    def spoil(place: Place) -> None:
        path = place.image(tracer, what)
        stem = path.name.split(".", 1)[0]
        sitk.WriteImage(sitk.ReadImage(path), path.with_name(f"{stem}.nii"))

    return spoil


def replaced(tracer: Tracer, what: str, kind: str) -> Spoil:
    """Something in the file's place that is none."""
    return lambda place: _replace(place.file(tracer, what), kind)


def _replace(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "dangling link":
            path.symlink_to("nowhere")
        case "circle of links":
            path.symlink_to(path.name)


def inputs_replaced(kind: str) -> Spoil:
    return lambda place: _replace(place.inputs, kind)


def moved_out(tracer: Tracer, what: str) -> Spoil:
    """A link in the file's place, to it in another folder."""

    def spoil(place: Place) -> None:
        path = place.file(tracer, what)
        target = place.elsewhere / path.name
        shutil.move(path, target)
        path.symlink_to(target)

    return spoil


def folder_moved_out(tracer: Tracer, what: str) -> Spoil:
    """A link in the place of the file's folder."""

    def spoil(place: Place) -> None:
        folder = place.file(tracer, what).parent
        target = place.elsewhere / folder.name
        shutil.move(folder, target)
        folder.symlink_to(target, target_is_directory=True)

    return spoil


def moved_within(tracer: Tracer, what: str) -> Spoil:
    """A link in the file's place, to it under another folder of the case."""

    def spoil(place: Place) -> None:
        path = place.file(tracer, what)
        kept = place.folder / "kept"
        kept.mkdir()
        shutil.move(path, kept / path.name)
        path.symlink_to(os.path.relpath(kept / path.name, path.parent))

    return spoil


def case_is_a_link(place: Place) -> None:
    target = place.elsewhere / "case"
    shutil.move(place.folder, target)
    place.folder.symlink_to(target, target_is_directory=True)


def renamed(tracer: Tracer, what: str, name: bytes) -> Spoil:
    """Another name of the file, of any bytes, that ends as it did; the platform's files may be called anything."""

    def spoil(place: Place) -> None:
        path = place.image(tracer, what)
        suffix = path.name[path.name.index(".") :]
        path.rename(path.with_name(os.fsdecode(name) + suffix))

    return spoil


def changed(tracer: Tracer, what: str, change: Change, *, use_compression: bool = True) -> Spoil:
    """Another image in the same file."""

    def spoil(place: Place) -> None:
        path = place.image(tracer, what)
        image = change(sitk.ReadImage(path))
        for key in image.GetMetaDataKeys():
            image.EraseMetaData(key)
        sitk.WriteImage(image, path, useCompression=use_compression)

    return spoil


def both(*spoils: Spoil) -> Spoil:
    """One after the other."""

    def spoil(place: Place) -> None:
        for one in spoils:
            one(place)

    return spoil


def voxels(function: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Other voxels on the same grid."""
    return lambda image: to_image(np.ascontiguousarray(function(to_array(image))), grid_of(image))


def one_voxel(value: float, *, dtype: str = "float32") -> Change:
    def put(array: np.ndarray) -> np.ndarray:
        array = array.astype(dtype)
        array[2, 1, 3] = value
        return array

    return voxels(put)


def flipped(axis_xyz: int) -> Change:
    """The same patient, stored the other way round along an axis."""

    def flip(image: sitk.Image) -> sitk.Image:
        grid = grid_of(image)
        last = [0, 0, 0]
        last[axis_xyz] = grid.size_xyz[axis_xyz] - 1
        direction = np.reshape(grid.direction, (3, 3)).copy()
        direction[:, axis_xyz] *= -1.0
        other = Grid(
            shape_zyx=grid.shape_zyx,
            spacing_mm_xyz=grid.spacing_mm_xyz,
            origin_mm_xyz=grid.position_mm_xyz(tuple(last[::-1])),
            direction=tuple(direction.ravel().tolist()),
        )
        return to_image(np.ascontiguousarray(np.flip(to_array(image), axis=2 - axis_xyz)), other)

    return flip


def with_spacing(factor: float) -> Change:
    def scale(image: sitk.Image) -> sitk.Image:
        image.SetSpacing([mm * factor for mm in image.GetSpacing()])
        return image

    return scale


def shifted(mm: float, axis_xyz: int) -> Change:
    def shift(image: sitk.Image) -> sitk.Image:
        origin = list(image.GetOrigin())
        origin[axis_xyz] += mm
        image.SetOrigin(origin)
        return image

    return shift


def entries_changed(change: Callable[[dict[str, Any]], None]) -> Spoil:
    """inputs.json with its entries, by slug, changed."""

    def spoil(place: Place) -> None:
        entries = {entry["socket"]["slug"]: entry for entry in json.loads(place.inputs.read_text())}
        change(entries)
        place.inputs.write_text(json.dumps(list(entries.values())))

    return spoil


def inputs_rewritten(content: bytes) -> Spoil:
    return lambda place: (place.inputs.write_bytes(content), None)[1]
