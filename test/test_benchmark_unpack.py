from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from benchmark.unpack import stock_options, unpack_manifest, unpack_member
from benchmark.unpacked import read_members
from benchmark_case import CLIP, write_benchmark_manifest
from petct.case import Tracer
from petct.channels import OrganEncoding
from petct.errors import CaseError
from petct.manifest import Checkpoint, Manifest, read_manifest
from segmentation.packed_model import build_network, load_fold, read_packed_model


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return read_manifest(write_benchmark_manifest(tmp_path_factory.mktemp("models")))


@pytest.mark.parametrize(("tracer", "axes"), [(Tracer.PSMA, [0, 2]), (Tracer.FDG, [0, 2])])
def test_nnunets_predictor_finds_the_packed_weights(
    manifest: Manifest, tracer: Tracer, axes: list[int], tmp_path: Path
) -> None:
    (member,) = manifest.tracer(tracer).members
    folder = unpack_member(member, results=tmp_path)
    predictor = nnUNetPredictor(device=torch.device("cpu"))
    predictor.initialize_from_trained_model_folder(str(folder), use_folds=member.folds)
    assert list(predictor.allowed_mirroring_axes or ()) == axes
    assert predictor.dataset_json["file_ending"] == ".nii.gz"
    model = read_packed_model(member)
    for fold, parameters in zip(member.folds, predictor.list_of_parameters, strict=True):
        network = build_network(model.configuration, model.dataset)
        load_fold(network, model, fold=fold)
        expected = network.state_dict()
        assert parameters.keys() == expected.keys()
        assert all(torch.equal(parameters[name], expected[name]) for name in expected)
    assert all(tensor.dtype is torch.float32 for tensor in predictor.list_of_parameters[0].values())


def test_the_list_of_members_says_how_to_call_nnunet(manifest: Manifest, tmp_path: Path) -> None:
    unpack_manifest(manifest, folder=tmp_path / "unpacked")
    members = read_members(tmp_path / "unpacked")
    ((psma,), (fdg,)) = members[Tracer.PSMA], members[Tracer.FDG]
    assert (psma.name, psma.encoding, psma.clip, psma.weight) == ("soft", OrganEncoding.SOFT_DISTANCE, CLIP, 1.0)
    assert (fdg.name, fdg.encoding, fdg.clip, fdg.weight) == ("masks", OrganEncoding.BINARY, None, 1.0)
    assert " ".join(psma.options) == "-d 921 -c 3d_fullres -p nnUNetPlans -f 2 --disable_tta"
    assert " ".join(fdg.options) == "-d 902 -c 3d_fullres -p nnUNetResEncUNetMPlans -f 0 3 --disable_tta"
    assert psma.results != fdg.results
    for member in (psma, fdg):
        assert list((tmp_path / "unpacked" / member.results).glob("Dataset*/nnUNetTrainer__*/fold_*/*.pth"))
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "unpacked").rglob("*")}
    unpack_manifest(manifest, folder=tmp_path / "unpacked")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "unpacked").rglob("*")} == before


def test_what_a_manifest_leaves_at_nnunets_defaults_is_not_named(manifest: Manifest) -> None:
    (member,) = manifest.psma.members
    stock = replace(manifest, mirroring=True)
    assert stock_options(member, manifest=stock) == ("-d", "921", "-c", "3d_fullres", "-p", "nnUNetPlans", "-f", "2")
    best = replace(member, checkpoint=Checkpoint.BEST)
    options = stock_options(best, manifest=replace(stock, tile_step=0.75))
    assert options[-4:] == ("-step_size", "0.75", "-chk", "checkpoint_best.pth")


def test_weights_that_are_not_the_manifests_are_refused_and_nothing_is_left(manifest: Manifest, tmp_path: Path) -> None:
    (member,) = manifest.fdg.members
    wrong = replace(member, sha256={**member.sha256, "fold_3/checkpoint_final.safetensors": "0" * 64})
    broken = replace(manifest, fdg=replace(manifest.fdg, members=(wrong,)))
    with pytest.raises(CaseError, match=r"member masks: sha256 of .*fold_3"):
        unpack_manifest(broken, folder=tmp_path / "unpacked")
    assert list(tmp_path.iterdir()) == []
