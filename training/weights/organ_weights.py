"""Turning a trained nnU-Net fold into weights that TotalSegmentator runs, in its own folder layout."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from petct.errors import CaseError
from petct.manifest import OrganTask
from petct.organs import totalsegmentator_labels
from segmentation.totalsegmentator import TRAINERS, WEIGHT_FILES, model_folders
from segmentation.weight_files import sha256_of

CONFIGURATION = "3d_fullres"  # the only one that TotalSegmentator's `total` models have
VOXEL_SIZE_MM = {OrganTask.FAST: 3.0, OrganTask.FASTEST: 6.0}

# A trained logit never is that low, and summed over windows in half precision, weighted by up to 10, it stays finite.
SILENT_LOGIT = -100.0
_OUTPUT_LAYERS = ".seg_layers."

Weights = Mapping[str, torch.Tensor]


def export_organ_weights(
    fold_folder: Path, *, plans: Path, dataset_json: Path, task: OrganTask, destination: Path
) -> dict[str, str]:
    """Write a trained fold as TotalSegmentator's model of one task, for inference only.

    The weights are stored as float16, each once. The network must have been trained on images in the orientation that
    TotalSegmentator feeds (RAS, isotropic voxels of the task's size) for its labels to mean anything. It may know some
    of TotalSegmentator's labels only; the others are then never found.

    Args:
        fold_folder: nnU-Net's results of one fold, with `checkpoint_final.pth`.
        plans: The plans that it was trained with.
        dataset_json: Its data set's description; the labels must be TotalSegmentator's by name, all or some.
        task: `fast` (3 mm) or `fastest` (6 mm); `total` is five models, which one fold cannot be.
        destination: The folder of weights (TOTALSEG_WEIGHTS_PATH); made if missing.

    Returns:
        sha256 per file, relative to `destination`.

    Raises:
        CaseError: A file is missing, the labels, voxel size or configuration are not the task's, the weights do not fit
            the plans, or the destination already has the model.
    """
    if task not in VOXEL_SIZE_MM:
        raise CaseError("organ weights", f"task must be one of {', '.join(VOXEL_SIZE_MM)}", task)
    (model,) = model_folders(task)
    checkpoint_file = fold_folder / "checkpoint_final.pth"
    for file in (checkpoint_file, plans, dataset_json):
        if not file.is_file():
            raise CaseError("organ weights", f"file is missing: {file}")
    dataset = Path(model).parts[0]
    if (destination / dataset).exists():
        raise CaseError("organ weights", f"{destination / dataset} must not exist yet")

    description = _description(json.loads(dataset_json.read_text(encoding="utf-8")), where=dataset_json.name)
    model_plans = _plans(json.loads(plans.read_text(encoding="utf-8")), task=task, where=plans.name)
    # A checkpoint of nnU-Net's trainer holds more than tensors; it is our own, fresh from training.
    checkpoint = torch.load(checkpoint_file, map_location="cpu", weights_only=False)
    if checkpoint["init_args"]["configuration"] != CONFIGURATION:
        got = str(checkpoint["init_args"]["configuration"])
        raise CaseError(checkpoint_file.name, f"configuration must be {CONFIGURATION}", got)
    trained_labels = json.loads(dataset_json.read_text(encoding="utf-8"))["labels"]
    weights = _halve(_with_all_outputs(checkpoint["network_weights"], trained_labels), where=checkpoint_file.name)
    _check_fit(weights, model_plans, where=checkpoint_file.name)

    destination.mkdir(parents=True, exist_ok=True)
    # What is seen under its final name is complete.
    with tempfile.TemporaryDirectory(prefix=".organ_weights_", dir=destination) as scratch:
        plans_file, dataset_file, weights_file = (Path(scratch, model, file) for file in WEIGHT_FILES)
        weights_file.parent.mkdir(parents=True)
        plans_file.write_text(json.dumps(model_plans, indent=1), encoding="utf-8")
        dataset_file.write_text(json.dumps(description, indent=1), encoding="utf-8")
        # The keys that nnU-Net's predictor reads.
        inference = {
            "network_weights": weights,
            "trainer_name": TRAINERS[task],
            "init_args": {"configuration": CONFIGURATION},
            "inference_allowed_mirroring_axes": None,
        }
        torch.save(inference, weights_file)
        Path(scratch, dataset).rename(destination / dataset)
    return {f"{model}/{file}": sha256_of(destination / model / file) for file in WEIGHT_FILES}


def _description(dataset: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """dataset.json for TotalSegmentator, which writes its images as .nii.gz whatever the training's were."""
    labels = {"background": 0} | {name: number for number, name in totalsegmentator_labels().items()}
    strangers = sorted(dataset["labels"].keys() - labels.keys())
    if strangers or dataset["labels"].get("background") != 0:
        got = ", ".join(strangers[:5]) or "no background 0"
        raise CaseError(where, "labels must be background 0 and names of TotalSegmentator's", got)
    if len(dataset["channel_names"]) != 1:
        raise CaseError(where, "there must be one channel, the CT", f"{len(dataset['channel_names'])} channels")
    return {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}


def _plans(plans: Mapping[str, Any], *, task: OrganTask, where: str) -> dict[str, Any]:
    """The plans, with the one configuration that is used."""
    configuration = plans["configurations"].get(CONFIGURATION)
    if configuration is None or "architecture" not in configuration:
        raise CaseError(where, f"plans must describe the network of configuration {CONFIGURATION}")
    size_mm = VOXEL_SIZE_MM[task]
    if not all(math.isclose(spacing_mm, size_mm) for spacing_mm in configuration["spacing"]):
        raise CaseError(where, f"spacing must be {size_mm:g} mm for task {task}", f"{configuration['spacing']} mm")
    return {**plans, "configurations": {CONFIGURATION: configuration}}


def _with_all_outputs(weights: Weights, trained_labels: Mapping[str, int]) -> Weights:
    """The weights with TotalSegmentator's 118 outputs, those of labels that were not trained silenced."""
    wide: dict[str, torch.Tensor] = {}
    numbers = {"background": 0} | {name: number for number, name in totalsegmentator_labels().items()}
    rows = {numbers[name]: trained for name, trained in trained_labels.items()}
    for name, tensor in weights.items():
        if _OUTPUT_LAYERS in name:
            silent = SILENT_LOGIT if name.endswith("bias") else 0.0
            tensor = tensor.new_full((1 + len(totalsegmentator_labels()), *tensor.shape[1:]), silent)
            tensor[list(rows)] = weights[name][list(rows.values())]
        wide[name] = tensor
    return wide


def _halve(weights: Weights, *, where: str) -> dict[str, torch.Tensor]:
    """The weights as float16; a tensor that nnU-Net knows by several names stays one, and is then stored once."""
    halves: dict[tuple[Any, ...], torch.Tensor] = {}
    named = {}
    for name, tensor in weights.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if place not in halves:
            halves[place] = tensor.detach().to(torch.float16).contiguous()
            if not torch.isfinite(halves[place]).all():
                raise CaseError(where, f"weights must be finite in float16, {name} is not")
        named[name] = halves[place]
    return named


def _check_fit(weights: Weights, plans: Mapping[str, Any], *, where: str) -> None:
    """Build the network as nnU-Net will, and load it."""
    architecture = plans["configurations"][CONFIGURATION]["architecture"]
    network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        1,
        1 + len(totalsegmentator_labels()),
        deep_supervision=False,
    )
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise CaseError(where, "weights must fit the network of the plans", str(error)[:300]) from error
