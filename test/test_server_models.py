"""Loading the models: what would fail a case fails before the server is healthy."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from operation.service_models import load_models
from operation.setting import Setting
from petct.case import Tracer
from petct.channels import OrganEncoding
from petct.errors import CaseError
from petct.manifest import Architecture, Backend, read_manifest
from segmentation.organ_maps import OrganSource
from segmentation.weight_files import fold_file, sha256_of
from tiny_nnunet import make_member, make_results
from whole_case import Models, stand_in_models, write_manifest


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    members = {}
    for tracer, dataset_id in ((Tracer.PSMA, 801), (Tracer.FDG, 802)):
        options = {
            "architecture": Architecture.PLAIN,
            "dataset_id": dataset_id,
            "folds": (0,),
            "encoding": OrganEncoding.NONE,
        }
        members[tracer] = (make_member(make_results(tmp_path / "results", **options), tmp_path / tracer, **options),)
    models = Models(folder=tmp_path, members=members, organ_weights=stand_in_models(tmp_path / "organs").organ_weights)
    return Setting(
        manifest=read_manifest(write_manifest(models, backend=Backend.TORCH)),
        organ_source=OrganSource.AUTO,
        device=torch.device("cpu"),
        time_limit_s=None,
    )


def with_weights(setting: Setting, content: bytes, *, has_digest: bool) -> Setting:
    """Other weights for the FDG member, with or without their own digest in the manifest."""
    (member,) = setting.manifest.fdg.members
    name = fold_file(0, member.checkpoint)
    file = member.folder / name
    before = sha256_of(file)
    file.write_bytes(content)
    if has_digest:
        path = setting.manifest.path
        path.write_text(path.read_text(encoding="utf-8").replace(before, sha256_of(file)), encoding="utf-8")
    return Setting(
        manifest=read_manifest(setting.manifest.path),
        organ_source=setting.organ_source,
        device=setting.device,
        time_limit_s=None,
    )


def test_all_networks_are_opened(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        load_models(setting)
    assert "2 networks of 2 members load" in caplog.text


def test_weights_that_are_not_the_manifests(setting: Setting) -> None:
    (member,) = setting.manifest.fdg.members
    with pytest.raises(CaseError, match=rf"member {member.name}: sha256 of .*fold_0.* must be"):
        load_models(with_weights(setting, b"other", has_digest=False))


def test_weights_that_are_not_the_networks(setting: Setting) -> None:
    """Their digest is right, and only opening them tells."""
    (psma,) = setting.manifest.psma.members
    content = (psma.folder / fold_file(0, psma.checkpoint)).read_bytes()
    with pytest.raises(CaseError, match="member fdg fold 0: weights must be a safetensors file"):
        load_models(with_weights(setting, content[: len(content) // 2], has_digest=True))


def test_organ_weights_that_the_manifest_does_not_mention_are_the_cases_matter(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    organs = replace(setting.manifest.organs, sha256={})
    without = replace(setting, manifest=replace(setting.manifest, organs=organs))
    for file in organs.weights.rglob("*.pth"):
        file.unlink()
    load_models(without)
    assert "cases that bring no organ maps are refused" in caplog.text
    with pytest.raises(CaseError, match="organs: TotalSegmentator's weights are missing"):
        load_models(replace(without, organ_source=OrganSource.TOTALSEGMENTATOR))


def test_organ_weights_are_wanted_unless_maps_are_given(setting: Setting) -> None:
    for file in setting.manifest.organs.weights.rglob("*.pth"):
        file.unlink()
    with pytest.raises(CaseError, match="organs: TotalSegmentator's weights are missing"):
        load_models(setting)
    load_models(
        Setting(manifest=setting.manifest, organ_source=OrganSource.GIVEN, device=setting.device, time_limit_s=None)
    )
