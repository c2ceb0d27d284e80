import json
import multiprocessing.dummy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk

from petct.case import Tracer
from petct.channels import OrganEncoding, build_channels
from petct.errors import CaseError
from petct.folders import read_case
from petct.geometry import grid_of, resample_labels, to_array, to_image
from petct.organs import collapse, label_number, totalsegmentator_labels
from tiny_patients import AT_THRESHOLD, BELOW_THRESHOLD, DISEASE, FAINT_DISEASE, NORMAL, write_patient, write_patients
from training.datasets import write
from training.datasets.descriptions import LESION_DATASETS, dataset_name
from training.datasets.organ_images import organ_training_labels, organ_training_pair
from training.datasets.write import write_dataset

ENCODINGS = {
    80: OrganEncoding.NONE,
    90: OrganEncoding.BINARY,
    91: OrganEncoding.BINARY,
    92: OrganEncoding.SOFT_DISTANCE,
}


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads instead of processes, which have to import everything first."""
    monkeypatch.setattr(write, "get_context", lambda method: multiprocessing.dummy)


def written(number: int, folder: Path) -> Path:
    """The data set of the patients in a folder, beside it."""
    patients = sorted(folder.glob("train_*"))
    return write_dataset(number, patients=patients, raw=folder.parent / "raw", processes=1)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def description(dataset: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))
    return content


def test_numbers_are_the_authors() -> None:
    found = {number: (dataset.tracer, dataset.encoding) for number, dataset in LESION_DATASETS.items()}
    # The last digit is the tracer, the first two the way in which organs are shown.
    assert found == {
        10 * tens + ones: (tracer, encoding)
        for tens, encoding in ENCODINGS.items()
        for ones, tracer in ((1, Tracer.PSMA), (2, Tracer.FDG))
    }
    assert [dataset_name(number) for number in (802, 901, 298)] == [
        "Dataset802_FDG_PET_none",
        "Dataset901_PSMA_PET_binary",
        "Dataset298_organs_6mm",
    ]
    with pytest.raises(CaseError, match="data set: must be one of 801, 802, .* got 910"):
        dataset_name(910)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("number", LESION_DATASETS)
def test_images_are_the_channels_that_inference_builds(tmp_path: Path, number: int) -> None:
    dataset = written(number, write_patients(tmp_path / "patients", count=2))
    spec = LESION_DATASETS[number]
    count = 2 if spec.encoding is OrganEncoding.NONE else 10
    assert names(dataset / "imagesTr") == [f"train_000{n}_{c:04d}.mha" for n in range(2) for c in range(count)]
    scan = read_case(tmp_path / "patients" / "train_0001").scan(spec.tracer)
    assert scan.organs is not None
    organs = collapse(to_array(resample_labels(scan.organs, grid_of(scan.pet))))
    expected = build_channels(
        scan.pet, ct=scan.ct, organs=organs, suv_threshold=scan.suv_threshold, encoding=spec.encoding, clip=None
    )
    assert len(expected) == count
    for index, channel in enumerate(expected):
        image = sitk.ReadImage(str(dataset / "imagesTr" / f"train_0001_{index:04d}.mha"))
        assert grid_of(image) == grid_of(scan.pet)
        np.testing.assert_array_equal(to_array(image), channel, err_msg=f"channel {index}")


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("number", "count"), [(801, 2), (901, 10), (922, 10)])
def test_nnunet_normalises_ct_and_nothing_else(tmp_path: Path, number: int, count: int) -> None:
    content = description(written(number, write_patients(tmp_path / "patients", count=3)))
    assert content["channel_names"] == {str(n): "CT" if n == 1 else "noNorm" for n in range(count)}
    assert content["labels"] == {"background": 0, "ttb": 1, "normal": 2}
    assert (content["numTraining"], content["file_ending"]) == (3, ".mha")


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("number", [801, 802])
def test_labels_follow_the_threshold_and_the_physician(tmp_path: Path, number: int) -> None:
    dataset = written(number, write_patients(tmp_path / "patients", count=1))
    labels = to_array(sitk.ReadImage(str(dataset / "labelsTr" / "train_0000.mha")))
    expected = np.zeros_like(labels)
    expected[NORMAL] = expected[AT_THRESHOLD] = 2
    expected[DISEASE] = expected[FAINT_DISEASE] = 1
    assert expected[BELOW_THRESHOLD] == 0
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.usefixtures("threads")
def test_truth_on_another_grid_is_refused(tmp_path: Path) -> None:
    path = write_patient(tmp_path / "patients" / "train_0000") / "PSMA" / "TTB.nii.gz"
    truth = sitk.ReadImage(str(path))
    truth.SetSpacing([mm + 0.5 * (axis == 1) for axis, mm in enumerate(truth.GetSpacing())])
    sitk.WriteImage(truth, str(path))
    rule = "train_0000 psma TTB: grid must match the PET within .* mm, got spacing that differs by 0.5 mm along y"
    with pytest.raises(CaseError, match=rule):
        written(801, tmp_path / "patients")


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("number", [901, 922, 298])
def test_a_patient_without_organ_map_is_refused_where_organs_are_shown(tmp_path: Path, number: int) -> None:
    write_patient(tmp_path / "patients" / "train_0000", has_organs=False)
    with pytest.raises(CaseError, match="train_0000 .*: organ map totseg_24.nii.gz is missing"):
        written(number, tmp_path / "patients")


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("number", [801, 802])
def test_a_patient_without_organ_map_will_do_where_they_are_not(tmp_path: Path, number: int) -> None:
    write_patient(tmp_path / "patients" / "train_0000", has_organs=False)
    assert len(names(written(number, tmp_path / "patients") / "imagesTr")) == 2


# In real processes, across which a refusal has to come.
def test_a_broken_patient_leaves_no_data_set_behind_and_the_next_try_starts_afresh(tmp_path: Path) -> None:
    patients = write_patients(tmp_path / "patients", count=2)
    broken = patients / "train_0000" / "FDG" / "threshold.json"
    kept = broken.read_text(encoding="utf-8")
    broken.write_text('{"suv_threshold": -1}', encoding="utf-8")
    with pytest.raises(CaseError, match="FDG/threshold.json: SUV threshold must be > 0"):
        written(801, patients)
    assert names(tmp_path / "raw") == []
    broken.write_text(kept, encoding="utf-8")
    (patients / "train_0001").rename(patients / "train_0002")
    dataset = written(801, patients)
    assert names(dataset) == ["dataset.json", "imagesTr", "labelsTr"]
    assert names(dataset / "labelsTr") == ["train_0000.mha", "train_0002.mha"]
    assert names(tmp_path / "raw") == [dataset.name]


def test_a_data_set_that_is_there_is_left_alone(tmp_path: Path) -> None:
    dataset = tmp_path / "raw" / dataset_name(902)
    dataset.mkdir(parents=True)
    (dataset / "mine").touch()
    write_patients(tmp_path / "patients", count=1)
    assert written(902, tmp_path / "patients") == dataset
    assert names(dataset) == ["mine"]


@pytest.mark.usefixtures("threads")
def test_organ_data_set_is_what_totalsegmentator_shows_its_network(tmp_path: Path) -> None:
    dataset = written(298, write_patients(tmp_path / "patients", count=2))
    cases = [f"train_000{n}_{tracer}" for n in range(2) for tracer in ("fdg", "psma")]
    assert names(dataset / "imagesTr") == [f"{case}_0000.mha" for case in cases]
    assert names(dataset / "labelsTr") == [f"{case}.mha" for case in cases]
    content = description(dataset)
    assert content["channel_names"] == {"0": "CT"}
    assert content["numTraining"] == 4
    assert content["labels"] == organ_training_labels()
    for case in cases:
        ct = sitk.ReadImage(str(dataset / "imagesTr" / f"{case}_0000.mha"))
        labels = sitk.ReadImage(str(dataset / "labelsTr" / f"{case}.mha"))
        assert grid_of(ct) == grid_of(labels)
        assert ct.GetSpacing() == (6.0, 6.0, 6.0)
        # LPS of an image whose axes run to the patient's right, front and head, but for a turn by a few degrees.
        np.testing.assert_allclose(np.diag(np.reshape(ct.GetDirection(), (3, 3))), (-1.0, -1.0, 1.0), atol=0.05)


def test_organ_images_show_the_same_anatomy_at_the_same_place(tmp_path: Path) -> None:
    scan = read_case(write_patient(tmp_path / "train_0000")).psma
    assert scan.organs is not None
    ct, labels = organ_training_pair(scan.ct, organs=scan.organs)
    # 14 x 21 x 18 voxels (z, y, x) of 2.5, 2.0 and 1.5 mm.
    assert labels.GetSize() == (round(18 * 1.5 / 6), round(21 * 2.0 / 6), round(14 * 2.5 / 6))
    assert (labels.GetPixelID(), ct.GetPixelID()) == (sitk.sitkUInt8, sitk.sitkFloat32)
    lookup = trained_labels()
    inside = 0
    for index in np.ndindex(*labels.GetSize()):
        place_mm = labels.TransformIndexToPhysicalPoint(index)
        fine = scan.organs.TransformPhysicalPointToIndex(place_mm)
        if all(0 <= n < size for n, size in zip(fine, scan.organs.GetSize(), strict=True)):
            assert labels[index] == lookup[scan.organs[fine]]
            inside += 1
    assert inside > 0.8 * np.prod(labels.GetSize())


def trained_labels() -> npt.NDArray[np.uint8]:
    """The number that each of TotalSegmentator's labels gets, found out with a row of voxels that stay as they are."""
    image = sitk.GetImageFromArray(np.arange(118, dtype=np.uint8).reshape(1, 1, 118))
    image.SetSpacing((6.0, 6.0, 6.0))
    image.SetDirection((-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))
    _, labels = organ_training_pair(sitk.Cast(image, sitk.sitkInt16), organs=image)
    return to_array(labels).ravel()


def test_organ_labels_are_totalsegmentators_names_without_gaps() -> None:
    labels = organ_training_labels()
    assert list(labels.values()) == list(range(len(labels)))
    assert next(iter(labels)) == "background"
    assert {*list(labels)[1:]} < {*totalsegmentator_labels().values()}


@pytest.mark.parametrize(
    ("name", "shown_as"),
    [
        ("spleen", "spleen"),
        ("rib_left_1", "rib_left_6"),
        ("rib_right_12", "rib_right_6"),
        ("vertebrae_T7", "vertebrae_T9"),
        ("vertebrae_T6", "vertebrae_T4"),
        ("vertebrae_S1", "sacrum"),
        ("gallbladder", "background"),
        ("costal_cartilages", "background"),
    ],
)
def test_neighbours_of_one_kind_share_a_label(name: str, shown_as: str) -> None:
    assert trained_labels()[label_number(name)] == organ_training_labels()[shown_as]


def test_shared_labels_leave_the_eight_organ_classes_as_they_are() -> None:
    shown_as = np.array([0, *(label_number(name) for name in list(organ_training_labels())[1:])])
    np.testing.assert_array_equal(collapse(shown_as[trained_labels()]), collapse(np.arange(118)))


def test_organ_images_run_to_right_front_and_head() -> None:
    # A CT as scanners give it: x to the left, y to the back. Liver on the right, bladder low, sternum behind.
    liver, bladder, sternum = (label_number(name) for name in ("liver", "urinary_bladder", "sternum"))
    labels = np.zeros((8, 12, 16), dtype=np.uint8)
    labels[:, :, :8], labels[:2], labels[:, 9:] = liver, bladder, sternum
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing((3.0, 2.0, 6.0))
    image.SetOrigin((-20.0, 7.0, 300.0))
    _, turned = organ_training_pair(sitk.Cast(image, sitk.sitkInt16), organs=image)
    names = list(organ_training_labels())
    found = np.array(names)[to_array(turned)]
    assert found.shape == (8, 12 * 2 // 6, 16 * 3 // 6)
    assert (found[4, 3, -1], found[4, 3, 0]) == ("liver", "background")  # (z, y, x): x grows to the right
    assert (found[0, 3, 0], found[-1, 3, 0]) == ("urinary_bladder", "background")  # z grows to the head
    assert (found[0, 0, 0], found[0, -1, 0]) == ("sternum", "urinary_bladder")  # y grows to the front


def test_organs_on_another_grid_are_refused(tmp_path: Path) -> None:
    scan = read_case(write_patient(tmp_path / "train_0000")).psma
    other = to_image(np.zeros(grid_of(scan.pet).shape_zyx, dtype=np.uint8), grid_of(scan.pet))
    with pytest.raises(CaseError, match="organs: grid must match the CT"):
        organ_training_pair(scan.ct, organs=other)
