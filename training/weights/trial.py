"""The trial of a packed ensemble: the whole method on one case, before anybody calls the ensemble finished."""

from __future__ import annotations

import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from evaluation.overlap import dice
from inference import segment_case
from petct.case import Case, Tracer
from petct.errors import CaseError
from petct.folders import SCAN_FOLDERS, TRUTH_STEM, find_image, read_case, read_truth
from petct.geometry import Array, check_same_grid, grid_of, to_array
from petct.manifest import Manifest
from postprocessing.lesions import label_lesions
from segmentation.organ_maps import OrganSource
from segmentation.totalsegmentator import check_organ_weights
from segmentation.weight_files import check_member_files
from training.phantoms import PhantomSize, generate_patient, write_patient

PHANTOM_SEED = 9001  # none that a recipe of ours trains on

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialCase:
    """A case to try an ensemble on.

    Attributes:
        case: The case.
        truth: The physician's masks on the PETs' grids, (z, y, x), by tracer; of those tracers that have one.
    """

    case: Case
    truth: dict[Tracer, Array]


def read_trial_case(folder: Path) -> TrialCase:
    """Read a case, and its truth where it has one.

    Raises:
        CaseError: The case is broken, or its truth is not on the PET's grid.
    """
    case = read_case(folder)
    truth = {}
    for tracer in Tracer:
        if find_image(folder, f"{SCAN_FOLDERS[tracer]}/{TRUTH_STEM}") is None:
            continue
        mask = read_truth(folder, tracer)
        where = f"{folder.name} {tracer.name} {TRUTH_STEM}"
        check_same_grid(grid_of(mask), grid_of(case.scan(tracer).pet), where=where, name="the PET")
        truth[tracer] = to_array(mask) > 0
    return TrialCase(case, truth)


def make_trial_case() -> TrialCase:
    """A phantom patient with organ maps and truth."""
    log.info("trial: making a phantom, because no case is given")
    with tempfile.TemporaryDirectory(prefix="trial_") as folder:
        return read_trial_case(write_patient(generate_patient(PHANTOM_SEED, size=PhantomSize.DEMO), Path(folder)))


def check_organ_maps(trial: TrialCase, *, has_organ_weights: bool) -> None:
    """Refuse a case without organ maps when there is nothing to compute them with.

    Raises:
        CaseError: A scan has no organ map.
    """
    for tracer in Tracer:
        if not has_organ_weights and trial.case.scan(tracer).organs is None:
            rule = "case must bring organ maps (totseg_24), because no organ weights are packed"
            raise CaseError(f"{trial.case.name} {tracer.name}", rule)


def try_ensemble(manifest: Manifest, *, trial: TrialCase, device: torch.device, has_organ_weights: bool) -> None:
    """Run the method on a case, as the container does, and log what comes out.

    Args:
        manifest: The ensemble, its files in place.
        trial: The case.
        device: Where to compute.
        has_organ_weights: Whether organs are computed with TotalSegmentator, from the packed weights; else they are
            those of the case.

    Raises:
        CaseError: A file is not what the manifest says, TotalSegmentator or a network fails on the case, or a mask is
            not on the PET's grid.
    """
    started_s = time.monotonic()
    for tracer in Tracer:
        for member in manifest.tracer(tracer).members:
            check_member_files(member)
    if has_organ_weights:
        check_organ_weights(manifest.organs, where="organ weights")
    source = OrganSource.TOTALSEGMENTATOR if has_organ_weights else OrganSource.GIVEN
    log.info("trial: %s with organs %s", trial.case.name, "computed" if has_organ_weights else "given")
    segmented = segment_case(trial.case, manifest=manifest, organ_source=source, device=device)
    for tracer, found in segmented.items():
        where = f"trial {trial.case.name} {tracer.name}"
        check_same_grid(found.grid, grid_of(trial.case.scan(tracer).pet), where=where, name="the PET")
        if found.ttb.shape != found.grid.shape_zyx or found.ttb.dtype != np.bool_:
            got = f"{found.ttb.dtype} {found.ttb.shape}"
            raise CaseError(where, f"mask must be bool {found.grid.shape_zyx} (z, y, x)", got)
        lesions, volume_ml = label_lesions(found.ttb)[1], found.ttb.sum() * found.grid.voxel_ml
        score = f", Dice {dice(found.ttb, truth=trial.truth[tracer]):.3f}" if tracer in trial.truth else ""
        log.info("%s: %d lesions, TTB %.1f mL%s", where, lesions, volume_ml, score)
        if not lesions and tracer in trial.truth and trial.truth[tracer].any():
            log.warning("%s: the ensemble finds nothing, and there is disease", where)
    log.info("trial: done in %.1f s", time.monotonic() - started_s)
