"""Prostate cancer in a patient's PSMA and FDG PET/CT: the whole method, top to bottom, and the container's entry point.

After Dujardin and Blanc-Durand, "Anatomy-Informed Deep Learning for Dual-Tracer PET/CT Lesion Detection".
"""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch

from operation import command_line
from operation.ending import leave
from operation.memory_plan import plan_memory
from operation.recording import Recording
from operation.setting import Setting, choose_pace
from petct.case import Case, Scan, Tracer
from petct.channels import ScanChannels
from petct.folders import read_case
from petct.geometry import Grid, grid_of, resample_labels, to_array
from petct.manifest import Manifest, Mode, OrganSettings, TracerSettings
from petct.mask_check import Uptake
from petct.organs import collapse
from petct.output import write_masks
from petct.plausible import warn_of_other_tracer
from petct.stages import stage
from postprocessing.lesions import label_lesions
from postprocessing.refine import refine
from postprocessing.regrow import regrow
from postprocessing.threshold import threshold
from segmentation.beside_networks import AtOnce, BesideWork, beside_networks
from segmentation.ensemble import Running, ScanEnsemble
from segmentation.memory_use import MemoryUse
from segmentation.organ_maps import OrganSource, needs_totalsegmentator, organ_maps
from segmentation.pace import Pace
from segmentation.totalsegmentator import check_organ_weights, check_pinned
from segmentation.turns import predict_in_turn
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

    @classmethod
    def of(cls, prepared: Prepared, *, probabilities: npt.NDArray[np.float32]) -> Predicted:
        """A scan with what the ensemble says about it, (3, z, y, x)."""
        scan = prepared.scan
        return cls(
            grid=grid_of(scan.pet),
            pet_suv=to_array(scan.pet),
            suv_threshold=scan.suv_threshold,
            labels=prepared.labels,
            organs=prepared.organs,
            probabilities=probabilities,
        )


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
    case: Case,
    *,
    manifest: Manifest,
    organ_source: OrganSource,
    device: torch.device,
    pace: Pace | None = None,
) -> dict[Tracer, Segmented]:
    """The method: PSMA, then FDG, then FDG refined by PSMA.

    While a network computes, one thread makes ready what the next ones see and outlines the disease of the scan before.

    Args:
        case: The case.
        manifest: Networks and rules.
        organ_source: Where organ maps come from.
        device: Where the networks run.
        pace: Decides what of the ensembles is run, and knows it afterwards; all is when None.
    """
    maps = organ_maps(
        [case.psma, case.fdg],
        settings=organ_settings(case, manifest=manifest, organ_source=organ_source, device=device, pace=pace),
        source=organ_source,
        device=device,
        crop_to_body=manifest.mode is Mode.FAST,
    )
    for tracer, organs in maps.items():
        if needs_totalsegmentator(case.scan(tracer), source=organ_source):  # given maps were looked at when read
            warn_of_other_tracer(case.scan(tracer).pet, organs=organs, tracer=tracer, where=f"{tracer.name} PET")
    memory = plan_memory(case, organs=maps, manifest=manifest, device=device)
    device = torch.device("cpu") if memory.is_network_on_host else device
    with beside_networks(is_overlapped=memory.is_overlapped) as background:
        scans = [
            prepare_scan(
                case.scan(tracer),
                organs=maps[tracer],
                manifest=manifest,
                device=device,
                is_everywhere=False,
                memory=memory,
            )
            for tracer in Tracer
        ]
        outlined = []
        in_turn = predict_in_turn([scan.ensemble for scan in scans], background=background, pace=pace)
        for scan in scans:
            predicted = Predicted.of(scan, probabilities=next(in_turn))
            settings = manifest.tracer(scan.scan.tracer)
            work = partial(outline, predicted, tracer=scan.scan.tracer, settings=settings)
            outlined.append(BesideWork(work, background=background, what=f"{scan.scan.tracer.name} outline"))
            del predicted, work
        psma, fdg = (mask.result() for mask in outlined)
    return {Tracer.PSMA: psma, Tracer.FDG: refine_fdg(fdg, psma=psma, settings=manifest.fdg)}


def prepare_scan(
    scan: Scan,
    *,
    organs: sitk.Image,
    manifest: Manifest,
    device: torch.device,
    is_everywhere: bool,
    memory: MemoryUse | None = None,
) -> Prepared:
    """One scan made ready for the ensemble: organs on the PET's grid, and how its channels are built."""
    with stage("channels"):
        labels = to_array(resample_labels(organs, grid_of(scan.pet)))
        organ_classes = collapse(labels)
    ensemble = ensemble_on(
        scan, organs=organ_classes, manifest=manifest, device=device, is_everywhere=is_everywhere, memory=memory
    )
    return Prepared(scan=scan, labels=labels, organs=organ_classes, ensemble=ensemble)


def ensemble_on(
    scan: Scan,
    *,
    organs: npt.NDArray[np.uint8] | None,
    manifest: Manifest,
    device: torch.device,
    is_everywhere: bool,
    memory: MemoryUse | None = None,
) -> ScanEnsemble:
    """The ensemble on a scan, whose organs are the eight classes on the PET's grid; without, work is only counted."""
    settings = manifest.tracer(scan.tracer)
    return ScanEnsemble(
        ScanChannels(scan.pet, ct=scan.ct, organs=organs, suv_threshold=scan.suv_threshold),
        members=settings.members,
        running=Running.of(manifest, device=device, memory=memory),
        reach_mm=settings.regrow_radius_mm,
        is_everywhere=is_everywhere,
        name=scan.tracer.name,
    )


def organ_settings(
    case: Case, *, manifest: Manifest, organ_source: OrganSource, device: torch.device, pace: Pace | None
) -> OrganSettings:
    """How organs are found, in no more time than the networks leave."""
    lacking = [tracer for tracer in Tracer if needs_totalsegmentator(case.scan(tracer), source=organ_source)]
    if pace is None or not pace.is_hurried or not lacking:
        return manifest.organs
    scans = [
        ensemble_on(case.scan(tracer), organs=None, manifest=manifest, device=device, is_everywhere=False)
        for tracer in Tracer
    ]
    return pace.organ_settings(manifest.organs, scans=scans, cts=len(lacking))


def predict_scan(scan: Scan, *, organs: sitk.Image, manifest: Manifest, device: torch.device) -> Predicted:
    """One scan's probabilities in every voxel, for those who study them."""
    prepared = prepare_scan(scan, organs=organs, manifest=manifest, device=device, is_everywhere=True)
    (probabilities,) = predict_in_turn([prepared.ensemble], background=AtOnce(), pace=None)
    return Predicted.of(prepared, probabilities=probabilities)


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


def run_case(setting: Setting, *, case_folder: Path, output: Path, record: Recording, started_s: float) -> None:
    """Read, check, segment, write.

    Args:
        setting: What stays the same from case to case.
        case_folder: The case.
        output: Where the masks go, after `prepare_output`.
        record: Is told what there is, as soon as it is there.
        started_s: When the case started, by `time.monotonic`; its time limit counts from here.

    Raises:
        CaseError: The case, or a file that the manifest names, is refused.
    """
    setting = record.take_setting(setting)
    manifest = setting.manifest
    with stage("read"):
        case = read_case(case_folder, found=record.take_files)
        for tracer in Tracer:
            for member in manifest.tracer(tracer).members:
                check_member_files(member)
            if needs_totalsegmentator(case.scan(tracer), source=setting.organ_source):
                check_organ_weights(manifest.organs, where=f"{tracer.name} organs")
                check_pinned(manifest.organs, where=f"{tracer.name} organs")
    record.take_case(case)
    pace = choose_pace(setting, replayed=record.executed_then, started_s=started_s)
    segmented = segment_case(
        case, manifest=manifest, organ_source=setting.organ_source, device=setting.device, pace=pace
    )
    record.take_executed(pace.executed)
    masks = {tracer: (scan.ttb, scan.grid) for tracer, scan in segmented.items()}
    record.take_masks(masks)
    with stage("write"):
        uptake = {tracer: Uptake(segmented[tracer].pet_suv, case.scan(tracer).suv_threshold) for tracer in Tracer}
        paths = write_masks(masks, folder=output, uptake=uptake)
    for tracer, path in paths.items():
        log.info("%s mask: %s", tracer.name, path)
    log.info("%s: done in %.1f s", case.name, time.monotonic() - started_s)


def main(arguments: list[str] | None = None) -> int:
    """The command line; without arguments, what the platform runs. Returns the exit code."""
    return command_line.main(sys.argv[1:] if arguments is None else arguments, run_case=run_case)


if __name__ == "__main__":
    leave(main())
