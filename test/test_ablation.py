"""The ablation: what its variants do to hand-made probabilities, going on where it stopped, and what its page says."""

import argparse
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import stats

import inference
from evaluation import statistics
from evaluation.metrics import METRICS, NO_DISEASE, Metrics
from inference import predict_scan
from petct.case import Tracer
from petct.channels import OrganEncoding
from petct.errors import CaseError
from petct.folders import SCAN_FOLDERS, read_case
from petct.geometry import Grid, to_image
from petct.manifest import Architecture, Manifest, Member, Refinement, read_manifest
from petct.organs import label_number
from segmentation import organ_maps
from segmentation.organ_maps import OrganSource
from tiny_nnunet import make_member, make_results
from training.commands import ablate
from training.networks.recipe import read_recipe
from training.studies.ablation import study as ablation_study
from training.studies.ablation.effects import Findings, Verdict, count_chance, find_effects, flip_p
from training.studies.ablation.page import page_text
from training.studies.ablation.patient import blend, measure_patient, predict_networks
from training.studies.ablation.questions import plan_study
from training.studies.ablation.report import write_report
from training.studies.ablation.rows import COLUMNS, Row, read_rows, write_rows
from training.studies.ablation.study import collect, find_keys, measure_patients
from training.studies.ablation.variants import Comparison, Study, Variant, network_of, variant_key
from whole_case import PET_GRIDS, REFINEMENT, SPOTS, Models, stand_in_models, write_case, write_manifest

RECIPES = Path(__file__).resolve().parent.parent / "training" / "recipes"
CPU = torch.device("cpu")
PUBLISHED = replace(REFINEMENT, intercept=-5.4)
GIVEN = OrganSource.GIVEN
# What a member says: factors of the spots' P(ttb) and P(normal).
SAYS = {"sure": (1.0, 1.0), "half": (0.5, 1.0), "blind": (0.0, 0.0)}


class HandMade:
    """In the place of `segmentation.ensemble`: spots' probabilities by the members' names; it counts its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[int, ...]]] = []
        self.is_stopped_after = math.inf

    def __call__(self, scan, *, members: Sequence[Member], **_options: object) -> SimpleNamespace:
        return SimpleNamespace(
            inputs=lambda: iter(()), predict=lambda _inputs, background: self._predict(scan.grid, members)
        )

    def _predict(self, grid: Grid, members: Sequence[Member]) -> np.ndarray:
        if len(self.calls) >= self.is_stopped_after:
            raise KeyboardInterrupt
        (member,) = members
        tracer = next(tracer for tracer in Tracer if PET_GRIDS[tracer].shape_zyx == grid.shape_zyx)
        self.calls.append((f"{tracer} {member.name}", member.folds))
        ttb, normal = SAYS[member.name]
        probabilities = np.zeros((3, *grid.shape_zyx), dtype=np.float32)
        for spot in SPOTS[tracer]:
            z, y, x = spot.centre_zyx
            probabilities[1, z, y, x] = ttb * spot.ttb
            probabilities[2, z, y, x + 1] = normal * spot.normal
        probabilities[0] = 1.0 - probabilities.sum(axis=0)
        return probabilities


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page has hundreds of intervals; here they only have to be on the right side of 0."""
    monkeypatch.setattr(statistics, "RESAMPLES", 499)


@pytest.fixture
def hand_made(monkeypatch: pytest.MonkeyPatch) -> HandMade:
    stand_in = HandMade()
    monkeypatch.setattr(inference, "ScanEnsemble", stand_in)
    return stand_in


def models_of(folder: Path, *names: str) -> Models:
    """Stand-in members of each tracer, each with files and an encoding of its own."""
    models = stand_in_models(folder)
    for tracer, (member,) in models.members.items():
        models.members[tracer] = tuple(
            replace(
                member,
                name=name,
                weight=weight,
                organ_encoding=encoding,
                sha256=member.sha256 | {"weights": sha256(name.encode()).hexdigest()},
            )
            for name, encoding, weight in zip(names, OrganEncoding, (8.0, 1.0, 1.0), strict=False)
        )
    return models


def study_of(
    folder: Path,
    *names: str,
    encodings: Manifest | None = None,
    fitted: Refinement | None = None,
    has_true_organs: bool = False,
) -> Study:
    """A study of a manifest of whole_case.py; its members are one that is sure when none are named."""
    manifest = read_manifest(write_manifest(models_of(folder, *(names or ("sure",)))))
    return plan_study(
        manifest, encodings=encodings, published=PUBLISHED, fitted=fitted, has_true_organs=has_true_organs
    )


def write_patient(folder: Path) -> Path:
    """The patient of whole_case.py, whose truth is the first spot of each scan."""
    write_case(folder)
    for tracer in Tracer:
        mask = np.zeros(PET_GRIDS[tracer].shape_zyx, dtype=np.uint8)
        mask[SPOTS[tracer][0].box((2, 1, 1))] = 1
        sitk.WriteImage(to_image(mask, PET_GRIDS[tracer]), folder / SCAN_FOLDERS[tracer] / "TTB.nii.gz")
    return folder


def named(study: Study, name: str, tracer: Tracer) -> Variant:
    (variant,) = (one for one in study.variants if (one.name, one.tracer) == (name, tracer))
    return variant


@pytest.fixture
def outlined(tmp_path: Path, hand_made: HandMade) -> Callable[[str, Tracer], np.ndarray]:
    """A variant's mask before refinement, of a manifest whose one member is sure."""
    study = study_of(tmp_path / "models")
    case = read_case(write_case(tmp_path / "train_0001"))
    scans = {
        tracer: predict_networks(
            case.scan(tracer),
            networks=[network for variant in study.variants for network, _ in variant.parts],
            manifest=study.manifest,
            source=GIVEN,
            has_true_organs=False,
            device=CPU,
        )
        for tracer in Tracer
    }
    return lambda name, tracer: scans[tracer].outline(named(study, name, tracer)).ttb


def test_nothing_grows_with_a_radius_of_0(outlined: Callable[[str, Tracer], np.ndarray]) -> None:
    # P(ttb) > 0.45 and SUV >= 3: the second spot is below the threshold, the fifth has 0.3.
    centres = {spot.centre_zyx for number, spot in enumerate(SPOTS[Tracer.PSMA]) if number not in (1, 4)}
    assert set(map(tuple, np.argwhere(outlined("regrow 0 mm", Tracer.PSMA)).tolist())) == centres


def test_a_larger_radius_grows_further(outlined: Callable[[str, Tracer], np.ndarray]) -> None:
    masks = [outlined(name, Tracer.PSMA) for name in ("regrow 0 mm", "regrow 5 mm", "reference", "regrow 10 mm")]
    volumes = [int(mask.sum()) for mask in masks]
    assert volumes == sorted(set(volumes))
    assert all((small <= large).all() for small, large in pairwise(masks))


@pytest.mark.parametrize(("tracer", "organ"), [(Tracer.PSMA, "liver"), (Tracer.FDG, "spleen")])
def test_only_without_protection_is_grown_into_an_organ(
    outlined: Callable[[str, Tracer], np.ndarray], tracer: Tracer, organ: str
) -> None:
    radius = {Tracer.PSMA: 7, Tracer.FDG: 4}[tracer]
    (spot,) = (one for one in SPOTS[tracer] if one.anatomy == organ)
    box = spot.box((2, 1, 1))
    assert outlined("reference", tracer)[box].sum() == 1
    assert outlined(f"regrow {radius} mm, into every organ", tracer)[box].sum() > 1


def test_limits_decide_what_is_disease_and_what_is_normal(outlined: Callable[[str, Tracer], np.ndarray]) -> None:
    faint, normal = SPOTS[Tracer.PSMA][4], SPOTS[Tracer.PSMA][5]  # P(ttb) 0.3, and P(normal) 0.7 beside the centre
    z, y, x = normal.centre_zyx
    found = {
        name: (bool(mask[faint.centre_zyx]), bool(mask[z, y, x + 1]))
        for name in ("reference", "ttb 0.25, normal 0.5", "ttb 0.25, normal 0.75", "ttb 0.5, normal 0.75")
        for mask in (outlined(name, Tracer.PSMA),)
    }
    assert found == {
        "reference": (False, False),  # 0.45 and 0.65
        "ttb 0.25, normal 0.5": (True, False),
        "ttb 0.25, normal 0.75": (True, True),
        "ttb 0.5, normal 0.75": (False, True),
    }


def test_refinement_variants_drop_what_they_say(tmp_path: Path, hand_made: HandMade) -> None:
    study = study_of(tmp_path / "models", fitted=replace(REFINEMENT, intercept=9.0))
    rows = measure_patient(
        write_patient(tmp_path / "train_0001"), study=study, variants=study.variants, source=GIVEN, device=CPU
    )
    lesions = {row.name: row.metrics.predicted_lesions for row in rows if row.tracer is Tracer.FDG}
    # All eight spots are lesions. p = expit(2 psma + 0.1 SUVmax - 1.5) keeps SUV 16.9 and 30 by themselves, and 5 and
    # 2.7 with PSMA disease in the same anatomy, which L3, liver and spleen have; a rule keeps what is outside anatomy.
    assert lesions["refinement off"] == lesions["fitted refinement"] == 8
    assert lesions["reference"] == lesions["no rule for large lesions"] == 8 - 1  # the hip of 5 SUV
    assert lesions["no rule for lesions outside anatomy"] == lesions["neither rule"] == 8 - 2
    assert lesions["PSMA always shows disease"] == 8
    assert lesions["PSMA never shows disease"] == 8 - 1 - 2  # and L3 of 5 and of 2.7 SUV
    assert lesions["SUVmax not counted"] == 8 - 2  # both hips
    assert "volume not counted" not in lesions  # its coefficient is 0 as it is


def test_an_ensemble_is_the_weighted_mean_of_its_members(tmp_path: Path, hand_made: HandMade) -> None:
    study = study_of(tmp_path / "models", "sure", "half", "blind")
    case = read_case(write_case(tmp_path / "train_0001"))
    variants = [variant for variant in study.variants if variant.tracer is Tracer.PSMA]
    scan = predict_networks(
        case.psma,
        networks=[network for variant in variants for network, _ in variant.parts],
        manifest=study.manifest,
        source=GIVEN,
        has_true_organs=False,
        device=CPU,
    )
    assert hand_made.calls == [("psma sure", (0,)), ("psma half", (0,)), ("psma blind", (0,))]  # each once
    faint = SPOTS[Tracer.PSMA][0].centre_zyx  # P(ttb) 0.6; the limit is 0.45
    found = {variant.name: bool(scan.outline(variant).ttb[faint]) for variant in variants}
    assert found["reference"]  # 0.6 (8 + 0.5 + 0) / 10 = 0.51
    assert found["only sure"]
    assert not found["only half"]  # 0.3
    assert not found["only blind"]
    assert not found["without sure"]  # 0.6 (0.5 + 0) / 2 = 0.15
    assert found["without half"]  # 0.6 * 8 / 9 = 0.53
    assert found["without blind"]  # 0.6 * 8.5 / 9 = 0.57
    loose = replace(study.reference(Tracer.PSMA), settings=replace(study.manifest.psma, ttb_probability=0.511))
    assert not scan.outline(loose).ttb[faint]


def test_mean_of_cached_members_is_the_ensembles_own(tmp_path: Path) -> None:
    torch.set_num_threads(1)

    def member(name: str, architecture: Architecture, dataset_id: int, encoding: OrganEncoding) -> Member:
        options = {"architecture": architecture, "dataset_id": dataset_id, "folds": (0,), "encoding": encoding}
        return make_member(make_results(tmp_path / "results", **options), tmp_path / "models" / name, **options)

    members = (
        replace(member("plain", Architecture.PLAIN, 801, OrganEncoding.NONE), weight=2.0),
        replace(member("soft", Architecture.RESENC_M, 921, OrganEncoding.SOFT_DISTANCE), weight=0.7),
    )
    models = stand_in_models(tmp_path / "models")
    manifest = read_manifest(write_manifest(replace(models, members=dict.fromkeys(Tracer, members))))
    case = read_case(write_case(tmp_path / "train_0001"))
    whole = predict_scan(case.psma, organs=case.psma.organs, manifest=manifest, device=CPU)
    scan = predict_networks(
        case.psma,
        networks=[network_of(one) for one in manifest.psma.members],
        manifest=manifest,
        source=GIVEN,
        has_true_organs=False,
        device=CPU,
    )
    parts = [(scan.networks[network_of(one).key].probabilities, one.weight) for one in manifest.psma.members]
    # One rounding of float32 apart, as the weight may be multiplied earlier or later.
    np.testing.assert_allclose(blend(parts), whole.probabilities, rtol=0.0, atol=2e-7)
    assert abs(parts[0][0] - parts[1][0]).max() > 0.01  # the members differ, so the weights matter


def test_true_organs_replace_computed_ones(
    tmp_path: Path, hand_made: HandMade, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def all_spleen(cts: Mapping[str, sitk.Image], **_options: object) -> dict[str, sitk.Image]:
        asked.extend(cts)
        return {where: sitk.Cast(ct > -5000, sitk.sitkUInt8) * label_number("spleen") for where, ct in cts.items()}

    monkeypatch.setattr(organ_maps, "find_organ_maps", all_spleen)
    study = study_of(tmp_path / "models", "sure", "half", "blind", has_true_organs=True)
    patient = write_patient(tmp_path / "train_0001")
    rows = measure_patient(
        patient, study=study, variants=study.variants, source=OrganSource.TOTALSEGMENTATOR, device=CPU
    )
    assert asked == ["PSMA organs", "FDG organs"]  # once per scan
    # The networks that see organs predict twice, the one that does not once.
    assert sorted(hand_made.calls) == sorted(
        (f"{tracer} {name}", (0,)) for tracer in Tracer for name in ("sure", "half", "half", "blind", "blind")
    )
    volumes = {row.name: row.metrics.predicted_ml for row in rows if row.tracer is Tracer.FDG}
    # With spleen everywhere nothing is grown; the true spleen is one spot's.
    assert volumes["true organs"] == volumes["true organs after the networks"] > 2 * volumes["reference"]


def run_study(patients: Sequence[Path], study: Study, file: Path):
    return measure_patients(patients, study=study, source=GIVEN, device=CPU, processes=1, file=file)


def test_a_stopped_study_goes_on_where_it_was(tmp_path: Path, hand_made: HandMade) -> None:
    study = study_of(tmp_path / "models", "sure", "half")
    patients = [write_patient(tmp_path / f"train_000{number}") for number in range(3)]
    file = tmp_path / "rows.csv"
    hand_made.is_stopped_after = 4 + 2  # one patient and half of the next
    with pytest.raises(KeyboardInterrupt):
        run_study(patients, study, file)
    assert {row.case for row in read_rows(file)} == {"train_0000"}

    hand_made.is_stopped_after = math.inf
    hand_made.calls.clear()
    measured = run_study(patients, study, file)
    assert len(hand_made.calls) == 2 * 4
    assert measured.cases == ("train_0000", "train_0001", "train_0002")
    assert (measured.waiting, measured.refused) == ((), ())
    assert len(measured.rows) == len(read_rows(file)) == 3 * len(study.variants)
    hand_made.calls.clear()
    assert run_study(patients, study, file) == measured
    assert hand_made.calls == []


def test_only_what_is_new_is_measured(tmp_path: Path, hand_made: HandMade) -> None:
    patients = [write_patient(tmp_path / "train_0001")]
    file = tmp_path / "rows.csv"
    study = study_of(tmp_path / "models")
    before = run_study(patients, study, file)
    wider = study_of(tmp_path / "models", fitted=replace(REFINEMENT, intercept=9.0))
    keys, _ = find_keys(patients, study=wider, source=GIVEN)
    assert collect(keys, rows=before.rows).waiting == ("train_0001",)
    after = run_study(patients, wider, file)
    assert len(after.rows) == len(before.rows) + 1
    assert after.rows[-1].name != "reference"
    assert {row.key for row in before.rows} < {row.key for row in after.rows}


@pytest.mark.parametrize("change", ["truth", "threshold", "weights", "tile", "psma", "source"])
def test_what_was_measured_of_something_else_is_not_used(tmp_path: Path, hand_made: HandMade, change: str) -> None:
    patient = write_patient(tmp_path / "train_0001")
    study = study_of(tmp_path / "models")
    rows = run_study([patient], study, tmp_path / "rows.csv").rows
    source = GIVEN
    if change == "truth":
        (patient / "FDG" / "TTB.nii.gz").write_bytes((patient / "FDG" / "PET.nii.gz").read_bytes())
    elif change == "threshold":
        (patient / "PSMA" / "threshold.json").write_text('{"suv_threshold": 3.1}')
    elif change == "weights":
        study = study_of(tmp_path / "models", "half")
    elif change == "tile":
        study = replace(study, manifest=replace(study.manifest, tile_step=0.25))
    elif change == "psma":  # FDG is refined by it
        psma = replace(study.references[0], settings=replace(study.manifest.psma, ttb_probability=0.1))
        study = replace(study, references=(psma, study.references[1]))
    else:
        source = OrganSource.TOTALSEGMENTATOR
    keys, _ = find_keys([patient], study=study, source=source)
    assert not {row.key for row in rows} & set(keys[patient])


def test_a_refused_patient_is_named_and_the_others_go_on(tmp_path: Path, hand_made: HandMade) -> None:
    study = study_of(tmp_path / "models")
    patients = [write_patient(tmp_path / f"train_000{number}") for number in range(4)]
    (patients[0] / "PSMA" / "TTB.nii.gz").unlink()
    (patients[2] / "FDG" / "threshold.json").write_text('{"suv_threshold": -1.0}')
    measured = run_study(patients, study, tmp_path / "rows.csv")
    assert measured.cases == ("train_0001", "train_0003")
    assert measured.waiting == ()
    missing, negative = sorted(measured.refused)
    assert missing.startswith("train_0000: ")
    assert missing.endswith("PSMA/TTB.nii.gz: file is missing")
    assert re.fullmatch(r"train_0002: FDG/threshold.json: SUV threshold .* got -1\.0.*", negative)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate"), "OutOfMemoryError: CUDA out of memory."),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_patient_whom_memory_is_short_for_is_named_and_the_others_go_on(
    tmp_path: Path, hand_made: HandMade, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    def measure_small(patient: Path, **options: object) -> list[Row]:
        if patient.name == "train_0000":
            raise error
        return measure_patient(patient, **options)

    monkeypatch.setattr(ablation_study, "measure_patient", measure_small)
    study = study_of(tmp_path / "models")
    patients = [write_patient(tmp_path / f"train_000{number}") for number in range(2)]
    measured = run_study(patients, study, tmp_path / "rows.csv")
    assert measured.refused == (f"train_0000: {line}",)
    assert measured.cases == ("train_0001",)


def test_two_processes_measure_the_same(tmp_path: Path) -> None:
    # They get no stand-in for the networks: without weights each refuses, and the refusals come back by name.
    study = study_of(tmp_path / "models")
    patients = [write_patient(tmp_path / f"train_000{number}") for number in range(2)]
    measured = measure_patients(
        patients, study=study, source=GIVEN, device=CPU, processes=2, file=tmp_path / "rows.csv"
    )
    assert [line.split(":")[0] for line in sorted(measured.refused)] == ["train_0000", "train_0001"]
    assert all("member sure" in line for line in measured.refused)


# ---- what the page says

CASES = tuple(f"train_{number}" for number in range(2000, 2012))


def metrics(**values: object) -> Metrics:
    base = Metrics(
        dice=0.8, fp_volume_ml=1.0, fn_volume_ml=2.0, surface_dice=0.6, suv_mean_ratio=1.05, volume_ratio=0.9,
        truth_ml=20.0, predicted_ml=18.0, truth_suv_mean=6.0, predicted_suv_mean=6.3, true_lesions=5, found_lesions=4,
        predicted_lesions=6, false_lesions=2, notes=(),
    )  # fmt: skip
    return replace(base, **values)


def rows_of(study: Study, change: Callable[[Variant, int], dict[str, object]]) -> list[Row]:
    """Rows of twelve patients; `change` tells how a variant's metrics differ from all others'."""
    return [
        Row(case, variant.tracer, variant.name, variant.repeat, f"{case} {number}", metrics(**change(variant, place)))
        for place, case in enumerate(CASES)
        for number, variant in enumerate(study.variants)
    ]


def planted(variant: Variant, place: int) -> dict[str, object]:
    """PSMA without regrowing is worse in Dice and better in FP; 5 mm differs by noise; FDG without volume is better."""
    if (variant.tracer, variant.name) == (Tracer.PSMA, "regrow 0 mm"):
        return {"dice": 0.7 - 0.01 * (place % 3), "fp_volume_ml": 0.25, "volume_ratio": 1.1}
    if (variant.tracer, variant.name) == (Tracer.PSMA, "regrow 5 mm"):
        return {"dice": 0.8 + (0.05 if place % 2 else -0.05)}
    if (variant.tracer, variant.name) == (Tracer.FDG, "refinement off"):
        return {"predicted_lesions": 10, "false_lesions": 5, "fp_volume_ml": 3.0}
    return {}


def page_of(study: Study, rows: Sequence[Row], **changes: object) -> str:
    findings = Findings(rows)
    measured = collect({}, rows=())
    measured = replace(measured, rows=tuple(rows), cases=CASES, **changes)
    return page_text(
        measured,
        study=study,
        findings=findings,
        effects=find_effects(findings, study=study),
        setup="The reference is `tiny.toml` as it is.",
        command="python -m training ablate",
        figures=["page/psma.png"],
    )


def test_a_planted_difference_is_found_with_its_size_and_direction(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    findings = Findings(rows_of(study, planted))
    effects = dict(zip(METRICS, findings.effects(Comparison(Tracer.PSMA, "regrow 0 mm", "reference")), strict=True))
    assert effects["dice"].difference.value == pytest.approx((0.7 - 0.01) - 0.8)
    assert effects["fp_volume_ml"].difference.value == pytest.approx(0.25 - 1.0)
    # Off 1 by 0.1 either way.
    assert effects["volume_ratio"].difference.value == pytest.approx(0.0, abs=1e-9)
    assert {name: effect.verdict for name, effect in effects.items()} == {
        "dice": Verdict.WORSE,
        "fp_volume_ml": Verdict.BETTER,
        "fn_volume_ml": Verdict.SAME,
        "surface_dice": Verdict.SAME,
        "suv_mean_ratio": Verdict.SAME,
        "volume_ratio": Verdict.SAME,
    }


def test_the_page_says_what_was_planted_and_nothing_else(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    text = page_of(study, rows_of(study, planted), refused=("train_9: PSMA/CT.nii.gz: file is missing",))
    lines = text.splitlines()
    assert (
        "**12 patients** (train_2000 to train_2011). None may have been trained on, which this command cannot check."
        in text
    )
    assert "Left out: 1." in lines
    assert "- train_9: PSMA/CT.nii.gz: file is missing" in lines
    (row,) = (line for line in lines if line.startswith("| regrow 0 mm") and "better" in line)
    cells = row.split(" | ")
    interval, difference = cells[1].split("<br>")
    assert re.fullmatch(r"0\.690 \[0\.68\d, 0\.69\d\]", interval)
    assert re.fullmatch(r"-0\.1100 \[-0\.11\d\d, -0\.10\d\d\] \*\*worse\*\*", difference)
    assert cells[2] == "0.25 [0.25, 0.25]<br>-0.750 [-0.750, -0.750] **better**"
    assert cells[3] == "2.00 [2.00, 2.00]<br>0 in every patient"
    (row,) = (line for line in lines if line.startswith("| regrow 5 mm") and "+0" in line)
    assert "better" not in row
    assert "worse" not in row
    (found,) = (line for line in lines if line.startswith("PSMA: *regrow 0 mm*"))
    assert found.startswith(
        "PSMA: *regrow 0 mm* is better in FP volume (-0.750 mL [-0.750, -0.750]) and worse in Dice ("
    )
    assert "No difference shown in any metric: *regrow 5 mm*" in found
    # The three that could be marked beside the noise: the two planted of PSMA, and FP volume without refinement.
    assert "4 differences could be marked" in text
    assert "and 3 are." in text
    assert "up to 5 % of those that could be, about 0, would be marked by chance" in text


def test_claims_and_lesions_are_held_against_what_was_found(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    text = page_of(study, rows_of(study, planted))
    assert re.search(
        r"0\.867 to 0\.933.* Here: PSMA regrow 0 mm minus reference Dice \(-0\.1100 .*, as claimed\.", text
    )
    upside_down = rows_of(study, lambda variant, place: {"dice": 0.9} if variant.name == "regrow 0 mm" else {})
    assert "**the opposite of the claim**" in page_of(study, upside_down)
    # 10 lesions, 5 of them false; 6 and 2 after refinement: 4 of 5 kept, 3 of 5 dropped, in 12 patients.
    assert "Of the 60 FDG lesions that touch the truth and 60 that do not" in text
    assert "| reference | 80 % [80, 80] | 60 % [60, 60] |" in text
    assert "keeps 80 % [80, 80] (less than claimed) and drops 60 % [60, 60] (less than claimed)." in text


def test_two_patients_are_too_few_to_call_anything(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    rows = [row for row in rows_of(study, planted) if row.case in CASES[:2]]
    effects = find_effects(Findings(rows), study=study)
    assert {effect.verdict for found in effects.values() for effect in found} == {Verdict.FEW}
    assert count_chance(effects).possible == 0
    assert "**better**" not in page_of(study, rows)
    assert "Too few patients (2) to call a difference: *regrow 0 mm*" in page_of(study, rows)


@pytest.mark.parametrize(
    ("changed", "verdict"), [(0, Verdict.SAME), (5, Verdict.RARE), (6, Verdict.BETTER), (12, Verdict.BETTER)]
)
def test_a_difference_in_a_few_patients_is_not_called(tmp_path: Path, changed: int, verdict: Verdict) -> None:
    study = study_of(tmp_path)

    def few(variant: Variant, place: int) -> dict[str, object]:
        return {"dice": 0.9} if variant.name == "regrow 0 mm" and place < changed else {}

    effects = find_effects(Findings(rows_of(study, few)), study=study)
    effect = effects[Comparison(Tracer.PSMA, "regrow 0 mm", "reference")][0]
    assert effect.verdict is verdict
    # The interval alone would call the difference in five patients, of which a chance of 2 in 2^5 makes as much.
    assert changed != 5 or effect.difference.low > 0.0
    chance = count_chance(effects)  # in both tracers
    assert (chance.possible, chance.marked) == ((2, 2) if changed > 5 else (0, 0))


def test_an_interval_that_no_permutation_bears_out_is_open(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    # Six differences, one the other way: 7 of 64 ways of signs have as high a mean, but the interval is above 0.
    gains = (0.07, 0.06, 0.06, 0.05, 0.05, -0.03)

    def uneven(variant: Variant, place: int) -> dict[str, object]:
        is_changed = variant.name == "regrow 0 mm" and place < len(gains)
        return {"dice": 0.8 + gains[place]} if is_changed else {}

    effects = find_effects(Findings(rows_of(study, uneven)), study=study)
    effect = effects[Comparison(Tracer.PSMA, "regrow 0 mm", "reference")][0]
    assert effect.difference.low > 0.0
    assert effect.verdict is Verdict.OPEN


@pytest.mark.parametrize("count", [6, 9, 30])
def test_flips_find_the_p_of_all_flips(count: int) -> None:
    differences = np.random.default_rng(count).normal(0.5, 1.0, size=count)
    expected = stats.permutation_test(
        (differences,), lambda values, axis: values.mean(axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=99999, rng=np.random.default_rng(0),
    ).pvalue  # fmt: skip
    assert flip_p(differences.tolist()) == pytest.approx(expected, abs=0.015)
    assert flip_p((-differences).tolist()) == flip_p(differences.tolist())


def test_an_undefined_metric_is_left_out_of_the_pairs_it_is_missing_in(tmp_path: Path) -> None:
    study = study_of(tmp_path)

    def undefined(variant: Variant, place: int) -> dict[str, object]:
        return {"dice": None, "notes": (NO_DISEASE,)} if place == 0 and variant.name == "reference" else {}

    (effect, *_) = Findings(rows_of(study, undefined)).effects(Comparison(Tracer.FDG, "regrow 0 mm", "reference"))
    assert effect.difference.count == len(CASES) - 1


def test_folds_count_once_and_are_shown_singly(tmp_path: Path) -> None:
    models = models_of(tmp_path / "single", "sure", "half", "blind")
    models.members[Tracer.PSMA] = tuple(replace(one, folds=(0, 3)) for one in models.members[Tracer.PSMA])
    for member in models.members[Tracer.PSMA]:
        (member.folder / "fold_3").mkdir(exist_ok=True)
    study = study_of(tmp_path / "models", encodings=read_manifest(write_manifest(models)))

    def by_fold(variant: Variant, place: int) -> dict[str, object]:
        if variant.tracer is Tracer.PSMA and variant.name == "organs as masks":
            return {"dice": {"fold 0": 0.9, "fold 3": 0.86}[variant.repeat]}
        return {}

    rows = rows_of(study, by_fold)
    comparison = Comparison(Tracer.PSMA, "organs as masks", "no organs")
    effect = Findings(rows).effects(comparison)[0]
    assert effect.difference.value == pytest.approx((0.9 + 0.86) / 2 - 0.8)
    assert effect.difference.count == len(CASES)
    text = page_of(study, rows)
    assert "| organs as masks, fold 0 | 0.900 |" in text
    assert "| organs as masks, fold 3 | 0.860 |" in text
    assert "> The paper: organ information helps" in text
    assert "PSMA organs as masks minus no organs Dice (+0.0800 [+0.0800, +0.0800]), as claimed" in text
    assert re.search(r"\| organs as soft distance minus organs as masks \| -0\.0800 ", text)


def test_other_architectures_and_single_trainings_are_owned_up_to(tmp_path: Path) -> None:
    models = models_of(tmp_path / "single", "sure", "half", "blind")
    alike = study_of(tmp_path / "models", encodings=read_manifest(write_manifest(models))).questions[0]
    assert "same architecture (`plain`)" in alike.text
    assert "not known to be trained alike" in alike.text  # the stand-ins' model.json says nothing
    assert "One training each" in alike.text
    first, *others = models.members[Tracer.FDG]
    models.members[Tracer.FDG] = (replace(first, architecture=Architecture.RESENC_M), *others)
    mixed = study_of(tmp_path / "models", encodings=read_manifest(write_manifest(models))).questions[0]
    assert "architectures differ (`plain`, `resenc_m`)" in mixed.text


def write_trainings(models: Models, change: Callable[[str, dict[str, object]], None]) -> Manifest:
    """Make every member's model.json one that says how it was trained, but for what is changed of each."""
    for tracer, members in models.members.items():
        written = []
        for member in members:
            provenance = {"trainer": "ShortTrainer", "folds": {"0": {"epochs": 16, "iterations_per_epoch": 50}}}
            change(f"{tracer} {member.name}", provenance)
            folder = member.folder.with_name(f"{tracer}_{member.name}")
            folder.mkdir()
            (folder / "model.json").write_text(json.dumps({"provenance": provenance}), encoding="utf-8")
            written.append(replace(member, folder=folder))
        models.members[tracer] = tuple(written)
    return replace(
        read_manifest(write_manifest(models)),
        **{
            tracer.value: replace(read_manifest(write_manifest(models)).tracer(tracer), members=models.members[tracer])
            for tracer in Tracer
        },
    )


@pytest.mark.parametrize(
    ("change", "is_alike"),
    [
        ({}, True),
        ({"trainer": "OtherTrainer"}, False),
        ({"folds": {"0": {"epochs": 17, "iterations_per_epoch": 50}}}, False),
        ({"folds": {"0": {"epochs": 16, "iterations_per_epoch": 25}}}, False),
        ({"folds": {"0": {"epochs": 16}}}, False),
        ({"folds": {}}, False),
    ],
)
def test_trained_alike_is_said_only_of_what_was(tmp_path: Path, change: dict[str, object], is_alike: bool) -> None:
    def change_one(name: str, provenance: dict[str, object]) -> None:
        if name == "fdg half":
            provenance |= change

    models = models_of(tmp_path / "single", "sure", "half", "blind")
    text = study_of(tmp_path / "models", encodings=write_trainings(models, change_one)).questions[0].text
    assert ("were trained alike" in text) == is_alike
    assert ("not known to be trained alike" in text) != is_alike


def test_encodings_must_be_one_network_of_each(tmp_path: Path) -> None:
    models = models_of(tmp_path / "single", "sure", "half", "blind")
    twice = models.members[Tracer.FDG]
    models.members[Tracer.FDG] = (*twice, replace(twice[1], name="again"))
    with pytest.raises(CaseError, match="tiny.toml FDG: members must have different organ encodings"):
        study_of(tmp_path / "models", encodings=read_manifest(write_manifest(models)))
    models.members[Tracer.FDG] = twice[1:]
    with pytest.raises(CaseError, match="tiny.toml FDG: members must be one without organs and one or more with"):
        study_of(tmp_path / "models", encodings=read_manifest(write_manifest(models)))


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    undefined = metrics(dice=None, suv_mean_ratio=None, predicted_suv_mean=None, notes=("one", "two"))
    rows = [
        Row("train_0001", Tracer.PSMA, "regrow 7 mm, into every organ", "", "0f", metrics(dice=1 / 3)),
        Row("train_0002", Tracer.FDG, "no organs", "fold 2", "f0", undefined),
    ]
    write_rows(rows, tmp_path / "rows.csv")
    assert read_rows(tmp_path / "rows.csv") == rows
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]
    assert read_rows(tmp_path / "none.csv") == []


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("case,dice\ntrain_1,0.5\n", "rows.csv: must be a table of the ablation, got other columns"),
        (",".join(COLUMNS) + "\ntrain_1,ct\n", "line 2: must be a line of the ablation's table"),
    ],
)
def test_another_table_is_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(CaseError, match=match):
        read_rows(tmp_path / "rows.csv")


def test_variants_have_different_names_and_keys(tmp_path: Path) -> None:
    encodings = read_manifest(write_manifest(models_of(tmp_path / "single", "sure", "half", "blind")))
    study = study_of(
        tmp_path / "models", "sure", "half", "blind", encodings=encodings, fitted=REFINEMENT, has_true_organs=True
    )
    names = {(variant.tracer, variant.name, variant.repeat) for variant in study.variants}
    keys = {variant_key(one, study=study, organ_source="given", patient="") for one in study.variants}
    assert len(names) == len(keys) == len(study.variants)
    known = {(variant.tracer, variant.name) for variant in study.variants}
    for question in study.questions:
        for one in question.comparisons:
            assert {(one.tracer, one.name), (one.tracer, one.reference)} <= known


def test_recipe_has_the_demo_ensembles_plain_networks() -> None:
    demo = {network.dataset: network for network in read_recipe(RECIPES / "demo.toml")}
    networks = read_recipe(RECIPES / "ablation.toml")
    assert [network.dataset for network in networks] == [801, 802, 901, 902, 921, 922]
    for network in networks:
        plain = demo[801 if network.dataset % 10 == 1 else 802]
        assert plain.architecture is Architecture.PLAIN
        same = replace(network, name=plain.name, dataset=plain.dataset, folds=plain.folds)
        assert same == plain


def options_of(folder: Path, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    ablate.add_arguments(parser)
    places = ["--patients", "patients", "--manifest", "models/tiny.toml", "--output", "page.md", "--csv", "rows.csv"]
    options = [word if word.startswith("--") else str(folder / word) for word in places]
    return parser.parse_args([*options, "--organs", "given", *words])


@pytest.fixture
def workplace(tmp_path: Path, hand_made: HandMade, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two patients and a manifest."""
    write_manifest(stand_in_models(tmp_path / "models"))
    monkeypatch.setitem(SAYS, "psma_member", SAYS["sure"])
    monkeypatch.setitem(SAYS, "fdg_member", SAYS["sure"])
    for number in range(2):
        write_patient(tmp_path / "patients" / f"train_200{number}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_command_writes_table_page_and_figures(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate.run(options_of(workplace)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 of 2 patients measured, 0 left out"
    page = (workplace / "page.md").read_text(encoding="utf-8")
    assert (
        "python -m training ablate --patients patients --manifest models/tiny.toml --organs given --output page.md "
        "--csv rows.csv\n" in page
    )
    assert str(workplace) not in page
    for tracer in Tracer:
        assert f"(page/{tracer}.png)" in page
        figure = sitk.ReadImage(str(workplace / "page" / f"{tracer}.png"))
        assert min(figure.GetSize()) > 300
    assert not list(workplace.rglob(".partial.*"))


def test_command_asks_before_it_overwrites_and_only_then(workplace: Path, hand_made: HandMade) -> None:
    (workplace / "page.md").write_text("mine")
    with pytest.raises(CaseError, match="page.md: must not exist yet without --overwrite"):
        ablate.run(options_of(workplace))
    assert hand_made.calls == []
    assert (workplace / "page.md").read_text() == "mine"
    assert ablate.run(options_of(workplace, "--overwrite")) == 0
    assert (workplace / "page.md").read_text().startswith("# What each part")


def test_command_makes_the_page_of_what_is_there(
    workplace: Path, hand_made: HandMade, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CaseError, match="rows.csv: must hold every variant of one patient or more, got 0 of 2"):
        ablate.run(options_of(workplace, "--page-only"))
    hand_made.is_stopped_after = 3
    with pytest.raises(KeyboardInterrupt):
        ablate.run(options_of(workplace))
    assert ablate.run(options_of(workplace, "--page-only")) == 0
    page = (workplace / "page.md").read_text(encoding="utf-8")
    assert "**1 patient** (train_2000)" in page
    assert "Not measured yet: 1 (train_2001)." in page
    assert len(hand_made.calls) == 3


def test_command_names_who_is_left_out(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "patients" / "train_2001" / "FDG" / "CT.nii.gz").unlink()
    assert ablate.run(options_of(workplace)) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == "1 of 2 patients measured, 1 left out"
    assert captured.err.splitlines()[-1] == "train_2001: FDG/CT.nii.gz: file is missing"
    assert "- train_2001: FDG/CT.nii.gz: file is missing" in (workplace / "page.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--true-organs",), "--true-organs: must come with organs that are computed"),
        (("--refined", "models/off.toml"), "off.toml: manifest must have a refinement, got none"),
        (("--csv", "nowhere/rows.csv"), "--csv: folder must exist"),
    ],
)
def test_command_refuses_what_makes_no_sense(workplace: Path, words: tuple[str, ...], match: str) -> None:
    models = stand_in_models(workplace / "models")
    write_manifest(models, name="off", refinement=None)
    with pytest.raises(CaseError, match=match):
        ablate.run(options_of(workplace, *words))


def test_report_is_written_beside_the_page(tmp_path: Path) -> None:
    study = study_of(tmp_path / "models")
    rows = rows_of(study, planted)
    measured = replace(collect({}, rows=()), rows=tuple(rows), cases=CASES)
    written = write_report(measured, study=study, setup="", command="", page=tmp_path / "docs.md")
    assert written == [tmp_path / "docs.md", tmp_path / "docs" / "psma.png", tmp_path / "docs" / "fdg.png"]
    assert "![Paired differences to the reference](docs/psma.png)" in written[0].read_text(encoding="utf-8")
