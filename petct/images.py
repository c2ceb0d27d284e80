"""Reading one image file, so that whatever is wrong with it is said in one line."""

from __future__ import annotations

import gzip
import logging
import os
import re
import stat
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from petct.errors import CaseError, one_line
from petct.headers import Header, check_size, not_an_image
from petct.metaimage_header import read_metaimage_header
from petct.nifti_header import read_nifti_header
from petct.whole_file import Voxels, read_metaimage_voxels, read_nifti_voxels

log = logging.getLogger(__name__)

_METAIMAGE_SUFFIX = ".mha"
IMAGE_SUFFIXES = (_METAIMAGE_SUFFIX, ".nii.gz", ".nii")
_IMAGE_IO = {True: "MetaImageIO", False: "NiftiImageIO"}  # by content, ITK would take a JPEG named .mha
_HEAD_BYTES = (1 << 20) + 1  # NIfTI's extensions included
_itk_logger = threading.RLock()
_GZIP_MAGIC = b"\x1f\x8b"
ORTHONORMAL_TOLERANCE = 1e-3  # direction cosines in headers are rounded; a thousandth is 1 mm of shear over a metre
# Micro-CT resolves 0.05 mm and SPECT 10 mm; 0.004 is metres. The longest scanner sees 2 m. What is larger is resampled
# to the networks' few mm, and needs memory by the cube.
SPACING_MM = (0.02, 100.0)
LONGEST_MM = 5000.0
FARTHEST_MM = 1e5  # beyond a hundred metres single precision loses the hundredths of a mm


def is_image_file(path: Path) -> bool:
    """Whether this is a file of a format that `read_image` reads, by its name; hidden files (`.DS_Store`) are not."""
    return path.is_file() and has_image_name(path)


def has_image_name(path: Path) -> bool:
    """Whether something is called as images are; hidden files are not."""
    return not path.name.startswith(".") and path.name.endswith(IMAGE_SUFFIXES)


def check_regular(path: Path, *, where: str) -> None:
    """What is there must be a file, or a link to one; nothing at all passes.

    Raises:
        CaseError: It is a folder, a pipe, a device, or a link to nothing.
    """
    if path.is_file():
        return
    if path.is_symlink() and not path.exists():
        raise CaseError(where, "must be a regular file", "a link that leads nowhere")
    if path.exists():
        raise CaseError(where, "must be a regular file", "a folder" if path.is_dir() else "a pipe or a device")


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
    header, voxels = _read_file(path, where=where)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(_IMAGE_IO[path.name.endswith(_METAIMAGE_SUFFIX)])
    with itk_warnings_in_log(where):
        try:
            reader.ReadImageInformation()
            _check_read_alike(reader, header, where=where)
            _check_grid(reader, where=where)
            # The voxels are read already; reading them again would take as long. Only a scale is left to ITK.
            image: sitk.Image = reader.Execute() if header.is_scaled else sitk.GetImageFromArray(voxels)
        except RuntimeError as error:
            raise _refusal(str(error), where=where) from error
    if image.GetPixelID() != reader.GetPixelID() and not header.is_scaled:
        itks = sitk.GetPixelIDValueAsString(reader.GetPixelID())
        raise CaseError(where, "voxels must be read alike by everyone", f"{header.component} and, by ITK, {itks}")
    image.SetSpacing(reader.GetSpacing())
    image.SetOrigin(reader.GetOrigin())
    image.SetDirection(reader.GetDirection())
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    return image


@contextmanager
def itk_warnings_in_log(where: str) -> Iterator[None]:
    """Turn ITK's warnings into ours: ITK prints on stderr, where the platform flags any output of a good run.

    ITK has one logger for the whole process, so it is put back, and other threads wait for it.
    """
    logger = _Collector()
    with _itk_logger:
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
        self.texts.append(_report(text))

    DisplayErrorText = DisplayWarningText = DisplayGenericOutputText = DisplayDebugText = DisplayText


def _read_file(path: Path, *, where: str) -> tuple[Header, Voxels]:
    """What the file says of its voxels, and they, once it is sure that it holds them; ITK has not seen it yet."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise CaseError(where, "file name must be UTF-8, because ITK reads no other") from error
    if path.name.endswith(".nii.gz") and path.with_name(path.name.removesuffix(".gz")).exists():
        # ITK would take the header of one, and the voxels of the other.
        raise CaseError(
            where, f"must not lie beside {path.name.removesuffix('.gz')}, which ITK takes for the same image"
        )
    with _opened(path, where=where) as file:
        file_bytes = os.fstat(file.fileno()).st_size
        try:
            is_gzip = path.name.endswith(".gz") and file.peek(2)[:2] == _GZIP_MAGIC
            head = gzip.GzipFile(fileobj=file).read(_HEAD_BYTES) if is_gzip else file.read(_HEAD_BYTES)
        except (OSError, EOFError, zlib.error) as error:
            raise CaseError(where, "image file must be whole and undamaged", str(error)) from error
    if path.name.endswith(".gz") and not is_gzip:
        raise not_an_image(file_bytes, where=where)
    is_metaimage = path.name.endswith(_METAIMAGE_SUFFIX)
    read_header = read_metaimage_header if is_metaimage else read_nifti_header
    header = read_header(head, file_bytes=file_bytes, where=where)
    check_size(header, where=where)
    read_voxels = read_metaimage_voxels if is_metaimage else read_nifti_voxels
    return header, read_voxels(path, header, where=where)


def _opened(path: Path, *, where: str) -> BufferedReader:
    """The file, open; ITK does not say why it cannot: in a container it is often the file's owner."""
    try:
        # Opening a pipe that nobody writes to would otherwise wait for ever.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    except OSError as error:
        raise CaseError(where, "file must be readable", error.strerror) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise CaseError(where, "must be a regular file", "a pipe or a device")
    return file


def _check_read_alike(reader: sitk.ImageFileReader, header: Header, *, where: str) -> None:
    """ITK must have read what was checked: two readers of one header may differ, and then nothing is sure."""
    pairs: tuple[tuple[str, Sequence[float], Sequence[float]], ...] = (
        ("size", header.size, reader.GetSize()),
        ("number of components", (header.components,), (reader.GetNumberOfComponents(),)),
        ("spacing", header.spacing_mm, reader.GetSpacing()),
        ("origin", header.origin_mm, reader.GetOrigin()),
        ("direction", header.direction, reader.GetDirection()),
    )
    for name, ours, itks in pairs:
        if ours and (len(ours) != len(itks) or not np.allclose(ours, itks, rtol=1e-6, atol=1e-9)):
            raise CaseError(where, f"{name} must be read alike by everyone", f"{ours} and, by ITK, {itks}")


def _check_grid(reader: sitk.ImageFileReader, *, where: str) -> None:
    spacing_mm, origin_mm = np.array(reader.GetSpacing()), np.array(reader.GetOrigin())
    low_mm, high_mm = SPACING_MM
    # Not nan either, here and below.
    if not np.all(spacing_mm > 0.0):
        raise CaseError(where, "spacing must be > 0 mm", f"{reader.GetSpacing()} mm (x, y, z)")
    if not np.all((spacing_mm >= low_mm) & (spacing_mm <= high_mm)):
        rule = f"spacing must be {low_mm:g}-{high_mm:g} mm"
        raise CaseError(where, rule, f"{reader.GetSpacing()} mm (x, y, z)")
    length_mm = spacing_mm * reader.GetSize()
    if np.any(length_mm > LONGEST_MM):
        rule = f"image must be at most {LONGEST_MM:g} mm long"
        raise CaseError(where, rule, f"{' x '.join(f'{mm:.6g}' for mm in length_mm)} mm (x, y, z)")
    if not np.all(np.abs(origin_mm) <= FARTHEST_MM):
        rule = f"origin must lie within {FARTHEST_MM:g} mm"
        raise CaseError(where, rule, f"{reader.GetOrigin()} mm (x, y, z)")
    direction = np.reshape(reader.GetDirection(), (3, 3))
    is_bounded = np.max(np.abs(direction)) <= 1.0 + ORTHONORMAL_TOLERANCE  # otherwise the product may overflow
    # A product of orthonormal columns is the identity, and only then; it also makes the determinant +-1.
    if not is_bounded or np.max(np.abs(direction.T @ direction - np.eye(3))) > ORTHONORMAL_TOLERANCE:
        raise CaseError(where, "direction must be orthonormal", f"{reader.GetDirection()} (row by row)")


def _refusal(message: str, *, where: str) -> CaseError:
    """The one sentence that says something in ITK's multi-line report."""
    if "orthonormal" in message:
        return CaseError(where, "direction must be orthonormal", "a NIfTI header with sheared or unrounded axes")
    # MetaImage gives as its reason errno, which is about some earlier file ("No such file or directory").
    return CaseError(where, "image must be readable", re.sub("Reason:.*", "", _report(message)))


def _report(text: str) -> str:
    """ITK's report without its own source file, line and object."""
    return one_line(re.sub(r"^.*?(ERROR:|line \d+)\s*(\w+ ?\(0x[0-9a-f]+\): *)?", "", text, flags=re.DOTALL))
