"""What a run's judgements add up to, per tracer: means, medians, lesions found, volumes by region."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np

from evaluation.judgement import Judgement
from evaluation.metrics import METRICS
from evaluation.regions import REGIONS, RegionVolumes
from evaluation.statistics import Interval, mean_with_interval, median_with_interval, share_with_interval
from petct.case import Tracer


@dataclass(frozen=True)
class Summary:
    """One run's scans of one tracer.

    Attributes:
        run: The run's name.
        tracer: The tracer.
        patients: Number of patients judged.
        means: Mean of each metric over the patients that have it.
        medians: Median of each metric over the patients that have it.
        sensitivity: True lesions that are found / true lesions, over all patients together.
        false_lesions: Mean number of false lesions per patient.
        true_lesions: Number of true lesions.
        found_lesions: How many of those are found.
        regions: Volumes by region, summed over the patients with an organ map; None when none has one.
        region_patients: Number of patients with an organ map.
        notes: How many patients have which edge case.
    """

    run: str
    tracer: Tracer
    patients: int
    means: Mapping[str, Interval]
    medians: Mapping[str, Interval]
    sensitivity: Interval
    false_lesions: Interval
    true_lesions: int
    found_lesions: int
    regions: Mapping[str, RegionVolumes] | None
    region_patients: int
    notes: Mapping[str, int]


def summarise(judgements: Sequence[Judgement], *, run: str, tracer: Tracer) -> Summary:
    """Add up one run's judgements of one tracer; without any, everything is empty and counted 0."""
    mine = [judgement for judgement in judgements if judgement.run == run and judgement.tracer is tracer]
    metrics = [judgement.metrics for judgement in mine]
    values = {name: [getattr(one, name) for one in metrics] for name in METRICS}
    found, true = [one.found_lesions for one in metrics], [one.true_lesions for one in metrics]
    regions = [judgement.regions for judgement in mine if judgement.regions is not None]
    return Summary(
        run=run,
        tracer=tracer,
        patients=len(mine),
        means={name: mean_with_interval(held) for name, held in values.items()},
        medians={name: median_with_interval(held) for name, held in values.items()},
        sensitivity=share_with_interval(found, true),
        false_lesions=mean_with_interval([one.false_lesions for one in metrics]),
        true_lesions=sum(true),
        found_lesions=sum(found),
        regions={name: _add([region[name] for region in regions]) for name in REGIONS} if regions else None,
        region_patients=len(regions),
        notes=Counter(note for one in metrics for note in one.notes),
    )


def _add(volumes: Sequence[RegionVolumes]) -> RegionVolumes:
    return RegionVolumes(*np.sum([astuple(one) for one in volumes], axis=0).tolist())
