"""Rows of the table of bad inputs about headers that must be refused."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import numpy as np
import SimpleITK as sitk

import bad_files
import bad_headers
from bad_files import Place, Row
from petct.case import Tracer

PSMA, FDG = Tracer.PSMA, Tracer.FDG


def in_both_layouts() -> Iterator[Row]:
    """As in `bad_inputs_refused`; fields of the header are given for either format."""
    yield from _grids()
    yield from _claims()


def _grids() -> Iterator[Row]:
    """Grids that are none, or that do not belong together."""
    change, header = bad_files.changed, bad_headers.header
    for name, text, number in (("0", "0 5 3", 0.0), ("negative", "-4 5 3", -4.0), ("nan", "nan 5 3", float("nan"))):
        spoil = header(PSMA, "pet", mha={"ElementSpacing": text}, nifti=[(80, "f", number)])
        yield f"pet with a spacing of {name}", spoil, "{file}: spacing must be > 0 mm, got .* mm \\(x, y, z\\)"
    inf = header(PSMA, "pet", mha={"ElementSpacing": "inf 5 3"}, nifti=[(80, "f", float("inf"))])
    yield "pet with a spacing of infinity", inf, "{file}: spacing must be > 0 mm, got .*"
    yield (
        "pet in metres",
        change(PSMA, "pet", bad_files.with_spacing(0.001)),
        "{file}: spacing must be 0.02-100 mm, got .*",
    )
    yield "pet 2 m a voxel", change(PSMA, "pet", bad_files.with_spacing(500.0)), "{file}: spacing must be 0.02-100 mm.*"
    line = "{file}: CT must cover at least 5% of .*, got 0.*%"
    yield (
        "pet with tenfold spacing",
        change(PSMA, "pet", bad_files.with_spacing(10.0)),
        "{ct}: CT must cover at least 5%.*",
    )
    yield (
        "ct elsewhere",
        bad_files.both(
            change(FDG, "ct", bad_files.shifted(900.0, 2)), change(FDG, "organs", bad_files.shifted(900.0, 2))
        ),
        line,
    )
    line = "{file}: origin must lie within 100000 mm, got .*"
    yield "ct 10 km away", change(FDG, "ct", bad_files.shifted(1e7, 0)), line
    nan = header(
        PSMA, "ct", mha={"Offset": "0 nan 0"}, nifti=[(272, "f", float("nan")), (308, "f", float("nan"))]
    )  # fmt: skip
    yield "ct with an origin of nan", nan, "{file}: (origin|NIfTI qform|NIfTI sform) must be finite, got .*nan.*"
    rows = [(280 + 4 * n, "f", value) for n, value in enumerate((4, 0.4, 0, 0, 0, 5, 0, 0, 0, 0, 3, 0))]
    shear = header(PSMA, "pet", mha={"TransformMatrix": "1 0.1 0 0 1 0 0 0 1"}, nifti=[(252, "h", 0), *rows])
    yield "pet with sheared axes", shear, "{file}: direction must be orthonormal, got .*"
    flat = [(offset, "f", 1.0) for offset in range(280, 328, 4)]
    spoil = header(PSMA, "pet", mha={"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, nifti=[(252, "h", 0), *flat])
    yield "pet with axes in one plane", spoil, "{file}: .*(orthonormal|readable).*, got .*"
    long = header(FDG, "pet", mha={"TransformMatrix": "2 0 0 0 2 0 0 0 2"}, nifti=[(256, "f", 2.0)])
    yield "pet with axes of length 2", long, "{file}: (direction must be orthonormal|NIfTI quaternion .*), got .*"
    nan = header(FDG, "pet", mha={"TransformMatrix": "nan 0 0 0 1 0 0 0 1"}, nifti=[(260, "f", float("nan"))])
    yield "pet with a direction of nan", nan, "{file}: (direction must be orthonormal|NIfTI qform must be finite).*"
    on_pet = change(PSMA, "organs", lambda image: image[1:, :, :])
    yield "organs on another grid", on_pet, "{file}: grid must match .*, got .* voxels \\(x, y, z\\) for .*"
    line = "{file}: grid must match .* within 0.01 mm, got origin that differs by 3 mm along y"
    yield "organs 3 mm off", change(PSMA, "organs", bad_files.shifted(3.0, 1)), line
    line = "{file}: grid must match .* within 0.01 mm, got spacing that differs by .*"
    yield "organs with other spacing", change(FDG, "organs", bad_files.with_spacing(1.1)), line
    turned = change(FDG, "organs", lambda image: _turned(image))
    yield "organs turned about their first voxel", turned, "{file}: corners must lie within 0.5 mm of those of .*"


def _turned(image: sitk.Image) -> sitk.Image:
    direction = np.reshape(image.GetDirection(), (3, 3))
    image.SetDirection((direction @ [[0, -1, 0], [1, 0, 0], [0, 0, 1]]).ravel().tolist())
    return image


def _claims() -> Iterator[Row]:
    """Headers that claim what is not there, or far too much, and bombs."""
    header, pet = bad_headers.header, (PSMA, "pet")
    line = "{file}: image must have at most 536870912 voxels and 2048 MiB, got .* \\(x, y, z\\), .* MiB"
    sides = [(42, "h", 32767), (44, "h", 32767), (46, "h", 32767)]
    spoil = header(*pet, mha={"DimSize": "1000000 1000000 1000000"}, nifti=sides)
    yield "pet claims a million voxels a side", spoil, line
    spoil = header(*pet, mha={"DimSize": "700 700 700"}, nifti=[(42, "h", 700), (44, "h", 700), (46, "h", 700)])
    line = "{file}: (image file must be whole, got .* of .* bytes|an image of 1308 MiB must hold .*, got .* bytes .*)"
    yield "pet claims a GiB that is not there", spoil, line
    spoil = header(*pet, mha={"DimSize": "-5 9 11"}, nifti=[(42, "h", -5)])
    yield "pet claims negative voxels", spoil, "{file}: image must have voxels along every axis, got \\(-5, .*"
    spoil = header(*pet, mha={"DimSize": "0 9 11"}, nifti=[(42, "h", 0)])
    yield "pet claims no voxels", spoil, "{file}: image must have voxels along every axis, got \\(0, .*"
    spoil = header(*pet, mha={"NDims": "100000000"}, nifti=[(40, "h", 30000)])
    yield "pet claims many axes", spoil, "{file}: image must be 3D, got (100000000|30000)D"
    spoil = header(*pet, mha={"NDims": "-3"}, nifti=[(40, "h", -3)])
    yield "pet claims negative axes", spoil, "{file}: image must be 3D, got -3D"
    spoil = header(*pet, mha={"ElementType": "MET_OTHER"}, nifti=[(70, "h", 1536)])
    yield "pet claims another type of number", spoil, "{file}: (ElementType|NIfTI datatype) must be .*, got .*"
    spoil = header(
        *pet, mha={"ElementNumberOfChannels": "1000000000"}, nifti=[(40, "h", 5), (48, "h", 1), (50, "h", 3)]
    )
    yield "pet claims many components", spoil, "{file}: image must be scalar, got .* components .*"
    spoil = header(*pet, mha={"Comment": "a" * 10**6}, nifti=[(108, "f", 1e9)])
    yield "pet with a huge header", spoil, "{file}: (header must end .*|NIfTI vox_offset .*), got .*"
    zeros = bad_headers.image_of_zeros((430, 610, 620))
    yield "pet of 620 MiB of zeros", zeros, "{file}: an image of 620 MiB must hold more than 900 times less, got .*"

    def bomb(place: Place) -> None:
        path = place.image(*pet)
        if place.is_platform:
            payload = bad_headers.zlib_of_zeros(1 << 26, blocks=32)
            content = bad_headers.with_fields(
                path.read_bytes(), {"CompressedData": "True", "CompressedDataSize": str(len(payload))}
            )
            path.write_bytes(content[: content.index(b"LOCAL\n") + 6] + payload)
        else:
            start = gzip.decompress(path.read_bytes())
            path.write_bytes(bad_headers.gzip_of_zeros(start, 1 << 26, blocks=32))

    yield "pet unpacks to 2 GiB more than it claims", bomb, "{file}: image file must (hold|end after) .*, got .*"


def on_platform() -> Iterator[Row]:
    """MetaImage's own lines."""
    header, pet = bad_headers.header, (FDG, "pet")
    for name, fields, line in (
        ("without its type", {"ElementType": None}, "ElementType is missing in the header"),
        ("without BinaryData", {"BinaryData": None}, "BinaryData is missing in the header"),
        ("as text", {"BinaryData": "False"}, "BinaryData must be true, .*, got False"),
        ("without spacing", {"ElementSpacing": None}, "ElementSpacing is missing"),
        ("compressed without a size", {"CompressedData": "True"}, "CompressedDataSize must be > 0 .*, got 0"),
        ("compressed beyond its end", {"CompressedData": "True", "CompressedDataSize": "9" * 15}, "image file must .*"),
        ("in cm", {"DistanceUnits": "cm"}, "DistanceUnits must be mm, .*, got cm"),
        ("with a slope", {"ElementToIntensityFunctionSlope": "2"}, "ElementTo.*Slope must be 1, .*, got 2"),
        ("with a header to be skipped", {"HeaderSize": "-1"}, "HeaderSize must be 0, .*, got -1"),
        ("with two origins", {"Origin": "1 2 3"}, "header must have one of Offset, .*, got Offset, Origin"),
        ("with voxels after an odd blank", {"ElementDataFile": "\x1c LOCAL"}, "ElementDataFile must be printable.*"),
        ("with voxels elsewhere", {"ElementDataFile": "/etc/passwd"}, "voxels must be inside the .mha file"),
        ("with two numbers for three", {"ElementSpacing": "4 5"}, "ElementSpacing must be 3 numbers, got 2: 4 5"),
        ("with a number of words", {"Offset": "1 two 3"}, "Offset must be 3 numbers, got two"),
        ("with half a voxel", {"DimSize": "7.5 9 11"}, "DimSize must be whole numbers, got 7.5 9 11"),
        ("of another object", {"ObjectType": "Tube"}, "ObjectType must be image, .*, got Tube"),
        ("with a text of 600 characters", {"AnatomicalOrientation": "R" * 600}, ".* at most 250 characters, got 600"),
        ("with a number of 600 digits", {"Offset": "1 2 3." + "0" * 600}, "Offset must have at most 480 characters.*"),
        ("with a centre of nan", {"CenterOfRotation": "0 nan 0"}, "CenterOfRotation must be 3 numbers, got nan"),
        ("with half a colour", {"Color": "1 2"}, "Color must be 4 numbers, got 2: 1 2"),
        ("with a blank that is none", {"Offset": "1\xa02 3"}, "Offset must be printable ASCII, got .*"),
        ("with a direction beyond floats", {"TransformMatrix": "1 0 0 0 1 0 0 0 1e300"}, "direction must be ortho.*"),
        ("with two byte orders", {"ElementByteOrderMSB": "True"}, ".* must agree, got false and true"),
        ("without a value", {"TransformMatrix": ""}, "TransformMatrix must have a value in the header"),
        (
            "with another byte order than true or false",
            {"BinaryDataByteOrderMSB": "maybe"},
            "BinaryDataByteOrderMSB .*",
        ),
    ):
        yield f"pet {name}", header(*pet, mha=fields, nifti=[]), f"{{file}}: {line}"
    twice = bad_files.rewritten(*pet, lambda content: b"ObjectType = Image\nNDims = 3\n" + content)
    yield "pet with a line twice", twice, "{file}: ObjectType must not be doubled in the header, got .*"
    nul = bad_files.rewritten(*pet, lambda content: content.replace(b"NDims", b"A\0 = 1\nNDims", 1))
    yield "pet with a NUL in its header", nul, "{file}, line 2: header must hold `key = value` only, got .*"
    odd_key = bad_files.rewritten(*pet, lambda content: content.replace(b"NDims", b"\xe9\xe8 = 1\nNDims", 1))
    yield "pet with a key that is not ASCII", odd_key, "{file}, line 2: header must hold `key = value` only, got .*"
    order = bad_files.rewritten(*pet, lambda content: content.replace(b"ObjectType", b"Offset = 1 2 3\nObjectType", 1))
    yield "pet with its lines out of order", order, "{file}: image must be a MetaImage or NIfTI file .*"
    order = bad_files.rewritten(*pet, lambda content: content.replace(b"NDims", b"Origin = 1 2 3\nNDims", 1))
    yield "pet with its axes after their numbers", order, "{file}: NDims must come before Origin in the header"


def in_training() -> Iterator[Row]:
    """NIfTI's own fields."""
    header, pet = bad_headers.header, (FDG, "pet")
    for name, numbers, line in (
        ("of NIfTI-2", [(0, "i", 540)], "NIfTI file must be of version 1, got version 2"),
        ("of Analyze", [(344, "i", 0)], "voxels must be inside the NIfTI file, got magic .*"),
        ("with another bitpix", [(72, "h", 8)], "NIfTI bitpix must be 32 for 32-bit float, got 8"),
        ("that lies nowhere", [(252, "h", 0), (254, "h", 0)], "NIfTI header must say where the voxels lie, got .*"),
        ("with an odd qform", [(252, "h", 77)], "NIfTI qform and sform codes must be 0-5, got 77 and .*"),
        ("with voxels in the header", [(108, "f", 0.0)], "NIfTI vox_offset must be a whole number .*, got 0"),
        ("with voxels at nan", [(108, "f", float("nan"))], "NIfTI vox_offset must be a whole number .*, got nan"),
        ("with an extension of 2 GiB", [(348, "i", 1), (108, "f", 400.0), (352, "i", 2**31 - 1)], "NIfTI extension .*"),
        (
            "with an intercept without a slope",
            [(112, "f", 0.0), (116, "f", 5.0)],
            "NIfTI scl_inter must be 0 .*, got 5",
        ),
        ("with a slope beyond floats", [(112, "f", 3e38)], "every voxel must be finite, got .*"),
    ):
        yield f"pet {name}", header(*pet, mha={}, nifti=numbers), f"{{file}}: {line}"
    plain = bad_files.rewritten(*pet, gzip.decompress)
    yield "pet not compressed", plain, "{file}: image must be a MetaImage or NIfTI file .*, got .*"
    checksum = bad_files.rewritten(*pet, lambda content: content[:-8] + bytes(4) + content[-4:])
    yield (
        "pet with a wrong checksum",
        checksum,
        "{file}: image file must be whole and undamaged, got CRC check failed.*",
    )
