"""What the reference way has to know of each member to call nnU-Net's command: no network is needed for that."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from petct.case import Tracer
from petct.channels import ClipHU, OrganEncoding

FILE_ENDING = ".nii.gz"  # of the channels; the data set that a member was trained on may have had another
MEASURED_VARIABLE = "BENCHMARK_MEASURED"  # names the file for the seconds: nnU-Net's own options stay as they are
LIST_NAME = "members.json"


@dataclass(frozen=True)
class UnpackedMember:
    """A member in nnU-Net's own layout.

    Attributes:
        name: Its name in the manifest.
        results: Its `nnUNet_results`, relative to the folder of all members.
        options: Options of `nnUNetv2_predict` that name the model and how it predicts.
        encoding: How it sees the organs.
        clip: Limits of the CT in HU, or None.
        weight: Its weight in the average.
    """

    name: str
    results: str
    options: tuple[str, ...]
    encoding: OrganEncoding
    clip: ClipHU | None
    weight: float


Members = Mapping[Tracer, Sequence[UnpackedMember]]


def write_members(members: Members, *, folder: Path) -> None:
    """Write the list of the members beside their results folders."""
    content = {
        tracer.value: [
            {
                "name": member.name,
                "results": member.results,
                "options": list(member.options),
                "encoding": member.encoding.value,
                "clip_hu": None if member.clip is None else [member.clip.low_hu, member.clip.high_hu],
                "weight": member.weight,
            }
            for member in those
        ]
        for tracer, those in members.items()
    }
    (folder / LIST_NAME).write_text(json.dumps(content, indent=1), encoding="utf-8")


def read_members(folder: Path) -> Members:
    """The list that `write_members` wrote."""
    content = json.loads((folder / LIST_NAME).read_text(encoding="utf-8"))
    return {
        Tracer(tracer): [
            UnpackedMember(
                name=entry["name"],
                results=entry["results"],
                options=tuple(entry["options"]),
                encoding=OrganEncoding(entry["encoding"]),
                clip=None if entry["clip_hu"] is None else ClipHU(*entry["clip_hu"]),
                weight=entry["weight"],
            )
            for entry in those
        ]
        for tracer, those in content.items()
    }
