"""From nnU-Net's results folder to a packed model: no optimiser state, no pickle, digests for the manifest.

Packing unpickles nnU-Net's checkpoints, and a pickle can run any code: pack only what you have trained or trust.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from safetensors.torch import save_file

from petct.channels import ClipHU
from petct.errors import CaseError
from segmentation.packed_model import Precision, build_network, model_json, own_tensors
from segmentation.weight_files import DATASET_FILE, MODEL_FILE, PLANS_FILE, fold_file, sha256_of
from training.weights.code_version import code_version, package_versions
from training.weights.training_record import fold_record


def pack_model(
    results_folder: Path,
    *,
    folds: Sequence[int],
    destination: Path,
    clip: ClipHU | None,
    provenance: Mapping[str, Any],
    checkpoint: str = "final",
    half: bool = False,
    overwrite: bool = False,
) -> dict[str, str]:
    """Pack some folds of a trained nnU-Net.

    The trainer's class is not needed: the network is built from the plans.

    Args:
        results_folder: nnU-Net's `<trainer>__<plans>__<configuration>` folder.
        folds: The folds to pack, at least one.
        destination: The packed model's folder; it appears whole or not at all.
        clip: Limits that the CT was clipped to when the data set was built, or None.
        provenance: Where the model comes from, for people, as JSON values; trainer, folds and versions are added.
        checkpoint: `final` or `best`.
        half: Store the weights as float16, half the size, rounded to 11 bits.
        overwrite: Whether an existing destination is replaced.

    Returns:
        sha256 hex digest per file, paths relative to the destination: a manifest's `sha256`.

    Raises:
        CaseError: The destination exists, a file is missing or damaged, folds come from different trainings, or the
            weights do not fit the plans or are not finite.
    """
    if not folds:
        raise CaseError(str(results_folder), "at least one fold must be packed")
    old = destination.with_name(f".{destination.name}.old")
    if old.exists() and not destination.exists():
        old.rename(destination)  # an earlier call was killed between the two renamings below
    if destination.exists() and not overwrite:
        raise CaseError(str(destination), "folder to pack into must not exist yet")
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = destination.with_name(f".{destination.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write(
            partial,
            results_folder,
            folds=folds,
            checkpoint=checkpoint,
            precision=Precision.FLOAT16 if half else Precision.FLOAT32,
            clip=clip,
            provenance=provenance,
        )
        shutil.rmtree(old, ignore_errors=True)
        if destination.exists():
            destination.rename(old)
        partial.rename(destination)
    finally:
        if old.exists() and not destination.exists():
            old.rename(destination)
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(partial, ignore_errors=True)
    files = sorted(path for path in destination.rglob("*") if path.is_file())
    return {path.relative_to(destination).as_posix(): sha256_of(path) for path in files}


def _write(
    folder: Path,
    results_folder: Path,
    *,
    folds: Sequence[int],
    checkpoint: str,
    precision: Precision,
    clip: ClipHU | None,
    provenance: Mapping[str, Any],
) -> None:
    checkpoints = {fold: _load(results_folder, fold=fold, checkpoint=checkpoint) for fold in folds}
    training = _same_training(checkpoints, where=results_folder.name)
    dataset = _read_json(results_folder / DATASET_FILE)
    plans_json = _read_json(results_folder / PLANS_FILE)
    for fold, content in checkpoints.items():
        _check_belongs(content, plans=plans_json, dataset=dataset, where=f"{results_folder.name} fold {fold}")
    network = build_network(PlansManager(plans_json).get_configuration(training["configuration"]), dataset)
    records = {}
    folder.mkdir()
    for name in (PLANS_FILE, DATASET_FILE):
        shutil.copyfile(results_folder / name, folder / name)
    for fold, content in checkpoints.items():
        path = folder / fold_file(fold, checkpoint)
        path.parent.mkdir()
        where = f"{results_folder.name} fold {fold}"
        save_file(_network_weights(network, content["network_weights"], precision=precision, where=where), path)
        path.chmod(0o644)  # safetensors keeps other users out, and the container runs as one
        records[str(fold)] = fold_record(
            content,
            fold_folder=results_folder / f"fold_{fold}",
            checkpoint_name=checkpoint,
            labels=dataset["labels"],
            where=where,
        )
    text = model_json(
        configuration=training["configuration"],
        mirroring_axes=training["mirroring_axes"],
        clip=clip,
        stored_as=precision,
        provenance={
            "trainer": training["trainer"],
            **provenance,
            "checkpoint": checkpoint,
            "folds": records,
            "packed_by": code_version(),
            "packed_with": package_versions(),
        },
    )
    (folder / MODEL_FILE).write_text(text, encoding="utf-8")


def _load(results_folder: Path, *, fold: int, checkpoint: str) -> dict[str, Any]:
    path = _existing(results_folder / f"fold_{fold}" / f"checkpoint_{checkpoint}.pth")
    try:
        # nnU-Net's checkpoints hold more than tensors (its log, its arguments), so torch's safe unpickler refuses them.
        # Mapped, because several folds with their optimisers' states are more than a computer's memory may hold.
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=False)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CaseError(f"{results_folder.name} fold {fold}", f"{path.name} must be readable", str(error)) from error
    keys = ("network_weights", "init_args", "trainer_name")
    if not isinstance(content, dict) or any(key not in content for key in keys):
        raise CaseError(f"{results_folder.name} fold {fold}", f"{path.name} must be nnU-Net's")
    return content


def _same_training(checkpoints: Mapping[int, Mapping[str, Any]], *, where: str) -> dict[str, Any]:
    """What all folds must have in common, because a packed model says it once."""
    found = [
        {
            "configuration": content["init_args"]["configuration"],
            "mirroring_axes": tuple(content.get("inference_allowed_mirroring_axes") or ()),
            "trainer": content["trainer_name"],
        }
        for content in checkpoints.values()
    ]
    for fold, training in zip(checkpoints, found, strict=True):
        if training != found[0]:
            raise CaseError(
                where, f"fold {fold} must come from the same training as the first, {found[0]}", str(training)
            )
    return found[0]


def _check_belongs(
    content: Mapping[str, Any], *, plans: Mapping[str, Any], dataset: Mapping[str, Any], where: str
) -> None:
    """Refuse a fold that was trained before the plans or the data set were made again."""
    for key, shared, file in (("plans", plans, PLANS_FILE), ("dataset_json", dataset, DATASET_FILE)):
        own = content["init_args"].get(key)
        if own is not None and _comparable(own) != _comparable(shared):
            raise CaseError(where, f"must be trained with the {file} beside it, which is of another training")


def _comparable(content: Mapping[str, Any]) -> str:
    """As text, without what differs between a training that went on and one that did not."""
    return json.dumps({key: value for key, value in content.items() if key != "continue_training"}, sort_keys=True)


def _network_weights(
    network: torch.nn.Module, weights: Mapping[str, torch.Tensor], *, precision: Precision, where: str
) -> dict[str, torch.Tensor]:
    """Each of the network's weights once, as they are to be stored."""
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise CaseError(where, "weights must fit the network of the plans", str(error)) from error
    stored = {}
    for name, tensor in own_tensors(network).items():
        values = tensor.detach().to(precision.dtype) if tensor.is_floating_point() else tensor.detach()
        if not torch.isfinite(values).all():
            raise CaseError(where, f"tensor {name} must be finite as {precision}", "NaN or infinity")
        stored[name] = values.clone()  # the next fold goes into the same network
    return stored


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_existing(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CaseError(path.name, f"must be JSON in UTF-8: {path}", str(error)) from error
    if not isinstance(content, dict):
        raise CaseError(path.name, f"must hold a JSON object: {path}")
    return content


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise CaseError(path.name, f"file is missing: {path}")
    return path
