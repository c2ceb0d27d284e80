"""Reading one image file, so that whatever is wrong with it is said in one line."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from petct.errors import CaseError
from petct.whole_file import check_metaimage_is_whole, check_nifti_is_whole

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".mha", ".nii.gz", ".nii")
ORTHONORMAL_TOLERANCE = 1e-3  # direction cosines in headers are rounded; a thousandth is 1 mm of shear over a metre


def is_image_file(path: Path) -> bool:
    """Whether this is a file of a format that `read_image` reads, by its name; hidden files (`.DS_Store`) are not."""
    return path.is_file() and not path.name.startswith(".") and path.name.endswith(IMAGE_SUFFIXES)


def read_image(path: Path, *, where: str) -> sitk.Image:
    """Read a 3D scalar image; the header is checked before the voxels are read.

    The direction may be left-handed, as it is in NIfTI files stored left to right: everything here works in LPS
    millimetres.
    The image's metadata dictionary is dropped, because ITK complains about each entry when it writes another format.

    Args:
        path: A .mha, .nii.gz or .nii file.
        where: The file, as the user knows it.

    Raises:
        CaseError: The file cannot be read or is cut off, or the image is not 3D, not scalar, empty, or its spacing or
            direction describe no grid.
    """
    try:
        path.open("rb").close()  # ITK does not say why it cannot: in a container it is often the file's owner
    except OSError as error:
        raise CaseError(where, "file must be readable", error.strerror) from error
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with itk_warnings_in_log(where):
        try:
            reader.ReadImageInformation()
            _check_header(reader, where=where)
            _check_whole(path, reader, where=where)
            image: sitk.Image = reader.Execute()
        except RuntimeError as error:
            raise _refusal(str(error), path, where=where) from error
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    return image


@contextmanager
def itk_warnings_in_log(where: str) -> Iterator[None]:
    """Turn ITK's warnings into ours: ITK prints on stderr, where the platform flags any output of a good run.

    ITK has one logger for the whole process, so it is put back.
    """
    logger = _Collector()
    before = logger.SetAsGlobalITKLogger()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        before.SetAsGlobalITKLogger()
        for text in dict.fromkeys(logger.texts):  # ITK warns when it reads the header, and again with the voxels
            log.warning("%s: %s", where, text)


class _Collector(sitk.LoggerBase):
    """Keeps what ITK says, one line each."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.texts: list[str] = []

    def DisplayText(self, text: str) -> None:  # noqa: N802 - SimpleITK's name
        """Called by ITK for whatever it does not sort."""
        self.texts.append(_one_line(text))

    DisplayErrorText = DisplayWarningText = DisplayGenericOutputText = DisplayDebugText = DisplayText


def _check_header(reader: sitk.ImageFileReader, *, where: str) -> None:
    size, spacing_mm = reader.GetSize(), reader.GetSpacing()
    if reader.GetDimension() != 3:
        raise CaseError(where, "image must be 3D", f"{reader.GetDimension()}D, {size} voxels")
    if reader.GetNumberOfComponents() != 1:
        pixel = sitk.GetPixelIDValueAsString(reader.GetPixelIDValue())
        raise CaseError(where, "image must be scalar", f"{reader.GetNumberOfComponents()} components ({pixel})")
    if min(size) < 1:
        raise CaseError(where, "image must have voxels along every axis", f"{size} (x, y, z)")
    # ITK reads a number that is none (nan) as 0, here and below.
    if min(spacing_mm) <= 0.0:
        raise CaseError(where, "spacing must be > 0 mm", f"{spacing_mm} mm (x, y, z)")
    direction = np.reshape(reader.GetDirection(), (3, 3))
    # A product of orthonormal columns is the identity, and only then; it also makes the determinant +-1.
    if np.max(np.abs(direction.T @ direction - np.eye(3))) > ORTHONORMAL_TOLERANCE:
        raise CaseError(where, "direction must be orthonormal", f"{reader.GetDirection()} (row by row)")


def _check_whole(path: Path, reader: sitk.ImageFileReader, *, where: str) -> None:
    voxels = math.prod(reader.GetSize())
    if path.name.endswith(".mha"):
        voxel_bytes = sitk.Image([1, 1, 1], reader.GetPixelIDValue()).GetSizeOfPixelComponent()
        check_metaimage_is_whole(path, needed_bytes=voxels * voxel_bytes, where=where)
    else:
        # As stored: ITK gives scaled integers as floats.
        stored_bytes = voxels * int(reader.GetMetaData("bitpix")) // 8
        header_bytes = int(float(reader.GetMetaData("vox_offset")))
        check_nifti_is_whole(path, needed_bytes=header_bytes + stored_bytes, where=where)


def _refusal(message: str, path: Path, *, where: str) -> CaseError:
    """The one sentence that says something in ITK's multi-line report."""
    if "orthonormal" in message:
        return CaseError(where, "direction must be orthonormal", "a NIfTI header with sheared or unrounded axes")
    if "Unable to determine ImageIO" in message:
        rule = "image must be a MetaImage or NIfTI file with a whole header"
        return CaseError(where, rule, f"{path.stat().st_size} bytes of something else")
    # MetaImage gives as its reason errno, which is about some earlier file ("No such file or directory").
    return CaseError(where, "image must be readable", re.sub("Reason:.*", "", _one_line(message)))


def _one_line(text: str) -> str:
    """ITK's report without its own source file, line and object."""
    return " ".join(re.sub(r"^.*?(ERROR:|line \d+)\s*(\w+ ?\(0x[0-9a-f]+\): *)?", "", text, flags=re.DOTALL).split())
