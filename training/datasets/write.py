"""nnU-Net's raw data sets, written from patients in the training set's layout."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from petct.case import Tracer
from petct.channels import ClipHU, channel_names
from petct.errors import CaseError
from petct.labels import Label
from training.datasets.clipping import CLIP_PERCENTILES
from training.datasets.descriptions import LESION_DATASETS, ORGAN_DATASET_ID, dataset_name
from training.datasets.organ_images import ORGAN_SPACING_MM, organ_training_labels
from training.datasets.provenance import DatasetProvenance, dataset_digest, write_provenance
from training.datasets.raw_cases import FILE_ENDING, PatientInputs, patient_inputs, write_patient
from training.datasets.refused import leave_out_refused, refusal_of
from training.datasets.sources import Sources
from training.processes import in_processes

FORMAT = 1  # of what is made out of a patient's files; another number when that changes
log = logging.getLogger(__name__)


def write_dataset(
    number: int,
    *,
    patients: Sequence[Path],
    left_out: Sequence[str],
    raw: Path,
    sources: Sources,
    clip: ClipHU | None,
    processes: int,
    overwrite: bool,
    leaves_out_broken: bool = False,
) -> DatasetProvenance:
    """Write one data set into nnU-Net's raw folder, with its provenance; whole or not at all.

    Args:
        number: Data set number.
        patients: Patient folders in the training set's layout.
        left_out: Names of the patients that are not in it, for the provenance.
        raw: nnU-Net's `nnUNet_raw` folder.
        sources: Where corrected annotations and computed organ maps are.
        clip: What to clip the CT to, or None.
        processes: Cases written at the same time.
        overwrite: Whether a data set that is there is replaced.
        leaves_out_broken: Whether patients that cannot be written are left out.

    Raises:
        CaseError: The data set is there already.
        RefusedPatientsError: Patients are broken, or have no organ map where one is shown; all were tried.
    """
    folder = raw / dataset_name(number)
    if folder.exists() and not overwrite:
        raise CaseError(str(folder), "data set must not be there yet; --overwrite replaces it")
    part, old = folder.with_name(f".{folder.name}.partial"), folder.with_name(f".{folder.name}.old")
    for leftover in (part, old):
        shutil.rmtree(leftover, ignore_errors=True)
    (part / "imagesTr").mkdir(parents=True)
    (part / "labelsTr").mkdir()
    try:
        written, refused = {}, {}
        job = partial(write_patient, number=number, sources=sources, clip=clip, folder=part)
        for count, (patient, result) in enumerate(in_processes(job, patients, processes=processes), start=1):
            if isinstance(result, Exception):
                refused[patient.name] = refusal_of(result, patient=patient.name)
                _remove_cases(patient.name, folder=part)
                log.warning("%s: %s (%d of %d)", folder.name, refused[patient.name], count, len(patients))
                continue
            written[patient.name] = result
            log.info("%s: %s (%d of %d)", folder.name, patient.name, count, len(patients))
        leave_out_refused(refused, total=len(patients), where=folder.name, is_allowed=leaves_out_broken)
        provenance = DatasetProvenance(
            patients=tuple(sorted(written)),
            corrected=tuple(sorted(name for name, patient in written.items() if patient.is_corrected)),
            left_out=tuple(sorted({*left_out, *refused})),
            organs_computed=tuple(sorted(name for name, patient in written.items() if patient.has_computed_organs)),
            clip=clip,
            sha256=_digest(number, written, is_clipped=clip is not None),
        )
        _write_description(number, part, cases=len(written) * _cases_per_patient(number))
        write_provenance(part, provenance)
        if folder.exists():
            os.replace(folder, old)
        os.replace(part, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return provenance


def current_digest(number: int, *, patients: Sequence[Path], sources: Sources, is_clipped: bool, processes: int) -> str:
    """The digest that a data set of these patients would have now; nothing is written.

    Raises:
        CaseError: A file is missing or doubled.
    """
    looked_at = {}
    for patient, result in in_processes(
        partial(patient_inputs, number=number, sources=sources), patients, processes=processes
    ):
        if isinstance(result, Exception):
            raise result
        looked_at[patient.name] = result
    return _digest(number, looked_at, is_clipped=is_clipped)


def _digest(number: int, written: Mapping[str, PatientInputs], *, is_clipped: bool) -> str:
    description: dict[str, object] = {"format": FORMAT}
    if number == ORGAN_DATASET_ID:
        description |= {"spacing_mm": ORGAN_SPACING_MM, "labels": organ_training_labels()}
    else:
        dataset = LESION_DATASETS[number]
        # The limits follow from the percentiles and the patients' files.
        description |= asdict(dataset) | {"is_ct_clipped": is_clipped, "percentiles": CLIP_PERCENTILES}
    return dataset_digest(description, inputs={name: patient.digests for name, patient in written.items()})


def _remove_cases(patient: str, *, folder: Path) -> None:
    """Remove what was written of a patient before it was refused; names of others may begin with this one's."""
    tracers = "|".join(tracer.value for tracer in Tracer)
    own = re.compile(rf"{re.escape(patient)}(_({tracers}))?(_\d{{4}})?{re.escape(FILE_ENDING)}")
    for path in (*(folder / "imagesTr").iterdir(), *(folder / "labelsTr").iterdir()):
        if own.fullmatch(path.name):
            path.unlink()


def _cases_per_patient(number: int) -> int:
    return len(Tracer) if number == ORGAN_DATASET_ID else 1


def _write_description(number: int, folder: Path, *, cases: int) -> None:
    if number == ORGAN_DATASET_ID:
        channels = ["CT"]
        labels = organ_training_labels()
    else:
        # nnU-Net chooses the normalisation by this name: CT as CT, everything else is left as it is.
        channels = ["CT" if name == "ct" else "noNorm" for name in channel_names(LESION_DATASETS[number].encoding)]
        labels = {label.name.lower(): int(label) for label in Label}
    description = {
        "channel_names": {str(index): name for index, name in enumerate(channels)},
        "labels": labels,
        "numTraining": cases,
        "file_ending": FILE_ENDING,
        "overwrite_image_reader_writer": "SimpleITKIO",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
