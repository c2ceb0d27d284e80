"""The reference way: what a user of nnU-Net's command line would write around it. A program of its own.

Per model: channels as .nii.gz, `nnUNetv2_predict --save_probabilities` as a subprocess, the .npz loaded and averaged;
then thresholds, SimpleITK's signed distance map of the whole grid for regrowing, and the FDG refinement. Nothing in it
is made slow and nothing is clever; members that see the same channels share an input folder.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from benchmark.reference_channels import CASE_ID, ReferenceScan, read_scans, write_channels
from benchmark.unpacked import FILE_ENDING, MEASURED_VARIABLE, UnpackedMember, read_members
from petct.case import Tracer
from petct.channels import ClipHU, OrganEncoding
from petct.errors import CaseError
from petct.geometry import grid_of, to_array, to_image
from petct.labels import Label
from petct.manifest import Manifest, TracerSettings, read_manifest
from petct.output import mask_file
from petct.stages import add, stage, stage_seconds
from petct.written_whole import written_whole
from postprocessing.refine import refine
from postprocessing.regrow import TIE_TOLERANCE_MM

ROOT = Path(__file__).resolve().parent.parent

log = logging.getLogger(__name__)

Mask = npt.NDArray[np.bool_]


def segment_case(folder: Path, *, manifest: Manifest, models: Path, device: str, output: Path) -> list[dict[str, Any]]:
    """Both masks of a case, written where our own program writes them.

    Args:
        folder: The case, with organ maps.
        manifest: Members, thresholds and rules.
        models: The folder that `unpack_manifest` made.
        device: `cpu` or `cuda`.
        output: The output folder.

    Returns:
        What every run of `nnUNetv2_predict` measured.
    """
    with stage("read"):
        scans = read_scans(folder)
    members = read_members(models)
    masks: dict[Tracer, Mask] = {}
    measured: list[dict[str, Any]] = []
    for tracer in Tracer:
        probabilities, runs = predict_probabilities(
            scans[tracer], members=members[tracer], models=models, device=device
        )
        measured += [{"tracer": tracer.value, **run} for run in runs]
        with stage("postprocess"):
            masks[tracer] = outline(probabilities, scan=scans[tracer], settings=manifest.tracer(tracer))
    with stage("refine"):
        if manifest.fdg.refinement is not None:
            masks[Tracer.FDG] = refine(
                masks[Tracer.FDG],
                fdg_suv=to_array(scans[Tracer.FDG].pet),
                fdg_labels=to_array(scans[Tracer.FDG].labels),
                psma_ttb=masks[Tracer.PSMA],
                psma_labels=to_array(scans[Tracer.PSMA].labels),
                refinement=manifest.fdg.refinement,
                voxel_ml=grid_of(scans[Tracer.FDG].pet).voxel_ml,
            ).mask
    with stage("write"):
        for tracer, mask in masks.items():
            write_mask(mask, scan=scans[tracer], file=mask_file(output, tracer))
    return measured


def predict_probabilities(
    scan: ReferenceScan, *, members: Sequence[UnpackedMember], models: Path, device: str
) -> tuple[npt.NDArray[np.float32], list[dict[str, Any]]]:
    """nnU-Net's command once per member, averaged by weight.

    Args:
        scan: The scan.
        members: The tracer's members, at least one.
        models: The folder that their results lie in.
        device: `cpu` or `cuda`.

    Returns:
        Probabilities of the classes, (3, z, y, x), and what each run of the command measured.

    Raises:
        CaseError: The command fails.
    """
    total_weight = sum(member.weight for member in members)
    mean: npt.NDArray[np.float32] = np.zeros((len(Label), *to_array(scan.pet).shape), dtype=np.float32)
    measured = []
    inputs: dict[tuple[OrganEncoding, ClipHU | None], Path] = {}
    with tempfile.TemporaryDirectory(prefix="reference-") as work:
        for number, member in enumerate(members):
            seen = (member.encoding, member.clip)
            if seen not in inputs:
                inputs[seen] = Path(work) / f"channels_{number}"
                write_channels(
                    scan, encoding=member.encoding, clip=member.clip, folder=inputs[seen], file_ending=FILE_ENDING
                )
            predicted = Path(work) / f"predicted_{number}"
            measured.append(
                run_nnunet(
                    member, results=models / member.results, channels=inputs[seen], output=predicted, device=device
                )
            )
            with stage("load_probabilities"):
                probabilities = np.load(predicted / f"{CASE_ID}.npz")["probabilities"]
            with stage("average"):
                mean += np.float32(member.weight / total_weight) * probabilities
    return mean, measured


def run_nnunet(member: UnpackedMember, *, results: Path, channels: Path, output: Path, device: str) -> dict[str, Any]:
    """`nnUNetv2_predict` for one member; returns what was measured inside it and around it.

    Raises:
        CaseError: It fails.
    """
    measured_file = output.with_suffix(".json")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("nnUNet_")}
    environment |= {"nnUNet_results": str(results), MEASURED_VARIABLE: str(measured_file)}
    # nnU-Net wants to know these two, and does not look into them to predict.
    environment |= {"nnUNet_raw": str(channels.parent), "nnUNet_preprocessed": str(channels.parent)}
    command = [sys.executable, "-m", "benchmark.stock_predict", "-i", str(channels), "-o", str(output)]
    command += [*member.options, "-device", device, "--save_probabilities"]
    started_s = time.perf_counter()
    done = subprocess.run(command, env=environment, cwd=ROOT, check=False)
    wall_s = time.perf_counter() - started_s
    if done.returncode != 0 or not measured_file.is_file():
        raise CaseError(f"member {member.name}", "nnUNetv2_predict must succeed", f"exit code {done.returncode}")
    measured: dict[str, Any] = json.loads(measured_file.read_text(encoding="utf-8"))
    add("network", measured["network_s"])
    add("nnunet", wall_s - measured["network_s"])
    log.info("%s: %.1f s, network %.1f s", member.name, wall_s, measured["network_s"])
    return {"member": member.name, "wall_s": wall_s, **measured}


def outline(probabilities: npt.NDArray[np.float32], *, scan: ReferenceScan, settings: TracerSettings) -> Mask:
    """Thresholds and regrowing; the rules are those of `postprocessing.regrow`, the distances SimpleITK's."""
    ttb: Mask = probabilities[Label.TTB] > float(settings.ttb_probability)
    normal: Mask = probabilities[Label.NORMAL] > float(settings.normal_probability)
    if not ttb.any():  # a distance to nothing
        return ttb
    distance_mm = sitk.SignedMaurerDistanceMap(
        to_image(ttb.astype(np.uint8), grid_of(scan.pet)),
        insideIsPositive=False,
        squaredDistance=False,
        useImageSpacing=True,
    )
    mask: Mask = to_array(distance_mm) <= settings.regrow_radius_mm + TIE_TOLERANCE_MM
    organs = to_array(scan.organs)
    mask &= ~np.isin(organs, [int(organ) for organ in settings.protected_organs])
    mask |= ttb
    mask &= ~normal
    mask &= to_array(scan.pet) >= float(scan.suv_threshold)
    return mask


def write_mask(mask: Mask, *, scan: ReferenceScan, file: Path) -> None:
    """The mask as uint8 on the PET's grid."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as partial:
        sitk.WriteImage(to_image(mask.astype(np.uint8), grid_of(scan.pet)), str(partial), useCompression=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    started_s = time.perf_counter()
    parser = argparse.ArgumentParser(prog="python -m benchmark.reference", description=__doc__)
    for name in ("--input", "--output", "--manifest", "--models", "--timings"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)
    try:
        measured = segment_case(
            options.input,
            manifest=read_manifest(options.manifest),
            models=options.models,
            device=options.device,
            output=options.output,
        )
    except CaseError as error:
        log.error("%s", error)
        return 1
    peaks_mib = [run["peak_gpu_mib"] for run in measured if run["peak_gpu_mib"] is not None]
    timings = {
        "total_s": time.perf_counter() - started_s,
        "stages_s": stage_seconds(),
        "peak_gpu_mib": max(peaks_mib, default=None),
        "members": measured,
    }
    with written_whole(options.timings) as partial:
        partial.write_text(json.dumps(timings, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
