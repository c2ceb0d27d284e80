"""Plans to compare with nnU-Net on: tiny ones of three architectures, the demo ensemble's, the organisers'."""

from __future__ import annotations

import copy
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from petct.channels import OrganEncoding
from petct.geometry import Grid
from petct.manifest import Architecture
from segmentation.plans import Recipe, read_recipe
from tiny_nnunet import CONFIGURATION, make_results

ROOT = Path(__file__).resolve().parent.parent
ORGANISERS = ROOT.parent / "shared" / "reference" / "plans_Dataset801_PSMA_PET.json"
LABELS = {"labels": {"background": 0, "ttb": 1, "normal": 2}}
_AXES = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
# Voxels smaller and larger than any plan's, and slices so thick that nnU-Net resamples them apart.
GRIDS = {
    "fine": Grid((41, 30, 53), (2.1, 2.6, 1.8), (3.0, -4.0, 5.0), _AXES),
    "coarse": Grid((17, 22, 13), (6.3, 5.9, 7.4), (3.0, -4.0, 5.0), _AXES),
    "thick": Grid((11, 37, 32), (2.1, 2.6, 12.5), (3.0, -4.0, 5.0), _AXES),
}


def all_plans() -> dict[str, dict[str, Any]]:
    """Every plan by its name; warns when the organisers' is not at hand."""
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for architecture, encoding in (
            (Architecture.PLAIN, OrganEncoding.NONE),
            (Architecture.RESENC_M, OrganEncoding.BINARY),
            (Architecture.RESENC_L, OrganEncoding.SOFT_DISTANCE),
        ):
            results = make_results(Path(folder), architecture=architecture, dataset_id=801, folds=(), encoding=encoding)
            found[f"tiny {architecture}"] = json.loads((results / "plans.json").read_text())
    for path in sorted((ROOT / "resources" / "demo").glob("*/plans.json")):
        found[f"demo {path.parent.name}"] = json.loads(path.read_text())
    if ORGANISERS.is_file():
        found["organisers"] = json.loads(ORGANISERS.read_text())
    else:
        warnings.warn(f"the organisers' plans are missing, nothing is compared on them: {ORGANISERS}", stacklevel=2)
    return found


def changed(plans: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy of the plans with some keys of the configuration set."""
    plans = copy.deepcopy(plans)
    plans["configurations"][CONFIGURATION].update(changes)
    return plans


def managers(plans: dict[str, Any]) -> tuple[PlansManager, ConfigurationManager]:
    """nnU-Net's view of the plans."""
    manager = PlansManager(copy.deepcopy(plans))
    return manager, manager.get_configuration(CONFIGURATION)


def recipe_of(plans: dict[str, Any]) -> Recipe:
    """Our view of the plans."""
    channels = len(plans["configurations"][CONFIGURATION]["normalization_schemes"])
    return read_recipe(*managers(plans), channels=channels, where="plans")


def noise(grid: Grid, *, count: int, margin: int = 0) -> npt.NDArray[np.float32]:
    """Channels (channel, z, y, x) that are zero within so many voxels of the grid's first faces, twice at the last."""
    channels = np.zeros((count, *grid.shape_zyx), dtype=np.float32)
    inside = tuple(slice(margin, size - 2 * margin) for size in grid.shape_zyx)
    random = np.random.default_rng(11)
    for channel in channels:
        channel[inside] = random.gamma(1.0, 3.0, size=channel[inside].shape)
    channels[1] = (channels[1] - 3.0) * 200.0 * (channels[1] != 0)
    channels[2:] = channels[2:] > 3.0
    return channels


def nnunets_input(
    channels: npt.NDArray[np.float32], *, grid: Grid, plans: dict[str, Any]
) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    """What nnU-Net's own preprocessor makes of the channels, and the properties that its export needs."""
    manager, configuration = managers(plans)
    preprocessor = configuration.preprocessor_class(verbose=False)
    properties = {"spacing": list(grid.spacing_mm_zyx)}
    data, _, properties = preprocessor.run_case_npy(channels, None, properties, manager, configuration, LABELS)
    return data, properties
