"""Packed weights back in nnU-Net's results layout, where `nnUNetv2_predict` looks for them.

Each member gets a results folder of its own, because two members may be folds of one nnU-Net packed apart. A checkpoint
holds what nnU-Net's predictor reads and nothing else: a real one also holds the optimiser's state, as large as the
weights again, so the reference way loads less here than it would.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmark.unpacked import FILE_ENDING, UnpackedMember, write_members
from petct.case import Tracer
from petct.manifest import Manifest, Member
from segmentation.packed_model import PackedModel, build_network, load_fold, read_packed_model
from segmentation.weight_files import DATASET_FILE, MODEL_FILE, PLANS_FILE, check_member_files

# The networks are those of the plans whatever trained them, and nnU-Net finds its own trainer first.
TRAINER = "nnUNetTrainer"
NNUNETS_TILE_STEP = 0.5
NNUNETS_CHECKPOINT = "checkpoint_final.pth"


def unpack_manifest(manifest: Manifest, *, folder: Path) -> None:
    """Unpack all members of a manifest, and list them.

    Args:
        manifest: The manifest.
        folder: Where the results folders go; it appears whole or not at all, and one that is there is kept.

    Raises:
        CaseError: A member's files are not what its manifest says.
    """
    if folder.is_dir():
        return
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        members: dict[Tracer, list[UnpackedMember]] = {tracer: [] for tracer in Tracer}
        for tracer in Tracer:
            for number, member in enumerate(manifest.tracer(tracer).members):
                results = f"{tracer.value}_{number}"
                unpack_member(member, results=partial / results)
                members[tracer].append(
                    UnpackedMember(
                        name=member.name,
                        results=results,
                        options=stock_options(member, manifest=manifest),
                        encoding=member.organ_encoding,
                        clip=read_packed_model(member).clip,
                        weight=member.weight,
                    )
                )
        write_members(members, folder=partial)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def unpack_member(member: Member, *, results: Path) -> Path:
    """Write one member as nnU-Net's training leaves it.

    Args:
        member: The member.
        results: An `nnUNet_results` folder; made if missing.

    Returns:
        nnU-Net's `<trainer>__<plans>__<configuration>` folder.

    Raises:
        CaseError: The member's files are not what its manifest says.
    """
    check_member_files(member)
    model = read_packed_model(member)
    name = f"{TRAINER}__{model.plans.plans_name}__{_configuration_name(member)}"
    folder = results / str(model.plans.dataset_name) / name
    folder.mkdir(parents=True)
    shutil.copyfile(member.folder / PLANS_FILE, folder / PLANS_FILE)
    dataset = {**model.dataset, "file_ending": FILE_ENDING}
    (folder / DATASET_FILE).write_text(json.dumps(dataset, indent=2), encoding="utf-8")
    for fold in member.folds:
        checkpoint = folder / f"fold_{fold}" / _checkpoint_name(member)
        checkpoint.parent.mkdir()
        torch.save(_checkpoint(model, fold=fold, dataset=dataset), checkpoint)
    return folder


def stock_options(member: Member, *, manifest: Manifest) -> tuple[str, ...]:
    """Options of `nnUNetv2_predict` that name a member; what they do not name is left at nnU-Net's defaults.

    Args:
        member: The member.
        manifest: Its manifest, for mirroring and tile step.
    """
    plans = read_packed_model(member).plans
    options = ["-d", str(member.dataset_id), "-c", _configuration_name(member), "-p", str(plans.plans_name)]
    options += ["-f", *[str(fold) for fold in member.folds]]
    if not manifest.mirroring:
        options.append("--disable_tta")
    if manifest.tile_step != NNUNETS_TILE_STEP:
        options += ["-step_size", str(manifest.tile_step)]
    if _checkpoint_name(member) != NNUNETS_CHECKPOINT:
        options += ["-chk", _checkpoint_name(member)]
    return tuple(options)


def _checkpoint(model: PackedModel, *, fold: int, dataset: Mapping[str, Any]) -> dict[str, Any]:
    network = build_network(model.configuration, model.dataset)
    load_fold(network, model, fold=fold)
    return {
        # With every name that a tensor bears, as nnU-Net saves it: one tensor, stored once.
        "network_weights": network.state_dict(),
        "trainer_name": TRAINER,
        "init_args": {
            "configuration": _configuration_name(model.member),
            "fold": fold,
            "dataset_json": dict(dataset),
        },
        "inference_allowed_mirroring_axes": model.mirroring_axes or None,
    }


def _checkpoint_name(member: Member) -> str:
    return f"checkpoint_{member.checkpoint}.pth"


def _configuration_name(member: Member) -> str:
    """`read_packed_model` has checked the file."""
    return str(json.loads((member.folder / MODEL_FILE).read_text(encoding="utf-8"))["configuration"])
