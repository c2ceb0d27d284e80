"""The ensemble: folds averaged as logits, members as weighted probabilities, in nnU-Net's own steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape

from petct.channels import ClipHU, OrganEncoding
from petct.errors import CaseError
from petct.geometry import Grid
from petct.labels import Label
from petct.manifest import Member
from segmentation.packed_model import PackedModel, build_network, load_fold, read_packed_model
from segmentation.sliding_window import all_mirrorings, predict_logits

log = logging.getLogger(__name__)

Float = npt.NDArray[np.float32]
# Builds a scan's channels, (channel, z, y, x), in one encoding and with one clipping of the CT.
ChannelBuilder = Callable[[OrganEncoding, ClipHU | None], Float]


def predict_probabilities(
    build: ChannelBuilder,
    *,
    grid: Grid,
    members: Sequence[Member],
    mirroring: bool,
    tile_step: float,
    device: torch.device,
) -> Float:
    """Probabilities of the three classes for one scan.

    Args:
        build: Builds the scan's channels on `grid`; called once per encoding and clipping that the members use.
        grid: The PET's grid.
        members: The ensemble, at least one.
        mirroring: Whether to average over the mirrorings that a member was trained with.
        tile_step: Step of the sliding window as a fraction of the patch, in (0, 1].
        device: Where the networks run.

    Returns:
        float32 (3, z, y, x) on the grid: background, ttb, normal; they sum to 1 in every voxel.

    Raises:
        CaseError: A member's files are not what its manifest says, or its logits are not finite.
        ValueError: There are no members, or the channels are not on the grid.
    """
    models = [read_packed_model(member) for member in members]
    total_weight = sum(member.weight for member in members)
    mean = np.zeros((len(Label), *grid.shape_zyx), dtype=np.float32)
    # Members that see the same channels follow each other, so that only one set of channels is held at a time.
    for seen in dict.fromkeys((model.member.organ_encoding, model.clip) for model in models):
        channels = build(*seen)
        if channels.shape[1:] != grid.shape_zyx:
            raise ValueError(f"channels must be on the grid {grid.shape_zyx} (z, y, x), got {channels.shape[1:]}")
        for model in models:
            if (model.member.organ_encoding, model.clip) == seen:
                probabilities = _predict_member(
                    model, channels, grid=grid, mirroring=mirroring, tile_step=tile_step, device=device
                )
                probabilities *= model.member.weight / total_weight
                mean += probabilities
                del probabilities
        del channels
    return mean


def _predict_member(
    model: PackedModel, channels: Float, *, grid: Grid, mirroring: bool, tile_step: float, device: torch.device
) -> Float:
    """One member's probabilities on the grid, (3, z, y, x)."""
    started_s = time.monotonic()
    # The one line where our geometry becomes nnU-Net's: its reader gives arrays as (z, y, x) and spacings to match.
    properties: dict[str, Any] = {"spacing": list(grid.spacing_mm_zyx)}
    preprocessor = model.configuration.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case_npy(
        channels, None, properties, model.plans, model.configuration, model.dataset
    )
    logits = _fold_mean_logits(model, torch.from_numpy(data), mirroring=mirroring, tile_step=tile_step, device=device)
    del data
    _, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits,
        model.plans,
        model.configuration,
        model.plans.get_label_manager(model.dataset),
        properties,
        return_probabilities=True,
        num_threads_torch=torch.get_num_threads(),
    )
    folds = ", ".join(str(fold) for fold in model.member.folds)
    log.info("%s: folds %s: %.1f s", model.where, folds, time.monotonic() - started_s)
    return np.asarray(probabilities, dtype=np.float32)


def _fold_mean_logits(
    model: PackedModel, data: torch.Tensor, *, mirroring: bool, tile_step: float, device: torch.device
) -> torch.Tensor:
    """Logits in the network's own spacing, averaged over the member's folds."""
    network = build_network(model.configuration, model.dataset).to(device)
    mean: torch.Tensor | None = None
    for fold in model.member.folds:
        load_fold(network, model, fold=fold)
        where = f"{model.where} fold {fold}"
        logits = predict_logits(
            network,
            data,
            window=model.configuration.patch_size,
            classes=len(Label),
            mirrorings=all_mirrorings(model.mirroring_axes if mirroring else ()),
            tile_step=tile_step,
            device=device,
            name=where,
        )
        if not torch.isfinite(logits).all():
            raise CaseError(where, "logits must be finite", "NaN or infinity")
        mean = logits if mean is None else mean.add_(logits)
    if mean is None:
        raise ValueError(f"{model.where} must have at least one fold")
    return mean.div_(len(model.member.folds))
