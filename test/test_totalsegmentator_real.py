"""The organ stage with TotalSegmentator itself, on a network written by hand."""

import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from petct.errors import CaseError
from petct.geometry import Grid, grid_of, to_array, to_image
from petct.manifest import OrganSettings, OrganTask
from petct.organs import label_number
from segmentation.totalsegmentator import CHILD, WEIGHT_FILES, find_organ_maps, find_organs, model_folders
from segmentation.weight_files import sha256_of
from tiny_organ_net import BLOCK, BLOCK_HU, CT_GRID, FACES, TISSUE_HU, tiny_ct, write_tiny_fold
from training.weights.organ_weights import export_organ_weights


def settings(weights: Path) -> OrganSettings:
    (model,) = model_folders(OrganTask.FASTEST)
    sha256 = {f"{model}/{file}": sha256_of(weights / model / file) for file in WEIGHT_FILES}
    return OrganSettings(task=OrganTask.FASTEST, weights=weights, timeout_s=300.0, sha256=sha256)


def files_under(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def real_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hand-written network, as the training tools export it, beside a folder of an old version's name."""
    folder = tmp_path_factory.mktemp("organs")
    fold = write_tiny_fold(folder / "results")
    plans, dataset_json = fold.parent / "plans.json", fold.parent / "dataset.json"
    weights = folder / "weights"
    export_organ_weights(fold, plans=plans, dataset_json=dataset_json, task=OrganTask.FASTEST, destination=weights)
    (weights / "Dataset302_vertebrae_body_1559subj").mkdir()
    return weights


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_labels_are_where_they_are_in_the_patient(
    real_weights: Path,
    temporary: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    loaded = {name for name in sys.modules if name.startswith("totalsegmentator")}
    caplog.set_level(logging.INFO)
    ct, environment, files = tiny_ct(), dict(os.environ), files_under(real_weights)

    organs = find_organs(ct, settings=settings(real_weights), device="cpu", where="psma ct")

    assert grid_of(organs) == CT_GRID
    assert organs.GetPixelID() == sitk.sitkUInt8
    labels = to_array(organs)
    used = {label_number("liver"), *(label_number(name) for _, _, name in FACES)}
    assert set(np.unique(labels)) == {0} | used
    # A face's label covers a voxel of 6 mm on either side: liver lies inside the block, and nothing far outside.
    inside = np.zeros(labels.shape, dtype=bool)
    inside[BLOCK] = True
    assert inside[labels == label_number("liver")].all()
    assert (labels[inside] > 0).all()
    assert not labels[0].any()
    assert not labels[:, 0].any()
    assert not labels[:, :, 0].any()
    # Each face's label is on its own side of the block, at about half the block's width from the centre.
    centre_zyx = [(part.start + part.stop - 1) / 2.0 for part in BLOCK]
    centre_mm = np.array(ct.TransformContinuousIndexToPhysicalPoint(centre_zyx[::-1]))
    towards_lps = {
        "lung_upper_lobe_left": (1, 0, 0),
        "lung_upper_lobe_right": (-1, 0, 0),
        "vertebrae_T6": (0, 1, 0),
        "sternum": (0, -1, 0),
        "thyroid_gland": (0, 0, 1),
        "urinary_bladder": (0, 0, -1),
    }
    for name, towards in towards_lps.items():
        middle_zyx = np.argwhere(labels == label_number(name)).mean(axis=0)
        middle_mm = np.array(ct.TransformContinuousIndexToPhysicalPoint(middle_zyx[::-1])) - centre_mm
        assert middle_mm @ np.array(towards) == pytest.approx(24.0, abs=6.0), name
    assert caplog.messages[-1].startswith(
        "psma ct: TotalSegmentator (fastest) found 7 of 117 labels (liver, lung, urinary_bladder, bone, thyroid), "
    )
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
    assert "TotalSegmentator (fastest) runs, at most" in caplog.messages[0]
    assert capfd.readouterr() == ("", "")
    assert dict(os.environ) == environment
    assert {name for name in sys.modules if name.startswith("totalsegmentator")} == loaded
    # Neither the weights nor the old version's folder are touched, and nothing is left behind.
    assert files_under(real_weights) == files
    assert not list(temporary.iterdir())


def test_map_is_totalsegmentators_own(real_weights: Path, tmp_path: Path) -> None:
    hu = np.random.default_rng(7).normal(TISSUE_HU, 150.0, CT_GRID.shape_zyx).astype(np.int16)
    ct = to_image(hu, CT_GRID)
    sitk.WriteImage(ct, tmp_path / "ct.nii.gz")
    home = tmp_path / "home"
    home.mkdir()
    configuration = {"totalseg_id": "x", "send_usage_stats": False, "prediction_counter": 0}
    (home / "config.json").write_text(json.dumps(configuration), encoding="utf-8")
    # The same weights without the folder that TotalSegmentator would delete.
    (tmp_path / "weights").mkdir()
    dataset = Path(model_folders(OrganTask.FASTEST)[0]).parts[0]
    (tmp_path / "weights" / dataset).symlink_to(real_weights / dataset)
    environment = {
        **os.environ,
        "TOTALSEG_WEIGHTS_PATH": str(tmp_path / "weights"),
        "TOTALSEG_HOME_DIR": str(home),
        "nnUNet_def_n_proc": "1",
    }
    program = Path(sys.executable).with_name("TotalSegmentator")
    options = ["-i", "ct.nii.gz", "-o", "organs.nii.gz", "--ml", "--fastest", "--device", "cpu", "-q"]
    subprocess.run([sys.executable, program, *options], cwd=tmp_path, env=environment, check=True, timeout=600)

    organs = find_organs(ct, settings=settings(real_weights), device="cpu", where="psma ct")

    theirs = to_array(sitk.ReadImage(tmp_path / "organs.nii.gz"))
    assert np.count_nonzero(theirs) > 1000
    np.testing.assert_array_equal(to_array(organs), theirs)


def ct_in_air() -> tuple[sitk.Image, tuple[slice, ...]]:
    """A patient with a bright block in air, off the middle, on a grid whose axes are not the patient's."""
    grid = Grid((62, 71, 58), (4.4, 3.7, 5.3), (-90.0, 35.0, 400.0), CT_GRID.direction)
    hu = np.full(grid.shape_zyx, -1000, dtype=np.int16)
    hu[5:40, 24:62, 8:36] = TISSUE_HU
    block = (slice(14, 26), slice(36, 50), slice(15, 27))  # 64 x 52 x 53 mm along z, y, x
    hu[block] = BLOCK_HU
    return to_image(hu, grid), block


def test_crop_to_the_patient_changes_nothing_inside(real_weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ct, block = ct_in_air()
    cts = {"psma ct": tiny_ct(), "fdg ct": ct}

    whole = find_organ_maps(cts, settings=settings(real_weights), device="cpu", crop_to_body=False)
    cropped = find_organ_maps(cts, settings=settings(real_weights), device="cpu", crop_to_body=True)

    # Nothing is cut off a CT without air.
    np.testing.assert_array_equal(to_array(cropped["psma ct"]), to_array(whole["psma ct"]))
    labels, expected = to_array(cropped["fdg ct"]), to_array(whole["fdg ct"])
    assert grid_of(cropped["fdg ct"]) == grid_of(ct)
    # The network is linear and sees 5 voxels of 6 mm, so that windows elsewhere change nothing but ties at the skin.
    near_block = tuple(slice(part.start - 4, part.stop + 4) for part in block)
    np.testing.assert_array_equal(labels[near_block], expected[near_block])
    patient = (slice(5, 40), slice(24, 62), slice(8, 36))
    assert np.count_nonzero(labels[patient] != expected[patient]) < 1e-3 * labels[patient].size
    assert (labels[block] > 0).all()
    assert len(np.unique(labels[patient])) == 8
    # Far from the patient nothing was looked at.
    assert not labels[50:].any()
    assert not labels[:, :14].any()
    assert not labels[:, :, 48:].any()
    assert [record.levelname for record in caplog.records] == ["INFO"] * 10


def test_gpu_that_is_not_there_is_an_error(real_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(CaseError, match=r"TotalSegmentator must run on the GPU, but CUDA is not available to it$"):
        find_organs(tiny_ct(), settings=settings(real_weights), device="cuda", where="psma ct")
    with pytest.raises(ValueError, match="device must be one of cuda, cpu, got mps"):
        find_organs(tiny_ct(), settings=settings(real_weights), device="mps", where="psma ct")


def test_child_leaves_when_its_caller_has_gone(real_weights: Path, tmp_path: Path) -> None:
    sitk.WriteImage(tiny_ct(), tmp_path / "ct.nii")
    options = ["--ct", tmp_path / "ct.nii", "--organs", tmp_path / "organs.nii", "--task", "fastest", "--device", "cpu"]
    options += ["--box", "0,38,0,46,0,30", "--least", "1,1,1", "--answers", "1"]
    environment = {
        **os.environ,
        "TOTALSEG_WEIGHTS_PATH": str(real_weights),
        "TOTALSEG_HOME_DIR": str(tmp_path / "home"),
    }
    # The end of standard input is what a caller's death looks like.
    child = subprocess.run(
        [sys.executable, "-P", CHILD, *options], stdin=subprocess.DEVNULL, env=environment, timeout=60, check=False
    )
    assert child.returncode == 3
    assert not (tmp_path / "organs.nii").exists()
