"""Lay a case of the training set's layout out as the platform does: /input with .mha images, json values, inputs.json.

    python test/platform_case.py CASE_DIR INPUT_DIR [--no-organs] [--no-registration] [--key both|interface|socket]

The sockets are written down here once more, from the platform's own samples, so that a mistake in the product's table
cannot hide.
"""

from __future__ import annotations

import argparse
import json
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

IMAGE_SOCKETS = {
    "psma-ct-image": ("images/psma-ct", "PSMA/CT"),
    "psma-ct-image-organ-segmentation": ("images/psma-ct-organ-segmentation", "PSMA/totseg_24"),
    "psma-pet-ga-68": ("images/psma-pet-ga-68", "PSMA/PET"),
    "fdg-ct-image": ("images/fdg-ct", "FDG/CT"),
    "fdg-ct-image-organ-segmentation": ("images/fdg-ct-organ-segmentation", "FDG/totseg_24"),
    "fdg-pet": ("images/fdg-pet", "FDG/PET"),
}
THRESHOLD_SOCKETS = {"psma-pet-suv-threshold": "PSMA", "fdg-pet-suv-threshold": "FDG"}
REGISTRATION_SOCKET = "psma-to-fdg-registration"


class SocketKey(StrEnum):
    """Under which key an entry of inputs.json describes its socket; the platform has used the first two."""

    BOTH = "both"
    INTERFACE = "interface"
    SOCKET = "socket"


def write_platform_case(
    case_dir: Path,
    *,
    input_dir: Path,
    has_organs: bool = True,
    has_registration: bool = True,
    key: SocketKey = SocketKey.BOTH,
) -> None:
    """Write a training case as the platform's /input.

    Args:
        case_dir: Folder with PSMA/ and FDG/, as in the training set.
        input_dir: Folder to fill; made when missing.
        has_organs: Whether the organ-segmentation sockets are filled; otherwise they are left out altogether.
        has_registration: Whether the registration socket is filled.
        key: The key of inputs.json that describes the socket.
    """
    entries: list[dict[str, Any]] = []
    for slug, (place, stem) in IMAGE_SOCKETS.items():
        if not has_organs and slug.endswith("organ-segmentation"):
            continue
        # The platform keeps no file name of its own: any name will do.
        file = input_dir / place / f"{len(entries):08x}-{slug}.mha"
        file.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(_without_metadata(sitk.ReadImage(case_dir / f"{stem}.nii.gz")), file, useCompression=True)
        entries.append(_entry(slug, place, key=key, kind="Image", image={"name": f"{Path(stem).name}.nii.gz"}))
    for slug, folder in THRESHOLD_SOCKETS.items():
        threshold_suv = json.loads((case_dir / folder / "threshold.json").read_text(encoding="utf-8"))["suv_threshold"]
        entries.append(_value_entry(slug, threshold_suv, input_dir, key=key, kind="Float"))
    if has_registration:
        matrix = {"3d_affine_transform": registration_matrix(case_dir / "FDG" / "rigid.tfm")}
        kind = "Affine transform registration"
        entries.append(_value_entry(REGISTRATION_SOCKET, matrix, input_dir, key=key, kind=kind))
    (input_dir / "inputs.json").write_text(json.dumps(entries, indent=2), encoding="utf-8")


def registration_matrix(transform_file: Path) -> list[list[float]]:
    """The platform's 4 x 4 of a rigid transform: rotation, translation in mm, last row the centre of rotation."""
    transform = sitk.ReadTransform(transform_file).Downcast()
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    matrix[:3, 3] = transform.GetTranslation()
    matrix[3, :3] = transform.GetCenter()
    rows: list[list[float]] = matrix.tolist()
    return rows


def _without_metadata(image: sitk.Image) -> sitk.Image:
    # ITK warns on stderr about every NIfTI header field that .mha cannot hold.
    for field in image.GetMetaDataKeys():
        image.EraseMetaData(field)
    return image


def _value_entry(slug: str, value: Any, input_dir: Path, *, key: SocketKey, kind: str) -> dict[str, Any]:
    place = f"{slug}.json"
    (input_dir / place).write_text(json.dumps(value), encoding="utf-8")
    return _entry(slug, place, key=key, kind=kind, value=value)


def _entry(
    slug: str, place: str, *, key: SocketKey, kind: str, value: Any = None, image: dict[str, str] | None = None
) -> dict[str, Any]:
    socket = {
        "slug": slug,
        "kind": kind,
        "super_kind": "Value" if image is None else "Image",
        "relative_path": place,
        "example_value": None,
    }
    keys = ("interface", "socket") if key is SocketKey.BOTH else (str(key),)
    return {"file": None, "image": image, "value": value, "pk": None, **dict.fromkeys(keys, socket)}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Lay a training case out as the platform's /input.")
    parser.add_argument("case_dir", type=Path, help="folder with PSMA/ and FDG/")
    parser.add_argument("input_dir", type=Path, help="folder to fill")
    parser.add_argument("--no-organs", action="store_true", help="leave the organ-segmentation sockets out")
    parser.add_argument("--no-registration", action="store_true", help="leave the registration socket out")
    parser.add_argument("--key", type=SocketKey, choices=list(SocketKey), default=SocketKey.BOTH)
    options = parser.parse_args()
    write_platform_case(
        options.case_dir,
        input_dir=options.input_dir,
        has_organs=not options.no_organs,
        has_registration=not options.no_registration,
        key=options.key,
    )


if __name__ == "__main__":
    main()
