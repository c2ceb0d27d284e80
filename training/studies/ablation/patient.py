"""One patient of an ablation: organs found once, each network run once, and every variant made of that."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from evaluation.folders import find_truth
from evaluation.judgement import read_mask
from evaluation.metrics import measure_masks
from inference import Predicted, Segmented, outline, predict_scan, refine_fdg
from petct.case import Scan, Tracer
from petct.errors import CaseError
from petct.folders import find_files, read_case
from petct.geometry import grid_of, resample_labels, to_array
from petct.manifest import Manifest, Member, Mode
from petct.organs import collapse
from segmentation.organ_maps import OrganSource, organ_map
from training.studies.ablation.rows import Row
from training.studies.ablation.variants import Network, Study, Variant, variant_key

Float = npt.NDArray[np.float32]


@dataclass
class PredictedScan:
    """A scan with the probabilities of every network, and the masks that variants make of them.

    Attributes:
        tracer: The tracer.
        networks: What each network says, by its key.
        anatomy: TotalSegmentator labels on the PET's grid, (z, y, x): the study's (False) and the true ones (True).
    """

    tracer: Tracer
    networks: Mapping[str, Predicted]
    anatomy: Mapping[bool, npt.NDArray[np.uint8]]
    # The last ensemble and mask: variants that follow each other often differ in a later step only.
    _blended: tuple[object, Predicted] | None = field(default=None, repr=False)
    _outlined: tuple[object, Segmented] | None = field(default=None, repr=False)

    def outline(self, variant: Variant) -> Segmented:
        """The variant's mask before refinement."""
        wanted = (variant.parts, variant.has_true_organs, replace(variant.settings, members=(), refinement=None))
        if self._outlined is None or self._outlined[0] != wanted:
            predicted = self._predicted(variant)
            self._outlined = wanted, outline(predicted, tracer=self.tracer, settings=variant.settings)
        return self._outlined[1]

    def _predicted(self, variant: Variant) -> Predicted:
        wanted = (variant.parts, variant.has_true_organs)
        if self._blended is None or self._blended[0] != wanted:
            parts = [(self.networks[network.key], weight) for network, weight in variant.parts]
            labels = self.anatomy[variant.has_true_organs]
            self._blended = (
                wanted,
                replace(
                    parts[0][0],
                    probabilities=blend([(predicted.probabilities, weight) for predicted, weight in parts]),
                    labels=labels,
                    organs=collapse(labels),
                ),
            )
        return self._blended[1]


def blend(parts: Sequence[tuple[Float, float]]) -> Float:
    """The weighted mean of members' probabilities, as `segmentation.ensemble` takes it but for float32's rounding.

    Args:
        parts: Probabilities (3, z, y, x) and weights > 0, at least one.
    """
    total_weight = sum(weight for _, weight in parts)
    mean = np.zeros_like(parts[0][0])
    for probabilities, weight in parts:
        mean += probabilities * np.float32(weight / total_weight)
    return mean


def predict_networks(
    scan: Scan,
    *,
    networks: Iterable[Network],
    manifest: Manifest,
    source: OrganSource,
    has_true_organs: bool,
    device: torch.device,
) -> PredictedScan:
    """Find a scan's organs and run each network once; all that they say is held at once, 12 bytes a voxel each.

    Args:
        scan: The scan.
        networks: The networks; an equal one is run once.
        manifest: Mirroring, sliding window and organ weights are its own.
        source: Where the study's organ map comes from.
        has_true_organs: Whether the organ map that comes with the patient is needed beside it.
        device: Where the networks run.

    Raises:
        CaseError: The patient has no organ map where one is needed, or the organs cannot be found.
    """
    maps = {False: organ_map(scan, settings=manifest.organs, source=source, device=device)}
    if has_true_organs:
        maps[True] = organ_map(scan, settings=manifest.organs, source=OrganSource.GIVEN, device=device)
    grid = grid_of(scan.pet)
    return PredictedScan(
        tracer=scan.tracer,
        networks={
            network.key: predict_scan(
                scan,
                organs=maps[network.has_true_organs],
                manifest=_manifest_of(network.member, manifest=manifest, tracer=scan.tracer),
                device=device,
            )
            for network in dict.fromkeys(networks)
        },
        anatomy={is_true: to_array(resample_labels(labels, grid)) for is_true, labels in maps.items()},
    )


def measure_patient(
    patient: Path, *, study: Study, variants: Sequence[Variant], source: OrganSource, device: torch.device
) -> list[Row]:
    """Measure variants of a study on one patient.

    Args:
        patient: The patient's folder, with truth.
        study: The study that the variants are of.
        variants: What to measure.
        source: Where the study's organ maps come from.
        device: Where the networks run.

    Raises:
        CaseError: A file of the patient is missing or breaks a rule, or the organs cannot be found.
    """
    case = read_case(patient)
    digest = digest_of(patient)
    truths = {
        tracer: read_mask(
            find_truth(patient.parent, case=patient.name, tracer=tracer).truth, grid=grid_of(case.scan(tracer).pet)
        )
        for tracer in Tracer
    }
    rows = []
    psma: dict[bool, Segmented] = {}  # the reference's mask, in the study's anatomy and in the true one
    for tracer in Tracer:
        wanted = [variant for variant in variants if variant.tracer is tracer]
        # FDG is refined by PSMA's reference, also where PSMA has been measured before.
        needed = [study.reference(tracer), *wanted] if tracer is Tracer.PSMA else wanted
        if not wanted and tracer is Tracer.FDG:
            continue
        scan = predict_networks(
            case.scan(tracer),
            networks=[network for variant in needed for network, _ in variant.parts],
            manifest=study.manifest,
            source=source,
            has_true_organs=any(variant.has_true_organs for variant in variants),
            device=device,
        )
        if tracer is Tracer.PSMA:
            reference = scan.outline(study.reference(tracer))
            psma = {is_true: replace(reference, labels=labels) for is_true, labels in scan.anatomy.items()}
        for variant in wanted:
            segmented = scan.outline(variant)
            if tracer is Tracer.FDG:
                segmented = refine_fdg(segmented, psma=psma[variant.has_true_organs], settings=variant.settings)
            metrics = measure_masks(
                segmented.ttb,
                truth=truths[tracer],
                pet_suv=segmented.pet_suv,
                spacing_mm_zyx=segmented.grid.spacing_mm_zyx,
            )
            key = variant_key(variant, study=study, organ_source=source.value, patient=digest)
            rows.append(Row(patient.name, tracer, variant.name, variant.repeat, key, metrics))
    return rows


def digest_of(patient: Path) -> str:
    """What a patient's measurements depend on, in one word: name, images, organ maps, truth and thresholds.

    Raises:
        CaseError: A file is missing or cannot be read.
    """
    digest = hashlib.sha256(patient.name.encode())
    for tracer, files in find_files(patient).items():
        truth = find_truth(patient.parent, case=patient.name, tracer=tracer).truth
        for file in (files.pet, files.ct, files.organs, files.threshold, truth):
            if file is not None:
                try:
                    digest.update(file.path.read_bytes())
                except OSError as error:
                    raise CaseError(file.where, "file must be readable", error.strerror) from error
    return digest.hexdigest()


def _manifest_of(member: Member, *, manifest: Manifest, tracer: Tracer) -> Manifest:
    """The manifest with this member alone, run exactly: a study compares methods, not what a faster run leaves out."""
    settings = replace(manifest.tracer(tracer), members=(member,))
    alone = replace(manifest, psma=settings) if tracer is Tracer.PSMA else replace(manifest, fdg=settings)
    return replace(alone, mode=Mode.EXACT)
