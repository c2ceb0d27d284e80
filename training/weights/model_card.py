"""A page for people about a packed ensemble, which lies with its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from petct.case import Tracer
from petct.manifest import Manifest
from segmentation.weight_files import MODEL_FILE


def model_card(ensemble: Manifest, *, licence: str) -> str:
    """The page as Markdown: licence, members, what each was trained on and how well it did, organ weights.

    Args:
        ensemble: A packed ensemble, its files in place.
        licence: The licence of the weights.
    """
    lines = [f"# {ensemble.name}: weights for PSMA + FDG PET/CT lesion segmentation", ""]
    if ensemble.warning:
        lines += [f"**{ensemble.warning}**", ""]
    lines += [
        f"Licence: {licence}",
        "",
        f"`{ensemble.name}.toml` says how they are run, with the sha256 of every file; each model's record is in its",
        f"{MODEL_FILE}. Dice: of nnU-Net's validation or, where it says pseudo, of patches after the last epoch.",
        "",
        "| member | tracer | weight | data set | patients | trainer | fold | epochs | Dice |",
        "|---|---|---:|---|---:|---|---:|---:|---|",
    ]
    provenance: dict[str, Any] = {}
    for tracer in Tracer:
        for member in ensemble.tracer(tracer).members:
            provenance = json.loads((member.folder / MODEL_FILE).read_text(encoding="utf-8"))["provenance"]
            data = provenance["dataset"]
            for fold in member.folds:
                record = provenance["folds"][str(fold)]
                lines.append(
                    f"| {member.name} | {tracer.name} | {member.weight:g} | {data['name']} ({data['sha256'][:12]}) "
                    f"| {data.get('patients', '?')} | {provenance['trainer']} | {fold} | {record.get('epochs', '?')} "
                    f"| {_dice(record)} |"
                )
    versions = ", ".join(f"{name} {version}" for name, version in provenance["packed_with"].items())
    organs = ensemble.organs
    has_organs = bool(organs.sha256)
    lines += [
        "",
        f"Organs: TotalSegmentator's task `total`, model `{organs.task}`, {len(organs.sha256)} files."
        if has_organs
        else "Organs: no weights; every case must bring its organ maps.",
        "Those that TotalSegmentator's authors trained are under the Apache License 2.0." if has_organs else "",
        "",
        f"Packed by {provenance['packed_by']} with {versions}.",
    ]
    return "\n".join(lines) + "\n"


def _dice(record: Mapping[str, Any]) -> str:
    if "dice" not in record:
        return "unknown"
    kind = "" if record["dice_of"] == "validation" else " (pseudo)"
    classes = ", ".join(f"{name} {'-' if dice is None else f'{dice:.3f}'}" for name, dice in record["dice"].items())
    return classes + kind
