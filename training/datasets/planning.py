"""Fingerprint, plans and preprocessing by nnU-Net, and narrow versions of its plans for the demo ensemble."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from petct.geometry import to_array
from petct.manifest import Architecture
from petct.written_whole import written_whole
from training.datasets.descriptions import dataset_name
from training.datasets.staleness import begin_preprocessing, is_preprocessed, note_preprocessed

CONFIGURATION = "3d_fullres"
NNUNET_PLANS = {
    Architecture.PLAIN: "nnUNetPlans",
    Architecture.RESENC_M: "nnUNetResEncUNetMPlans",
    Architecture.RESENC_L: "nnUNetResEncUNetLPlans",
}
OUTPUT_NAME = "nnunet_output.txt"
SAMPLED = "num_foreground_voxels_for_intensitystats"  # nnU-Net's name
FINGERPRINT_VALUES = 2 * 10**8  # sampled for nnU-Net's statistics of intensities, all channels together
FINGERPRINT_DRAWS = 100  # of each labelled voxel, at most; on clinical data sets nnU-Net's own number is less

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NarrowNetwork:
    """What replaces nnU-Net's own choices so that a network can be trained and run on a CPU.

    Attributes:
        features: Feature maps per stage; their number is the number of stages.
        blocks: Convolutions (plain) or residual blocks (ResEnc) per encoder stage.
        patch_zyx: Patch size in voxels of the plan's spacing, each divisible by 2 ** (stages - 1).
        batch_size: Patches per iteration.
    """

    features: tuple[int, ...]
    blocks: tuple[int, ...]
    patch_zyx: tuple[int, int, int]
    batch_size: int


def set_nnunet_folders(root: Path) -> None:
    """Point nnU-Net at a folder of ours; it reads its three folders from the environment only."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(folder)


def plan_and_preprocess(number: int, *, architectures: Iterable[Architecture], nnunet: Path, processes: int) -> None:
    """Fingerprint, plans for the given architectures, and the data that all three share.

    What was made of the same raw data set is kept; what was made of a former version of it is made anew.

    Args:
        number: Data set number; its raw data set is there.
        architectures: Which plans to make.
        nnunet: Folder with nnU-Net's three folders, in the environment already.
        processes: Worker processes.

    Raises:
        CaseError: The raw data set has no provenance.
    """
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
        nnUNetPlannerResEncL,
        nnUNetPlannerResEncM,
    )
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprint_dataset,
        plan_experiment_dataset,
        preprocess_dataset,
    )

    planners = {
        Architecture.PLAIN: ExperimentPlanner,
        Architecture.RESENC_M: nnUNetPlannerResEncM,
        Architecture.RESENC_L: nnUNetPlannerResEncL,
    }

    class BoundedExtractor(DatasetFingerprintExtractor):  # type: ignore[misc]
        """nnU-Net's extractor, which holds 10^8 voxels of every channel three times over: 12 GB for ten channels.

        This one takes as many values in all as nnU-Net does for two channels; only the CT's are ever used. From small
        data sets it does not draw the same few voxels thousands of times.
        """

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            channels = len(self.dataset_json["channel_names"])
            own = float(getattr(self, SAMPLED))
            setattr(self, SAMPLED, min(own, FINGERPRINT_VALUES // channels, FINGERPRINT_DRAWS * labelled))

    preprocessed = nnunet / "nnUNet_preprocessed" / dataset_name(number)
    is_done = is_preprocessed(nnunet, number=number)
    wanted = {Architecture.PLAIN, *architectures}
    if is_done and all((preprocessed / f"{NNUNET_PLANS[architecture]}.json").is_file() for architecture in wanted):
        log.info("%s is preprocessed already", preprocessed.name)
        return
    begin_preprocessing(nnunet, number=number)
    labelled = _labelled_voxels(nnunet / "nnUNet_raw" / dataset_name(number) / "labelsTr")
    # What nnU-Net prints are pages of plans; its progress bars go to stderr and stay.
    with (preprocessed / OUTPUT_NAME).open("a", encoding="utf-8") as output, redirect_stdout(output):
        log.info("%s: nnU-Net takes its fingerprint, %d cases at the same time", preprocessed.name, processes)
        extract_fingerprint_dataset(
            number, fingerprint_extractor_class=BoundedExtractor, num_processes=processes, clean=False, verbose=False
        )
        # The plain plans always: nnU-Net keeps the preprocessed data of all three under their name.
        for architecture in sorted(wanted):
            plan_experiment_dataset(number, planners[architecture])
        if is_done:
            return
        log.info("%s: nnU-Net preprocesses, %d cases at the same time", preprocessed.name, processes)
        preprocess_dataset(number, NNUNET_PLANS[Architecture.PLAIN], (CONFIGURATION,), (processes,))
    note_preprocessed(nnunet, number=number)


def _labelled_voxels(labels: Path) -> int:
    """Voxels of all label maps that are not background."""
    return sum(int(np.count_nonzero(to_array(sitk.ReadImage(str(file))))) for file in sorted(labels.iterdir()))


def narrow_identifier(architecture: Architecture) -> str:
    """What the narrow version of an architecture's plans is called."""
    return f"{NNUNET_PLANS[architecture]}Narrow"


def narrow_plans(preprocessed: Path, *, architecture: Architecture, network: NarrowNetwork) -> str:
    """Write a narrow version of nnU-Net's plans beside them.

    Args:
        preprocessed: Folder of the preprocessed data set, with nnU-Net's plans.
        architecture: Which plans to narrow.
        network: What to put in place of nnU-Net's choices.

    Returns:
        The identifier of the new plans.
    """
    identifier = narrow_identifier(architecture)
    plans = json.loads((preprocessed / f"{NNUNET_PLANS[architecture]}.json").read_text(encoding="utf-8"))
    configuration = plans["configurations"][CONFIGURATION]
    stages = len(network.features)
    arch = configuration["architecture"]["arch_kwargs"]
    blocks = "n_conv_per_stage" if architecture is Architecture.PLAIN else "n_blocks_per_stage"
    arch.update(
        {
            "n_stages": stages,
            "features_per_stage": list(network.features),
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
            blocks: list(network.blocks),
            "n_conv_per_stage_decoder": [1] * (stages - 1),
        }
    )
    axes = plans["transpose_forward"]
    configuration["patch_size"] = [network.patch_zyx[axis] for axis in axes]
    configuration["batch_size"] = network.batch_size
    plans["plans_name"] = identifier
    plans["configurations"] = {CONFIGURATION: configuration}
    with written_whole(preprocessed / f"{identifier}.json") as partial:  # a training may be reading the one there
        partial.write_text(json.dumps(plans, indent=1), encoding="utf-8")
    return identifier
