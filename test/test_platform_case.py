"""The converter from the training set's layout to the platform's, which the container is tested with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from platform_case import SocketKey, registration_matrix, write_platform_case

CENTRE_MM = (3.0, -4.0, 50.0)
TRANSLATION_MM = (5.0, 0.0, -12.0)


def _transform() -> sitk.Euler3DTransform:
    return sitk.Euler3DTransform(CENTRE_MM, 0.0, 0.0, 0.1, TRANSLATION_MM)


@pytest.fixture
def case_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "train_0001"
    image = sitk.GetImageFromArray(np.arange(4 * 3 * 2, dtype=np.int16).reshape(4, 3, 2))
    image.SetSpacing((2.0, 3.0, 5.0))
    image.SetOrigin((10.0, -20.0, 30.0))
    for tracer, threshold_suv in (("PSMA", 3.0), ("FDG", 2.5)):
        (folder / tracer).mkdir(parents=True)
        for stem in ("CT", "PET", "TTB", "totseg_24"):
            sitk.WriteImage(image, folder / tracer / f"{stem}.nii.gz")
        (folder / tracer / "threshold.json").write_text(json.dumps({"suv_threshold": threshold_suv}))
    sitk.WriteTransform(_transform(), folder / "FDG" / "rigid.tfm")
    return folder


def _entries(input_dir: Path) -> list[dict[str, dict[str, str]]]:
    entries: list[dict[str, dict[str, str]]] = json.loads((input_dir / "inputs.json").read_text())
    return entries


def test_the_nine_sockets_lie_where_the_platform_puts_them(case_dir: Path, tmp_path: Path) -> None:
    input_dir = tmp_path / "input"
    write_platform_case(case_dir, input_dir=input_dir)
    sockets = {entry["socket"]["slug"]: entry["socket"]["relative_path"] for entry in _entries(input_dir)}
    assert sockets == {
        "psma-ct-image": "images/psma-ct",
        "psma-ct-image-organ-segmentation": "images/psma-ct-organ-segmentation",
        "psma-pet-ga-68": "images/psma-pet-ga-68",
        "psma-pet-suv-threshold": "psma-pet-suv-threshold.json",
        "fdg-ct-image": "images/fdg-ct",
        "fdg-ct-image-organ-segmentation": "images/fdg-ct-organ-segmentation",
        "fdg-pet": "images/fdg-pet",
        "fdg-pet-suv-threshold": "fdg-pet-suv-threshold.json",
        "psma-to-fdg-registration": "psma-to-fdg-registration.json",
    }
    assert all((input_dir / place).exists() for place in sockets.values())
    assert json.loads((input_dir / "fdg-pet-suv-threshold.json").read_text()) == 2.5


def test_images_keep_voxels_type_and_grid(case_dir: Path, tmp_path: Path) -> None:
    write_platform_case(case_dir, input_dir=tmp_path)
    (written,) = (tmp_path / "images/fdg-pet").iterdir()
    image = sitk.ReadImage(written)
    source = sitk.ReadImage(case_dir / "FDG/PET.nii.gz")
    assert written.suffix == ".mha"
    assert image.GetPixelID() == sitk.sitkInt16
    assert (image.GetSpacing(), image.GetOrigin()) == (source.GetSpacing(), source.GetOrigin())
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(image), sitk.GetArrayViewFromImage(source))


def test_organs_and_registration_can_be_left_out(case_dir: Path, tmp_path: Path) -> None:
    input_dir = tmp_path / "input"
    write_platform_case(case_dir, input_dir=input_dir, has_organs=False, has_registration=False)
    assert len(_entries(input_dir)) == 9 - 3
    assert not list(input_dir.rglob("*organ-segmentation*"))
    assert not (input_dir / "psma-to-fdg-registration.json").exists()


@pytest.mark.parametrize(
    ("key", "present", "absent"),
    [(SocketKey.INTERFACE, "interface", "socket"), (SocketKey.SOCKET, "socket", "interface")],
)
def test_one_key_only(case_dir: Path, tmp_path: Path, key: SocketKey, present: str, absent: str) -> None:
    write_platform_case(case_dir, input_dir=tmp_path / "input", key=key)
    assert all(present in entry and absent not in entry for entry in _entries(tmp_path / "input"))


def test_registration_moves_points_as_the_transform_does(case_dir: Path) -> None:
    matrix = np.array(registration_matrix(case_dir / "FDG" / "rigid.tfm"))
    point_mm = np.array((100.0, 20.0, -7.0))
    moved_mm = matrix[:3, :3] @ (point_mm - matrix[3, :3]) + matrix[3, :3] + matrix[:3, 3]
    np.testing.assert_allclose(moved_mm, _transform().TransformPoint(point_mm.tolist()), atol=1e-6)
    np.testing.assert_allclose(matrix[3], (*CENTRE_MM, 1.0), atol=1e-6)
