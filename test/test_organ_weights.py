import json
from pathlib import Path
from typing import Any

import pytest
import torch

from petct.errors import CaseError
from petct.manifest import OrganTask
from segmentation.weight_files import check_files
from tiny_organ_net import tiny_network, write_tiny_fold
from training.weights.organ_weights import export_organ_weights

MODEL = "Dataset298_TotalSegmentator_total_6mm_1559subj/nnUNetTrainer_4000epochs_NoMirroring__nnUNetPlans__3d_fullres"


def export(fold: Path, destination: Path, *, task: OrganTask = OrganTask.FASTEST) -> dict[str, str]:
    results = fold.parent
    plans, dataset_json = results / "plans.json", results / "dataset.json"
    return export_organ_weights(fold, plans=plans, dataset_json=dataset_json, task=task, destination=destination)


def change_json(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | changes), encoding="utf-8")


def test_model_has_totalsegmentators_layout_and_only_what_inference_needs(tmp_path: Path) -> None:
    digests = export(write_tiny_fold(tmp_path / "results"), tmp_path / "weights")

    assert list(digests) == [f"{MODEL}/{f}" for f in ("plans.json", "dataset.json", "fold_0/checkpoint_final.pth")]
    check_files(tmp_path / "weights", digests, where="test")
    files = [path for path in (tmp_path / "weights").rglob("*") if path.is_file()]
    assert {str(path.relative_to(tmp_path / "weights")) for path in files} == set(digests)
    # Nothing in it needs unpickling.
    checkpoint = torch.load(tmp_path / "weights" / MODEL / "fold_0" / "checkpoint_final.pth", weights_only=True)
    weights = checkpoint.pop("network_weights")
    assert checkpoint == {
        "trainer_name": "nnUNetTrainer_4000epochs_NoMirroring",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": None,
    }
    for name, tensor in tiny_network().state_dict().items():
        torch.testing.assert_close(weights[name].float(), tensor, rtol=0.0, atol=0.0)
    dataset = json.loads((tmp_path / "weights" / MODEL / "dataset.json").read_text(encoding="utf-8"))
    assert dataset["file_ending"] == ".nii.gz"
    assert (dataset["labels"]["background"], dataset["labels"]["spleen"], len(dataset["labels"])) == (0, 1, 118)
    plans = json.loads((tmp_path / "weights" / MODEL / "plans.json").read_text(encoding="utf-8"))
    assert list(plans["configurations"]) == ["3d_fullres"]


def test_a_network_of_some_labels_gets_all_outputs_by_name_and_the_others_are_silent(tmp_path: Path) -> None:
    fold = write_tiny_fold(tmp_path / "results")
    # Trained outputs 0, 1, 2 in an order that is not TotalSegmentator's: liver is its 5, spleen its 1.
    change_json(fold.parent / "dataset.json", labels={"background": 0, "liver": 1, "spleen": 2})
    checkpoint = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    trained = checkpoint["network_weights"]
    head = "decoder.seg_layers.0"
    trained[f"{head}.weight"] = torch.arange(12.0).reshape(3, 4, 1, 1, 1)
    trained[f"{head}.bias"] = torch.tensor([0.5, 1.5, 2.5])
    torch.save(checkpoint, fold / "checkpoint_final.pth")

    export(fold, tmp_path / "weights")
    packed = torch.load(tmp_path / "weights" / MODEL / "fold_0/checkpoint_final.pth", weights_only=True)
    weight, bias = (packed["network_weights"][f"{head}.{part}"].float() for part in ("weight", "bias"))
    assert weight.shape == (118, 4, 1, 1, 1)
    for output, number in ((0, 0), (5, 1), (1, 2)):
        assert torch.equal(weight[output], trained[f"{head}.weight"][number])
        assert bias[output] == trained[f"{head}.bias"][number]
    silent = [output for output in range(118) if output not in (0, 1, 5)]
    assert not weight[silent].any()
    assert (bias[silent] == -100.0).all()


def test_every_tensor_is_stored_once(tmp_path: Path) -> None:
    export(write_tiny_fold(tmp_path / "results"), tmp_path / "weights")

    weights = torch.load(tmp_path / "weights" / MODEL / "fold_0/checkpoint_final.pth", weights_only=True)[
        "network_weights"
    ]
    stored = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in weights.values()}
    parameters = list(tiny_network().parameters())
    assert len(weights) > len(parameters)
    assert sum(stored.values()) == 2 * sum(parameter.numel() for parameter in parameters)


def test_3_mm_model_is_written_under_its_own_name(tmp_path: Path) -> None:
    fold = write_tiny_fold(tmp_path / "results")
    plans = json.loads((fold.parent / "plans.json").read_text(encoding="utf-8"))
    plans["configurations"]["3d_fullres"]["spacing"] = [3.0, 3.0, 3.0]
    change_json(fold.parent / "plans.json", configurations=plans["configurations"])

    export(fold, tmp_path / "weights", task=OrganTask.FAST)

    assert [path.name for path in (tmp_path / "weights").iterdir()] == [
        "Dataset297_TotalSegmentator_total_3mm_1559subj"
    ]


def test_model_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    fold = write_tiny_fold(tmp_path / "results")
    export(fold, tmp_path / "weights")
    with pytest.raises(CaseError, match="Dataset298_TotalSegmentator_total_6mm_1559subj must not exist yet"):
        export(fold, tmp_path / "weights")


def test_what_is_not_the_tasks_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    fold = write_tiny_fold(tmp_path / "results")
    weights = tmp_path / "weights"

    with pytest.raises(CaseError, match="task must be one of fast, fastest, got total"):
        export(fold, weights, task=OrganTask.TOTAL)
    with pytest.raises(CaseError, match=r"spacing must be 3 mm for task fast, got \[6.0, 6.0, 6.0\] mm"):
        export(fold, weights, task=OrganTask.FAST)
    labels = json.loads((fold.parent / "dataset.json").read_text(encoding="utf-8"))["labels"]
    change_json(fold.parent / "dataset.json", labels=labels | {"left_kidney": 118})
    with pytest.raises(CaseError, match="must be background 0 and names of TotalSegmentator's, got left_kidney"):
        export(fold, weights)
    change_json(fold.parent / "dataset.json", labels=labels | {"background": 117})
    with pytest.raises(CaseError, match="must be background 0 and names of TotalSegmentator's, got no background 0"):
        export(fold, weights)
    change_json(fold.parent / "dataset.json", labels=labels, channel_names={"0": "CT", "1": "PET"})
    with pytest.raises(CaseError, match="there must be one channel, the CT, got 2 channels"):
        export(fold, weights)
    change_json(fold.parent / "dataset.json", channel_names={"0": "CT"})
    change_json(fold.parent / "plans.json", configurations={})
    with pytest.raises(CaseError, match="plans must describe the network of configuration 3d_fullres"):
        export(fold, weights)
    (fold / "checkpoint_final.pth").unlink()
    with pytest.raises(CaseError, match=r"file is missing: .*checkpoint_final\.pth"):
        export(fold, weights)
    assert not weights.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init_args": {"configuration": "3d_lowres"}}, "configuration must be 3d_fullres, got 3d_lowres"),
        ({"network_weights": {}}, "weights must fit the network of the plans"),
        ({"network_weights": {"x": torch.tensor(1e5)}}, "weights must be finite in float16, x is not"),
    ],
)
def test_checkpoint_of_another_network_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    fold = write_tiny_fold(tmp_path / "results")
    checkpoint = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    torch.save(checkpoint | change, fold / "checkpoint_final.pth")

    with pytest.raises(CaseError, match=message):
        export(fold, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()
