"""From a folder of patients to data sets that nnU-Net can train on: checked, written, planned, preprocessed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from petct.case import Tracer
from petct.channels import ClipHU, OrganEncoding, channel_names
from petct.errors import CaseError
from petct.manifest import Architecture, read_manifest
from training.checks.findings import Severity
from training.checks.patients import broken_patients, check_patients
from training.datasets.clipping import clip_limits
from training.datasets.descriptions import LESION_DATASETS, ORGAN_DATASET_ID, dataset_name
from training.datasets.disk_space import check_disk_space
from training.datasets.organ_maps import compute_maps, missing_maps
from training.datasets.planning import plan_and_preprocess, set_nnunet_folders
from training.datasets.provenance import DatasetProvenance, read_provenance
from training.datasets.refused import leave_out_refused
from training.datasets.sources import Sources, count_corrected
from training.datasets.staleness import forget_preprocessed, note_former_version, outdated_results
from training.datasets.write import current_digest, write_dataset
from training.folds.splits import ensure_splits
from training.memory import checking_bytes, preprocessing_bytes, writing_bytes
from training.processes import affordable_processes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildRequest:
    """What to build out of what.

    Attributes:
        patients: Every patient's folder, those to leave out included.
        nnunet: Folder for nnU-Net's three folders and the computed organ maps.
        leave_out: Names of patients to leave out.
        leaves_out_broken: Whether patients with errors are left out; else they are refused.
        corrected: Folder of corrected annotations by patient, or None.
        is_ct_clipped: Whether the CT is clipped to percentiles of the data set's.
        overwrites: Whether data sets that are there, made of something else, are made anew.
        processes: Cases at the same time, at most.
        manifest: Whose TotalSegmentator computes missing organ maps.
        device: Where it runs: `cuda` or `cpu`.
    """

    patients: tuple[Path, ...]
    nnunet: Path
    leave_out: frozenset[str]
    leaves_out_broken: bool
    corrected: Path | None
    is_ct_clipped: bool
    overwrites: bool
    processes: int
    manifest: Path
    device: str

    @property
    def sources(self) -> Sources:
        """Where files come from besides the patients' folders."""
        return Sources(corrected=self.corrected, organs=self.nnunet / "organs")

    @property
    def raw(self) -> Path:
        """nnU-Net's folder of raw data sets."""
        return self.nnunet / "nnUNet_raw"


def build_datasets(numbers: Sequence[int], request: BuildRequest) -> dict[int, DatasetProvenance]:
    """Build data sets, or go on where an earlier call was interrupted.

    A data set that is there is kept when it is made of the same files in the same way, also when what differs is made
    anew: so that making many anew can be interrupted.

    Args:
        numbers: Data set numbers.
        request: What to build them of.

    Returns:
        What each is made of.

    Raises:
        CaseError: A number, or a patient to leave out, is not known; a patient is broken; there are no corrected
            annotations; a data set that is there is made of something else; the disk is too small.
    """
    names = {number: dataset_name(number) for number in numbers}  # refuses what does not exist before hours of work
    _check_request(list(names), request)
    kept = {number: _kept(number, request) for number in names if (request.raw / names[number]).exists()}
    todo = [number for number in names if kept.get(number) is None]
    if todo:
        patients = _sound_patients(request)
        _check_corrected(todo, patients, request)
        check_disk_space(todo, patients=patients, nnunet=request.nnunet)
        patients = _find_organs(todo, patients, request)
    set_nnunet_folders(request.nnunet)
    clips: dict[Tracer, ClipHU] = {}
    built = {}
    for number in names:
        provenance = kept.get(number)
        if provenance is None:
            provenance = _write(number, patients, request, clips=clips)
        _preprocess(number, request)
        built[number] = provenance
    return built


def _check_request(numbers: Sequence[int], request: BuildRequest) -> None:
    known = {patient.name for patient in request.patients}
    if unknown := sorted(request.leave_out - known):
        raise CaseError("--leave-out", "must name patients of the folder", ", ".join(unknown))
    if request.leave_out == known:
        raise CaseError("--leave-out", "must leave some patient", "all of them")
    if request.corrected is not None and not request.corrected.is_dir():
        raise CaseError("--corrected", "must be a folder of train_XXXX", str(request.corrected))
    if request.is_ct_clipped and ORGAN_DATASET_ID in numbers:
        raise CaseError("--clip-ct", "is for lesions; TotalSegmentator does not clip", f"{ORGAN_DATASET_ID}")
    everybody = [patient for patient in request.patients if patient.name not in request.leave_out]
    _check_corrected(numbers, everybody, request)


def _kept(number: int, request: BuildRequest) -> DatasetProvenance | None:
    """What a data set that is there is made of, or None when it is to be made anew.

    Raises:
        CaseError: It is made of something else than is asked for, and must not be overwritten.
    """
    try:
        provenance = _compared(number, request)
    except CaseError as error:
        if not request.overwrites:
            raise
        log.info("%s is made anew: %s", dataset_name(number), error)
        return None
    if request.overwrites:
        log.info("%s is made of just this, and kept", dataset_name(number))
    return provenance


def _compared(number: int, request: BuildRequest) -> DatasetProvenance:
    """What a data set that is there is made of, which is what is asked for.

    Raises:
        CaseError: It is made of something else, or a patient's file is missing.
    """
    provenance = read_provenance(request.nnunet, number=number)
    where, rule = dataset_name(number), "is there, made of something else; --overwrite makes it anew"
    own, absent = set(provenance.patients), set(provenance.left_out)
    everybody = {patient.name for patient in request.patients}
    if own | absent != everybody or not request.leave_out <= absent:
        raise CaseError(where, rule, f"{len(own)} patients of {len(own | absent)}, now {len(everybody)} are asked for")
    if not request.leaves_out_broken and absent != request.leave_out:
        rule = "is there without patients who are not left out now; --overwrite makes it anew"
        raise CaseError(where, rule, ", ".join(sorted(absent - request.leave_out)))
    if request.is_ct_clipped != (provenance.clip is not None):
        raise CaseError(where, rule, f"a CT that is {'not ' if provenance.clip is None else ''}clipped")
    log.info("%s is there already; its patients' files are compared", where)
    sha256 = current_digest(
        number,
        patients=[patient for patient in request.patients if patient.name in own],
        sources=request.sources,
        is_clipped=request.is_ct_clipped,
        processes=request.processes,
    )
    if sha256 != provenance.sha256:
        raise CaseError(where, rule, "files that have changed since, or were added (corrections, organ maps)")
    return provenance


def _sound_patients(request: BuildRequest) -> list[Path]:
    """The patients without errors, when the broken may be left out.

    Raises:
        CaseError: A patient is broken and must not be left out, or all are; what is wrong with each is logged.
    """
    patients = [patient for patient in request.patients if patient.name not in request.leave_out]
    processes = affordable_processes(request.processes, bytes_each=checking_bytes(patients))
    log.info("checks %d patients, %d at the same time", len(patients), processes)
    findings = check_patients(patients, processes=processes, corrected=request.corrected)
    broken = broken_patients(findings)
    for finding in findings:
        log.log(logging.ERROR if finding.severity is Severity.ERROR else logging.WARNING, "%s", finding.line())
    if broken and not request.leaves_out_broken:
        errors = [finding.line() for finding in findings if finding.severity is Severity.ERROR]
        rule = f"{len(broken)} of {len(patients)} are broken; mend them, or --leave-out-broken ({', '.join(broken)})"
        raise CaseError("patients", rule, errors[0])
    if len(broken) == len(patients):
        raise CaseError("patients", "one at least must not be broken", f"{len(broken)} broken ones")
    if broken:
        log.warning("%d of %d patients are broken and left out: %s", len(broken), len(patients), ", ".join(broken))
    return [patient for patient in patients if patient.name not in broken]


def _check_corrected(numbers: Sequence[int], patients: Sequence[Path], request: BuildRequest) -> None:
    for number in numbers:
        if number not in LESION_DATASETS or not LESION_DATASETS[number].is_corrected:
            continue
        corrected = count_corrected(patients, number=number, folder=request.corrected)
        name = LESION_DATASETS[number].tracer.name
        log.info("%s: %d of %d patients have a corrected annotation", dataset_name(number), corrected, len(patients))
        if not corrected:
            rule = f"needs corrected annotations, {name}/TTB_fixed.nii.gz beside TTB or in the folder of --corrected"
            raise CaseError(dataset_name(number), rule, f"none in {len(patients)} patients")


def _find_organs(numbers: Sequence[int], patients: list[Path], request: BuildRequest) -> list[Path]:
    """Compute the organ maps that are missing, before the first data set is written; the patients who have theirs.

    Raises:
        CaseError: The organ network's patients have none, or there are no weights.
        RefusedPatientsError: Some cannot be had, and their patients must not be left out.
    """
    if ORGAN_DATASET_ID in numbers and (missing := missing_maps(patients, tracers=tuple(Tracer))):
        (patient, tracer), rule = missing[0], "organ map totseg_24.nii.gz is missing"
        raise CaseError(f"{patient.name} {tracer}", f"{rule}; {dataset_name(ORGAN_DATASET_ID)} learns from given ones")
    shown = [LESION_DATASETS[number] for number in numbers if number in LESION_DATASETS]
    tracers = {dataset.tracer for dataset in shown if dataset.encoding is not OrganEncoding.NONE}
    missing = missing_maps(patients, tracers=[tracer for tracer in Tracer if tracer in tracers])
    if not missing:
        return patients
    log.info("%d organ maps are missing", len(missing))
    settings = read_manifest(request.manifest).organs
    refused = compute_maps(missing, organs=request.sources.organs, settings=settings, device=request.device)
    leave_out_refused(refused, total=len(patients), where="organ maps", is_allowed=request.leaves_out_broken)
    return [patient for patient in patients if patient.name not in refused]


def _write(
    number: int, patients: Sequence[Path], request: BuildRequest, *, clips: dict[Tracer, ClipHU]
) -> DatasetProvenance:
    encoding = LESION_DATASETS[number].encoding if number in LESION_DATASETS else OrganEncoding.NONE
    processes = affordable_processes(request.processes, bytes_each=writing_bytes(patients, encoding=encoding))
    clip = None
    if request.is_ct_clipped:
        tracer = LESION_DATASETS[number].tracer
        if tracer not in clips:
            clips[tracer] = clip_limits(
                patients,
                tracer=tracer,
                sources=request.sources,
                processes=processes,
                leaves_out_broken=request.leaves_out_broken,
            )
        clip = clips[tracer]
    log.info("%s: writes %d patients, %d at the same time", dataset_name(number), len(patients), processes)
    note_former_version(request.nnunet, number=number)
    provenance = write_dataset(
        number,
        patients=patients,
        left_out=sorted({patient.name for patient in request.patients} - {patient.name for patient in patients}),
        raw=request.raw,
        sources=request.sources,
        clip=clip,
        processes=processes,
        overwrite=request.overwrites,
        leaves_out_broken=request.leaves_out_broken,
    )
    forget_preprocessed(request.nnunet, number=number)
    return provenance


def _preprocess(number: int, request: BuildRequest) -> None:
    channels = len(channel_names(LESION_DATASETS[number].encoding)) if number in LESION_DATASETS else 1
    need = preprocessing_bytes(request.patients, channels=channels)
    plan_and_preprocess(
        number,
        architectures=Architecture,
        nnunet=request.nnunet,
        processes=affordable_processes(request.processes, bytes_each=need),
    )
    ensure_splits(request.nnunet, number=number)
    for fold in outdated_results(request.nnunet, number=number):
        log.warning("%s: trained on a former version of the data set; remove it to train anew", fold)
