"""The ensemble: folds averaged as logits, members as weighted probabilities, in nnU-Net's own steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from petct.channels import ClipHU, OrganEncoding, ScanChannels, channels_of
from petct.errors import CaseError
from petct.labels import Label
from petct.manifest import Backend, Manifest, Member, Mode
from segmentation.beside_networks import Background
from segmentation.crop import WORTH_WINDOWS, Surroundings, look_around, network_region, scan_box, visible_box
from segmentation.export import add_probabilities
from segmentation.needed import Needed
from segmentation.networks import choose_backend, choose_precision, open_folds
from segmentation.packed_model import PackedModel, read_packed_model
from segmentation.plans import Recipe, Resampling, read_recipe
from segmentation.preprocessing import Placement, Preprocessed, ScanPreprocessor
from segmentation.resampling import Box
from segmentation.sliding_window import all_mirrorings, predict_logits

log = logging.getLogger(__name__)

Float = npt.NDArray[np.float32]

FAST_MIRRORINGS = 2
FAST_TILE_STEP = 0.75
_LEFT_RIGHT = 2  # the array axis along which the two sides of a patient look most alike
# How many of the network's voxels away a spline of an order feels a voxel, to float32's precision.
_REACH = {0: 1, 1: 1, 2: 12, 3: 16, 4: 20, 5: 24}


@dataclass(frozen=True)
class Running:
    """How the networks are run.

    Attributes:
        mode: How much work a case is given.
        backend: PyTorch or OpenVINO.
        mirroring: Whether to average over the mirrorings that a member was trained with.
        tile_step: Step of the sliding window as a fraction of the patch, in (0, 1].
        device: Where the networks run.
    """

    mode: Mode
    backend: Backend
    mirroring: bool
    tile_step: float
    device: torch.device

    @classmethod
    def of(cls, manifest: Manifest, *, device: torch.device) -> Running:
        """What a manifest says, on a device.

        Raises:
            CaseError: The manifest asks for OpenVINO, which is not there or not for the device.
        """
        backend = choose_backend(manifest.backend, device=device)
        return cls(manifest.mode, backend, manifest.mirroring, manifest.tile_step, device)

    @property
    def window_step(self) -> float:
        """Step of the sliding window in this mode, in (0, 1]."""
        return max(self.tile_step, FAST_TILE_STEP) if self.mode is Mode.FAST else self.tile_step

    def __str__(self) -> str:
        seen = {
            Mode.EXACT: "nnU-Net's own windows of the whole scan, all mirrorings",
            Mode.BALANCED: "windows of the body only, where that saves half of them, all mirrorings",
            Mode.FAST: f"windows of the body near what can be disease, {FAST_TILE_STEP:g} of a window apart, at most "
            f"{FAST_MIRRORINGS} mirrorings",
        }[self.mode]
        if self.backend is Backend.OPENVINO:
            return f"{self.mode}: {seen}; OpenVINO, {choose_precision(self.mode, backend=self.backend)}"
        return f"{self.mode}: {seen}; PyTorch, {'float16' if self.device.type == 'cuda' else 'float32'}"


@dataclass(frozen=True)
class _Group:
    """Members that see the same channels."""

    encoding: OrganEncoding
    clip: ClipHU | None
    members: list[tuple[PackedModel, Recipe]]


@dataclass(frozen=True)
class Inputs:
    """What the members of a group see, one entry each, and what is asked of them."""

    seen: list[Preprocessed]
    surroundings: Surroundings


class ScanEnsemble:
    """The ensemble on one scan.

    Args:
        scan: The scan's channels.
        members: The ensemble, at least one.
        running: How the networks are run.
        reach_mm: How far from a voxel that can be disease probabilities matter.
        is_everywhere: Whether probabilities are wanted where they do not matter, too.
        name: What the log calls the scan.

    Raises:
        CaseError: A member's files are not what its manifest says.
        ValueError: There are no members.
    """

    def __init__(
        self,
        scan: ScanChannels,
        *,
        members: Sequence[Member],
        running: Running,
        reach_mm: float,
        is_everywhere: bool,
        name: str,
    ) -> None:
        if not members:
            raise ValueError("an ensemble must have at least one member")
        self._scan = scan
        self._running = running
        self._reach_mm = reach_mm
        self._is_everywhere = is_everywhere
        self._name = name
        self._preprocessor = ScanPreprocessor(scan.grid, scan.build, device=running.device)
        self._surroundings: Surroundings | None = None
        self._total_weight = sum(member.weight for member in members)
        models = [(model, _recipe(model)) for model in map(read_packed_model, members)]
        # Members that see the same channels follow each other, so that only one set of channels is held at a time.
        self._groups = [
            _Group(*seen, [pair for pair in models if _seen(pair[0]) == seen])
            for seen in dict.fromkeys(_seen(model) for model, _ in models)
        ]

    def inputs(self) -> Iterator[Callable[[], Inputs]]:
        """Pieces of work that make what `predict` wants, in its order; they may run in another thread, one by one."""
        for group in self._groups:
            yield lambda group=group: self._prepare(group)  # type: ignore[misc]

    def predict(self, inputs: Iterator[Inputs], *, background: Background) -> Float:
        """Probabilities of the three classes.

        Args:
            inputs: What the pieces of work of `inputs` made, in order; as many are taken as there were.
            background: Puts away what one member says while the next is computed.

        Returns:
            float32 (3, z, y, x) on the scan's grid: background, ttb, normal. They sum to 1 in every voxel where they
            matter, and may be 0 in others unless they are wanted everywhere.

        Raises:
            CaseError: A member's weights are not what its plans say, or its logits are not finite.
        """
        mean = np.zeros((len(Label), *self._scan.grid.shape_zyx), dtype=np.float32)
        added: Future[None] | None = None
        for group in self._groups:
            made = next(inputs)
            for (model, _), seen in zip(group.members, made.seen, strict=True):
                started_s = time.monotonic()
                logits = self._fold_mean_logits(model, seen, surroundings=made.surroundings)
                if added is not None:
                    added.result()
                added = background.submit(
                    add_probabilities,
                    mean,
                    logits,
                    placement=seen.placement,
                    part=seen.part,
                    resampling=_probability_resampling(model),
                    weight=model.member.weight / self._total_weight,
                    needed=None if self._is_everywhere else made.surroundings.needed,
                    device=self._running.device,
                )
                folds = ", ".join(str(fold) for fold in model.member.folds)
                log.info("%s: folds %s: %.1f s", model.where, folds, time.monotonic() - started_s)
                del logits, seen
            del made
        if added is not None:
            added.result()
        return mean

    def _prepare(self, group: _Group) -> Inputs:
        """What the members of a group see, made once for those with equal plans."""
        if self._surroundings is None:
            self._surroundings = look_around(
                self._scan, has_body=self._running.mode is not Mode.EXACT, reach_mm=self._reach_mm
            )
            log.info("%s networks: %s", self._name, self._running)
        surroundings = self._surroundings
        made: dict[tuple[Recipe, tuple[int, ...] | None], Preprocessed] = {}
        seen = []
        for model, recipe in group.members:
            # In an exact run members with other windows see the same voxels.
            can_be_cropped = self._running.mode is not Mode.EXACT and _probability_resampling(model).spline is not None
            window = tuple(model.configuration.patch_size) if can_be_cropped else None
            if (recipe, window) not in made:
                made[recipe, window] = self._preprocessor.run(
                    channels_of(group.encoding, group.clip),
                    recipe=recipe,
                    region=self._region(window, surroundings=surroundings) if window else None,
                )
            seen.append(made[recipe, window])
        return Inputs(seen, surroundings)

    def _region(self, window: tuple[int, ...], *, surroundings: Surroundings) -> Callable[[Placement], Box]:
        grid = self._scan.grid
        visible = visible_box(
            surroundings, mode=self._running.mode, shape_zyx=grid.shape_zyx, spacing_mm_zyx=grid.spacing_mm_zyx
        )
        running = self._running
        return lambda placement: network_region(
            visible,
            placement=placement,
            window=window,
            tile_step=running.window_step,
            worth_windows=WORTH_WINDOWS[running.mode],
        )

    def _fold_mean_logits(self, model: PackedModel, scan: Preprocessed, *, surroundings: Surroundings) -> torch.Tensor:
        """Logits in the network's own spacing, averaged over the member's folds."""
        running = self._running
        mean: torch.Tensor | None = None
        for fold, network in open_folds(model, mode=running.mode, backend=running.backend, device=running.device):
            where = f"{model.where} fold {fold}"
            logits = predict_logits(
                network,
                scan.data,
                window=model.configuration.patch_size,
                classes=len(Label),
                mirrorings=mirrorings_of(model, running=running),
                tile_step=running.window_step,
                device=running.device,
                name=where,
                is_needed=None if self._is_everywhere else _is_needed(model, scan, needed=surroundings.needed),
            )
            if not torch.isfinite(logits).all():
                raise CaseError(where, "logits must be finite", "NaN or infinity")
            mean = logits if mean is None else mean.add_(logits)
        if mean is None:
            raise ValueError(f"{model.where} must have at least one fold")
        return mean.div_(len(model.member.folds))


def mirrorings_of(model: PackedModel, *, running: Running) -> list[tuple[int, ...]]:
    """The mirrorings of a run: all that the model was trained with, or in a fast run none and left to right."""
    axes = model.mirroring_axes if running.mirroring else ()
    if running.mode is not Mode.FAST:
        return all_mirrorings(axes)
    left_right = list(model.plans.transpose_forward).index(_LEFT_RIGHT)
    best = sorted(axes, key=lambda axis: axis != left_right)
    return all_mirrorings(best[:1])[:FAST_MIRRORINGS]


def _is_needed(model: PackedModel, scan: Preprocessed, *, needed: Needed) -> Callable[[Sequence[slice]], bool] | None:
    """Whether a window of the preprocessed scan matters to any voxel that is needed."""
    spline = _probability_resampling(model).spline
    if spline is None:
        return None
    placement = scan.placement
    inside = needed.transposed(placement.transpose).within(placement.crop)
    reach = _REACH[max(spline.order, spline.order_z)]
    return lambda tile: inside.meets(scan_box(tile, part=scan.part, placement=placement, reach=reach))


def _seen(model: PackedModel) -> tuple[OrganEncoding, ClipHU | None]:
    return model.member.organ_encoding, model.clip


def _recipe(model: PackedModel) -> Recipe:
    channels = len(channels_of(*_seen(model)))
    return read_recipe(model.plans, model.configuration, channels=channels, where=model.where)


def _probability_resampling(model: PackedModel) -> Resampling:
    return Resampling.from_plans(model.configuration.configuration, what="probabilities")
