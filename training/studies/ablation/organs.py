"""The ablation's questions about organs: what networks gain from seeing them, and what mistakes in them cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from petct.case import Tracer
from petct.channels import OrganEncoding
from petct.errors import CaseError
from petct.manifest import Manifest, Member
from segmentation.weight_files import MODEL_FILE
from training.studies.ablation.variants import (
    Claim,
    Comparison,
    Question,
    Variant,
    against_reference,
    ensemble_of,
    network_of,
)

ENCODING_NAMES = {
    OrganEncoding.NONE: "no organs",
    OrganEncoding.BINARY: "organs as masks",
    OrganEncoding.SOFT_DISTANCE: "organs as soft distance",
}


def encoding_question(encodings: Manifest, *, base: Mapping[Tracer, Variant]) -> Question:
    """None, masks and soft distances, each against no organs.

    Args:
        encodings: A single network of each encoding and tracer.
        base: The reference's way with each tracer.

    Raises:
        CaseError: The members are not one per encoding and tracer, with one without organs among them.
    """
    variants: list[Variant] = []
    comparisons: list[Comparison] = []
    networks: list[Member] = []
    for tracer in Tracer:
        members = encoding_members(encodings, tracer=tracer)
        for encoding, member in members.items():
            networks.append(member)
            variants += _by_fold(base[tracer], member, name=ENCODING_NAMES[encoding])
        names = [ENCODING_NAMES[encoding] for encoding in members]
        comparisons += [Comparison(tracer, name, names[0]) for name in names[1:]]
        if len(names) == 3:
            comparisons.append(Comparison(tracer, names[2], names[1]))
    trained = (
        "One training each: what another training of the same network would change is not in the intervals, and with "
        "networks this small that is not little."
        if {len(member.folds) for member in networks} == {1}
        else "Where a network was trained on several folds, each fold is measured singly and a patient's score is "
        "their mean; how far the folds are apart is given below the table."
    )
    return Question(
        title="What do the networks gain from seeing organs?",
        text=f"Single networks; thresholds, regrowing and refinement are the reference's. {_alike(networks)} {trained}",
        variants=tuple(variants),
        comparisons=tuple(comparisons),
        claims=(
            Claim(
                "The paper: organ information helps, as masks and as soft distances.",
                tuple(one for one in comparisons if one.reference == ENCODING_NAMES[OrganEncoding.NONE]),
                is_better=True,
            ),
            Claim(
                "The paper: soft distances help beyond masks.",
                tuple(one for one in comparisons if one.reference == ENCODING_NAMES[OrganEncoding.BINARY]),
                is_better=True,
            ),
        ),
    )


def organ_question(manifest: Manifest, *, encodings: Manifest | None, base: Mapping[Tracer, Variant]) -> Question:
    """True organ maps against the study's.

    Args:
        manifest: The manifest that is varied.
        encodings: Single networks to ask as well, or None.
        base: The reference's way with each tracer.

    Raises:
        CaseError: As `encoding_question`.
    """
    variants: list[Variant] = []
    for tracer, reference in base.items():
        parts = ensemble_of(manifest.tracer(tracer).members, has_true_organs=True)
        variants.append(replace(reference, name="true organs", parts=parts, has_true_organs=True))
        variants.append(replace(reference, name="true organs after the networks", has_true_organs=True))
    comparisons = list(against_reference(variants))
    for tracer in Tracer:
        single = {} if encodings is None else encoding_members(encodings, tracer=tracer)
        for encoding, member in single.items():
            if encoding is not OrganEncoding.NONE:
                name = f"{ENCODING_NAMES[encoding]}, true"
                variants += _by_fold(base[tracer], member, name=name, has_true_organs=True)
                comparisons.append(Comparison(tracer, name, ENCODING_NAMES[encoding]))
    return Question(
        title="What do mistakes in the organ maps cost?",
        text="True organ maps, for the networks, regrowing and refinement, against computed ones; `after the "
        "networks` for regrowing and refinement only.",
        variants=tuple(variants),
        comparisons=tuple(comparisons),
    )


def encoding_members(encodings: Manifest, *, tracer: Tracer) -> dict[OrganEncoding, Member]:
    """A tracer's network of each encoding.

    Raises:
        CaseError: There are two of an encoding, or none without organs, or nothing to compare with it.
    """
    where = f"{encodings.path.name} {tracer.name}"
    found: dict[OrganEncoding, Member] = {}
    for member in encodings.tracer(tracer).members:
        if member.organ_encoding in found:
            raise CaseError(where, "members must have different organ encodings", f"two with {member.organ_encoding}")
        found[member.organ_encoding] = member
    if OrganEncoding.NONE not in found or len(found) < 2:
        raise CaseError(where, "members must be one without organs and one or more with", ", ".join(found))
    return {encoding: found[encoding] for encoding in OrganEncoding if encoding in found}


def _alike(networks: Sequence[Member]) -> str:
    """What the networks have in common beside the encoding, in a sentence."""
    architectures = sorted({member.architecture.value for member in networks})
    if len(architectures) > 1:
        return (
            f"**Their architectures differ ({', '.join(f'`{name}`' for name in architectures)}), so a difference is "
            "not one of the encoding alone.**"
        )
    trainings = [_training(member) for member in networks]
    if None not in trainings and all(training == trainings[0] for training in trainings):
        return (
            f"All have the same architecture (`{architectures[0]}`) and were trained alike (same trainer, "
            "epochs and iterations per epoch), so the encoding is all that differs by design."
        )
    return (
        f"All have the same architecture (`{architectures[0]}`), but **they are not known to be trained alike** "
        "(same trainer, epochs and iterations per epoch). A difference may not be one of the encoding alone."
    )


def _training(member: Member) -> tuple[str, dict[int, tuple[int, int]]] | None:
    """Trainer, and by fold epochs and iterations in each, as the packed model says; None where it does not."""
    try:
        provenance = json.loads((member.folder / MODEL_FILE).read_text(encoding="utf-8"))["provenance"]
        folds = {fold: provenance["folds"][str(fold)] for fold in member.folds}
        return provenance["trainer"], {
            fold: (record["epochs"], record["iterations_per_epoch"]) for fold, record in folds.items()
        }
    except (OSError, ValueError, KeyError, TypeError):  # provenance is for people, and need not be there
        return None


def _by_fold(base: Variant, member: Member, *, name: str, has_true_organs: bool = False) -> list[Variant]:
    """A single network's variant, or one for each of its folds."""
    return [
        replace(
            base,
            name=name,
            repeat=f"fold {fold}" if len(member.folds) > 1 else "",
            parts=((network_of(replace(member, folds=(fold,)), has_true_organs=has_true_organs), 1.0),),
            has_true_organs=has_true_organs,
        )
        for fold in member.folds
    ]
