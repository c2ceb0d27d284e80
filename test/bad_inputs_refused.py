"""Rows of the table of bad inputs that must be refused."""

from __future__ import annotations

from collections.abc import Iterator

import bad_files
from bad_files import Row
from petct.case import Tracer

PSMA, FDG = Tracer.PSMA, Tracer.FDG


_SOCKET_FILES = ((PSMA, "pet"), (FDG, "ct"), (PSMA, "organs"), (FDG, "threshold"))


def in_both_layouts() -> Iterator[Row]:
    """Name, what spoils the case, and the last line of stderr: a regular expression that may name `{file}`."""
    for group in (_files, _formats, _values, _thresholds):
        yield from group()


def _files() -> Iterator[Row]:
    """Each socket: missing, doubled, empty, cut off, of another kind, and things that are no files."""
    for tracer, what in _SOCKET_FILES:
        name = f"{tracer} {what}"
        if what != "organs":
            yield f"{name} missing", bad_files.missing(tracer, what), "({slug}|{file}): .*(missing|got nothing)"
        if what != "threshold":
            yield (
                f"{name} doubled",
                bad_files.doubled(tracer, what),
                "({slug}|{stem}): .*must .*one (image|file), got .*",
            )
        empty = "file must be JSON in UTF-8" if what == "threshold" else "image must be a MetaImage or NIfTI file .*"
        yield f"{name} empty", bad_files.rewritten(tracer, what, b""), f"{{file}}: {empty}, got .*"
        cut = bad_files.rewritten(tracer, what, lambda content: content[:-40])
        if what == "threshold":
            cut = bad_files.rewritten(tracer, what, b'{"suv_thresh')
        yield f"{name} cut off", cut, "{file}: (image file must be whole.*|file must be JSON.*), got .*"
        text = bad_files.rewritten(tracer, what, b"version https://git-lfs.github.com/spec/v1\n" * 30)
        yield f"{name} is a git-LFS pointer", text, "{file}: (image must be a|file must be JSON).*, got .*"
        for kind in ("folder", "pipe", "device", "dangling link", "circle of links"):
            got = {"folder": "a folder", "pipe": "a pipe or a device", "device": "a pipe or a device"}
            line = f"{{file}}: must be a regular file, got {got.get(kind, 'a link that leads nowhere')}"
            yield f"{name} is a {kind}", bad_files.replaced(tracer, what, kind), line


def _formats() -> Iterator[Row]:
    """Images of another kind than 3D scalars, and one format under another's name."""
    pet = (PSMA, "pet")
    sitk, voxels = bad_files.sitk, bad_files.voxels
    yield "2D pet", bad_files.changed(*pet, lambda image: image[:, :, 3]), "{file}: image must be 3D, got 2D, .* voxels"
    ct = (FDG, "ct")
    yield (
        "4D ct",
        bad_files.changed(*ct, lambda image: sitk.JoinSeries([image] * 2)),
        "{file}: image must be 3D, got 4D.*",
    )
    vector = bad_files.changed(*pet, lambda image: sitk.Compose(image, image))
    yield "vector pet", vector, "{file}: image must be scalar, got 2 components \\(vector of 32-bit float\\)"
    rgb = bad_files.changed(PSMA, "organs", lambda image: sitk.Compose(*[image] * 3))
    yield "colour organs", rgb, "{file}: image must be scalar, got 3 components .*"
    complex_pet = bad_files.changed(*pet, lambda image: sitk.RealAndImaginaryToComplex(image, image))
    yield "complex pet", complex_pet, "{file}: image must be scalar, got 2 components .*"
    jpeg = bad_files.rewritten(*pet, b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(2000))
    yield "pet is a JPEG", jpeg, "{file}: image must be a MetaImage or NIfTI file .*, got 2010 bytes of something else"
    yield (
        "ct is a DICOM file",
        bad_files.rewritten(*ct, bytes(128) + b"DICM" + bytes(500)),
        "{file}: image must be a .*",
    )
    yield (
        "ct is a pickle",
        bad_files.rewritten(*ct, b"\x80\x04cos\nsystem\n(S'true'\ntR."),
        "{file}: image must be a .*",
    )
    other = bad_files.rewritten(*pet, lambda content: content[::-1])
    yield "pet is backwards", other, "{file}: image must be a MetaImage or NIfTI file .*"
    damage = bad_files.rewritten(*ct, lambda content: content[:-400] + bytes(64) + content[-336:])
    yield "ct is damaged", damage, "{file}: image file must be whole and undamaged, got .*"
    surplus = bad_files.changed(*pet, voxels(lambda array: array.astype("int8")))
    yield "pet of noise-free 8-bit numbers has a body mean of 0", surplus, "{file}: PET must be in SUV, .*, got .*"


def _values() -> Iterator[Row]:
    """Voxels that are no uptake, no HU, no labels."""
    one, change, voxels = bad_files.one_voxel, bad_files.changed, bad_files.voxels
    finite = "{file}: every voxel must be finite, got nan or infinite voxels"
    for value in ("nan", "inf", "-inf"):
        yield f"pet with one {value}", change(FDG, "pet", one(float(value))), finite
        yield f"ct with one {value}", change(PSMA, "ct", one(float(value))), finite
    yield "pet of nothing but nan", change(PSMA, "pet", voxels(lambda array: array * float("nan"))), finite
    yield "organs with one nan", change(PSMA, "organs", one(float("nan"))), finite
    line = "{file}: PET must have voxels above 0 SUV, got a maximum of 0 SUV"
    yield "pet all zero", change(FDG, "pet", voxels(lambda array: array * 0.0)), line
    line = "{file}: PET must have voxels above 0 SUV, got a maximum of -.* SUV"
    yield "pet all negative", change(FDG, "pet", voxels(lambda array: -1.0 - array)), line
    line = "{file}: PET must not be negative beyond noise .*, got -40 SUV"
    yield "pet with one voxel at -40", change(PSMA, "pet", one(-40.0)), line
    yield (
        "pet in Hounsfield units",
        change(PSMA, "pet", voxels(lambda array: array * 200.0 - 1000.0)),
        "{file}: PET must not be neg.*",
    )
    line = "{file}: PET must be in SUV, with a mean of 0.02-20 over the body, got .*, as Bq/mL have"
    body = change(FDG, "ct", voxels(lambda array: array // 20 + 40))  # soft tissue: this is a very small patient
    becquerels = change(FDG, "pet", voxels(lambda array: array * 2500.0))
    yield "pet in Bq/mL", bad_files.both(body, becquerels), line
    line = "{file}: PET must be in SUV, with a mean of 0.02-20 over the body, got .*"
    megabecquerels = change(FDG, "pet", voxels(lambda array: array * 0.0025))
    yield "pet in MBq/mL", bad_files.both(body, megabecquerels), line
    line = "{file}: CT must show more than one value, got 0 HU in every voxel"
    yield "ct all zero", change(FDG, "ct", voxels(lambda array: array * 0)), line
    for value in (118, 200, 255):
        line = f"{{file}}: organ labels must be within 0-117, got 0 to {value}"
        yield f"organs with label {value}", change(PSMA, "organs", one(value, dtype="uint8")), line
    line = "{file}: organ labels must be within 0-117, got -1 to .*"
    yield "organs with label -1", change(PSMA, "organs", one(-1, dtype="int16")), line
    line = "{file}: organ labels must be whole numbers, got 2.5"
    yield "organs with label 2.5", change(FDG, "organs", one(2.5)), line


def _thresholds() -> Iterator[Row]:
    """Thresholds that are none."""
    rule = "SUV threshold must be"
    json_rule = "file must be JSON in UTF-8, got"
    for name, content, line in (
        ("text", b'"three"', f"{rule} a number, got 'three'"),
        ("a number as text", b'"3.0"', f"{rule} a number, got '3.0'"),
        ("a bare word", b"three", f"{json_rule} JSONDecodeError: .*"),
        ("true", b"true", f"{rule} a number, got True"),
        ("null", b"null", f"{rule} a number, got None"),
        ("negative", b"-2.5", f"{rule} > 0, got -2.5"),
        ("0", b"0", f"{rule} > 0, got 0"),
        ("nan", b"NaN", f"{rule} finite, got nan"),
        ("infinite", b"Infinity", f"{rule} finite, got inf"),
        ("beyond a double", b"1e999", f"{rule} finite, got inf"),
        ("of 4000 digits", b"9" * 4000, f"{rule} finite, got 9+"),
        ("of 5000 digits", b"9" * 5000, f"{json_rule} ValueError: .*"),
        ("1e9", b"1e9", f"{rule} within 0.1-100, got 1e\\+09"),
        ("1e-9", b"1e-9", f"{rule} within 0.1-100, got 1e-09"),
        ("a list", b"[3.0]", f"{rule} a number, got \\[3.0\\]"),
        ("under another key", b'{"threshold": 3.0}', f"{rule} a number or hold suv_threshold, got .*"),
        ("a list under its key", b'{"suv_threshold": [3.0]}', f"{rule} a number, got \\[3.0\\]"),
        ("there twice", b'{"suv_threshold": 3, "suv_threshold": 5}', "an object must not hold a key twice, got .*"),
        ("two documents", b"3.0 4.0", f"{json_rule} JSONDecodeError: Extra data.*"),
        ("not UTF-8", b'{"suv_threshold": 3.0, "unit": "\xff"}', f"{json_rule} UnicodeDecodeError: .*"),
        ("in UTF-16", "3.0".encode("utf-16"), f"{json_rule} UnicodeDecodeError: .*"),
        ("deeply nested", b'{"a":' * 100_000, f"{json_rule} RecursionError: .*"),
        ("nested as deep as Python goes", b"[" * 900 + b"]" * 900, f"{rule} a number, got \\[+.*"),
        ("of 5 MiB", b" " * (5 << 20) + b"3.0", "file must have at most 4 MiB, got more"),
        ("a text of 1 MiB", b'"' + b"3" * (1 << 20) + b'"', f"{rule} a number, got '3+\\.\\.\\.3+'"),
        ("with line breaks inside", b'"3\\n0\\u001b[2J"', f"{rule} a number, got '3.*0.*'"),
    ):
        yield f"threshold {name}", bad_files.rewritten(PSMA, "threshold", content), f"{{file}}: {line}"


def on_platform() -> Iterator[Row]:
    """What the training set's layout cannot have: sockets, and links that must not lead out."""
    pet = (FDG, "pet")
    for tracer, what in _SOCKET_FILES:
        line = "{file}: must not be a link that leads out of the input folder, got .*elsewhere.*"
        yield f"{tracer} {what} is a link out", bad_files.moved_out(tracer, what), line
    line = "images/fdg-ct/.*: must not be a link that leads out of the input folder, got .*elsewhere.*"
    yield "folder of the ct is a link out", bad_files.folder_moved_out(FDG, "ct"), line

    def list_elsewhere(entries: dict[str, object]) -> None:
        entries["again"] = {"socket": {"slug": "fdg-pet", "relative_path": "images/psma-pet-ga-68"}}

    line = "inputs.json: fdg-pet must be listed once, or in one place, got 'images/fdg-pet' and 'images/psma-pet-ga-68'"
    yield "socket listed in two places", bad_files.entries_changed(list_elsewhere), line

    def list_nowhere(entries: dict[str, dict[str, dict[str, str]]]) -> None:
        entries["fdg-pet"]["socket"]["relative_path"] = "images/nowhere"

    line = "fdg-pet: images/nowhere must hold one image .*, got nothing"
    yield "socket listed where nothing is", bad_files.entries_changed(list_nowhere), line
    line = "images/fdg-pet/.*\\\\udcff.*: file name must be UTF-8, because ITK reads no other"
    yield "file name that is not UTF-8", bad_files.renamed(*pet, b"p\xff\xfet"), line
