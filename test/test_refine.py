import logging
from dataclasses import replace
from math import exp, log
from pathlib import Path

import numpy as np
import pytest

from petct.manifest import Refinement, read_manifest
from petct.organs import label_number
from postprocessing.lesions import Lesion
from postprocessing.refine import Reason, decide, features_of, labels_with_disease, probability_of, refine

PAPER = Path(__file__).resolve().parent.parent / "resources" / "paper.toml"
PUBLISHED = Refinement(
    psma_present=3.3451,
    log_volume=0.6980,
    suv_max=0.8363,
    intercept=-5.4058,
    keep_probability=0.5,
    keep_above_ml=7.0,
    keep_unlabelled=True,
)
LIVER, RIB, SACRUM = label_number("liver"), label_number("rib_left_4"), label_number("sacrum")

FDG_SHAPE_ZYX = (6, 10, 14)
PSMA_SHAPE_ZYX = (5, 8, 11)
VOXEL_ML = 0.25
A, B, C = (1, 2, 3), (4, 6, 8), (4, 2, 12)  # no two of them are neighbours


def lesion_of(*, volume_ml=1.0, suv_max=3.0, labels=(LIVER,)):
    return Lesion(
        number=1,
        voxels=1,
        volume_ml=volume_ml,
        suv_max=suv_max,
        suv_mean=suv_max,
        labels=frozenset(labels),
        centre_zyx=(0.0, 0.0, 0.0),
    )


def run(lesions, *, psma=(), refinement=PUBLISHED, voxel_ml=VOXEL_ML):
    """Refine one-voxel FDG lesions {voxel: (SUV, label)}; PSMA shows disease in the labels given, and has a liver."""
    fdg_ttb = np.zeros(FDG_SHAPE_ZYX, dtype=bool)
    fdg_suv = np.full(FDG_SHAPE_ZYX, 99.0, dtype=np.float32)
    fdg_labels = np.full(FDG_SHAPE_ZYX, LIVER, dtype=np.uint8)
    for voxel, (suv, label) in lesions.items():
        fdg_ttb[voxel], fdg_suv[voxel], fdg_labels[voxel] = True, suv, label
    psma_ttb = np.zeros(PSMA_SHAPE_ZYX, dtype=bool)
    psma_labels = np.full(PSMA_SHAPE_ZYX, LIVER, dtype=np.uint8)
    for x, label in enumerate(psma):
        psma_ttb[4, 7, x], psma_labels[4, 7, x] = True, label
    return refine(
        fdg_ttb,
        fdg_suv=fdg_suv,
        fdg_labels=fdg_labels,
        psma_ttb=psma_ttb,
        psma_labels=psma_labels,
        refinement=refinement,
        voxel_ml=voxel_ml,
    )


def kept_voxels(refined):
    return {tuple(voxel) for voxel in np.argwhere(refined.mask).tolist()}


def test_the_papers_manifest_has_the_published_values():
    assert read_manifest(PAPER).fdg.refinement == PUBLISHED


def test_features_by_name_and_unit():
    features = features_of(lesion_of(volume_ml=2.5, suv_max=6.0), psma_present=True)
    assert (features.psma_present, features.suv_max) == (1.0, 6.0)
    assert features.log_volume == pytest.approx(log(2.5 + 1))


@pytest.mark.parametrize("psma_present", [True, False])
def test_probability_is_the_published_formula(psma_present):
    features = features_of(lesion_of(volume_ml=2.5, suv_max=6.0), psma_present=psma_present)
    expected = 1 / (1 + exp(-(3.3451 * psma_present + 0.6980 * log(2.5 + 1) + 0.8363 * 6.0 - 5.4058)))
    assert probability_of(features, refinement=PUBLISHED) == pytest.approx(expected)


def test_probability_at_extreme_uptake_does_not_overflow():
    assert probability_of(features_of(lesion_of(suv_max=1e6), psma_present=True), refinement=PUBLISHED) == 1.0
    assert probability_of(features_of(lesion_of(suv_max=-1e6), psma_present=True), refinement=PUBLISHED) == 0.0


@pytest.mark.parametrize(
    ("lesion", "psma_diseased", "reason"),
    [
        # -5.4058 + 0.6980 ln 2 + 0.8363 SUVmax is 0 at SUVmax 5.885; PSMA disease moves that down to 1.885.
        (lesion_of(suv_max=5.88), {RIB}, Reason.UNSUPPORTED),
        (lesion_of(suv_max=5.89), {RIB}, Reason.SUPPORTED),
        (lesion_of(suv_max=1.88), {LIVER}, Reason.UNSUPPORTED),
        (lesion_of(suv_max=1.89), {LIVER}, Reason.SUPPORTED),
        (lesion_of(labels=(LIVER, RIB)), {RIB, SACRUM}, Reason.SUPPORTED),
        (lesion_of(labels=(LIVER, RIB)), {SACRUM}, Reason.UNSUPPORTED),
        (lesion_of(labels=(LIVER, RIB)), set(), Reason.UNSUPPORTED),
        (lesion_of(suv_max=1.0, volume_ml=7.125), set(), Reason.LARGE),
        (lesion_of(suv_max=1.0, volume_ml=7.0), set(), Reason.UNSUPPORTED),
        (lesion_of(suv_max=1.0, labels=()), {LIVER}, Reason.UNLABELLED),
        (lesion_of(suv_max=1.0, labels=(), volume_ml=7.125), {LIVER}, Reason.UNLABELLED),
    ],
)
def test_rules(lesion, psma_diseased, reason):
    decision = decide(lesion, psma_diseased=frozenset(psma_diseased), refinement=PUBLISHED)
    assert decision.reason is reason
    assert decision.kept is (reason is not Reason.UNSUPPORTED)
    assert decision.psma_present is bool(lesion.labels & psma_diseased)


def test_a_p_equal_to_the_limit_keeps_and_one_below_drops():
    flat = replace(PUBLISHED, psma_present=0.0, log_volume=0.0, suv_max=0.0, intercept=0.0)  # p is 1 / (1 + 1)
    assert decide(lesion_of(), psma_diseased=frozenset(), refinement=flat).probability == 0.5
    assert decide(lesion_of(), psma_diseased=frozenset(), refinement=flat).kept
    below = replace(flat, intercept=-1e-6)
    assert not decide(lesion_of(), psma_diseased=frozenset(), refinement=below).kept


def test_the_manifests_limit_decides():
    strict = replace(PUBLISHED, keep_probability=0.99)
    lesion = lesion_of(suv_max=8.0)
    assert 0.5 < 1 / (1 + exp(-(0.6980 * log(1.0 + 1) + 0.8363 * 8.0 - 5.4058))) < 0.99
    assert decide(lesion, psma_diseased=frozenset(), refinement=PUBLISHED).kept
    assert not decide(lesion, psma_diseased=frozenset(), refinement=strict).kept


def test_without_the_rule_an_unlabelled_lesion_is_left_to_the_classifier():
    by_p_alone = replace(PUBLISHED, keep_unlabelled=False)
    for suv_max, reason in ((5.88, Reason.UNSUPPORTED), (5.89, Reason.SUPPORTED)):
        decision = decide(
            lesion_of(suv_max=suv_max, labels=()), psma_diseased=frozenset({LIVER}), refinement=by_p_alone
        )
        assert decision.reason is reason
        assert decision.psma_present is False


def test_the_mask_loses_exactly_the_dropped_lesions():
    refined = run({A: (4.0, LIVER), B: (4.0, RIB), C: (4.0, SACRUM)}, psma=(RIB,))
    assert kept_voxels(refined) == {B}
    assert [decision.kept for decision in refined.decisions].count(True) == 1
    by_label = {decision.lesion.labels: decision for decision in refined.decisions}
    without = 1 / (1 + exp(-(0.6980 * log(0.25 + 1) + 0.8363 * 4.0 - 5.4058)))
    with_psma = 1 / (1 + exp(-(3.3451 + 0.6980 * log(0.25 + 1) + 0.8363 * 4.0 - 5.4058)))
    assert by_label[frozenset({LIVER})].probability == pytest.approx(without)
    assert by_label[frozenset({SACRUM})].probability == pytest.approx(without)
    assert by_label[frozenset({RIB})].probability == pytest.approx(with_psma)


def test_lesions_that_touch_at_a_corner_are_decided_apart():
    z, y, x = A
    # Across an edge they are one lesion, with the SUVmax of the hotter voxel.
    assert kept_voxels(run({A: (4.0, RIB), (z + 1, y + 1, x + 1): (9.0, RIB)})) == {(z + 1, y + 1, x + 1)}
    assert kept_voxels(run({A: (4.0, RIB), (z, y + 1, x + 1): (9.0, RIB)})) == {A, (z, y + 1, x + 1)}


def test_a_lesion_is_supported_through_any_label_it_touches():
    z, y, x = A
    lesion = {A: (4.0, RIB), (z, y, x + 1): (4.0, LIVER)}
    assert kept_voxels(run(lesion, psma=(LIVER,))) == set(lesion)
    assert kept_voxels(run(lesion, psma=(SACRUM,))) == set()


def test_psma_anatomy_without_psma_disease_supports_nothing():
    # PSMA's liver is there, and FDG's lesion lies in FDG's liver; PSMA's disease is in the sacrum.
    assert kept_voxels(run({A: (4.0, LIVER)}, psma=(SACRUM,))) == set()
    assert kept_voxels(run({A: (4.0, LIVER)}, psma=(SACRUM, LIVER))) == {A}


def test_disease_outside_all_anatomy_on_psma_supports_nothing():
    by_p_alone = replace(PUBLISHED, keep_unlabelled=False)
    assert kept_voxels(run({A: (4.0, 0)}, psma=(0,), refinement=by_p_alone)) == set()
    assert kept_voxels(run({A: (4.0, 0)}, psma=(0,))) == {A}


def test_a_lesion_above_the_volume_is_kept_and_one_of_that_volume_is_not():
    z, y, x = A
    lesion = {(z, y, x + step): (1.0, RIB) for step in range(7)}
    assert kept_voxels(run(lesion, voxel_ml=1.0)) == set()
    assert kept_voxels(run(lesion, voxel_ml=1.125)) == set(lesion)


def test_labels_with_disease():
    ttb = np.zeros(PSMA_SHAPE_ZYX, dtype=bool)
    labels = np.zeros(PSMA_SHAPE_ZYX, dtype=np.uint8)
    labels[1], labels[2], labels[3] = LIVER, RIB, SACRUM
    assert labels_with_disease(ttb, labels=labels) == frozenset()
    ttb[0:3, 4, 5] = True
    assert labels_with_disease(ttb, labels=labels) == frozenset({LIVER, RIB})


@pytest.mark.parametrize("psma", [(), (RIB,)])
def test_no_fdg_disease_gives_none(psma, caplog):
    with caplog.at_level(logging.INFO):
        refined = run({}, psma=psma)
    assert refined.mask.shape == FDG_SHAPE_ZYX
    assert refined.mask.dtype == bool
    assert not refined.mask.any()
    assert refined.decisions == ()
    assert [record.getMessage() for record in caplog.records] == [
        "FDG refine: 0 lesions, 0 kept (0 by p >= 0.5, 0 above 7 mL, 0 touching no labelled anatomy), "
        "0 dropped (0.00 mL)"
    ]


def test_the_fdg_mask_that_came_in_is_not_changed():
    fdg_ttb = np.zeros(FDG_SHAPE_ZYX, dtype=bool)
    fdg_ttb[A] = True
    refined = refine(
        fdg_ttb,
        fdg_suv=np.full(FDG_SHAPE_ZYX, 4.0, dtype=np.float32),
        fdg_labels=np.full(FDG_SHAPE_ZYX, RIB, dtype=np.uint8),
        psma_ttb=np.zeros(PSMA_SHAPE_ZYX, dtype=bool),
        psma_labels=np.zeros(PSMA_SHAPE_ZYX, dtype=np.uint8),
        refinement=PUBLISHED,
        voxel_ml=VOXEL_ML,
    )
    assert not refined.mask.any()
    assert fdg_ttb[A]


def test_the_log_says_for_every_dropped_lesion_why(caplog):
    with caplog.at_level(logging.INFO):
        run({A: (4.0, RIB), B: (1.5, LIVER), C: (9.0, SACRUM)}, psma=(LIVER,))
    lines = [record.getMessage() for record in caplog.records]
    assert {record.levelno for record in caplog.records} == {logging.INFO}
    assert len(lines) == 3
    p_rib = 1 / (1 + exp(-(0.6980 * log(0.25 + 1) + 0.8363 * 4.0 - 5.4058)))
    p_liver = 1 / (1 + exp(-(3.3451 + 0.6980 * log(0.25 + 1) + 0.8363 * 1.5 - 5.4058)))
    (rib,) = [line for line in lines if "rib_left_4" in line]
    (liver,) = [line for line in lines if "liver" in line]
    assert f"dropped, p {p_rib:.3f} < 0.5: no PSMA disease in rib_left_4, volume 0.25 mL, SUVmax 4.00" in rib
    assert f"dropped, p {p_liver:.3f} < 0.5: with PSMA disease in liver, volume 0.25 mL, SUVmax 1.50" in liver
    assert rib.endswith("centre at voxel (3, 2, 1) (x, y, z)")
    assert lines[-1] == (
        "FDG refine: 3 lesions, 1 kept (1 by p >= 0.5, 0 above 7 mL, 0 touching no labelled anatomy), "
        "2 dropped (0.50 mL)"
    )


def test_arrays_of_one_scan_that_differ_in_shape_are_refused():
    fdg, psma = np.zeros(FDG_SHAPE_ZYX, dtype=bool), np.zeros(PSMA_SHAPE_ZYX, dtype=bool)
    right = {
        "fdg_suv": fdg.astype(np.float32),
        "fdg_labels": fdg.astype(np.uint8),
        "psma_ttb": psma,
        "psma_labels": psma.astype(np.uint8),
    }
    for name, wrong in (("fdg_suv", psma), ("fdg_labels", psma), ("psma_labels", fdg)):
        with pytest.raises(ValueError, match=r"must have the mask's shape .* voxels \(z, y, x\), got"):
            refine(fdg, **(right | {name: wrong}), refinement=PUBLISHED, voxel_ml=VOXEL_ML)
