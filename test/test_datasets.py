import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk

from petct.case import Tracer
from petct.channels import ClipHU, OrganEncoding, build_channels
from petct.errors import CaseError
from petct.folders import read_case
from petct.geometry import grid_of, resample_labels, to_array, to_image
from petct.organs import collapse, label_number, totalsegmentator_labels
from tiny_patients import AT_THRESHOLD, BELOW_THRESHOLD, DISEASE, FAINT_DISEASE, NORMAL, write_patient, write_patients
from training.datasets.clipping import HISTOGRAM_HU, clip_limits, histogram_percentile
from training.datasets.descriptions import LESION_DATASETS, dataset_name
from training.datasets.organ_images import organ_training_labels, organ_training_pair
from training.datasets.provenance import (
    PROVENANCE_NAME,
    DatasetProvenance,
    dataset_digest,
    read_provenance,
    write_provenance,
)
from training.datasets.sources import Sources, corrected_truth
from training.datasets.write import current_digest, write_dataset

ENCODINGS = {
    80: OrganEncoding.NONE,
    90: OrganEncoding.BINARY,
    91: OrganEncoding.BINARY,
    92: OrganEncoding.SOFT_DISTANCE,
}


def make(number: int, folder: Path, *, processes: int = 1, **options: Any) -> DatasetProvenance:
    """Write the data set of the patients in a folder, beside it."""
    patients = sorted(folder.glob("train_*"))
    named = {"left_out": (), "clip": None, "overwrite": False, "sources": sources(folder)} | options
    return write_dataset(number, patients=patients, raw=folder.parent / "raw", processes=processes, **named)


def sources(folder: Path, *, corrected: Path | None = None) -> Sources:
    return Sources(corrected=corrected, organs=folder.parent / "organs")


def written(number: int, folder: Path, **options: Any) -> Path:
    """The same; returns the data set's folder."""
    make(number, folder, **options)
    return folder.parent / "raw" / dataset_name(number)


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


@pytest.mark.parametrize(("number", "count"), [(801, 2), (901, 10), (922, 10)])
def test_nnunet_normalises_ct_and_nothing_else(tmp_path: Path, number: int, count: int) -> None:
    content = description(written(number, write_patients(tmp_path / "patients", count=3)))
    assert content["channel_names"] == {str(n): "CT" if n == 1 else "noNorm" for n in range(count)}
    assert content["labels"] == {"background": 0, "ttb": 1, "normal": 2}
    assert (content["numTraining"], content["file_ending"]) == (3, ".mha")


@pytest.mark.parametrize("number", [801, 802])
def test_labels_follow_the_threshold_and_the_physician(tmp_path: Path, number: int) -> None:
    dataset = written(number, write_patients(tmp_path / "patients", count=1))
    labels = to_array(sitk.ReadImage(str(dataset / "labelsTr" / "train_0000.mha")))
    expected = np.zeros_like(labels)
    expected[NORMAL] = expected[AT_THRESHOLD] = 2
    expected[DISEASE] = expected[FAINT_DISEASE] = 1
    assert expected[BELOW_THRESHOLD] == 0
    np.testing.assert_array_equal(labels, expected)


def test_truth_on_another_grid_is_refused(tmp_path: Path) -> None:
    path = write_patient(tmp_path / "patients" / "train_0000") / "PSMA" / "TTB.nii.gz"
    truth = sitk.ReadImage(str(path))
    truth.SetSpacing([mm + 0.5 * (axis == 1) for axis, mm in enumerate(truth.GetSpacing())])
    sitk.WriteImage(truth, str(path))
    rule = (
        "train_0000 PSMA/TTB.nii.gz: grid must match the PET within .* mm, got spacing that differs by 0.5 mm along y"
    )
    with pytest.raises(CaseError, match=rule):
        written(801, tmp_path / "patients")


@pytest.mark.parametrize("number", [901, 922, 298])
def test_a_patient_without_organ_map_is_refused_where_organs_are_shown(tmp_path: Path, number: int) -> None:
    write_patient(tmp_path / "patients" / "train_0000", has_organs=False)
    with pytest.raises(CaseError, match="train_0000 .*: organ map totseg_24.nii.gz is missing"):
        written(number, tmp_path / "patients")


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
    with pytest.raises(CaseError, match="train_0000 FDG/threshold.json: SUV threshold must be > 0"):
        written(802, patients, processes=2)
    assert names(tmp_path / "raw") == []
    broken.write_text(kept, encoding="utf-8")
    (patients / "train_0001").rename(patients / "train_0002")
    dataset = written(802, patients, processes=2)
    assert names(dataset) == ["dataset.json", "imagesTr", "labelsTr", "provenance.json"]
    assert names(dataset / "labelsTr") == ["train_0000.mha", "train_0002.mha"]
    assert names(tmp_path / "raw") == [dataset.name]


def test_a_data_set_that_is_there_is_left_alone_or_replaced_whole(tmp_path: Path) -> None:
    dataset = tmp_path / "raw" / dataset_name(902)
    dataset.mkdir(parents=True)
    (dataset / "mine").touch()
    write_patients(tmp_path / "patients", count=1)
    with pytest.raises(CaseError, match="data set must not be there yet; --overwrite replaces it"):
        written(902, tmp_path / "patients")
    assert names(dataset) == ["mine"]
    (tmp_path / "patients" / "train_0000" / "FDG" / "PET.nii.gz").rename(tmp_path / "pet.nii.gz")
    with pytest.raises(CaseError, match="FDG/PET.nii.gz: file is missing"):
        written(902, tmp_path / "patients", overwrite=True)
    assert names(dataset) == ["mine"]
    (tmp_path / "pet.nii.gz").rename(tmp_path / "patients" / "train_0000" / "FDG" / "PET.nii.gz")
    written(902, tmp_path / "patients", overwrite=True)
    assert names(dataset) == ["dataset.json", "imagesTr", "labelsTr", "provenance.json"]
    assert names(tmp_path / "raw") == [dataset.name]


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


# --- Corrected annotations.

OTHER_DISEASE = (slice(6, 8), slice(2, 5), slice(4, 6))  # partly in NORMAL


def correct(patient: Path, scan: str, at: Path, stem: str) -> None:
    """Write another truth for a scan to `at`."""
    original = sitk.ReadImage(str(patient / scan / "TTB.nii.gz"))
    truth = np.zeros_like(to_array(original))
    truth[OTHER_DISEASE] = 1
    at.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(to_image(truth, grid_of(original)), str(at / f"{stem}.nii.gz"))


def labels_of_case(dataset: Path, case: str) -> npt.NDArray[np.uint8]:
    return to_array(sitk.ReadImage(str(dataset / "labelsTr" / f"{case}.mha")))


@pytest.mark.parametrize(("number", "scan"), [(911, "PSMA"), (912, "FDG")])
@pytest.mark.parametrize("place", ["beside", "folder TTB_fixed", "folder TTB"])
def test_corrected_annotations_are_used_where_there_are_some(
    tmp_path: Path, number: int, scan: str, place: str
) -> None:
    patients = write_patients(tmp_path / "patients", count=2)
    at = patients if place == "beside" else tmp_path / "corrected"
    correct(patients / "train_0001", scan, at / "train_0001" / scan, place.split()[-1].replace("beside", "TTB_fixed"))
    folder = None if place == "beside" else at
    provenance = make(number, patients, sources=sources(patients, corrected=folder))
    assert provenance.corrected == ("train_0001",)
    dataset = tmp_path / "raw" / dataset_name(number)
    corrected, original = (labels_of_case(dataset, f"train_000{n}") for n in (1, 0))
    assert np.all(corrected[OTHER_DISEASE] == 1)
    assert np.count_nonzero(corrected == 1) == 2 * 3 * 2
    assert corrected[DISEASE].max() == 2  # hot, and not disease any more
    assert np.all(original[DISEASE] == 1)


def test_a_given_folder_goes_before_what_lies_beside(tmp_path: Path) -> None:
    patients = write_patients(tmp_path / "patients", count=1)
    patient = patients / "train_0000"
    correct(patient, "FDG", patient / "FDG", "TTB_fixed")
    assert corrected_truth(patient, tracer=Tracer.PSMA, folder=None) is None
    beside = corrected_truth(patient, tracer=Tracer.FDG, folder=tmp_path / "corrected")
    assert beside is not None
    assert beside.path == patient / "FDG" / "TTB_fixed.nii.gz"
    correct(patient, "FDG", tmp_path / "corrected" / "train_0000" / "FDG", "TTB")
    given = corrected_truth(patient, tracer=Tracer.FDG, folder=tmp_path / "corrected")
    assert given is not None
    assert given.path == tmp_path / "corrected" / "train_0000" / "FDG" / "TTB.nii.gz"


def test_other_data_sets_use_the_original(tmp_path: Path) -> None:
    patients = write_patients(tmp_path / "patients", count=1)
    correct(patients / "train_0000", "PSMA", patients / "train_0000" / "PSMA", "TTB_fixed")
    assert make(901, patients).corrected == ()
    assert np.all(labels_of_case(tmp_path / "raw" / dataset_name(901), "train_0000")[DISEASE] == 1)


# --- Organ maps that were computed.


def compute(patients: Path, scan: str) -> None:
    """Move a patient's own organ map to where computed ones are."""
    place = patients.parent / "organs" / "train_0000" / scan
    place.mkdir(parents=True)
    (patients / "train_0000" / scan / "totseg_24.nii.gz").rename(place / "totseg_24.nii.gz")


def test_a_computed_organ_map_stands_in_for_a_missing_one(tmp_path: Path) -> None:
    patients = write_patients(tmp_path / "patients", count=2)
    own = written(901, patients)
    expected = {path.name: path.read_bytes() for path in (own / "imagesTr").iterdir()}
    compute(patients, "PSMA")
    provenance = make(901, patients, overwrite=True)
    assert provenance.organs_computed == ("train_0000",)
    assert {path.name: path.read_bytes() for path in (own / "imagesTr").iterdir()} == expected
    assert make(801, patients).organs_computed == ()  # it shows none


def test_the_organ_network_does_not_learn_from_computed_maps(tmp_path: Path) -> None:
    patients = write_patients(tmp_path / "patients", count=1)
    compute(patients, "FDG")
    with pytest.raises(CaseError, match="train_0000 fdg: organ map totseg_24.nii.gz is missing"):
        written(298, patients)


# --- Clipping.


def test_the_ct_is_clipped_and_the_limits_are_kept(tmp_path: Path) -> None:
    patients = write_patients(tmp_path / "patients", count=2)
    plain = to_array(sitk.ReadImage(str(written(801, patients) / "imagesTr" / "train_0001_0001.mha")))
    clip = ClipHU(low_hu=-700.0, high_hu=55.0)
    assert make(801, patients, clip=clip, overwrite=True).clip == clip
    dataset = tmp_path / "raw" / dataset_name(801)
    assert (plain.min(), plain.max()) != (-700.0, 55.0)
    np.testing.assert_array_equal(
        to_array(sitk.ReadImage(str(dataset / "imagesTr" / "train_0001_0001.mha"))), np.clip(plain, -700.0, 55.0)
    )
    (tmp_path / "nnUNet_raw").symlink_to(tmp_path / "raw")
    assert read_provenance(tmp_path, number=801).clip == clip


def counts_of(*values_hu: float) -> npt.NDArray[np.int64]:
    counts = np.zeros(HISTOGRAM_HU[1] - HISTOGRAM_HU[0] + 1, dtype=np.int64)
    for hu in values_hu:
        counts[int(hu) - HISTOGRAM_HU[0]] += 1
    return counts


@pytest.mark.parametrize(
    ("values", "percentile", "hu"),
    [
        (range(-100, 0), 5.0, -96.0),  # the fifth of a hundred
        (range(-100, 0), 95.0, -6.0),
        ([-1000] * 5 + [40] * 95, 5.0, -1000.0),
        ([-1000] * 4 + [40] * 96, 5.0, 40.0),
        ([-4096, 4096], 50.0, -4096.0),
        ([-4096, 4096], 51.0, 4096.0),
    ],
)
def test_percentiles_of_a_histogram(values: Any, percentile: float, hu: float) -> None:
    assert histogram_percentile(counts_of(*values), percentile) == hu


def test_clip_limits_are_percentiles_over_all_patients_voxels(tmp_path: Path) -> None:
    patients = write_patients(tmp_path / "patients", count=3)
    voxels = []
    for patient, air_share in zip(sorted(patients.iterdir()), (0.02, 0.1, 0.0), strict=True):
        # Even CTs larger than the PET, so that resampling changes no value.
        scan = read_case(patient).fdg
        grid = grid_of(scan.pet)
        hu = np.full(grid.shape_zyx, 30 + len(voxels), dtype=np.int16)
        hu.ravel()[: int(air_share * hu.size)] = -1000
        sitk.WriteImage(to_image(hu, grid), str(patient / "FDG" / "CT.nii.gz"))
        (patient / "FDG" / "totseg_24.nii.gz").unlink()
        voxels.append(hu.ravel())
    pooled = np.sort(np.concatenate(voxels))
    for processes in (1, 2):
        limits = clip_limits(
            sorted(patients.iterdir()), tracer=Tracer.FDG, sources=sources(patients), processes=processes
        )
        # 4 % of all are air: the 5th percentile is the first patient's tissue.
        assert (limits.low_hu, limits.high_hu) == (30.0, 32.0)
        assert limits.low_hu == pooled[int(np.ceil(0.05 * pooled.size)) - 1]
        assert limits.high_hu == pooled[int(np.ceil(0.95 * pooled.size)) - 1]


def test_equal_percentiles_are_refused(tmp_path: Path) -> None:
    patients = write_patients(tmp_path / "patients", count=1)
    path = patients / "train_0000" / "PSMA" / "CT.nii.gz"
    ct = sitk.ReadImage(str(path))
    sitk.WriteImage(to_image(np.full(grid_of(ct).shape_zyx, -1000, dtype=np.int16), grid_of(ct)), str(path))
    with pytest.raises(CaseError, match="PSMA CT: percentiles must differ to be clipped to, got -1000 and -1000 HU"):
        clip_limits([patients / "train_0000"], tracer=Tracer.PSMA, sources=sources(patients), processes=1)


# --- Provenance.

MADE = DatasetProvenance(
    patients=("train_0001", "train_0003"),
    corrected=("train_0003",),
    left_out=("train_0002",),
    organs_computed=(),
    clip=ClipHU(low_hu=-990.0, high_hu=61.0),
    sha256="0123456789abcdef" * 4,
)


@pytest.fixture
def provenance_file(tmp_path: Path) -> Path:
    folder = tmp_path / "nnUNet_raw" / dataset_name(902)
    folder.mkdir(parents=True)
    write_provenance(folder, MADE)
    return folder / PROVENANCE_NAME


def test_provenance_comes_back_as_it_was_written(tmp_path: Path, provenance_file: Path) -> None:
    assert read_provenance(tmp_path, number=902) == MADE
    assert names(provenance_file.parent) == [PROVENANCE_NAME]
    write_provenance(provenance_file.parent, replace(MADE, clip=None))
    assert read_provenance(tmp_path, number=902) == replace(MADE, clip=None)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"sha256": "abc"}, "sha256 must be 64 lower-case hex digits, got 'abc'"),
        ({"sha256": 7}, "sha256 must be 64 lower-case hex digits, got 7"),
        ({"patients": "train_0001"}, "patients must be a list of patients' names, got 'train_0001'"),
        ({"corrected": [1]}, "corrected must be a list of patients' names"),
        ({"clip": {"low_hu": 3.0}}, "clip must be null, or low_hu and a larger high_hu"),
        ({"clip": {"low_hu": 3.0, "high_hu": True}}, "clip must be null"),
        ({"clip": {"low_hu": 3.0, "high_hu": 3.0}}, "clip must be null"),
        ({"clip": [1.0, 2.0]}, "clip must be null"),
        (
            {"more": 1},
            "must hold clip, corrected, left_out, organs_computed, patients, sha256, got clip, corrected, .*more",
        ),
    ],
)
def test_malformed_provenance_is_refused(
    tmp_path: Path, provenance_file: Path, change: dict[str, Any], rule: str
) -> None:
    content = json.loads(provenance_file.read_text(encoding="utf-8")) | change
    provenance_file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CaseError, match=f"^Dataset902_FDG_PET_binary/provenance.json: {rule}"):
        read_provenance(tmp_path, number=902)


@pytest.mark.parametrize(("text", "rule"), [("{", "file must be JSON in UTF-8"), ("[]", "must hold .*, got list")])
def test_provenance_that_is_none_is_refused(tmp_path: Path, provenance_file: Path, text: str, rule: str) -> None:
    provenance_file.write_text(text, encoding="utf-8")
    with pytest.raises(CaseError, match=rule):
        read_provenance(tmp_path, number=902)


def test_missing_provenance_tells_how_to_get_it(tmp_path: Path, provenance_file: Path) -> None:
    provenance_file.unlink()
    with pytest.raises(CaseError, match="file is missing; `python -m training dataset 902 --overwrite` makes it"):
        read_provenance(tmp_path, number=902)
    with pytest.raises(CaseError, match="file is missing; `python -m training dataset 801` makes it"):
        read_provenance(tmp_path, number=801)


def test_digests_know_inputs_and_description_and_no_order() -> None:
    one, other = {"psma pet": "a", "psma ct": "b"}, {"psma pet": "c"}
    digest = dataset_digest({"number": 801, "x": 1}, inputs={"p": one, "q": other})
    turned = {"psma ct": "b", "psma pet": "a"}
    assert dataset_digest({"x": 1, "number": 801}, inputs={"q": other, "p": turned}) == digest
    assert dataset_digest({"number": 802, "x": 1}, inputs={"p": one, "q": other}) != digest
    assert dataset_digest({"number": 801, "x": 1}, inputs={"q": one, "p": other}) != digest
    assert dataset_digest({"number": 801, "x": 1}, inputs={"p": one}) != digest


def test_the_digest_follows_the_files_wherever_they_are(tmp_path: Path) -> None:
    patients = write_patients(tmp_path / "patients", count=2)
    made = {number: make(number, patients).sha256 for number in (801, 802, 901, 911, 298)}
    assert len(set(made.values())) == len(made)

    def now(number: int, folder: Path = patients, *, is_clipped: bool = False) -> str:
        return current_digest(
            number,
            patients=sorted(folder.iterdir(), reverse=True),
            sources=sources(folder),
            is_clipped=is_clipped,
            processes=1,
        )

    assert {number: now(number) for number in made} == made
    assert now(801, is_clipped=True) != made[801]
    elsewhere = patients.rename(tmp_path / "elsewhere")
    assert {number: now(number, elsewhere) for number in made} == made
    correct(elsewhere / "train_0000", "PSMA", elsewhere / "train_0000" / "PSMA", "TTB_fixed")
    assert [number for number in made if now(number, elsewhere) != made[number]] == [911]
    (elsewhere / "train_0001" / "PSMA" / "threshold.json").write_text("3.1", encoding="utf-8")
    assert [number for number in made if now(number, elsewhere) != made[number]] == [801, 901, 911]
