"""`python -m training pack`: from trained folds to an ensemble that runs, or to nothing at all."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import inference
from petct.case import Tracer
from petct.channels import Channel, ClipHU, ScanChannels
from petct.folders import SCAN_FOLDERS
from petct.geometry import to_image
from petct.manifest import Manifest, OrganTask, read_manifest
from petct.output import mask_file
from segmentation.packed_model import Precision, read_packed_model
from segmentation.totalsegmentator import WEIGHT_FILES, check_organ_weights, model_folders
from segmentation.weight_files import check_member_files
from tiny_trained import (
    CLIP,
    DIGESTS,
    ORGAN_NETWORK,
    PATIENTS,
    RECIPE,
    change_checkpoint,
    fold_folder,
    write_organ_network,
    write_trained,
)
from training.__main__ import main
from training.weights import pack_recipe, publish
from training.weights.code_version import code_version, package_versions
from training.weights.trial import make_trial_case
from whole_case import PET_GRIDS, pet_suv, write_case

BASE = Path(inference.__file__).parent / "resources" / "paper.toml"
SPARE = "nnunet"  # a copy of it may be changed


class KilledError(BaseException):
    """In place of a signal: nothing of ours may catch it."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained folds, the recipe, and a patient with organ maps and a physician's mask of the PSMA scan."""
    root = tmp_path_factory.mktemp("trained")
    write_trained(root)
    (root / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    patient = write_case(root / "patient")
    truth = (pet_suv(Tracer.PSMA) > 20.0).astype(np.uint8)
    sitk.WriteImage(to_image(truth, PET_GRIDS[Tracer.PSMA]), patient / SCAN_FOLDERS[Tracer.PSMA] / "TTB.nii.gz")
    return root


def pack(shared: Path, manifest: Path, *flags: str, **changes: Any) -> int:
    options: dict[str, Any] = {
        "recipe": shared / "recipe.toml",
        "nnunet": shared / SPARE,
        "manifest": manifest,
        "base": BASE,
        "case": shared / "patient",
        "device": "cpu",
    }
    named = [
        text
        for name, value in (options | changes).items()
        if value is not None
        for text in (f"--{name.replace('_', '-')}", str(value))
    ]
    return main(["pack", *flags, *named])


def refusal(capsys: pytest.CaptureFixture[str], *arguments: Any, **changes: Any) -> str:
    """What a packing that must be refused says: one line on stderr."""
    assert pack(*arguments, **changes) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message.rstrip("\n")


def digests_below(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def trained(shared: Path, tmp_path: Path) -> Path:
    """What the recipe's training left, to be spoilt."""
    shutil.copytree(shared, tmp_path / "spoilt")
    return tmp_path / "spoilt"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target" / "mine.toml"


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial's checks of files without its networks, which take seconds and are tried in other tests."""

    def check_only(manifest: Manifest, *, has_organ_weights: bool, **_: Any) -> None:
        for tracer in Tracer:
            for member in manifest.tracer(tracer).members:
                check_member_files(member)
        if has_organ_weights:
            check_organ_weights(manifest.organs, where="organs")

    monkeypatch.setattr(pack_recipe, "try_ensemble", check_only)


@pytest.fixture(scope="module")
def packed(shared: Path) -> Manifest:
    """Packed once, with a tarball, to be looked at; nothing may change it."""
    folder = shared / "packed"
    folder.mkdir()
    options = {"warning": "Random weights.", "licence": "CC-BY-NC-4.0", "tarball": folder / "model.tar.gz"}
    assert pack(shared, folder / "mine.toml", "--half", **options) == 0
    return read_manifest(folder / "mine.toml")


def provenance(packed: Manifest, model: str) -> dict[str, Any]:
    path = packed.path.parent / "mine" / model / "model.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["provenance"]
    return content


def test_the_ensemble_is_the_recipes_and_whole(packed: Manifest) -> None:
    def described(tracer: Tracer) -> list[tuple[object, ...]]:
        return [(m.name, m.folder.name, m.dataset_id, m.folds, m.weight) for m in packed.tracer(tracer).members]

    assert described(Tracer.PSMA) == [("plain_801", "plain_801", 801, (0,), 1.0)]
    assert described(Tracer.FDG) == [
        ("plain_802_fold_0", "plain_802", 802, (0,), 2.0),
        ("plain_802_fold_1", "plain_802", 802, (1,), 1.0),
        ("resenc_m_912_250epochs", "resenc_m_912_250epochs", 912, (4,), 1.0),
    ]
    for tracer in Tracer:
        for member in packed.tracer(tracer).members:
            check_member_files(member)
            assert read_packed_model(member).stored_as is Precision.FLOAT16
    assert (packed.name, packed.warning) == ("mine", "Random weights.")
    folder = packed.path.parent
    assert sorted(path.name for path in folder.iterdir()) == ["mine", "mine.toml", "model.tar.gz"]
    models = ["README.md", "plain_801", "plain_802", "resenc_m_912_250epochs"]
    assert sorted(path.name for path in (folder / "mine").iterdir()) == models
    assert sorted(path.name for path in (folder / "mine" / "plain_802").glob("fold_*")) == ["fold_0", "fold_1"]


def test_every_file_of_the_shared_folder_is_needed_by_a_member(packed: Manifest) -> None:
    first, second = packed.fdg.members[:2]
    assert set(first.sha256) & set(second.sha256) == {"plans.json", "dataset.json", "model.json"}
    on_disk = {path.relative_to(first.folder).as_posix() for path in first.folder.rglob("*") if path.is_file()}
    assert on_disk == set(first.sha256) | set(second.sha256)


def test_provenance_says_where_the_weights_come_from(packed: Manifest) -> None:
    record = provenance(packed, "resenc_m_912_250epochs")
    assert record == {
        "trainer": "nnUNetTrainer_250epochs",
        "architecture": "resenc_m",
        "dataset": {
            "name": "Dataset912_FDG_PET_binary_corrected",
            "sha256": DIGESTS[912],
            "patients": len(PATIENTS),
            "corrected": 1,
            "organs_computed": 2,
        },
        "seeds": {"4": 20260 + 4 * 1000 + 912},
        "licence": "CC-BY-NC-4.0",
        "checkpoint": "final",
        "folds": {
            "4": {
                "epochs": 250,
                "iterations_per_epoch": 250,
                "torch": "2.7.1",
                "gpu": "NVIDIA T4",
                "dice_of": "pseudo-Dice of the last epoch",
                "dice": {"ttb": 0.9, "normal": None},
            }
        },
        "packed_by": code_version(),
        "packed_with": package_versions(),
    }
    assert list(provenance(packed, "plain_802")["folds"]) == ["0", "1"]


def test_the_page_for_people_names_licence_data_and_dice(packed: Manifest) -> None:
    page = (packed.path.parent / "mine" / "README.md").read_text(encoding="utf-8")
    assert "**Random weights.**" in page
    assert "Licence: CC-BY-NC-4.0" in page
    row = (
        "| plain_802_fold_1 | FDG | 1 | Dataset802_FDG_PET_none (222222222222) | 3 | nnUNetTrainer | 1 | 1000 "
        "| ttb 0.600, normal - (pseudo) |"
    )
    assert row in page.splitlines()
    assert "Organs: no weights; every case must bring its organ maps." in page


def test_the_clipping_of_the_data_set_goes_along_to_inference(
    packed: Manifest, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips: dict[str, list[ClipHU | None]] = {"psma": [], "fdg": []}
    ranges_hu: list[tuple[float, float]] = []
    build = ScanChannels.build

    def watch(scan: ScanChannels, channel: Channel) -> Any:
        voxels = build(scan, channel)
        if channel.name == "ct":
            clips["psma" if grid == PET_GRIDS[Tracer.PSMA] else "fdg"].append(channel.clip)
            ranges_hu.append((float(voxels.min()), float(voxels.max())))
        return voxels

    monkeypatch.setattr(ScanChannels, "build", watch)
    case = inference.read_case(shared / "patient")
    for tracer in Tracer:
        grid = PET_GRIDS[tracer]
        organs = case.scan(tracer).organs
        assert organs is not None
        inference.predict_scan(case.scan(tracer), organs=organs, manifest=packed, device=torch.device("cpu"))
    assert clips == {"psma": [None], "fdg": [CLIP, None]}
    # The case's CT goes from -1000 HU to 340 HU; both folds of the clipped model share one set of channels.
    assert [low for low, _ in ranges_hu] == [-1000.0, CLIP.low_hu, -1000.0]
    assert [high for _, high in ranges_hu] == pytest.approx([340.0, CLIP.high_hu, 340.0], abs=1.0)


def test_the_tarball_runs_where_it_is_extracted(packed: Manifest, shared: Path, tmp_path: Path) -> None:
    with tarfile.open(packed.path.parent / "model.tar.gz") as archive:
        archive.extractall(tmp_path / "model", filter="data")
    assert (tmp_path / "model" / "manifest.toml").read_bytes() == packed.path.read_bytes()
    masks = {}
    for name, manifest in (("image", packed.path), ("tarball", tmp_path / "model" / "manifest.toml")):
        options = ["--input", str(shared / "patient"), "--manifest", str(manifest), "--device", "cpu"]
        assert inference.main([*options, "--output", str(tmp_path / name)]) == 0
        masks[name] = {t: sitk.GetArrayFromImage(sitk.ReadImage(mask_file(tmp_path / name, t))) for t in Tracer}
    for tracer in Tracer:
        assert masks["image"][tracer].shape == PET_GRIDS[tracer].shape_zyx
        np.testing.assert_array_equal(masks["image"][tracer], masks["tarball"][tracer])


def test_the_trial_says_what_the_ensemble_found(shared: Path, target: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert pack(shared, target) == 0
    lines = [line for line in caplog.messages if line.startswith("trial")]
    assert lines[0] == "trial: patient with organs given"
    assert [line.split(":")[0] for line in lines[1:3]] == ["trial patient PSMA", "trial patient FDG"]
    assert "Dice 0." in lines[1]
    assert "Dice" not in lines[2]  # there is no truth for FDG
    assert "no organ weights are packed" in caplog.text
    for member in read_manifest(target).psma.members:
        assert read_packed_model(member).stored_as is Precision.FLOAT32


def test_a_failing_trial_publishes_nothing_and_keeps_the_old(
    trained: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tarball = target.parent / "model.tar.gz"
    assert pack(trained, target, tarball=tarball) == 0
    before = digests_below(target.parent)
    # Finite weights, and logits that are not.
    path = fold_folder(trained / SPARE, 802, 1) / "checkpoint_final.pth"
    weights = torch.load(path, weights_only=False)["network_weights"]
    head = max(name for name in weights if "seg_layers" in name and name.endswith("weight"))
    weights[head].fill_(3e38)
    change_checkpoint(trained / SPARE, 802, 1, network_weights=weights)
    capsys.readouterr()
    message = refusal(capsys, trained, target, "--overwrite", tarball=tarball)
    assert message.startswith("trial patient: packed ensemble must run on it before it is finished")
    assert "member plain_802_fold_1" in message
    assert "finite" in message
    assert digests_below(target.parent) == before
    fresh = target.with_name("fresh.toml")
    assert pack(trained, fresh, tarball=target.with_name("fresh.tar.gz")) == 1
    assert digests_below(target.parent) == before


@pytest.mark.usefixtures("untried")
@pytest.mark.parametrize(
    ("module", "name"),
    [
        (pack_recipe, "pack_members"),
        (pack_recipe, "model_card"),
        (pack_recipe, "try_ensemble"),
        (pack_recipe, "write_tarball"),
        (pack_recipe, "publish"),
        (publish, "_moved"),
        (publish, "_settle"),
        (pack_recipe, "_move"),
    ],
)
def test_stopped_at_any_stage_the_old_or_the_new_is_whole(
    shared: Path, target: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KilledError

    tarball = target.parent / "model.tar.gz"
    assert pack(shared, target, warning="old", tarball=tarball) == 0
    old_tarball = tarball.read_bytes()
    monkeypatch.setattr(module, name, stop)
    with pytest.raises(KilledError):
        pack(shared, target, "--overwrite", "--half", warning="new", tarball=tarball)
    ensemble = read_manifest(target)
    is_new = name in ("_settle", "_move")
    assert ensemble.warning == ("new" if is_new else "old")
    for tracer in Tracer:
        for member in ensemble.tracer(tracer).members:
            check_member_files(member)
            assert read_packed_model(member).stored_as is (Precision.FLOAT16 if is_new else Precision.FLOAT32)
    assert tarball.read_bytes() == old_tarball
    assert not (target.parent / ".mine.partial").exists()


@pytest.mark.usefixtures("untried")
def test_a_fitted_base_gives_its_rules_and_refinement(shared: Path, target: Path, tmp_path: Path) -> None:
    fitted = tmp_path / "fitted.toml"
    text = BASE.read_text(encoding="utf-8").replace("intercept = -5.4058", "intercept = -4.25")
    fitted.write_text(text.replace("ttb_probability = 0.25", "ttb_probability = 0.35"), encoding="utf-8")
    assert pack(shared, target, base=fitted) == 0
    rules = read_manifest(target).fdg
    assert rules.refinement is not None
    assert (rules.refinement.intercept, rules.ttb_probability) == (-4.25, 0.35)
    assert "rules are those of fitted.toml" in target.read_text(encoding="utf-8").splitlines()[0]


# ------------------------------------------------------------------------------------------------------------ organs


def test_an_organ_network_is_packed_and_computes_the_trials_organs(
    trained: Path, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_organ_network(trained / SPARE)
    (trained / "recipe.toml").write_text(ORGAN_NETWORK + RECIPE, encoding="utf-8")
    for tracer in Tracer:
        (trained / "patient" / SCAN_FOLDERS[tracer] / "totseg_24.nii.gz").unlink()
    with caplog.at_level(logging.INFO):
        assert pack(trained, target) == 0
    assert "trial: patient with organs computed" in caplog.messages
    assert sum("TotalSegmentator (fastest) found" in line for line in caplog.messages) == 2
    organs = read_manifest(target).organs
    assert organs.task is OrganTask.FASTEST
    assert organs.weights == target.parent / "mine" / "totalsegmentator"
    check_organ_weights(organs, where="organs")
    assert set(organs.sha256) == set(digests_below(organs.weights))


def organ_folder(folder: Path, task: OrganTask) -> Path:
    """Files in the places of TotalSegmentator's own weights, and others that its download brings."""
    for model in model_folders(task):
        for file in (*WEIGHT_FILES, "dataset_fingerprint.json"):
            (folder / model / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / model / file).write_text(f"{model} {file}", encoding="utf-8")
    (folder / "Dataset999_other").mkdir()
    return folder


@pytest.mark.usefixtures("untried")
@pytest.mark.parametrize(("task", "models"), [("total", 5), ("fastest", 1), (None, 1)])
def test_totalsegmentators_own_weights_are_taken_along(
    shared: Path, target: Path, tmp_path: Path, task: str | None, models: int
) -> None:
    folder = organ_folder(tmp_path / "weights", OrganTask(task or "fast"))
    assert pack(shared, target, organs=folder, organ_task=task, warning="Organs of mine.") == 0
    organs = read_manifest(target).organs
    assert organs.task == (task or read_manifest(BASE).organs.task)
    assert len(organs.sha256) == 3 * models
    assert digests_below(organs.weights) == dict(organs.sha256)
    assert all(digests_below(folder)[file] == digest for file, digest in organs.sha256.items())
    # With the ensemble as a base, its organ weights go along too.
    again = target.with_name("again.toml")
    assert pack(shared, again, base=target) == 0
    assert read_manifest(again).organs.sha256 == organs.sha256
    assert read_manifest(again).warning == "Organs of mine."  # it goes with the organ weights
    assert pack(shared, target, "--overwrite", base=target) == 0  # a base that is replaced by what it gives
    assert read_manifest(target).organs == organs


def test_organ_weights_that_are_not_there(
    trained: Path, target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = organ_folder(tmp_path / "weights", OrganTask.TOTAL)
    (folder / model_folders(OrganTask.TOTAL)[3] / "plans.json").unlink()
    message = refusal(capsys, trained, target, organs=folder, organ_task="total")
    assert message.startswith(f"organ weights: TotalSegmentator's weights are missing: {folder}/Dataset294")
    pointer = folder / model_folders(OrganTask.TOTAL)[0] / WEIGHT_FILES[2]
    (folder / model_folders(OrganTask.TOTAL)[3] / "plans.json").touch()
    pointer.write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8")
    assert "is a git-LFS pointer" in refusal(capsys, trained, target, organs=folder, organ_task="total")
    error = "--organ-task: must come with --organs, the folder of TotalSegmentator's weights"
    assert refusal(capsys, trained, target, organ_task="fast") == error
    write_organ_network(trained / SPARE)
    (trained / "recipe.toml").write_text(ORGAN_NETWORK + RECIPE, encoding="utf-8")
    error = "--organs: must not be given when the recipe has an organ network, got plain_298"
    assert refusal(capsys, trained, target, organs=folder) == error
    (trained / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    (trained / "patient" / "FDG" / "totseg_24.nii.gz").unlink()
    error = "patient FDG: case must bring organ maps (totseg_24), because no organ weights are packed"
    assert refusal(capsys, trained, target) == error
    assert list(target.parent.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------- refusals


def spoil_trainer(nnunet: Path) -> None:
    change_checkpoint(nnunet, 912, 4, trainer_name="nnUNetTrainer")


def spoil_plans(nnunet: Path) -> None:
    """Planned again after fold 0 was trained."""
    plans = json.loads((fold_folder(nnunet, 802, 0).parent / "plans.json").read_text(encoding="utf-8"))
    plans["configurations"]["3d_fullres"]["spacing"] = [3.0, 2.0, 2.0]
    init_args = {"configuration": "3d_fullres", "fold": 0, "plans": plans}
    change_checkpoint(nnunet, 802, 0, init_args=init_args)


def spoil_fingerprint(nnunet: Path) -> None:
    path = nnunet / "nnUNet_preprocessed" / "Dataset802_FDG_PET_none" / "dataset_fingerprint.json"
    path.write_text("{}", encoding="utf-8")


def spoil_checkpoint(nnunet: Path) -> None:
    path = fold_folder(nnunet, 912, 4) / "checkpoint_final.pth"
    path.write_bytes(path.read_bytes()[:1000])


def spoil_dataset_of_plans(nnunet: Path) -> None:
    path = fold_folder(nnunet, 801, 0).parent / "plans.json"
    path.write_text(path.read_text(encoding="utf-8").replace("Dataset801", "Dataset802"), encoding="utf-8")


def spoil_validation(nnunet: Path) -> None:
    (fold_folder(nnunet, 801, 0) / "validation").mkdir()
    (fold_folder(nnunet, 801, 0) / "validation" / "summary.json").write_text('{"mean": 5}', encoding="utf-8")


def renew_data(nnunet: Path) -> None:
    """As `dataset --overwrite` notes in the folds of the former version."""
    (fold_folder(nnunet, 802, 1) / "trained_on_sha256").write_text("5" * 64 + "\n", encoding="ascii")


def forget_data(nnunet: Path) -> None:
    (fold_folder(nnunet, 802, 1) / "trained_on_sha256").write_text("unknown\n", encoding="ascii")


def lose_fold(nnunet: Path) -> None:
    (fold_folder(nnunet, 802, 1) / "checkpoint_final.pth").rename(fold_folder(nnunet, 802, 1) / "checkpoint_latest.pth")


def lose_provenance(nnunet: Path) -> None:
    (nnunet / "nnUNet_raw" / "Dataset801_PSMA_PET_none" / "provenance.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lose_fold, "plain_802_fold_1 fold 1: must be trained to its end in "),
        (
            lose_provenance,
            "plain_801: what it was trained on must be known (--allow-unknown-data packs it all the same), ",
        ),
        (
            renew_data,
            f"plain_802 fold 1: must be trained on the Dataset802_FDG_PET_none that is there, sha256 {DIGESTS[802]}, "
            f"got a former version, sha256 {'5' * 64}",
        ),
        (
            forget_data,
            "plain_802: what it was trained on must be known (--allow-unknown-data packs it all the same), "
            "got fold 1 saw a former version of Dataset802_FDG_PET_none, which had no provenance.json",
        ),
        (spoil_trainer, "resenc_m_912_250epochs: trainer must be nnUNetTrainer_250epochs, got nnUNetTrainer"),
        (spoil_plans, "nnUNetTrainer__nnUNetPlans__3d_fullres fold 0: must be trained with the plans.json beside it, "),
        (
            spoil_fingerprint,
            "plain_802: must be trained on the data set that is there, dataset_fingerprint.json differs ",
        ),
        (
            spoil_checkpoint,
            "resenc_m_912_250epochs fold 4: must be trained to its end in ",
        ),
        (spoil_dataset_of_plans, "member plain_801: plans must be those of data set 801, got Dataset802_TINY"),
        (
            spoil_validation,
            "nnUNetTrainer__nnUNetPlans__3d_fullres fold 0: validation/summary.json must be nnU-Net's, got ",
        ),
    ],
)
def test_what_is_not_the_recipes_training_is_named_and_leaves_nothing(
    trained: Path, target: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None], error: str
) -> None:
    spoil(trained / SPARE)
    assert refusal(capsys, trained, target).startswith(error)
    assert list(target.parent.iterdir()) == []


def test_epochs_that_are_not_the_recipes(trained: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (trained / "recipe.toml").write_text(RECIPE.replace("folds = [4]", "folds = [4]\nepochs = 300"), encoding="utf-8")
    error = "resenc_m_912_250epochs_fold_4: must have been trained for the recipe's 300 epochs; remove "
    message = refusal(capsys, trained, target)
    assert message.startswith(error)
    assert message.endswith("to train it again, got 250 epochs")
    recipe = RECIPE.replace("folds = [4]", "folds = [4]\niterations = 10")
    (trained / "recipe.toml").write_text(recipe, encoding="utf-8")
    error = "resenc_m_912_250epochs fold 4: iterations per epoch must be the recipe's 10, got 250"
    assert refusal(capsys, trained, target) == error


@pytest.mark.usefixtures("untried")
def test_unknown_data_is_packed_when_told_to_and_called_unknown(
    trained: Path, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lose_provenance(trained / SPARE)
    forget_data(trained / SPARE)
    assert pack(trained, target, "--allow-unknown-data") == 0
    packed = read_manifest(target)
    for number, name in ((801, "Dataset801_PSMA_PET_none"), (802, "Dataset802_FDG_PET_none")):
        assert f"plain_{number}: trained on unknown data, the CT is taken as not clipped" in caplog.text
        assert provenance(packed, f"plain_{number}")["dataset"] == {"name": name, "sha256": "unknown"}
    assert read_packed_model(packed.fdg.members[0]).clip is None  # that of the data set now is not theirs
    assert provenance(packed, "resenc_m_912_250epochs")["dataset"]["sha256"] == DIGESTS[912]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"tarball": "model.tar"}, "tarball: must be called <name>.tar.gz, got model.tar"),
        ({"manifest": "mine"}, "--manifest: must be called <name>.toml, because its weights go to <name>, got mine"),
        ({"case": "nobody"}, ": input must be a folder, got nothing"),
        ({"base": "none.toml"}, "none.toml: manifest file is missing"),
        ({"recipe": "none.toml"}, "none.toml: recipe file is missing"),
    ],
)
def test_what_is_asked_wrongly_leaves_nothing(
    shared: Path, target: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], error: str
) -> None:
    paths = {name: target.parent / value for name, value in changes.items()}
    message = refusal(capsys, shared, paths.pop("manifest", target), **paths)
    assert error in message
    assert list(target.parent.iterdir()) == []


def test_what_is_there_stays_unless_told_otherwise(
    shared: Path, packed: Manifest, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests_below(packed.path.parent)
    error = f"--manifest: {packed.path} must not exist yet; --overwrite replaces it and its weights"
    assert refusal(capsys, shared, packed.path) == error
    tarball = packed.path.parent / "model.tar.gz"
    error = f"tarball: {tarball} must not exist yet; --overwrite replaces it"
    assert refusal(capsys, shared, target, tarball=tarball) == error
    assert digests_below(packed.path.parent) == before


@pytest.mark.parametrize("text", ["", "  ", "two\nlines"])
def test_a_licence_is_one_line(shared: Path, target: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    with pytest.raises(SystemExit):
        pack(shared, target, licence=text)
    assert "--licence: must be one line" in capsys.readouterr().err


def test_without_a_case_a_phantom_is_tried() -> None:
    phantom = make_trial_case()
    for tracer in Tracer:
        scan = phantom.case.scan(tracer)
        assert scan.organs is not None
        assert phantom.truth[tracer].any()
        assert phantom.truth[tracer].shape == scan.pet.GetSize()[::-1]
