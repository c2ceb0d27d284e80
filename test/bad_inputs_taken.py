"""Rows of the table of bad inputs that are odd, and no reason to refuse a case."""

from __future__ import annotations

import gzip
import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

import bad_files
import bad_headers
from bad_files import Place, Row
from petct.case import Tracer
from petct.geometry import grid_of, resample_labels, to_array, to_image

PSMA, FDG = Tracer.PSMA, Tracer.FDG


def same_in_both_layouts() -> Iterator[Row]:
    """Odd files that say the same; the line is that of a warning, or "" where there is nothing to say."""
    change, voxels = bad_files.changed, bad_files.voxels
    for what in ("organs", "ct"):
        for kind in ("float64", "int32", "int16"):
            yield f"{what} of {kind}", change(FDG, what, voxels(lambda array, kind=kind: array.astype(kind))), ""
    yield "pet of float64", change(FDG, "pet", voxels(lambda array: array.astype("float64"))), ""
    yield "pet not compressed inside", change(FDG, "pet", lambda image: image, use_compression=False), ""
    yield "threshold as an object", bad_files.rewritten(PSMA, "threshold", b'{"suv_threshold": 3, "by": "x"}'), ""
    yield "threshold with a byte order mark", bad_files.rewritten(PSMA, "threshold", b"\xef\xbb\xbf3.0\n"), ""
    yield "case is a link", bad_files.case_is_a_link, ""
    yield "ct is a link within the case", bad_files.moved_within(FDG, "ct"), ""
    yield "threshold is a link within the case", bad_files.moved_within(PSMA, "threshold"), ""


def other_in_both_layouts() -> Iterator[Row]:
    """Cases that say something else than before, and may."""
    change, voxels = bad_files.changed, bad_files.voxels
    yield (
        "organs and ct stored the other way round",
        bad_files.both(change(PSMA, "ct", bad_files.flipped(2)), change(PSMA, "organs", bad_files.flipped(2))),
        "",
    )
    line = "{file}: the voxel axes do not run left, posterior, superior .*"
    yield "pet stored feet first", change(PSMA, "pet", bad_files.flipped(2)), line
    yield "pet stored left to right", change(FDG, "pet", bad_files.flipped(0)), line
    big = change(FDG, "pet", bad_files.one_voxel(1500.0))
    yield "pet with one voxel of 1500", big, "{file}: the maximum of 1500 does not look like SUV"
    empty = change(FDG, "organs", voxels(lambda array: array * 0))
    yield "organs all zero", empty, "{file}: the organ map is empty"
    yield "ct with 1024 added", change(FDG, "ct", voxels(lambda array: array + 1024)), "{file}: .*does not look like HU"
    low = bad_files.rewritten(FDG, "threshold", b"0.5")
    yield "threshold of 0.5", low, "{file}: SUV threshold 0.5 is outside the usual 1-10"
    line = "{file}: PET must be PSMA; PSMA and FDG may be swapped, got .*"
    yield "psma pet with the uptake of fdg", _same_uptake_as_fdg, line
    yield "fdg is the psma scan once more", _same_scan_twice, "{file}: must not be .* voxel for voxel.*"


def _same_uptake_as_fdg(place: Place) -> None:
    """A third of the organ map each brain, liver and kidney, and the PSMA PET hottest in the brain."""
    shares = {90: (0, 3), 5: (3, 6), 2: (6, 9)}  # brain, liver, right kidney: ninths along y

    def labels(array: np.ndarray) -> np.ndarray:
        for label, (start, end) in shares.items():
            array[:, start * array.shape[1] // 9 : end * array.shape[1] // 9] = label
        return array

    bad_files.changed(PSMA, "organs", bad_files.voxels(labels))(place)
    organs = sitk.ReadImage(place.image(PSMA, "organs"))

    def uptake(image: sitk.Image) -> sitk.Image:
        grid = grid_of(image)
        there = to_array(resample_labels(organs, grid))
        suv = np.where(there == 90, 6.0, np.where(there == 5, 2.0, 2.2)).astype(np.float32)
        return to_image(suv, grid)

    bad_files.changed(PSMA, "pet", uptake)(place)


def _same_scan_twice(place: Place) -> None:
    for what in ("pet", "ct", "organs"):
        place.image(FDG, what).write_bytes(place.image(PSMA, what).read_bytes())


def without_organs_on_platform() -> Iterator[Row]:
    """The platform lists what it fills, so an empty socket is worth a word."""
    line = "inputs.json: psma-ct-image-organ-segmentation is listed and holds no image; the organs are computed"
    yield "organs missing", bad_files.missing(PSMA, "organs"), line


def without_organs_in_training() -> Iterator[Row]:
    """A scan without an organ map is one like any other."""
    yield "organs missing", bad_files.missing(PSMA, "organs"), ""


def on_platform() -> Iterator[Row]:
    """inputs.json in every odd form, names of any text, and the registration."""
    ignored = "; the known places of the sockets are used"
    for name, content, line in (
        ("empty", b"", "file must be JSON in UTF-8, got JSONDecodeError"),
        ("not UTF-8", b'[{"a": "\xff\xfe"}]', "file must be JSON in UTF-8, got UnicodeDecodeError"),
        ("in UTF-16", "[]".encode("utf-16"), "file must be JSON in UTF-8, got UnicodeDecodeError"),
        ("deeply nested", b"[" * 200_000, "file must be JSON in UTF-8, got RecursionError"),
        ("huge", b"[" + b" " * (5 << 20) + b"]", "file must have at most 4 MiB, got more"),
        ("an object", b'{"socket": 3}', "must be a list of sockets, got dict"),
        ("a number", b"3", "must be a list of sockets, got int"),
        ("with a key twice", b'[{"socket": 1, "socket": 2}]', "an object must not hold a key twice, got 'socket'"),
    ):
        yield f"inputs.json {name}", bad_files.inputs_rewritten(content), f"inputs.json: {line}.*{ignored}"
    for kind in ("folder", "pipe", "device", "dangling link", "circle of links"):
        yield f"inputs.json is a {kind}", bad_files.inputs_replaced(kind), f"inputs.json: .*{ignored}"
    odd = "inputs.json: entry must name a slug and a relative_path, got .*; it is ignored"
    for name, content in (
        ("of numbers", b"[1, 2, null, true]"),
        ("of texts", b'["fdg-pet", "images"]'),
        ("of nested lists", b"[" * 900 + b"]" * 900),
        ("of sockets without places", b'[{"socket": {"slug": "fdg-pet"}}]'),
        ("of places that are numbers", b'[{"socket": {"slug": "fdg-pet", "relative_path": 7}}]'),
    ):
        yield f"inputs.json {name}", bad_files.inputs_rewritten(content), odd
    line = "inputs.json: 995 more odd entries are ignored"
    yield "inputs.json of 1000 numbers", bad_files.inputs_rewritten(b"[" + b"0," * 999 + b"0]"), line
    many = b"[" + b"0," * 1_000_000 + b"0]"
    line = f"inputs.json: must list at most 1000 sockets, got 1000001{ignored}"
    yield "inputs.json of a million numbers", bad_files.inputs_rewritten(many), line
    for name, path in (
        ("an absolute path", "/etc/passwd"),
        ("a way out", "images/../../elsewhere"),
        ("a NUL", "images/\0"),
        ("half a surrogate pair", "images/\ud800"),
        ("a name of 5000 characters", "a" * 5000),
    ):
        content = json.dumps([{"socket": {"slug": "fdg-pet", "relative_path": path}}]).encode()
        line = "inputs.json: fdg-pet: relative_path must stay inside the input folder, got .*; it is ignored"
        yield f"inputs.json with {name}", bad_files.inputs_rewritten(content), line

    def again(entries: dict[str, object]) -> None:
        entries["again"] = entries["fdg-pet"]

    yield "socket listed twice in one place", bad_files.entries_changed(again), ""
    for name, odd_name in (
        ("line breaks", b"a\nb\r\nc"),
        ("control characters", b"\x1b[2J\x07"),
        ("text that runs backwards", "\u202egnp.".encode()),
        ("a dash", b"--output"),
        ("quotes and blanks", b"'; rm -rf \" $HOME %s %d {}"),
        ("200 characters", b"n" * 200),
        ("a percent sign and brackets", b"%03d [x] *?"),
    ):
        yield f"file name with {name}", bad_files.renamed(FDG, "pet", odd_name), ""
    for name, content in (
        ("a reflection", b'{"3d_affine_transform": [[-1,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]]}'),
        ("a 3 x 3", b'{"3d_affine_transform": [[1,0,0],[0,1,0],[0,0,1]]}'),
        ("texts", b'{"3d_affine_transform": "identity"}'),
        ("no JSON", b"\xff\xfe not JSON"),
    ):
        yield f"registration of {name}", _registration(content), ""
    yield "registration is a pipe", lambda place: os.mkfifo(_emptied(place.folder / _REGISTRATION)), ""


_REGISTRATION = "psma-to-fdg-registration.json"


def _registration(content: bytes) -> Callable[[Place], None]:
    return lambda place: (_emptied(place.folder / _REGISTRATION).write_bytes(content), None)[1]


def _emptied(path: Path) -> Path:
    path.unlink(missing_ok=True)
    return path


def in_training() -> Iterator[Row]:
    """Links into an archive, and the files that the method does not read."""
    yield "ct is a link out", bad_files.moved_out(FDG, "ct"), ""
    yield "threshold is a link out", bad_files.moved_out(PSMA, "threshold"), ""
    yield "folder of the scan is a link out", bad_files.folder_moved_out(FDG, "pet"), ""
    yield "rigid.tfm is no transform", lambda place: (place.folder / "FDG/rigid.tfm").write_bytes(b"\xff") and None, ""
    yield "rigid.tfm is a pipe", lambda place: os.mkfifo(_emptied(place.folder / "FDG/rigid.tfm")), ""
    yield "truth is no image", lambda place: (place.folder / "FDG/TTB.nii.gz").write_bytes(b"?") and None, ""
    slope = bad_headers.header(FDG, "pet", mha={}, nifti=[(112, "f", float("nan"))])
    yield "pet with a slope of nan, as nibabel writes for none", slope, ""
    note = bad_files.rewritten(FDG, "pet", lambda content: _with_note(content))
    yield "pet with a note between header and voxels", note, ""
    padded = bad_files.rewritten(FDG, "pet", lambda content: content + gzip.compress(bytes(512)))
    yield "pet with zeros after its voxels", padded, ""


def _with_note(content: bytes) -> bytes:
    plain = gzip.decompress(content)
    start = bad_headers.with_numbers(plain[:352], [(108, "f", 384.0), (348, "b", 1)])
    note = struct.pack("<ii24s", 32, 6, b"a note")
    return bytes(gzip.compress(start + note + plain[352:]))
