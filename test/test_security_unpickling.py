"""What TotalSegmentator's process takes for a checkpoint: tensors and numbers, or what the manifest has pinned."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from petct.errors import CaseError
from petct.manifest import OrganSettings, OrganTask
from segmentation.totalsegmentator import find_organs, model_folders, unpinned_files
from segmentation.unpickling import read_checkpoint
from segmentation.weight_files import sha256_of
from tiny_organ_net import tiny_ct, write_tiny_fold
from training.weights.organ_weights import export_organ_weights
from watched_process import Watch

ROOT = Path(__file__).resolve().parents[1]
(MODEL,) = model_folders(OrganTask.FASTEST)
CHECKPOINT = f"{MODEL}/fold_0/checkpoint_final.pth"


class Writes:
    """What writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


@pytest.fixture
def pinned(tmp_path: Path) -> OrganSettings:
    """The hand-written network and its digests."""
    fold = write_tiny_fold(tmp_path / "results")
    plans, dataset_json, weights = fold.parent / "plans.json", fold.parent / "dataset.json", tmp_path / "weights"
    digests = export_organ_weights(
        fold, plans=plans, dataset_json=dataset_json, task=OrganTask.FASTEST, destination=weights
    )
    return OrganSettings(task=OrganTask.FASTEST, weights=weights, timeout_s=300.0, sha256=digests)


def make_hostile(settings: OrganSettings, *, trace: Path) -> None:
    path = settings.weights / CHECKPOINT
    content = torch.load(path, weights_only=True)
    torch.save({**content, "extra": Writes(trace)}, path)


def find(settings: OrganSettings):
    return find_organs(tiny_ct(), settings=settings, device="cpu", where="psma ct")


def test_a_checkpoint_that_runs_code_is_refused_unless_it_is_pinned(pinned: OrganSettings, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    make_hostile(pinned, trace=trace)
    with pytest.raises(CaseError, match=r"psma ct TotalSegmentator: sha256 of .*checkpoint_final\.pth must be "):
        find(pinned)
    with pytest.raises(CaseError, match=r"manifest must give the sha256 of every file in \[organs\.sha256\]"):
        find(replace(pinned, sha256={}))
    assert not trace.exists()
    # The manifest answers for it.
    find(replace(pinned, sha256={**pinned.sha256, CHECKPOINT: sha256_of(pinned.weights / CHECKPOINT)}))
    assert trace.exists()


def test_a_checkpoint_that_is_changed_after_it_was_checked_is_refused(
    pinned: OrganSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_hostile(pinned, trace=tmp_path / "trace")
    monkeypatch.setattr("segmentation.totalsegmentator.check_organ_weights", lambda settings, where: None)
    with pytest.raises(CaseError, match=r"sha256 of .*checkpoint_final\.pth must be [0-9a-f]{64}, got [0-9a-f]{64}"):
        find(pinned)
    assert not (tmp_path / "trace").exists()


def test_files_without_digests_are_refused(pinned: OrganSettings, tmp_path: Path) -> None:
    make_hostile(pinned, trace=tmp_path / "trace")
    assert unpinned_files(pinned) == []
    plans_only = replace(pinned, sha256={f"{MODEL}/plans.json": pinned.sha256[f"{MODEL}/plans.json"]})
    assert unpinned_files(plans_only) == [f"{MODEL}/dataset.json", CHECKPOINT]
    with pytest.raises(CaseError) as error:
        find(plans_only)
    rule, _, command = str(error.value).partition("; to get them from files that you trust, run ")
    assert rule == (
        "psma ct TotalSegmentator: manifest must give the sha256 of every file in [organs.sha256], "
        f"{MODEL}/dataset.json has none"
    )
    assert not (tmp_path / "trace").exists()
    # The command gives what the manifest needs.
    lines = subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout.splitlines()
    found = {file: digest for digest, file in (line.split("  ") for line in lines)}
    assert found == {file: sha256_of(pinned.weights / file) for file in (f"{MODEL}/dataset.json", CHECKPOINT)}


def test_what_nnunet_stores_is_read_without_unpickling(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_final.pth"
    stored = {
        "network_weights": {"seg.weight": torch.arange(6.0).reshape(1, 2, 3)},
        "logging": {"mean_fg_dice": [np.float64(0.25), np.float32(0.5), 0.75], "epochs": [np.int64(3)]},
        "_best_ema": np.float64(0.875),
        "init_args": {"configuration": "3d_fullres", "device": torch.device("cuda")},
        "inference_allowed_mirroring_axes": (0, 1, 2),
        "grad_scaler_state": None,
    }
    torch.save(stored, path)
    watch = Watch(tmp_path / "watch")
    program = f"""
import pathlib, sys
from segmentation.unpickling import read_checkpoint
found = read_checkpoint(pathlib.Path({str(path)!r}), sha256={sha256_of(path)!r})
print(found.pop("network_weights")["seg.weight"].flatten().tolist())
print(found)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=watch.environment, capture_output=True, text=True, timeout=120
    )
    weights, others = done.stdout.splitlines()
    assert weights == str([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    assert others == str({key: value for key, value in stored.items() if key != "network_weights"})
    assert watch.notes("pickle") == []


def test_only_the_files_with_the_manifests_digest_are_read(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_final.pth"
    torch.save({"network_weights": {}}, path)
    assert read_checkpoint(path, sha256=sha256_of(path)) == {"network_weights": {}}
    with pytest.raises(RuntimeError, match=rf"^sha256 of {path} must be 0{{64}}, got [0-9a-f]{{64}}$"):
        read_checkpoint(path, sha256="0" * 64)
    with pytest.raises(RuntimeError, match=rf"^sha256 of {path} must be in the manifest, got [0-9a-f]{{64}}$"):
        read_checkpoint(path, sha256=None)


def test_a_process_that_forbids_unpickling_unpickles_pinned_files_only(tmp_path: Path) -> None:
    program = f"""
import hashlib, pathlib, pickle, sys
import torch
from segmentation.unpickling import forbid_unpickling, read_checkpoint
path = pathlib.Path({str(tmp_path / "c.pth")!r})
torch.save({{"path": pathlib.PurePosixPath("there")}}, path)
forbid_unpickling()
print(pickle.loads(pickle.dumps([1, "two", 3.0])))
digest = hashlib.sha256(path.read_bytes()).hexdigest()
print(read_checkpoint(path, sha256=digest))
for read in (lambda: torch.load(path, weights_only=False), lambda: pickle.loads(pickle.dumps(path))):
    try:
        read()
    except RuntimeError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    rule = "TotalSegmentator must unpickle nothing but pinned checkpoints"
    assert done.stdout.splitlines() == [
        "[1, 'two', 3.0]",
        "{'path': PurePosixPath('there')}",
        f"{rule}, pathlib.PurePosixPath was asked for",
        f"{rule}, pathlib.PosixPath was asked for",
    ]
