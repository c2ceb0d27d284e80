"""`python -m training check`: phantoms are sound, and every way of breaking one is found and named."""

import csv
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from totalsegmentator.map_to_binary import class_map

from petct.case import Tracer
from petct.channels import OrganEncoding
from petct.errors import CaseError
from petct.geometry import grid_of, to_array, to_image
from petct.organs import label_number
from training.__main__ import main
from training.checks import patients as check
from training.checks.findings import Finding, Findings, Severity, summary, table
from training.checks.patients import broken_patients, check_patient, check_patients
from training.checks.tracer import check_tracer
from training.memory import checking_bytes, preprocessing_bytes, writing_bytes
from training.phantoms import PhantomSize, generate_patient, write_patient
from training.processes import affordable_processes, in_processes, usable_memory_bytes

ERROR, WARNING = Severity.ERROR, Severity.WARNING
Expected = tuple[tuple[str, Severity, str], ...]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantom patients of the first three seeds."""
    folder = tmp_path_factory.mktemp("patients")
    for seed in range(3):
        write_patient(generate_patient(seed, size=PhantomSize.DEMO), folder)
    return folder


@pytest.fixture(scope="module")
def coarse(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first phantom with an eighth of the CT's voxels, which is quicker to read."""
    folder = tmp_path_factory.mktemp("coarse") / "train_0000"
    shutil.copytree(phantoms / "train_0000", folder)
    for path in (folder / scan / f"{name}.nii.gz" for scan in ("PSMA", "FDG") for name in ("CT", "totseg_24")):
        sitk.WriteImage(read(path)[::2, ::2, ::2], str(path))
    return folder


@pytest.fixture
def patient(coarse: Path, tmp_path: Path) -> Path:
    """A phantom to break."""
    return Path(shutil.copytree(coarse, tmp_path / "patients" / "train_0000"))


def read(path: Path) -> sitk.Image:
    return sitk.ReadImage(str(path))


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change an image's voxels in place."""
    image = read(path)
    sitk.WriteImage(to_image(change(to_array(image)), grid_of(image)), str(path))


def line(finding: Finding) -> str:
    return f"{finding.rule}, got {finding.got}" if finding.got else finding.rule


def test_a_coarse_phantom_is_sound(patient: Path) -> None:
    assert check_patient(patient).findings == ()


@pytest.mark.parametrize("seed", range(3))
def test_a_phantom_is_sound(phantoms: Path, seed: int) -> None:
    assert check_patient(phantoms / f"train_{seed:04d}").findings == ()


# --- One way of breaking a patient each, with everything that is then said of it.


def without_ct(patient: Path) -> None:
    (patient / "PSMA" / "CT.nii.gz").unlink()


def without_threshold_and_truth(patient: Path) -> None:
    (patient / "FDG" / "threshold.json").unlink()
    (patient / "FDG" / "TTB.nii.gz").unlink()


def without_fdg(patient: Path) -> None:
    shutil.rmtree(patient / "FDG")


def without_organs(patient: Path) -> None:
    (patient / "PSMA" / "totseg_24.nii.gz").unlink()


def doubled_pet(patient: Path) -> None:
    sitk.WriteImage(read(patient / "FDG" / "PET.nii.gz"), str(patient / "FDG" / "PET.mha"))


def cut_off_pet(patient: Path) -> None:
    path = patient / "PSMA" / "PET.nii.gz"
    path.write_bytes(path.read_bytes()[:-5000])


def pet_in_bq_per_ml(patient: Path) -> None:
    rewrite(patient / "PSMA" / "PET.nii.gz", lambda suv: suv * 2000.0)


def pet_in_kbq_per_ml(patient: Path) -> None:
    rewrite(patient / "PSMA" / "PET.nii.gz", lambda suv: suv * 4.5)


def pet_in_kilo_suv(patient: Path) -> None:
    rewrite(patient / "PSMA" / "PET.nii.gz", lambda suv: suv / 1000.0)


def negative_pet(patient: Path) -> None:
    rewrite(patient / "PSMA" / "PET.nii.gz", lambda suv: np.where(suv == suv.max(), -30.0, suv).astype(np.float32))


def swapped_pets(patient: Path) -> None:
    """The scans, each with its CT, map and truth; the thresholds stay."""
    for name in ("PET", "CT", "TTB", "totseg_24"):
        one, other = (patient / scan / f"{name}.nii.gz" for scan in ("PSMA", "FDG"))
        third = one.with_name("third")
        one.rename(third)
        other.rename(one)
        third.rename(other)
    (patient / "PSMA" / "rigid.tfm").rename(patient / "third")
    (patient / "FDG" / "rigid.tfm").rename(patient / "PSMA" / "rigid.tfm")
    (patient / "third").rename(patient / "FDG" / "rigid.tfm")


def ct_with_offset(patient: Path) -> None:
    rewrite(patient / "FDG" / "CT.nii.gz", lambda hu: hu + 1024)


def ct_without_bone(patient: Path) -> None:
    rewrite(patient / "FDG" / "CT.nii.gz", lambda hu: np.minimum(hu, 160))


def ct_elsewhere(patient: Path) -> None:
    for name in ("CT", "totseg_24"):
        image = read(patient / "PSMA" / f"{name}.nii.gz")
        x, y, z = image.GetOrigin()
        image.SetOrigin((x, y, z + 5000.0))
        sitk.WriteImage(image, str(patient / "PSMA" / f"{name}.nii.gz"))
    for scan in ("PSMA", "FDG"):
        (patient / scan / "rigid.tfm").unlink()


def threshold(scan: str, text: str) -> Callable[[Path], None]:
    def breaks(patient: Path) -> None:
        (patient / scan / "threshold.json").write_text(text, encoding="utf-8")

    return breaks


def truth_of(change: Callable[[np.ndarray], np.ndarray], name: str = "TTB") -> Callable[[Path], None]:
    def breaks(patient: Path) -> None:
        image = read(patient / "PSMA" / "TTB.nii.gz")
        sitk.WriteImage(to_image(change(to_array(image)), grid_of(image)), str(patient / "PSMA" / f"{name}.nii.gz"))

    return breaks


def truth_on_another_grid(patient: Path) -> None:
    image = read(patient / "PSMA" / "TTB.nii.gz")
    image.SetOrigin([mm + shift for mm, shift in zip(image.GetOrigin(), (0.0, 4.0, 0.0), strict=True)])
    sitk.WriteImage(image, str(patient / "PSMA" / "TTB.nii.gz"))


def three_voxels_below(patient: Path) -> None:
    """Three drawn voxels at 2.9 SUV, under PSMA's 3.0; a fourth at 2.99 is within the tolerance."""
    truth = to_array(read(patient / "PSMA" / "TTB.nii.gz")) == 1

    def lower(suv: np.ndarray) -> np.ndarray:
        at = np.argwhere(truth)[:4]
        for (z, y, x), value in zip(at, (2.9, 2.9, 2.9, 2.99), strict=True):
            suv[z, y, x] = value
        return suv

    rewrite(patient / "PSMA" / "PET.nii.gz", lower)


def version_1_map(patient: Path) -> None:
    numbers = {name: number for number, name in class_map["total_v1"].items()}
    new = np.zeros(118, dtype=np.uint8)
    for number, name in class_map["total"].items():
        new[number] = numbers.get(name, 0)
    rewrite(patient / "FDG" / "totseg_24.nii.gz", lambda labels: new[labels])


def organs_of(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda patient: rewrite(patient / "FDG" / "totseg_24.nii.gz", change)


def map_on_pets_grid(patient: Path) -> None:
    sitk.WriteImage(read(patient / "FDG" / "TTB.nii.gz"), str(patient / "FDG" / "totseg_24.nii.gz"))


def swapped_sides(labels: np.ndarray) -> np.ndarray:
    """Liver and spleen in each other's place."""
    liver, spleen = label_number("liver"), label_number("spleen")
    return np.where(labels == liver, spleen, np.where(labels == spleen, liver, labels)).astype(np.uint8)


def without_transforms(patient: Path) -> None:
    for scan in ("PSMA", "FDG"):
        (patient / scan / "rigid.tfm").unlink()


def swapped_transforms(patient: Path) -> None:
    one, other = (patient / scan / "rigid.tfm" for scan in ("PSMA", "FDG"))
    held = one.read_text(encoding="utf-8")
    one.write_text(other.read_text(encoding="utf-8"), encoding="utf-8")
    other.write_text(held, encoding="utf-8")


def same_transform_twice(patient: Path) -> None:
    shutil.copyfile(patient / "FDG" / "rigid.tfm", patient / "PSMA" / "rigid.tfm")


def transform_of(transform: sitk.Transform) -> Callable[[Path], None]:
    return lambda patient: sitk.WriteTransform(transform, str(patient / "FDG" / "rigid.tfm"))


def shifted_transforms(patient: Path) -> None:
    """Both by 900 mm: inverse of each other, and off the body."""
    there = sitk.TranslationTransform(3, (0.0, 0.0, 900.0))
    sitk.WriteTransform(there, str(patient / "FDG" / "rigid.tfm"))
    sitk.WriteTransform(there.GetInverse(), str(patient / "PSMA" / "rigid.tfm"))


def garbage_transform(patient: Path) -> None:
    (patient / "FDG" / "rigid.tfm").write_text("no transform", encoding="utf-8")


STRETCH = sitk.AffineTransform(3)
STRETCH.Scale((1.0, 1.02, 1.0))
MIRROR = sitk.AffineTransform(3)
MIRROR.Scale((-1.0, 1.0, 1.0))

MOVED = r"FDG threshold should be 0.9-2.5 times the liver's median, got 9 SUV for a liver of \d.* SUV"
TOWARDS = r"must move PSMA onto FDG, got the inverse: the CTs correlate by 0\.\d\d with it turned round, by 0\.\d\d as"
BROKEN: dict[str, tuple[Callable[[Path], None], Expected]] = {
    "missing CT": (without_ct, (("PSMA/CT.nii.gz", ERROR, "^file is missing$"),)),
    "missing threshold and truth": (
        without_threshold_and_truth,
        (
            ("FDG/threshold.json", ERROR, "^file is missing$"),
            ("FDG/TTB.nii.gz", ERROR, "^file is missing$"),
        ),
    ),
    "missing scan": (without_fdg, (("FDG", ERROR, "^folder is missing$"),)),
    "missing organs": (without_organs, (("PSMA/totseg_24.nii.gz", WARNING, "file is missing; `dataset` computes it"),)),
    "doubled PET": (doubled_pet, (("FDG/PET", ERROR, "must be one file, got FDG/PET.mha, FDG/PET.nii.gz"),)),
    "cut-off PET": (cut_off_pet, (("PSMA/PET.nii.gz", ERROR, "image file must be whole"),)),
    "Bq/mL": (
        pet_in_bq_per_ml,
        (
            ("PSMA/PET.nii.gz", WARNING, r"the maximum of \d.* does not look like SUV"),
            (
                "PSMA/PET.nii.gz",
                ERROR,
                r"PET must be in SUV, with a mean of 0.02-20 over the body, got \d{4}, as Bq/mL",
            ),
        ),
    ),
    "kBq/mL": (
        pet_in_kbq_per_ml,
        (("PSMA/PET.nii.gz", WARNING, r"PET must be in SUV, with a mean of 0.1-4 over the body, got \d\.\d+, as"),),
    ),
    "a thousandth": (
        pet_in_kilo_suv,
        (
            ("PSMA/PET.nii.gz", WARNING, "no voxel reaches the threshold"),
            ("PSMA/PET.nii.gz", ERROR, r"a mean of 0.02-20 over the body, got 0.00\d+$"),
            ("PSMA/TTB.nii.gz", ERROR, "disease must be at or above 3 SUV, got .* 1 of the truth"),
        ),
    ),
    "negative PET": (
        negative_pet,
        (
            ("PSMA/PET.nii.gz", ERROR, "PET must not be negative beyond noise"),
            ("PSMA/TTB.nii.gz", WARNING, "at or above 3 SUV, got 1 voxel "),
        ),
    ),
    "swapped tracers": (
        swapped_pets,
        (
            (
                "PSMA/PET.nii.gz",
                ERROR,
                "PET must be PSMA; PSMA and FDG may be swapped, got organs that look like FDG: br",
            ),
            (
                "FDG/PET.nii.gz",
                ERROR,
                "PET must be FDG; PSMA and FDG may be swapped, got organs that look like PSMA: br",
            ),
            ("PSMA/TTB.nii.gz", ERROR, "disease must be at or above 3 SUV"),
            ("FDG/threshold.json", WARNING, "FDG threshold should be 0.9-2.5 times the liver's median"),
        ),
    ),
    "CT with offset": (
        ct_with_offset,
        (("FDG/CT.nii.gz", ERROR, "the lowest value is 0, which does not look like HU"),),
    ),
    "CT without bone": (ct_without_bone, (("FDG/CT.nii.gz", WARNING, "CT should show bone above 200 HU"),)),
    "CT elsewhere": (
        ct_elsewhere,
        (
            ("PSMA/CT.nii.gz", ERROR, "CT must cover at least 5% of PSMA/PET.nii.gz, got 0.0%"),
            ("PSMA/rigid.tfm", WARNING, "file is missing"),
            ("FDG/rigid.tfm", WARNING, "file is missing"),
        ),
    ),
    "negative threshold": (
        threshold("PSMA", '{"suv_threshold": -3.0}'),
        (("PSMA/threshold.json", ERROR, "SUV threshold must be > 0, got -3.0"),),
    ),
    "no threshold": (threshold("FDG", "null"), (("FDG/threshold.json", ERROR, "SUV threshold must be a number"),)),
    "not JSON": (threshold("FDG", "{"), (("FDG/threshold.json", ERROR, "file must be JSON in UTF-8"),)),
    "PSMA threshold of its own": (
        threshold("PSMA", "2.5"),
        (("PSMA/threshold.json", WARNING, "PSMA threshold should be 3.0 SUV, got 2.5 SUV"),),
    ),
    "FDG threshold too high": (
        threshold("FDG", "9.0"),
        (
            ("FDG/threshold.json", WARNING, "FDG threshold should be within 1.5-6 SUV, got 9 SUV"),
            ("FDG/threshold.json", WARNING, MOVED),
            ("FDG/TTB.nii.gz", ERROR, "disease must be at or above 9 SUV, got .* of the truth\\) below it"),
        ),
    ),
    "truth of 255": (
        truth_of(lambda mask: mask * 255),
        (("PSMA/TTB.nii.gz", ERROR, "truth must hold 0 and 1 only, got 1 other values: 255"),),
    ),
    "truth of two kinds": (
        truth_of(lambda mask: (mask.astype(np.int16) - 3) * mask),
        (("PSMA/TTB.nii.gz", ERROR, "truth must hold 0 and 1 only, got 1 other values: -2"),),
    ),
    "empty truth": (
        truth_of(np.zeros_like),
        (("PSMA/TTB.nii.gz", WARNING, "truth should show disease, got an empty mask"),),
    ),
    "truth on another grid": (
        truth_on_another_grid,
        (
            (
                "PSMA/TTB.nii.gz",
                ERROR,
                "grid must match the PET within 0.01 mm, got origin that differs by 4 mm along y",
            ),
        ),
    ),
    "truth below the threshold": (
        three_voxels_below,
        (("PSMA/TTB.nii.gz", WARNING, r"at or above 3 SUV, got 3 voxels \(0\.\d+ mL, 0\.\d+ of the truth\) below it"),),
    ),
    "corrected truth of 2": (
        truth_of(lambda mask: mask * 2, name="TTB_fixed"),
        (("PSMA/TTB_fixed.nii.gz", ERROR, "truth must hold 0 and 1 only, got 1 other values: 2"),),
    ),
    "version 1": (
        version_1_map,
        (
            (
                "FDG/totseg_24.nii.gz",
                ERROR,
                r"numbered as in TotalSegmentator v2 .* \(\d+ of \d+ organs, highest label 104 as in version 1",
            ),
        ),
    ),
    "map upside down": (
        organs_of(lambda labels: labels[::-1]),
        (
            (
                "FDG/totseg_24.nii.gz",
                ERROR,
                r"numbered as in TotalSegmentator v2 and lie on this CT, got .* of \d+ organs",
            ),
        ),
    ),
    "liver on the left": (
        organs_of(swapped_sides),
        (
            ("FDG/totseg_24.nii.gz", WARNING, r"liver should lie right of the spleen, got liver \d+ mm left of it"),
            ("FDG/totseg_24.nii.gz", WARNING, r"liver should be larger than the spleen, got 0\.\d+ times its volume"),
        ),
    ),
    "label 130": (
        organs_of(lambda labels: np.where(labels == 5, 130, labels).astype(np.uint8)),
        (("FDG/totseg_24.nii.gz", ERROR, "organ labels must be within 0-117, got 0 to 130"),),
    ),
    "empty map": (organs_of(np.zeros_like), (("FDG/totseg_24.nii.gz", ERROR, "the organ map is empty"),)),
    "map on the PET's grid": (
        map_on_pets_grid,
        (("FDG/totseg_24.nii.gz", ERROR, "grid must match FDG/CT.nii.gz, got .* voxels"),),
    ),
    "no transforms": (
        without_transforms,
        (
            ("FDG/rigid.tfm", WARNING, "file is missing; the method does not need it"),
            ("PSMA/rigid.tfm", WARNING, "file is missing; the method does not need it"),
        ),
    ),
    "transforms the wrong way": (
        swapped_transforms,
        (("FDG/rigid.tfm", ERROR, TOWARDS), ("PSMA/rigid.tfm", ERROR, "must move FDG onto PSMA, got the inverse")),
    ),
    "same transform twice": (
        same_transform_twice,
        (
            ("PSMA/rigid.tfm", ERROR, r"must be the inverse of FDG/rigid.tfm within 1 mm, got \d+ mm"),
            ("PSMA/rigid.tfm", ERROR, "must move FDG onto PSMA, got the inverse"),
        ),
    ),
    "transform that stretches": (
        transform_of(STRETCH),
        (("FDG/rigid.tfm", ERROR, r"transform must be rigid, got a matrix that is off a rotation by 0\.0404"),),
    ),
    "transform that mirrors": (
        transform_of(MIRROR),
        (("FDG/rigid.tfm", ERROR, "transform must be rigid, got a mirroring"),),
    ),
    "transforms of somebody else": (
        shifted_transforms,
        (
            ("FDG/rigid.tfm", WARNING, "must move PSMA onto FDG, got CTs that correlate by .* are both of one patient"),
            ("PSMA/rigid.tfm", WARNING, "must move FDG onto PSMA, got CTs that correlate by"),
        ),
    ),
    "no transform": (garbage_transform, (("FDG/rigid.tfm", ERROR, "file must be an ITK transform"),)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_found_and_nothing_else(patient: Path, name: str) -> None:
    breaks, expected = BROKEN[name]
    breaks(patient)
    found = list(check_patient(patient).findings)
    assert sorted((f.file, f.severity) for f in found) == sorted((file, severity) for file, severity, _ in expected), (
        "\n".join(f.line() for f in found)
    )
    for file, severity, pattern in expected:
        lines = [line(f) for f in found if (f.file, f.severity) == (file, severity)]
        assert any(re.search(pattern, text) for text in lines), f"{pattern!r} in {lines}"
    assert all(f.patient == "train_0000" for f in found)


def test_voxels_below_the_threshold_are_counted(patient: Path) -> None:
    truth = read(patient / "PSMA" / "TTB.nii.gz")
    three_voxels_below(patient)
    (finding,) = check_patient(patient).findings
    disease = int(to_array(truth).sum())
    millilitres = 3 * float(np.prod(truth.GetSpacing())) / 1000.0
    assert finding.got == f"3 voxels ({millilitres:.3g} mL, {3 / disease:.2g} of the truth) below it"


@pytest.mark.parametrize("scan", ["PSMA", "FDG"])
def test_a_corrected_truth_from_a_folder_is_checked_too(patient: Path, tmp_path: Path, scan: str) -> None:
    corrected = tmp_path / "corrected" / "train_0000" / scan
    corrected.mkdir(parents=True)
    truth = read(patient / scan / "TTB.nii.gz")
    sitk.WriteImage(truth[1:], str(corrected / "TTB.nii.gz"))
    (finding,) = check_patient(patient, corrected=tmp_path / "corrected").findings
    assert finding.severity is ERROR
    assert finding.file == f"{corrected.parent}/{scan}/TTB.nii.gz"
    assert finding.rule == "grid must match the PET"


# --- Tracers by their organs: (brain, liver, kidney) in SUV.

VOTES = [
    ("psma", (0.1, 5.0, 40.0), None),
    ("fdg", (9.0, 2.2, 2.9), None),
    ("psma", (9.0, 2.2, 2.9), ERROR),
    ("fdg", (0.1, 5.0, 40.0), ERROR),
    ("fdg", (None, 5.0, 40.0), WARNING),  # brain out of the scan: by the kidneys alone nobody can be sure
    ("psma", (None, 2.2, 2.9), WARNING),
    ("psma", (None, 2.2, 5.0), None),  # between the two
    ("fdg", (1.2, 2.2, 2.9), None),  # a brain that high blood sugar keeps dark
    ("psma", (9.0, 2.2, 20.0), WARNING),  # the brain says FDG, the kidneys PSMA
    ("fdg", (9.0, 2.0, 12.0), WARNING),  # FDG in urine that is taken for kidney
    ("psma", (9.0, None, 2.9), None),  # without a liver there is nothing to compare with
]


@pytest.mark.parametrize(("tracer", "organs_suv", "severity"), VOTES)
def test_tracers_are_told_apart_by_brain_and_kidneys(
    tracer: str, organs_suv: tuple[float | None, ...], severity: Severity | None
) -> None:
    medians = {name: suv for name, suv in zip(("brain", "liver", "kidney"), organs_suv, strict=True) if suv is not None}
    findings = Findings("train_0000")
    check_tracer(medians, tracer=Tracer(tracer), file="PET", findings=findings)
    assert [finding.severity for finding in findings.found] == ([] if severity is None else [severity])


# --- Many patients.


def test_one_broken_patient_does_not_stop_the_others(
    phantoms: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    patients = [Path(shutil.copytree(phantoms / f"train_{n:04d}", tmp_path / f"train_{n:04d}")) for n in range(3)]
    (patients[0] / "PSMA" / "PET.nii.gz").write_bytes(b"")
    (patients[1] / "FDG" / "threshold.json").write_text("2.2e9", encoding="utf-8")
    with caplog.at_level(logging.INFO):
        findings = check_patients(patients, processes=2)
    assert broken_patients(findings) == ("train_0000", "train_0001")
    assert {finding.patient for finding in findings} == {"train_0000", "train_0001"}
    progress = [text for text in caplog.messages if "of 3)" in text]
    assert progress[2] == "train_0002: fine (3 of 3)"
    assert progress[0].startswith("train_0000: 1 errors, 0 warnings (1 of 3)")


def test_a_scan_that_is_there_twice_is_found(phantoms: Path, tmp_path: Path) -> None:
    for name in ("train_0000", "train_0007"):
        shutil.copytree(phantoms / "train_0000", tmp_path / name)
    (finding,) = [
        finding for finding in check_patients(sorted(tmp_path.iterdir()), processes=1) if finding.file == "FDG/PET"
    ]
    assert finding.line() == "train_0007 FDG/PET: PET must be there once, got the voxels of train_0000 FDG/PET"


def test_a_check_that_fails_is_a_finding(phantoms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(patient: Path, **options: object) -> None:
        raise MemoryError("too\nlarge")

    monkeypatch.setattr(check, "check_patient", fail)
    (finding,) = check_patients([phantoms / "train_0001"], processes=1)
    assert (finding.severity, finding.got) == (ERROR, "MemoryError: too large")


def test_a_killed_process_is_named() -> None:
    with pytest.raises(CaseError, match="--processes: a worker process was killed, probably for memory"):
        list(in_processes(os._exit, [9, 9], processes=2))


def test_results_come_in_order_and_errors_with_them() -> None:
    results = list(in_processes(int, ["4", "x", "6"], processes=2))
    assert [item for item, _ in results] == ["4", "x", "6"]
    assert (results[0][1], results[2][1]) == (4, 6)
    assert isinstance(results[1][1], ValueError)
    assert [str(result) for _, result in in_processes(int, ["4", "x", "6"], processes=1)] == [
        str(result) for _, result in results
    ]


@pytest.mark.parametrize(
    ("wanted", "each", "available", "count"), [(8, 10, 100, 8), (8, 30, 100, 3), (8, 101, 100, 1), (1, 1, 100, 1)]
)
def test_processes_fit_into_memory(wanted: int, each: int, available: int, count: int) -> None:
    assert affordable_processes(wanted, bytes_each=each, available_bytes=available) == count


def test_there_is_memory_and_large_cases_need_more_of_it(patient: Path) -> None:
    assert 1 << 20 < usable_memory_bytes() < 1 << 50
    pet = max(int(np.prod(read(patient / scan / "PET.nii.gz").GetSize())) for scan in ("PSMA", "FDG"))
    two, ten = (writing_bytes([patient], encoding=encoding) for encoding in (OrganEncoding.NONE, OrganEncoding.BINARY))
    assert ten - two == 8 * pet * 4
    assert preprocessing_bytes([patient], channels=10) - preprocessing_bytes([patient], channels=2) == 8 * 4 * pet * 4
    assert checking_bytes([patient]) > pet * 4 * 4


# --- Tables and the command.

FINDINGS = [
    Finding("train_0002", "FDG/CT.nii.gz", "CT should | bone", "3 HU", WARNING),
    Finding("train_0001", "PSMA/TTB.nii.gz", "late", "", WARNING),
    Finding("train_0001", "PSMA/TTB.nii.gz", "file is missing", "", ERROR),
]


def test_the_table_puts_errors_first() -> None:
    assert table(FINDINGS).splitlines()[2:] == [
        "| train_0001 | PSMA/TTB.nii.gz | error | file is missing |  |",
        "| train_0001 | PSMA/TTB.nii.gz | warning | late |  |",
        "| train_0002 | FDG/CT.nii.gz | warning | CT should / bone | 3 HU |",
    ]


@pytest.mark.parametrize(
    ("findings", "patients", "text"),
    [
        ([], 40, "40 of 40 patients are fine"),
        (FINDINGS, 40, "38 of 40 patients are fine, 1 has warnings, 1 is broken"),
        (FINDINGS[:1], 2, "1 of 2 patients is fine, 1 has warnings"),
        (FINDINGS[2:], 1, "0 of 1 patients are fine, 1 is broken"),
    ],
)
def test_the_summary_counts_patients(findings: list[Finding], patients: int, text: str) -> None:
    assert summary(findings, patients=patients) == text


def run(*arguments: object) -> int:
    return main(["check", *map(str, arguments)])


def test_a_sound_folder_gives_exit_code_0(patient: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--patients", patient.parent, "--processes", 1) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 1 patients are fine".replace("are", "is")


def test_warnings_give_exit_code_0(patient: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without_organs(patient)
    assert run("--patients", patient.parent, "--processes", 1) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 of 1 patients are fine, 1 has warnings"


def test_an_error_gives_exit_code_1_a_table_and_a_csv(
    patient: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (patient / "PSMA" / "threshold.json").write_text(json.dumps({"suv_threshold": 0}), encoding="utf-8")
    without_transforms(patient)
    assert run("--patients", patient.parent, "--processes", 1, "--csv", tmp_path / "findings.csv") == 1
    out = capsys.readouterr().out
    assert "| train_0000 | PSMA/threshold.json | error | SUV threshold must be > 0 | 0 |" in out
    assert out.splitlines()[-1] == "0 of 1 patients are fine, 1 is broken"
    with (tmp_path / "findings.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0] == {
        "patient": "train_0000",
        "file": "PSMA/threshold.json",
        "rule": "SUV threshold must be > 0",
        "got": "0",
        "severity": "error",
    }
    assert [row["severity"] for row in rows] == ["error", "warning", "warning"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["findings.csv", "patients"]


def test_a_csv_that_cannot_be_written_is_refused_before_the_checks(
    patient: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--patients", patient.parent, "--csv", tmp_path / "none" / "f.csv") == 1
    assert capsys.readouterr().err == f"--csv: folder must exist, got {tmp_path / 'none'}\n"
