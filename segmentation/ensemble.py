"""The ensemble: folds averaged as logits, members as weighted probabilities, in nnU-Net's own steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from petct.channels import ClipHU, OrganEncoding, channel_names
from petct.errors import CaseError
from petct.geometry import Grid
from petct.labels import Label
from petct.manifest import Member
from segmentation.export import add_probabilities
from segmentation.packed_model import PackedModel, build_network, load_fold, read_packed_model
from segmentation.plans import Recipe, Resampling, read_recipe
from segmentation.preprocessing import Preprocessed, ScanPreprocessor
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
    if not members:
        raise ValueError("an ensemble must have at least one member")
    models = [read_packed_model(member) for member in members]
    recipes = [_recipe(model) for model in models]
    total_weight = sum(member.weight for member in members)
    mean = np.zeros((len(Label), *grid.shape_zyx), dtype=np.float32)
    preprocessor = ScanPreprocessor(grid, device=device)
    # Members that see the same channels follow each other, so that only one set of channels is held at a time.
    for seen in dict.fromkeys((model.member.organ_encoding, model.clip) for model in models):
        together = [
            (model, recipe)
            for model, recipe in zip(models, recipes, strict=True)
            if (model.member.organ_encoding, model.clip) == seen
        ]
        inputs = _preprocess(
            build, seen, recipes=[recipe for _, recipe in together], grid=grid, preprocessor=preprocessor
        )
        for model, recipe in together:
            _add_member(
                mean,
                model,
                inputs[recipe],
                weight=model.member.weight / total_weight,
                mirroring=mirroring,
                tile_step=tile_step,
                device=device,
            )
        del inputs
    return mean


def _preprocess(
    build: ChannelBuilder,
    seen: tuple[OrganEncoding, ClipHU | None],
    *,
    recipes: Sequence[Recipe],
    grid: Grid,
    preprocessor: ScanPreprocessor,
) -> dict[Recipe, Preprocessed]:
    """What members see that share an encoding and a clipping, once per recipe."""
    started_s = time.monotonic()
    channels = build(*seen)
    if channels.shape[1:] != grid.shape_zyx:
        raise ValueError(f"channels must be on the grid {grid.shape_zyx} (z, y, x), got {channels.shape[1:]}")
    # The PET and the CT are there with any encoding of the organs.
    shared: tuple[Hashable, ...] = ("pet_ratio", ("ct", seen[1]))
    inputs = {recipe: preprocessor.run(channels, recipe=recipe, shared=shared) for recipe in dict.fromkeys(recipes)}
    log.debug("channels with organs %s: %.1f s", seen[0], time.monotonic() - started_s)
    return inputs


def _recipe(model: PackedModel) -> Recipe:
    channels = len(channel_names(model.member.organ_encoding))
    return read_recipe(model.plans, model.configuration, channels=channels, where=model.where)


def _add_member(
    mean: Float,
    model: PackedModel,
    scan: Preprocessed,
    *,
    weight: float,
    mirroring: bool,
    tile_step: float,
    device: torch.device,
) -> None:
    """Add one member's weighted probabilities to the mean, (3, z, y, x)."""
    started_s = time.monotonic()
    logits = _fold_mean_logits(model, scan.data, mirroring=mirroring, tile_step=tile_step, device=device)
    add_probabilities(
        mean,
        logits,
        placement=scan.placement,
        resampling=Resampling.from_plans(model.configuration.configuration, what="probabilities"),
        weight=weight,
        device=device,
    )
    folds = ", ".join(str(fold) for fold in model.member.folds)
    log.info("%s: folds %s: %.1f s", model.where, folds, time.monotonic() - started_s)


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
