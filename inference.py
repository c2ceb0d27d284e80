"""Prostate cancer in a patient's PSMA and FDG PET/CT: the whole method, top to bottom, and the container's entry point.

After Dujardin and Blanc-Durand, "Anatomy-Informed Deep Learning for Dual-Tracer PET/CT Lesion Detection".
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch

from petct.case import Case, Scan, Tracer
from petct.channels import ClipHU, OrganEncoding, build_channels
from petct.errors import CaseError
from petct.folders import read_case
from petct.geometry import Grid, grid_of, resample_labels, to_array
from petct.manifest import MANIFEST_NAME, Manifest, OrganSettings, TracerSettings, read_manifest
from petct.organs import collapse
from petct.output import prepare_output, write_masks
from postprocessing.lesions import label_lesions
from postprocessing.refine import refine
from postprocessing.regrow import regrow
from postprocessing.threshold import threshold
from segmentation.ensemble import predict_probabilities
from segmentation.totalsegmentator import check_organ_weights, find_organs
from segmentation.weight_files import check_member_files

INPUT = Path("/input")
OUTPUT = Path("/output")
MODEL_TARBALL = Path("/opt/ml/model")  # where the platform unpacks the model tarball
DEFAULT_MANIFEST = Path(__file__).resolve().parent / "resources" / "demo.toml"

log = logging.getLogger("inference")


class OrganSource(StrEnum):
    """Where organ maps come from: the case if it brings them, only the case, or always TotalSegmentator."""

    AUTO = "auto"
    GIVEN = "given"
    TOTALSEGMENTATOR = "totalsegmentator"


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
    """The method: PSMA, then FDG, then FDG refined by PSMA."""
    maps = {
        tracer: organ_map(case.scan(tracer), settings=manifest.organs, source=organ_source, device=device)
        for tracer in Tracer
    }
    psma = segment_scan(case.psma, organs=maps[Tracer.PSMA], manifest=manifest, device=device)
    fdg = segment_scan(case.fdg, organs=maps[Tracer.FDG], manifest=manifest, device=device)
    return {Tracer.PSMA: psma, Tracer.FDG: refine_fdg(fdg, psma=psma, settings=manifest.fdg)}


def organ_map(scan: Scan, *, settings: OrganSettings, source: OrganSource, device: torch.device) -> sitk.Image:
    """TotalSegmentator labels on the CT's grid, from the case or from TotalSegmentator."""
    if needs_totalsegmentator(scan, source=source):
        return find_organs(scan.ct, settings=settings, device=device.type, where=f"{scan.tracer.name} organs")
    if scan.organs is None:
        raise CaseError(f"{scan.tracer.name} organs", "organ map must come with the case when --organs is given")
    log.info("%s organs: given with the case", scan.tracer.name)
    return scan.organs


def needs_totalsegmentator(scan: Scan, *, source: OrganSource) -> bool:
    """Whether the scan's organs have to be found."""
    return source is OrganSource.TOTALSEGMENTATOR or (source is OrganSource.AUTO and scan.organs is None)


def segment_scan(scan: Scan, *, organs: sitk.Image, manifest: Manifest, device: torch.device) -> Segmented:
    """One scan: the ensemble, then what its probabilities make of the PET."""
    predicted = predict_scan(scan, organs=organs, manifest=manifest, device=device)
    return outline(predicted, tracer=scan.tracer, settings=manifest.tracer(scan.tracer))


def predict_scan(scan: Scan, *, organs: sitk.Image, manifest: Manifest, device: torch.device) -> Predicted:
    """One scan's probabilities: organs on the PET's grid, channels, ensemble."""
    grid = grid_of(scan.pet)
    labels = to_array(resample_labels(organs, grid))
    organ_classes = collapse(labels)

    def channels(encoding: OrganEncoding, clip: ClipHU | None) -> npt.NDArray[np.float32]:
        return build_channels(
            scan.pet,
            ct=scan.ct,
            organs=organ_classes,
            suv_threshold=scan.suv_threshold,
            encoding=encoding,
            clip=clip,
        )

    probabilities = predict_probabilities(
        channels,
        grid=grid,
        members=manifest.tracer(scan.tracer).members,
        mirroring=manifest.mirroring,
        tile_step=manifest.tile_step,
        device=device,
    )
    return Predicted(
        grid=grid,
        pet_suv=to_array(scan.pet),
        suv_threshold=scan.suv_threshold,
        labels=labels,
        organs=organ_classes,
        probabilities=probabilities,
    )


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


def report(stage: str, tracer: Tracer, *, mask: npt.NDArray[np.bool_], grid: Grid, started_s: float) -> None:
    """Log what a stage left: lesions and volume; and the seconds since it started."""
    lesions, volume_ml = label_lesions(mask)[1], mask.sum() * grid.voxel_ml
    seconds = time.monotonic() - started_s
    log.info("%s %s: %d lesions, TTB %.1f mL, %.1f s", tracer.name, stage, lesions, volume_ml, seconds)


def choose_device(wanted: str) -> torch.device:
    """The device to compute on; `auto` takes the GPU when there is one."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise CaseError("--device", "CUDA must be available when it is asked for", "no CUDA device")
    device = torch.device("cuda" if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()) else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    log.info("device: %s", name)
    return device


def choose_manifest(wanted: Path | None) -> Path:
    """The manifest asked for, else the model tarball's, else the image's own."""
    shipped = MODEL_TARBALL / MANIFEST_NAME
    if wanted is not None:
        return wanted
    return shipped if shipped.exists() else DEFAULT_MANIFEST


def run(options: argparse.Namespace) -> None:
    """Read, check, segment, write."""
    start_s = time.monotonic()
    prepare_output(options.output)  # first, so that no refusal leaves an earlier run's masks to be taken for this one's
    manifest = read_manifest(choose_manifest(options.manifest))
    log.info("manifest: %s (%s)", manifest.name, manifest.path)
    if manifest.warning:
        log.warning(manifest.warning)
    organ_source = OrganSource(options.organs)
    case = read_case(options.input)
    for tracer in Tracer:
        for member in manifest.tracer(tracer).members:
            check_member_files(member)
        if needs_totalsegmentator(case.scan(tracer), source=organ_source):
            check_organ_weights(manifest.organs, where=f"{tracer.name} organs")
    segmented = segment_case(case, manifest=manifest, organ_source=organ_source, device=choose_device(options.device))
    paths = write_masks({tracer: (scan.ttb, scan.grid) for tracer, scan in segmented.items()}, folder=options.output)
    for tracer, path in paths.items():
        log.info("%s mask: %s", tracer.name, path)
    log.info("%s: done in %.1f s", case.name, time.monotonic() - start_s)


def main(arguments: list[str] | None = None) -> int:
    """The command line; without arguments, what the platform runs. Returns the exit code."""
    parser = argparse.ArgumentParser(description="PSMA + FDG PET/CT in, one total-tumour-burden mask per tracer out.")
    parser.add_argument(
        "--input", type=Path, default=INPUT, help="case in the platform's or the training set's layout (%(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=OUTPUT, help="masks go to images/{psma,fdg}-pet-ttb under it (%(default)s)"
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        help=f"networks and rules to run ({MODEL_TARBALL / MANIFEST_NAME} if it exists, else {DEFAULT_MANIFEST.name})",
    )
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="(%(default)s)")
    parser.add_argument(
        "--organs",
        choices=[source.value for source in OrganSource],
        default=OrganSource.AUTO.value,
        help="take organ maps from the case if it has them, only from the case, or always compute them (%(default)s)",
    )
    options = parser.parse_args(arguments)
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
        message = " ".join(f"{type(error).__name__}: {error}".split())
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
