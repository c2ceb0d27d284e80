"""Predicting training patients with the networks that have not seen them, through the product's own method.

A patient's folder `train_XXXX` appears whole or not at all. It holds, beside what `record` writes:

    PSMA/TTB.nii.gz                      the final mask
    FDG/TTB.nii.gz                       the final mask, refined by PSMA with the base manifest's rules
    FDG/TTB_before_refinement.nii.gz
    {PSMA,FDG}/probabilities.npz         see `probabilities`
    lesions.csv                          see `lesions`
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch

from evaluation.overlap import dice
from evaluation.runs import breakdown_of
from inference import Segmented, outline, predict_scan, refine_fdg
from petct.case import Case, Scan, Tracer
from petct.errors import CaseError
from petct.folders import SCAN_FOLDERS, read_case, read_truth
from petct.geometry import check_same_grid, grid_of, to_array, to_image
from petct.manifest import Manifest
from segmentation.organ_maps import OrganSource, needs_totalsegmentator, organ_map
from segmentation.totalsegmentator import check_organ_weights
from training.networks.recipe import NetworkRecipe
from training.studies.out_of_fold.lesions import judge_lesions, write_lesions
from training.studies.out_of_fold.members import fold_manifest
from training.studies.out_of_fold.plan import plan_folds
from training.studies.out_of_fold.probabilities import candidates_of, write_candidates
from training.studies.out_of_fold.record import CaseRecord, read_record, record_of, write_record

MASK = "TTB.nii.gz"
MASK_BEFORE_REFINEMENT = "TTB_before_refinement.nii.gz"
PROBABILITIES = "probabilities.npz"
LESIONS = "lesions.csv"
PACKED = ".packed"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of the patients; each is in one of the four.

    Attributes:
        predicted: Predicted in this run.
        there: Predicted in an earlier run, with the same networks and rules.
        left_out: Not predicted, because no trained fold may predict them; with the reason.
        broken: Not predicted, because something is wrong with them or memory ran out; with the reason.
    """

    predicted: tuple[str, ...]
    there: tuple[str, ...]
    left_out: Mapping[str, str]
    broken: Mapping[str, str]


def predict_out_of_fold(
    networks: Sequence[NetworkRecipe],
    *,
    nnunet: Path,
    patients: Sequence[Path],
    base: Manifest,
    organ_source: OrganSource,
    output: Path,
    device: torch.device,
    overwrite: bool,
) -> Outcome:
    """Predict every patient with the folds that have not seen him, going on where an earlier run was stopped.

    Args:
        networks: The recipe, trained in part or whole.
        nnunet: Folder with nnU-Net's three folders.
        patients: Patient folders of the training set's layout, with truth.
        base: Thresholds, rules and organ settings; its own members are not used.
        organ_source: Where organ maps come from.
        output: Folder for the predictions; made if missing.
        device: Where the networks run.
        overwrite: Whether patients that were predicted with other networks or rules are predicted again.

    Raises:
        CaseError: The folds cannot be planned or packed, or patients are there that were predicted with other networks
            or rules.
    """
    plan = plan_folds(networks, nnunet=nnunet, patients=[patient.name for patient in patients])
    for name, reason in plan.left_out.items():
        log.warning("%s: left out: %s", name, reason)
    manifests = {
        fold: fold_manifest(base, networks=members, fold=fold, nnunet=nnunet, packed=output / PACKED)
        for fold, members in plan.networks.items()
        if fold in plan.folds.values()
    }
    records = {
        name: record_of(name, fold=fold, manifest=manifests[fold], organ_source=organ_source)
        for name, fold in plan.folds.items()
    }
    there = _already_there(records, output=output, overwrite=overwrite)
    predicted: list[str] = []
    broken: dict[str, str] = {}
    for number, patient in enumerate(patients, start=1):
        if patient.name not in plan.folds or patient.name in there:
            continue
        log.info("%s (%d of %d): fold %d", patient.name, number, len(patients), plan.folds[patient.name])
        manifest = manifests[plan.folds[patient.name]]
        try:
            _predict_patient(
                patient, record=records[patient.name], manifest=manifest, organ_source=organ_source,
                output=output, device=device,
            )  # fmt: skip
            predicted.append(patient.name)
            continue
        except CaseError as error:
            broken[patient.name] = str(error)
        except (RuntimeError, MemoryError) as error:  # memory that ran out for one patient may do for the next
            broken[patient.name] = breakdown_of(error)
        log.error("%s: %s", patient.name, broken[patient.name])
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # here, as an exception's frames hold their tensors while it is handled
    return Outcome(predicted=tuple(predicted), there=there, left_out=plan.left_out, broken=broken)


def _already_there(records: Mapping[str, CaseRecord], *, output: Path, overwrite: bool) -> tuple[str, ...]:
    """Patients that need not be predicted again; others than those of the plan are left as they are."""
    there = [name for name in records if (output / name).exists()]
    stale = [name for name in there if read_record(output / name).made_with != records[name].made_with]
    if stale and not overwrite:
        rule = "patients must be predicted with the same networks and rules; use --overwrite, or another --output"
        raise CaseError(str(output), rule, f"others for {', '.join(stale[:5])}{' ...' if len(stale) > 5 else ''}")
    return tuple(name for name in there if name not in stale)


def _predict_patient(
    patient: Path,
    *,
    record: CaseRecord,
    manifest: Manifest,
    organ_source: OrganSource,
    output: Path,
    device: torch.device,
) -> None:
    case = read_case(patient)
    truths = {tracer: _truth(patient, case.scan(tracer)) for tracer in Tracer}
    for tracer in Tracer:
        if needs_totalsegmentator(case.scan(tracer), source=organ_source):
            check_organ_weights(manifest.organs, where=f"{tracer.name} organs")
    partial = output / f".{patient.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        masks = _predict_scans(case, manifest=manifest, organ_source=organ_source, device=device, folder=partial)
        refined = refine_fdg(masks[Tracer.FDG], psma=masks[Tracer.PSMA], settings=manifest.fdg)
        _write_mask(masks[Tracer.PSMA], partial / SCAN_FOLDERS[Tracer.PSMA] / MASK)
        _write_mask(refined, partial / SCAN_FOLDERS[Tracer.FDG] / MASK)
        _write_mask(masks[Tracer.FDG], partial / SCAN_FOLDERS[Tracer.FDG] / MASK_BEFORE_REFINEMENT)
        lesions = judge_lesions(
            masks[Tracer.FDG], psma=masks[Tracer.PSMA], truth=truths[Tracer.FDG], case=patient.name, fold=record.fold
        )
        write_lesions(partial / LESIONS, lesions)
        write_record(partial, record)
        if (output / patient.name).exists():
            shutil.rmtree(output / patient.name)
        partial.rename(output / patient.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    log.info(
        "%s: Dice %.3f PSMA, %.3f FDG before refinement and %.3f after; %d FDG lesions, %d of them disease",
        patient.name,
        dice(masks[Tracer.PSMA].ttb, truth=truths[Tracer.PSMA]),
        dice(masks[Tracer.FDG].ttb, truth=truths[Tracer.FDG]),
        dice(refined.ttb, truth=truths[Tracer.FDG]),
        len(lesions),
        sum(lesion.is_disease for lesion in lesions),
    )


def _predict_scans(
    case: Case, *, manifest: Manifest, organ_source: OrganSource, device: torch.device, folder: Path
) -> dict[Tracer, Segmented]:
    """Both scans before refinement; a scan's probabilities are gone before the next is predicted."""
    return {
        tracer: _predict_scan(
            case.scan(tracer),
            manifest=manifest,
            organ_source=organ_source,
            device=device,
            folder=folder / SCAN_FOLDERS[tracer],
        )
        for tracer in Tracer
    }


def _predict_scan(
    scan: Scan, *, manifest: Manifest, organ_source: OrganSource, device: torch.device, folder: Path
) -> Segmented:
    """A scan before refinement; its probabilities are written on the way."""
    organs = organ_map(scan, settings=manifest.organs, source=organ_source, device=device)
    predicted = predict_scan(scan, organs=organs, manifest=manifest, device=device)
    folder.mkdir(parents=True)
    write_candidates(folder / PROBABILITIES, candidates_of(predicted))
    return outline(predicted, tracer=scan.tracer, settings=manifest.tracer(scan.tracer))


def _truth(patient: Path, scan: Scan) -> npt.NDArray[np.bool_]:
    """True disease, (z, y, x) on the PET's grid."""
    truth = read_truth(patient, scan.tracer)
    check_same_grid(grid_of(truth), grid_of(scan.pet), where=f"{SCAN_FOLDERS[scan.tracer]}/TTB", name="the PET")
    inside: npt.NDArray[np.bool_] = to_array(truth) > 0
    return inside


def _write_mask(segmented: Segmented, path: Path) -> None:
    sitk.WriteImage(to_image(segmented.ttb.astype(np.uint8), segmented.grid), str(path))
