"""The manifests in resources/ say what the method and its authors say."""

from __future__ import annotations

from pathlib import Path

import pytest

from petct.case import Tracer
from petct.channels import OrganEncoding
from petct.manifest import Architecture, read_manifest
from petct.organs import Organ
from segmentation.totalsegmentator import check_organ_weights
from segmentation.weight_files import check_member_files

RESOURCES = Path(__file__).resolve().parent.parent / "resources"


@pytest.mark.parametrize("name", ["demo", "paper"])
def test_a_shipped_manifest_is_valid(name):
    manifest = read_manifest(RESOURCES / f"{name}.toml")
    assert manifest.name.startswith(name)
    for tracer in Tracer:
        assert manifest.tracer(tracer).regrow_radius_mm == 7.0
        protected = {Organ.SPLEEN, Organ.KIDNEY, Organ.LIVER, Organ.URINARY_BLADDER, Organ.BRAIN}
        assert manifest.tracer(tracer).protected_organs == protected
    assert (manifest.psma.ttb_probability, manifest.psma.normal_probability) == (0.5, 0.5)
    assert (manifest.fdg.ttb_probability, manifest.fdg.normal_probability) == (0.25, 0.75)


def test_the_demo_says_that_it_is_one():
    assert "demonstration" in read_manifest(RESOURCES / "demo.toml").warning


def test_the_paper_s_ensemble_is_the_authors_final_choice():
    manifest = read_manifest(RESOURCES / "paper.toml")
    chosen = {
        tracer: [
            (member.architecture.value, member.dataset_id, member.folds, member.organ_encoding.value, member.weight)
            for member in manifest.tracer(tracer).members
        ]
        for tracer in Tracer
    }
    assert chosen == {
        Tracer.PSMA: [
            ("resenc_l", 801, (0,), "none", 1.0),
            ("resenc_m", 911, (3,), "binary", 1.0),
            ("resenc_m", 921, (2,), "soft_distance", 1.0),
        ],
        Tracer.FDG: [
            ("plain", 802, (0,), "none", 2.0),
            ("plain", 802, (1,), "none", 1.0),
            ("resenc_m", 912, (4,), "binary", 1.0),
            ("resenc_m", 922, (2,), "soft_distance", 1.0),
        ],
    }
    refinement = manifest.fdg.refinement
    assert (refinement.psma_present, refinement.log_volume) == (3.3451, 0.6980)
    assert (refinement.suv_max, refinement.intercept) == (0.8363, -5.4058)
    assert (refinement.keep_probability, refinement.keep_above_ml, refinement.keep_unlabelled) == (0.5, 7.0, True)


def test_the_demo_s_weights_are_there_whole_and_small():
    manifest = read_manifest(RESOURCES / "demo.toml")
    members = [member for tracer in Tracer for member in manifest.tracer(tracer).members]
    for member in members:
        check_member_files(member)
    check_organ_weights(manifest.organs, where="demo organs")
    assert manifest.organs.sha256  # or nothing would have been checked
    files = [path for path in (RESOURCES / "demo").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 40e6


def test_the_demo_has_every_kind_of_network():
    manifest = read_manifest(RESOURCES / "demo.toml")
    for tracer in Tracer:
        members = manifest.tracer(tracer).members
        assert {member.architecture for member in members} == set(Architecture)
        assert {member.organ_encoding for member in members} == set(OrganEncoding)
    assert any(len(member.folds) == 2 for member in manifest.fdg.members)
