"""The classifier of FDG lesions: fitted, judged on patients held out, and written into a manifest."""

import csv
import json
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from petct.case import Tracer
from petct.errors import CaseError
from petct.manifest import Refinement, read_manifest
from postprocessing.lesions import Lesion
from postprocessing.refine import probability_of
from training.__main__ import main
from training.studies.out_of_fold.lesions import JudgedLesion, read_lesions, write_lesions
from training.studies.out_of_fold.record import CaseRecord, read_record, rules_of, write_record
from training.studies.refinement import fit as refinement_fit
from training.studies.refinement import scores as refinement_scores
from training.studies.refinement.calibration import slope
from training.studies.refinement.fit import FEATURES, check_enough, cross_fit, fit, held_out_probabilities
from training.studies.refinement.scores import dropped, score, without_rules
from whole_case import stand_in_models, write_manifest

TRUE = Refinement(
    psma_present=2.5,
    log_volume=0.9,
    suv_max=0.4,
    intercept=-4.0,
    keep_probability=0.5,
    keep_above_ml=7.0,
    keep_unlabelled=True,
)


def lesion(case: str, number: int, *, present: bool, ml: float, suv: float, true_ml: float, labels: Any = (25,)):
    measured = Lesion(
        number=number,
        voxels=max(1, round(ml / 0.035)),
        volume_ml=ml,
        suv_max=suv,
        suv_mean=0.6 * suv,
        labels=frozenset(labels),
        centre_zyx=(1.5, 2.25, 3.0),
    )
    return JudgedLesion(case=case, fold=0, lesion=measured, psma_present=present, overlap_ml=true_ml)


def drawn_lesions(*, patients: int, most: int = 16, seed: int = 11) -> list[JudgedLesion]:
    """Lesions that are disease with the probability that TRUE gives them."""
    random = np.random.default_rng(seed)
    found = []
    for patient in range(patients):
        for number in range(1, int(random.integers(3, most + 1))):
            ml, suv = float(random.lognormal(0.5, 1.0)), float(2.4 + random.exponential(3.0))
            one = lesion(f"train_{patient:04d}", number, present=random.random() < 0.5, ml=ml, suv=suv, true_ml=0.0)
            is_disease = random.random() < probability_of(one.features, refinement=TRUE)
            found.append(replace(one, overlap_ml=0.8 * ml * is_disease))
    return found


def write_oof(folder: Path, lesions: Sequence[JudgedLesion], *, manifest: Path) -> Path:
    rules = {tracer.value: rules_of(read_manifest(manifest).tracer(tracer)) for tracer in Tracer}
    for case in sorted({one.case for one in lesions}):
        (folder / case).mkdir(parents=True)
        write_lesions(folder / case / "lesions.csv", [one for one in lesions if one.case == case])
        members = {tracer.value: ["plain"] for tracer in Tracer}
        record = CaseRecord(case=case, fold=0, members=members, rules=rules, made_with="0" * 64)
        write_record(folder / case, record)
    return folder


@pytest.fixture(scope="module")
def many() -> list[JudgedLesion]:
    return drawn_lesions(patients=300)


def test_the_coefficients_behind_the_lesions_are_found(many: list[JudgedLesion]) -> None:
    found = fit(many, rules=TRUE, seed=1).refinement
    for name, tolerance in (("psma_present", 0.3), ("log_volume", 0.2), ("suv_max", 0.06), ("intercept", 0.4)):
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), abs=tolerance)
    assert replace(found, **{name: getattr(TRUE, name) for name in (*FEATURES, "intercept")}) == TRUE  # rules are kept


def test_each_patient_is_judged_by_a_fit_that_has_not_seen_him(
    many: list[JudgedLesion], monkeypatch: pytest.MonkeyPatch
) -> None:
    lesions = many[:400]
    seen = []
    real_fit = refinement_fit.fit

    def spy(train: Sequence[JudgedLesion], **options: Any) -> Any:
        seen.append({one.case for one in train})
        return real_fit(train, **options)

    monkeypatch.setattr(refinement_fit, "fit", spy)
    crossed = cross_fit(lesions, rules=TRUE, seed=1)
    assert len(crossed.fits) == len(seen) == 5
    held_out = [{one.case for one, k in zip(lesions, crossed.fold, strict=True) if k == fold} for fold in range(5)]
    everybody = {one.case for one in lesions}
    for fold in range(5):
        assert held_out[fold]
        assert seen[fold] == everybody - held_out[fold]
    p = held_out_probabilities(lesions, crossed=crossed)
    n = 7
    assert p[n] == probability_of(lesions[n].features, refinement=crossed.fits[crossed.fold[n]].refinement)
    assert len({tuple(vars(one.refinement).values()) for one in crossed.fits}) == 5


def test_the_strength_is_chosen_on_patients_held_out_too(
    many: list[JudgedLesion], monkeypatch: pytest.MonkeyPatch
) -> None:
    lesions = many[:400]
    searches = []

    real_search = refinement_fit.GridSearchCV

    def spy(*arguments: Any, **options: Any) -> Any:
        searches.append(options["cv"])
        return real_search(*arguments, **options)

    monkeypatch.setattr(refinement_fit, "GridSearchCV", spy)
    found = fit(lesions, rules=TRUE, seed=1)
    (folds,) = searches
    assert len(folds) == 4
    for train, test in folds:
        assert {lesions[n].case for n in train}.isdisjoint({lesions[n].case for n in test})
        assert len(train) + len(test) == len(lesions)
    assert found.strength in refinement_fit.STRENGTHS


def test_noise_is_regularised_away() -> None:
    random = np.random.default_rng(5)
    lesions = [replace(one, overlap_ml=float(random.random() < 0.5)) for one in drawn_lesions(patients=40)]
    found = fit(lesions, rules=TRUE, seed=1)
    assert found.strength < 0.1
    assert abs(found.refinement.psma_present) < 0.3


# p, psma_present and so on are chosen by hand; by p >= 0.5 alone 0, 1 and 4 are kept.
TABLE = (
    lesion("train_0001", 1, present=True, ml=2.0, suv=9.0, true_ml=1.5),
    lesion("train_0001", 2, present=False, ml=1.0, suv=8.0, true_ml=0.0),
    lesion("train_0001", 3, present=False, ml=3.0, suv=3.0, true_ml=2.5),  # lost
    lesion("train_0002", 1, present=False, ml=9.0, suv=3.0, true_ml=4.0),  # above 7 mL: kept by a rule only
    lesion("train_0002", 2, present=True, ml=0.5, suv=6.0, true_ml=0.5),
    lesion("train_0002", 3, present=False, ml=0.4, suv=3.0, true_ml=0.0),
    lesion("train_0003", 1, present=False, ml=0.7, suv=2.9, true_ml=0.2, labels=()),  # no anatomy: a rule only
    lesion("train_0003", 2, present=False, ml=0.3, suv=2.5, true_ml=0.0),
)
# SUVmax alone: p >= 0.5 from 5 SUV on.
BY_SUV = replace(TRUE, psma_present=0.0, log_volume=0.0, suv_max=1.0, intercept=-5.0)


def test_scores_by_hand() -> None:
    p = np.array([probability_of(one.features, refinement=BY_SUV) for one in TABLE])
    np.testing.assert_allclose(p, 1 / (1 + np.exp(5.0 - np.array([9.0, 8.0, 3.0, 3.0, 6.0, 3.0, 2.9, 2.5]))))
    scores = score(TABLE, p=p, refinement_of=lambda _: BY_SUV, seed=1)
    assert scores.sensitivity.value == pytest.approx(2 / 5)  # 9 and 6 of 9, 3, 3, 6, 2.9
    assert scores.specificity.value == pytest.approx(2 / 3)  # 3 and 2.5 of 8, 3, 2.5
    # Pairs of disease and not, in the order of SUVmax; a tie is half a pair.
    pairs = np.array([8.0, 3.0, 2.5]) < 9
    wins = pairs.sum() + 2 * (0 + 0.5 + 1) + (0 + 1 + 1) + (0 + 0 + 1)
    assert scores.roc_auc.value == pytest.approx(wins / 15)
    is_disease = np.array([1, 0, 1, 1, 1, 0, 1, 0])
    assert scores.brier.value == pytest.approx(((p - is_disease) ** 2).mean())
    assert scores.mean_p == pytest.approx(p.mean())
    assert scores.calibration_in_the_large.value == pytest.approx(p.mean() - 5 / 8)
    for interval in (
        scores.sensitivity, scores.specificity, scores.roc_auc, scores.brier, scores.calibration_in_the_large
    ):  # fmt: skip
        assert interval.count == 3
        assert interval.low <= interval.value <= interval.high


def test_dropped_volume_by_hand() -> None:
    by_p = dropped(TABLE, refinement_of=lambda _: without_rules(BY_SUV))
    assert (by_p.lesions, by_p.disease_lesions) == (5, 3)
    assert by_p.true_ml == pytest.approx(2.5 + 4.0 + 0.2)
    assert by_p.true_share.value == pytest.approx(6.7 / 8.7)
    # Patients have 2.5 of 4, 4 of 4.5 and all of 0.2 mL dropped; each may be drawn three times.
    assert (by_p.true_share.low, by_p.true_share.high) == (pytest.approx(2.5 / 4.0), 1.0)
    assert by_p.false_ml == pytest.approx((3.0 - 2.5) + (9.0 - 4.0) + 0.4 + (0.7 - 0.2) + 0.3)
    with_rules = dropped(TABLE, refinement_of=lambda _: BY_SUV)
    assert (with_rules.lesions, with_rules.disease_lesions) == (3, 1)
    assert with_rules.true_ml == pytest.approx(2.5)
    assert with_rules.false_ml == pytest.approx(0.5 + 0.4 + 0.3)
    # A lesion is judged by the refinement of its own fold.
    strict = replace(BY_SUV, intercept=-8.5)
    mixed = dropped(TABLE, refinement_of=lambda n: strict if n == 1 else BY_SUV)
    assert (mixed.lesions, mixed.false_ml) == (4, pytest.approx(0.5 + 1.0 + 0.4 + 0.3))


def test_psma_disease_counts_in_the_decision() -> None:
    by_psma = replace(without_rules(TRUE), psma_present=9.0, log_volume=0.0, suv_max=0.0, intercept=-4.0)
    assert dropped(TABLE, refinement_of=lambda _: by_psma).lesions == 6  # all but the two that PSMA supports


def test_the_calibration_slope_is_that_of_an_unregularised_fit(many: list[JudgedLesion]) -> None:
    p = np.array([probability_of(one.features, refinement=TRUE) for one in many])
    is_disease = np.array([one.is_disease for one in many])
    logit = np.log(p / (1.0 - p))
    fitted = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000).fit(logit[:, None], is_disease)
    assert slope(p, is_disease=is_disease) == pytest.approx(fitted.coef_[0, 0], rel=1e-4)
    assert slope(p, is_disease=is_disease) == pytest.approx(1.0, abs=0.15)
    too_sure = 1.0 / (1.0 + np.exp(-2.0 * logit - 0.7))
    assert slope(too_sure, is_disease=is_disease) == pytest.approx(0.5, abs=0.075)


def test_no_calibration_slope_where_none_fits_best() -> None:
    p = np.array([0.1, 0.3, 0.6, 1.0])
    assert np.isnan(slope(p, is_disease=np.array([False, False, True, True])))
    assert np.isnan(slope(p, is_disease=np.array([True, True, True, True])))
    assert np.isnan(slope(np.full(4, 0.4), is_disease=np.array([False, True, False, True])))
    assert np.isfinite(slope(p, is_disease=np.array([False, True, False, True])))


def test_patients_are_drawn_and_not_lesions() -> None:
    # Every patient is the same, so drawing patients again changes nothing; drawing lesions would.
    lesions = [
        lesion(f"train_{patient:04d}", number, present=False, ml=1.0, suv=suv, true_ml=true_ml)
        for patient in range(4)
        for number, (suv, true_ml) in enumerate([(9.0, 0.5), (3.0, 0.5), (8.0, 0.0), (2.5, 0.0)], start=1)
    ]
    p = np.array([probability_of(one.features, refinement=BY_SUV) for one in lesions])
    scores = score(lesions, p=p, refinement_of=lambda _: BY_SUV, seed=1)
    assert (scores.sensitivity.low, scores.sensitivity.value, scores.sensitivity.high) == (0.5, 0.5, 0.5)
    assert scores.roc_auc.low == scores.roc_auc.high == scores.roc_auc.value == 0.75
    steepness = scores.calibration_slope
    assert steepness.low == pytest.approx(steepness.value) == pytest.approx(steepness.high)


@pytest.mark.parametrize(
    ("keep", "counts"),
    [
        (lambda one: one.is_disease, "0 lesions that are no disease in 0 patients"),
        (lambda one: not one.is_disease, "0 lesions that are disease in 0 patients"),
        (lambda one: False, "0 lesions that are disease in 0 patients, 0 lesions that are no disease in 0 patients"),
        (lambda one: not one.is_disease or one.case < "train_0004", "in 4 patients"),
    ],
)
def test_too_few_lesions_are_refused_with_their_counts(many: list[JudgedLesion], keep: Any, counts: str) -> None:
    rule = "there must be FDG lesions that are disease and such that are not, each in at least 5 patients, got .*"
    with pytest.raises(CaseError, match=f"out-of-fold lesions: {rule}{counts}"):
        check_enough([one for one in many if keep(one)])


def test_few_lesions_are_said(caplog: pytest.LogCaptureFixture, many: list[JudgedLesion]) -> None:
    check_enough(many)
    assert not caplog.records
    check_enough(drawn_lesions(patients=8, most=6))
    (record,) = caplog.records
    assert "30 of each kind are the rule of thumb" in record.getMessage()


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_manifest(stand_in_models(tmp_path / "models"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refinement_scores, "RESAMPLES", 50)


def fit_command(oof: Path, manifest: Path, output: Path, *more: str) -> int:
    return main(["fit-refinement", "--oof", str(oof), "--manifest", str(manifest), "--output", str(output), *more])


@pytest.mark.usefixtures("quick")
def test_the_command_writes_a_manifest_that_says_where_it_comes_from(
    tmp_path: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lesions = drawn_lesions(patients=30)
    oof = write_oof(tmp_path / "oof", lesions, manifest=manifest)
    output, plot, table = manifest.with_name("refit.toml"), tmp_path / "fit.png", tmp_path / "fit.csv"
    assert fit_command(oof, manifest, output, "--plot", str(plot), "--csv", str(table)) == 0
    old, new = read_manifest(manifest), read_manifest(output)
    record = json.loads(output.with_name("refit.refinement.json").read_text(encoding="utf-8"))
    assert new.fdg.refinement is not None
    assert record["refinement"] == tomllib.loads(output.read_text(encoding="utf-8"))["fdg"]["refinement"]
    assert new.fdg.refinement.psma_present != old.fdg.refinement.psma_present
    assert new.fdg.refinement.keep_above_ml == old.fdg.refinement.keep_above_ml
    unchanged = replace(new, path=old.path, name=old.name, fdg=replace(new.fdg, refinement=old.fdg.refinement))
    assert unchanged == old
    disease = sum(one.is_disease for one in lesions)
    assert record["counts"]["patients"] == 30
    assert (record["counts"]["lesions"], record["counts"]["disease_lesions"]) == (len(lesions), disease)
    assert record["counts"]["true_ml"] == pytest.approx(sum(one.overlap_ml for one in lesions))
    assert len(record["held_out_fits"]) == 5
    head = output.read_text(encoding="utf-8").split("\n\n")[0]
    assert all(line.startswith("# ") for line in head.splitlines())
    assert f"{len(lesions)} out-of-fold FDG lesions of 30 patients" in head
    assert record["lesions_sha256"] in head
    out = capsys.readouterr().out
    assert f"{len(lesions)} FDG lesions in 30 patients, {disease} of them disease" in out
    large, steepness = (record["held_out_scores"][f"calibration_{name}"] for name in ("in_the_large", "slope"))
    assert f"| {large['value']:+.3f} ({large['low']:+.3f} to {large['high']:+.3f}) |" in out
    assert f"| {steepness['value']:.3f} ({steepness['low']:.3f}-{steepness['high']:.3f}) |" in out
    share = record["held_out_scores"]["dropped_by_p"]["true_share"]
    assert f"mL true, {share['value']:.1%} ({share['low']:.1%}-{share['high']:.1%}) of all that is true" in out
    assert "| 96% |" in out
    assert "| 99% |" in out
    assert plot.read_bytes().startswith(b"\x89PNG")
    with table.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["case"], row["lesion"]) for row in rows] == [(one.case, str(one.lesion.number)) for one in lesions]
    assert len({(row["case"], row["held_out_fold"]) for row in rows}) == 30  # one fold per patient
    paper = 1 / (1 + np.exp(-(3.3451 * lesions[0].psma_present + 0.6980 * lesions[0].features.log_volume
                              + 0.8363 * lesions[0].lesion.suv_max - 5.4058)))  # fmt: skip
    assert float(rows[0]["published_p"]) == pytest.approx(paper, abs=1e-6)


@pytest.mark.usefixtures("quick")
def test_the_same_lesions_give_the_same_files(tmp_path: Path, manifest: Path) -> None:
    oof = write_oof(tmp_path / "oof", drawn_lesions(patients=12), manifest=manifest)
    files = [manifest.with_name(name) for name in ("refit.toml", "refit.refinement.json")]
    first = []
    for more in ((), ("--overwrite",)):
        assert fit_command(oof, manifest, files[0], *more) == 0
        first.append([file.read_bytes() for file in files])
    assert first[0] == first[1]


def test_refusals_of_the_command(tmp_path: Path, manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    oof = write_oof(tmp_path / "oof", TABLE, manifest=manifest)

    def refusal(*arguments: Any, used: Path = manifest) -> str:
        assert fit_command(oof, used, *arguments) == 1
        return capsys.readouterr().err

    elsewhere = tmp_path / "refit.toml"
    assert refusal(elsewhere) == (
        f"--output: must lie beside {manifest}, because the folders of its weights are relative to it, "
        f"got {elsewhere}\n"
    )
    assert refusal(manifest.with_name("refit")) == "--output: must be called <name>.toml, got refit\n"
    assert refusal(manifest).startswith(f"{manifest}: file must not exist yet; use --overwrite")
    new = manifest.with_name("refit.toml")
    assert "folder must exist" in refusal(new, "--csv", str(tmp_path / "none" / "fit.csv"))
    assert "5 lesions that are disease in 3 patients, 3 lesions that are no disease in 3 patients" in refusal(new)
    without = write_manifest(stand_in_models(tmp_path / "other"), refinement=None)
    assert "[fdg]: must have a refinement" in refusal(without.with_name("refit.toml"), used=without)
    assert not new.exists()


def test_lesions_of_other_limits_are_refused(
    tmp_path: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    oof = write_oof(tmp_path / "oof", TABLE, manifest=manifest)
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace("regrow_radius_mm = 4.0", "regrow_radius_mm = 4.5"), encoding="utf-8")
    assert fit_command(oof, manifest, manifest.with_name("refit.toml")) == 1
    error = capsys.readouterr().err
    assert error.startswith("train_0001: FDG must be predicted with the limits and regrowing of tiny.toml")
    assert "4.5" in error


def test_patients_who_were_not_predicted_alike_are_refused(
    tmp_path: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    oof = write_oof(tmp_path / "oof", TABLE, manifest=manifest)
    record = read_record(oof / "train_0003")
    write_record(oof / "train_0003", replace(record, made_with="1" * 64))
    assert fit_command(oof, manifest, manifest.with_name("refit.toml")) == 1
    assert capsys.readouterr().err == (
        f"{oof} fold 0: patients of a fold must be predicted with the same networks, rules and organs, "
        "got train_0001 and train_0003, made differently\n"
    )


def test_lesions_are_read_back_as_they_were(tmp_path: Path) -> None:
    write_lesions(tmp_path / "lesions.csv", TABLE)
    assert read_lesions(tmp_path / "lesions.csv", where="lesions.csv") == TABLE
