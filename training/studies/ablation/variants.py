"""What an ablation is made of: variants of a manifest, and which of them are compared to answer a question."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from petct.case import Tracer
from petct.channels import OrganEncoding
from petct.manifest import Manifest, Member, TracerSettings

REFERENCE = "reference"  # the manifest as it is


@dataclass(frozen=True)
class Network:
    """A member that predicts a scan by itself; two are equal when their files, folds and organs are.

    Attributes:
        key: What its probabilities depend on, in one word.
        member: The member; its weight counts nothing here.
        has_true_organs: Whether it sees the patient's true organs rather than the study's.
    """

    key: str
    member: Member = field(compare=False)
    has_true_organs: bool = field(compare=False)


@dataclass(frozen=True)
class Variant:
    """One way to get from a scan to a mask.

    Attributes:
        name: What it is called; variants that differ in their repeat only are one setting measured several times.
        repeat: `fold 1`, or "" when there is but one.
        tracer: The tracer.
        parts: Networks and their weights in the mean of probabilities.
        settings: Thresholds, regrowing and refinement; the members in it are not used.
        has_true_organs: Whether regrowing and refinement see the true organs rather than the study's.
    """

    name: str
    tracer: Tracer
    parts: tuple[tuple[Network, float], ...]
    settings: TracerSettings
    repeat: str = ""
    has_true_organs: bool = False


@dataclass(frozen=True)
class Comparison:
    """Two settings of a tracer, the second being what the first is held against."""

    tracer: Tracer
    name: str
    reference: str


@dataclass(frozen=True)
class Claim:
    """What the paper or the challenge says of a comparison, in Dice.

    Attributes:
        text: The claim.
        comparisons: Where it can be seen.
        is_better: Whether the first of each comparison should have the higher Dice, or the lower.
    """

    text: str
    comparisons: tuple[Comparison, ...]
    is_better: bool


@dataclass(frozen=True)
class Question:
    """What is asked, and the comparisons that answer it.

    Attributes:
        title: A heading.
        text: What is compared with what, for people.
        variants: What has to be measured for it.
        comparisons: In the order of the page.
        claims: What others say the answer is.
        judges_lesions: Whether lesions kept and dropped are counted, against the same without refinement.
    """

    title: str
    text: str
    variants: tuple[Variant, ...]
    comparisons: tuple[Comparison, ...]
    claims: tuple[Claim, ...] = ()
    judges_lesions: bool = False


@dataclass(frozen=True)
class Study:
    """All questions to a manifest.

    Attributes:
        manifest: The manifest that the variants are variants of.
        references: Its own way, per tracer.
        questions: The questions.
    """

    manifest: Manifest
    references: tuple[Variant, ...]
    questions: tuple[Question, ...]

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Everything that is to be measured of a patient, references first."""
        return (*self.references, *(variant for question in self.questions for variant in question.variants))

    def reference(self, tracer: Tracer) -> Variant:
        """The manifest's own way with a tracer."""
        return next(variant for variant in self.references if variant.tracer is tracer)


def network_of(member: Member, *, has_true_organs: bool = False) -> Network:
    """The member as a network of its own; true organs change nothing for one that sees none."""
    sees_true_organs = has_true_organs and member.organ_encoding is not OrganEncoding.NONE
    content = (
        sorted(member.sha256.items()),
        member.folds,
        member.checkpoint.value,
        member.organ_encoding.value,
        sees_true_organs,
    )
    return Network(key=_digest(content), member=member, has_true_organs=sees_true_organs)


def ensemble_of(members: Sequence[Member], *, has_true_organs: bool = False) -> tuple[tuple[Network, float], ...]:
    """The members with their weights."""
    return tuple((network_of(member, has_true_organs=has_true_organs), member.weight) for member in members)


def against_reference(variants: Iterable[Variant]) -> tuple[Comparison, ...]:
    """Each variant held against the manifest as it is."""
    return tuple(Comparison(variant.tracer, variant.name, REFERENCE) for variant in variants)


def variant_key(variant: Variant, *, study: Study, organ_source: str, patient: str) -> str:
    """What a measurement depends on, in one word: one with another key is of something else and is not used.

    Args:
        variant: What is measured.
        study: FDG is refined by its PSMA reference; mirroring, tile step and organ weights are its manifest's.
        organ_source: Where organ maps come from.
        patient: Digest of the patient's images.
    """
    manifest = study.manifest
    organs = (manifest.organs.task.value, sorted(manifest.organs.sha256.items()))
    run = (manifest.mirroring, manifest.tile_step, organs, organ_source, patient)
    return _digest((run, _content(study.reference(Tracer.PSMA)), _content(variant)))


def _content(variant: Variant) -> object:
    settings = variant.settings
    rules = (
        settings.ttb_probability,
        settings.normal_probability,
        settings.regrow_radius_mm,
        sorted(organ.name for organ in settings.protected_organs),
        settings.refinement,
    )
    parts = [(network.key, weight) for network, weight in variant.parts]
    return (variant.name, variant.repeat, variant.tracer.value, parts, rules, variant.has_true_organs)


def _digest(content: object) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]
