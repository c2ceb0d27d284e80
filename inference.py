"""Prostate cancer in a patient's PSMA and FDG PET/CT: the whole method, top to bottom, and the container's entry point.

After Dujardin and Blanc-Durand, "Anatomy-Informed Deep Learning for Dual-Tracer PET/CT Lesion Detection".
"""

from __future__ import annotations

import argparse
import io
import logging
import math
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch

from operation.setting import Setting, add_options, choose_setting
from operation.timings import write_timings
from petct.case import Case, Scan, Tracer
from petct.channels import ScanChannels
from petct.errors import CaseError, one_line
from petct.folders import read_case
from petct.geometry import Grid, grid_of, resample_labels, to_array
from petct.manifest import Manifest, Mode, TracerSettings
from petct.mask_check import Uptake
from petct.organs import collapse
from petct.output import prepare_output, write_masks
from petct.plausible import warn_of_other_tracer
from petct.stages import add, seconds_since_start, stage, stage_seconds
from postprocessing.lesions import label_lesions
from postprocessing.refine import refine
from postprocessing.regrow import regrow
from postprocessing.threshold import threshold
from segmentation.beside_networks import AtOnce, Background, beside_networks, one_ahead
from segmentation.ensemble import Inputs, Running, ScanEnsemble
from segmentation.organ_maps import OrganSource, needs_totalsegmentator, organ_maps
from segmentation.totalsegmentator import check_organ_weights
from segmentation.weight_files import check_member_files

log = logging.getLogger("inference")


@dataclass(frozen=True)
class Prepared:
    """A scan made ready for the ensemble.

    Attributes:
        scan: The scan.
        labels: TotalSegmentator labels on the PET's grid, (z, y, x).
        organs: The eight organ classes on the PET's grid, (z, y, x).
        ensemble: The ensemble on this scan.
    """

    scan: Scan
    labels: npt.NDArray[np.uint8]
    organs: npt.NDArray[np.uint8]
    ensemble: ScanEnsemble


@dataclass(frozen=True)
class Predicted:
    """What the ensemble says about a scan, on the PET's grid.

    Attributes:
        grid: The PET's grid.
        pet_suv: PET in SUV, (z, y, x).
        suv_threshold: SUV at or above which a voxel may be disease.
        labels: TotalSegmentator labels, (z, y, x).
        organs: The eight organ classes, (z, y, x).
        probabilities: P(background), P(ttb), P(normal), (3, z, y, x).
    """

    grid: Grid
    pet_suv: npt.NDArray[np.float32]
    suv_threshold: float
    labels: npt.NDArray[np.uint8]
    organs: npt.NDArray[np.uint8]
    probabilities: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Segmented:
    """A scan's disease, on the PET's grid.

    Attributes:
        grid: The PET's grid.
        pet_suv: PET in SUV, (z, y, x).
        labels: TotalSegmentator labels, (z, y, x).
        ttb: Disease, (z, y, x).
    """

    grid: Grid
    pet_suv: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8]
    ttb: npt.NDArray[np.bool_]


def segment_case(
    case: Case, *, manifest: Manifest, organ_source: OrganSource, device: torch.device
) -> dict[Tracer, Segmented]:
    """The method: PSMA, then FDG, then FDG refined by PSMA.

    While a network computes, one thread makes ready what the next ones see and outlines the disease of the scan before.
    """
    maps = organ_maps(
        [case.psma, case.fdg],
        settings=manifest.organs,
        source=organ_source,
        device=device,
        crop_to_body=manifest.mode is Mode.FAST,
    )
    for tracer, organs in maps.items():
        if needs_totalsegmentator(case.scan(tracer), source=organ_source):  # given maps were looked at when read
            warn_of_other_tracer(case.scan(tracer).pet, organs=organs, tracer=tracer, where=f"{tracer.name} PET")
    with beside_networks(voxels=max(math.prod(case.scan(tracer).pet.GetSize()) for tracer in Tracer)) as background:
        scans = [
            prepare_scan(case.scan(tracer), organs=maps[tracer], manifest=manifest, device=device, is_everywhere=False)
            for tracer in Tracer
        ]
        inputs = one_ahead(chain.from_iterable(scan.ensemble.inputs() for scan in scans), background=background)
        outlined = []
        for scan in scans:
            predicted = predict(scan, inputs=inputs, background=background)
            settings = manifest.tracer(scan.scan.tracer)
            outlined.append(background.submit(outline, predicted, tracer=scan.scan.tracer, settings=settings))
            del predicted
        psma, fdg = (mask.result() for mask in outlined)
    return {Tracer.PSMA: psma, Tracer.FDG: refine_fdg(fdg, psma=psma, settings=manifest.fdg)}


def prepare_scan(
    scan: Scan, *, organs: sitk.Image, manifest: Manifest, device: torch.device, is_everywhere: bool
) -> Prepared:
    """One scan made ready for the ensemble: organs on the PET's grid, and how its channels are built."""
    settings = manifest.tracer(scan.tracer)
    with stage("channels"):
        labels = to_array(resample_labels(organs, grid_of(scan.pet)))
        organ_classes = collapse(labels)
    ensemble = ScanEnsemble(
        ScanChannels(scan.pet, ct=scan.ct, organs=organ_classes, suv_threshold=scan.suv_threshold),
        members=settings.members,
        running=Running.of(manifest, device=device),
        reach_mm=settings.regrow_radius_mm,
        is_everywhere=is_everywhere,
        name=scan.tracer.name,
    )
    return Prepared(scan=scan, labels=labels, organs=organ_classes, ensemble=ensemble)


def predict(prepared: Prepared, *, inputs: Iterator[Inputs], background: Background) -> Predicted:
    """One scan's probabilities, where they matter to its mask."""
    scan = prepared.scan
    return Predicted(
        grid=grid_of(scan.pet),
        pet_suv=to_array(scan.pet),
        suv_threshold=scan.suv_threshold,
        labels=prepared.labels,
        organs=prepared.organs,
        probabilities=prepared.ensemble.predict(inputs, background=background),
    )


def predict_scan(scan: Scan, *, organs: sitk.Image, manifest: Manifest, device: torch.device) -> Predicted:
    """One scan's probabilities in every voxel, for those who study them."""
    prepared = prepare_scan(scan, organs=organs, manifest=manifest, device=device, is_everywhere=True)
    inputs = one_ahead(prepared.ensemble.inputs(), background=AtOnce())
    return predict(prepared, inputs=inputs, background=AtOnce())


@stage("postprocess")
def outline(predicted: Predicted, *, tracer: Tracer, settings: TracerSettings) -> Segmented:
    """One scan's disease out of its probabilities: threshold, regrow."""
    started_s = time.monotonic()
    prediction = threshold(
        predicted.probabilities,
        ttb_probability=settings.ttb_probability,
        normal_probability=settings.normal_probability,
    )
    report("threshold", tracer, mask=prediction.ttb, grid=predicted.grid, started_s=started_s)
    started_s = time.monotonic()
    ttb = regrow(
        prediction.ttb,
        normal=prediction.normal,
        pet_suv=predicted.pet_suv,
        organs=predicted.organs,
        suv_threshold=predicted.suv_threshold,
        radius_mm=settings.regrow_radius_mm,
        protected=settings.protected_organs,
        spacing_mm_zyx=predicted.grid.spacing_mm_zyx,
    )
    report("regrow", tracer, mask=ttb, grid=predicted.grid, started_s=started_s)
    return Segmented(grid=predicted.grid, pet_suv=predicted.pet_suv, labels=predicted.labels, ttb=ttb)


@stage("refine")
def refine_fdg(fdg: Segmented, *, psma: Segmented, settings: TracerSettings) -> Segmented:
    """Drop the FDG lesions that PSMA does not support, unless the manifest has no refinement."""
    if settings.refinement is None:
        log.info("FDG refine: switched off by the manifest")
        return fdg
    refined = refine(
        fdg.ttb,
        fdg_suv=fdg.pet_suv,
        fdg_labels=fdg.labels,
        psma_ttb=psma.ttb,
        psma_labels=psma.labels,
        refinement=settings.refinement,
        voxel_ml=fdg.grid.voxel_ml,
    )
    return Segmented(grid=fdg.grid, pet_suv=fdg.pet_suv, labels=fdg.labels, ttb=refined.mask)


def report(name: str, tracer: Tracer, *, mask: npt.NDArray[np.bool_], grid: Grid, started_s: float) -> None:
    """Log what a stage left: lesions and volume; and the seconds since it started."""
    lesions, volume_ml = label_lesions(mask)[1], mask.sum() * grid.voxel_ml
    seconds = time.monotonic() - started_s
    log.info("%s %s: %d lesions, TTB %.1f mL, %.1f s", tracer.name, name, lesions, volume_ml, seconds)


def run_case(setting: Setting, *, case_folder: Path, output: Path) -> None:
    """Read, check, segment, write.

    Args:
        setting: What stays the same from case to case.
        case_folder: The case.
        output: Where the masks go, after `prepare_output`.

    Raises:
        CaseError: The case, or a file that the manifest names, is refused.
    """
    start_s = time.monotonic()
    manifest = setting.manifest
    with stage("read"):
        case = read_case(case_folder)
        for tracer in Tracer:
            for member in manifest.tracer(tracer).members:
                check_member_files(member)
            if needs_totalsegmentator(case.scan(tracer), source=setting.organ_source):
                check_organ_weights(manifest.organs, where=f"{tracer.name} organs")
    segmented = segment_case(case, manifest=manifest, organ_source=setting.organ_source, device=setting.device)
    with stage("write"):
        masks = {tracer: (scan.ttb, scan.grid) for tracer, scan in segmented.items()}
        uptake = {tracer: Uptake(segmented[tracer].pet_suv, case.scan(tracer).suv_threshold) for tracer in Tracer}
        paths = write_masks(masks, folder=output, uptake=uptake)
    for tracer, path in paths.items():
        log.info("%s mask: %s", tracer.name, path)
    log.info("%s: done in %.1f s", case.name, time.monotonic() - start_s)


def run(options: argparse.Namespace) -> None:
    """One case, as the options say."""
    prepare_output(options.output)  # first, so that no refusal leaves an earlier run's masks to be taken for this one's
    setting = choose_setting(options)
    run_case(setting, case_folder=options.input, output=options.output)
    if options.timings is not None:
        write_timings(options.timings, setting=setting)


def main(arguments: list[str] | None = None) -> int:
    """The command line; without arguments, what the platform runs. Returns the exit code."""
    parser = argparse.ArgumentParser(description="PSMA + FDG PET/CT in, one total-tumour-burden mask per tracer out.")
    add_options(parser)
    parser.add_argument("--timings", type=Path, help="write here, as JSON, how long each stage took")
    options = parser.parse_args(arguments)
    add("imports", seconds_since_start() - sum(stage_seconds().values()))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # bytes that are not UTF-8 would end a job on the platform
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout
    )
    # The platform flags everything on stderr of a good run, so libraries' warnings go to the log.
    logging.captureWarnings(True)
    # As a container's first process Python would not hear SIGTERM at all; leaving through an exception cleans up.
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        run(options)
    except CaseError as error:
        # The platform shows a user the last line of stderr and nothing else.
        print(error, file=sys.stderr)
        return 1
    except Exception as error:
        log.exception("failed")
        message = one_line(f"{type(error).__name__}: {error}")
        print(f"inference: must not fail on a case that passed all checks, got {message}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    print("inference: must end by itself, got SIGTERM (a time limit, or somebody stopped it)", file=sys.stderr)
    sys.exit(143)


if __name__ == "__main__":
    sys.exit(main())
