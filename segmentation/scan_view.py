"""What of a scan the networks are shown in each mode, and in how many windows."""

from __future__ import annotations

from collections.abc import Callable

from petct.channels import ScanChannels
from petct.manifest import Mode
from segmentation.crop import WORTH_WINDOWS, Surroundings, look_around, network_region, visible_box
from segmentation.fold_windows import (
    count_all_windows,
    count_windows,
    is_needed_in,
    probability_resampling,
    whole_placement,
)
from segmentation.packed_model import PackedModel
from segmentation.plans import Recipe, three
from segmentation.preprocessing import Placement, whole_box
from segmentation.resampling import Box, Part
from segmentation.running import Running


class ScanView:
    """One scan as windows see it.

    Args:
        scan: The scan's channels.
        reach_mm: How far from a voxel that can be disease probabilities matter.
        is_everywhere: Whether probabilities are wanted where they do not matter, too.
    """

    def __init__(self, scan: ScanChannels, *, reach_mm: float, is_everywhere: bool) -> None:
        self._scan = scan
        self._reach_mm = reach_mm
        self._is_everywhere = is_everywhere
        self._surroundings: Surroundings | None = None

    def has_looked(self, *, has_body: bool) -> bool:
        """Whether `look` was called, for the body if that is asked for."""
        seen = self._surroundings
        return seen is not None and (seen.body is not None or not has_body)

    def look(self, *, has_body: bool) -> Surroundings:
        """The body, if it is wanted, and where probabilities matter; they are looked for once."""
        if self._surroundings is None or not self.has_looked(has_body=has_body):
            self._surroundings = look_around(self._scan, has_body=has_body, reach_mm=self._reach_mm)
        return self._surroundings

    def windows(self, model: PackedModel, *, recipe: Recipe, running: Running) -> int:
        """How many windows one pass over the scan takes; before `look`, how many at most."""
        window, step = three(model.configuration.patch_size), running.window_step
        placement = whole_placement(self._scan.grid, recipe=recipe)
        shape = placement.box_shape if recipe.resampling.is_idle else placement.network_shape
        seen = self._surroundings
        if seen is None or not self.has_looked(has_body=running.mode is not Mode.EXACT):
            return count_all_windows(shape, window=window, tile_step=step)
        region = whole_box(shape)
        cropped = self.crop(model, running=running, surroundings=seen)
        if cropped is not None and recipe.resampling.spline is not None:
            region = cropped(placement)
        part = Part(three(shape), three(side.start for side in region))
        is_needed = None
        if not self._is_everywhere:
            is_needed = is_needed_in(model, placement=placement, part=part, needed=seen.needed)
        return count_windows(region, window=window, tile_step=step, is_needed=is_needed)

    def crop(
        self, model: PackedModel, *, running: Running, surroundings: Surroundings
    ) -> Callable[[Placement], Box] | None:
        """Chooses which of a network's voxels it is shown; None for all of them."""
        # In an exact run members with other windows see the same voxels.
        if running.mode is Mode.EXACT or probability_resampling(model).spline is None:
            return None
        grid = self._scan.grid
        visible = visible_box(
            surroundings, mode=running.mode, shape_zyx=grid.shape_zyx, spacing_mm_zyx=grid.spacing_mm_zyx
        )
        window = tuple(model.configuration.patch_size)
        return lambda placement: network_region(
            visible,
            placement=placement,
            window=window,
            tile_step=running.window_step,
            worth_windows=WORTH_WINDOWS[running.mode],
        )
