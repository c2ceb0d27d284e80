"""What nnU-Net's plans say about a scan before and after the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from nnunetv2.configuration import ANISO_THRESHOLD
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from petct.errors import CaseError

PREPROCESSOR = "DefaultPreprocessor"
SPLINE_FUNCTION = "resample_data_or_seg_to_shape"
IDLE_FUNCTION = "no_resampling_hack"

T = TypeVar("T")


@dataclass(frozen=True)
class Spline:
    """The options of nnU-Net's `resample_data_or_seg_to_shape` for images, with its own defaults.

    Attributes:
        order: Order of the spline, 0 to 5.
        order_z: Order along the axis with the thick slices, where that axis is resampled by itself.
        force_separate_z: Whether it is; None leaves that to the anisotropy.
        separate_z_anisotropy_threshold: Largest spacing / smallest spacing above which it is.
    """

    order: int = 3
    order_z: int = 0
    force_separate_z: bool | None = False
    separate_z_anisotropy_threshold: float = ANISO_THRESHOLD

    def separate_axis(self, spacing_mm: Sequence[float], new_spacing_mm: Sequence[float]) -> int | None:
        """The axis that is resampled by itself, after the other two; None if there is none.

        As nnU-Net's `determine_do_sep_z_and_axis`, whose module takes a third of a second to import.
        """
        if self.force_separate_z is None:
            thick = [spacing for spacing in (spacing_mm, new_spacing_mm) if self._is_anisotropic(spacing)]
        else:
            thick = [spacing_mm] if self.force_separate_z else []
        if not thick:
            return None
        axes = [axis for axis, size in enumerate(thick[0]) if max(thick[0]) / size == 1.0]
        return axes[0] if len(axes) == 1 else None

    def _is_anisotropic(self, spacing_mm: Sequence[float]) -> bool:
        return max(spacing_mm) / min(spacing_mm) > self.separate_z_anisotropy_threshold


@dataclass(frozen=True)
class Resampling:
    """A resampling as nnU-Net's plans name it.

    Attributes:
        function: nnU-Net's name of the function.
        options: Its options, (name, value).
    """

    function: str
    options: tuple[tuple[str, Any], ...]

    @classmethod
    def from_plans(cls, configuration: Mapping[str, Any], *, what: str) -> Resampling:
        """The resampling of `what`, data or probabilities, in one of a plan's configurations."""
        key = f"resampling_fn_{what}"
        return cls(configuration[key], tuple(sorted(configuration[f"{key}_kwargs"].items())))

    @property
    def is_idle(self) -> bool:
        """Whether the function leaves voxels as they are, whatever their size."""
        return self.function == IDLE_FUNCTION

    @property
    def spline(self) -> Spline | None:
        """The options as those of the function that we have faster; None for any other function."""
        options = dict(self.options)
        if self.function != SPLINE_FUNCTION or options.pop("is_seg", False):
            return None
        return Spline(**options)


@dataclass(frozen=True)
class Normalisation:
    """How one channel is normalised.

    Attributes:
        scheme: Name of nnU-Net's class.
        is_masked: Whether only voxels count that are not zero in every channel.
        intensities: The channel's intensities in the training data, (name, value).
    """

    scheme: str
    is_masked: bool
    intensities: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Recipe:
    """What plans say about preprocessing; networks with equal recipes and channels see equal voxels.

    Attributes:
        transpose: The array axis (z, y, x) that each of the network's axes is.
        spacing_mm: The network's voxel size, along its axes.
        normalisations: One for each channel.
        resampling: How channels reach that voxel size.
    """

    transpose: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    normalisations: tuple[Normalisation, ...]
    resampling: Resampling


def read_recipe(plans: PlansManager, configuration: ConfigurationManager, *, channels: int, where: str) -> Recipe:
    """What plans say about the preprocessing of a network with so many channels.

    Raises:
        CaseError: The plans name another preprocessor than nnU-Net's default, or are not for three axes.
    """
    if configuration.preprocessor_name != PREPROCESSOR:
        raise CaseError(where, f"plans must name the {PREPROCESSOR}", configuration.preprocessor_name)
    if len(configuration.spacing) != 3:
        raise CaseError(where, "configuration must have three axes", str(len(configuration.spacing)))
    intensities = plans.foreground_intensity_properties_per_channel
    return Recipe(
        transpose=three(plans.transpose_forward),
        spacing_mm=three(configuration.spacing),
        normalisations=tuple(
            Normalisation(
                scheme=configuration.normalization_schemes[channel],
                is_masked=configuration.use_mask_for_norm[channel],
                intensities=tuple(sorted(intensities[str(channel)].items())),
            )
            for channel in range(channels)
        ),
        resampling=Resampling.from_plans(configuration.configuration, what="data"),
    )


def resampled_shape(
    shape: Sequence[int], *, spacing_mm: Sequence[float], new_spacing_mm: Sequence[float]
) -> tuple[int, ...]:
    """Number of voxels along each axis after resampling, as nnU-Net's `compute_new_shape` has it."""
    # In nnU-Net's order of operations: another one may round to another number of voxels.
    return tuple(round(old / new * length) for old, new, length in zip(spacing_mm, new_spacing_mm, shape, strict=True))


def three(values: Iterable[T]) -> tuple[T, T, T]:
    """Three values, one per axis, as a type that says so."""
    first, second, third = values
    return first, second, third
