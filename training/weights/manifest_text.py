"""A manifest as TOML that `petct.manifest.read_manifest` reads back; the standard library only reads TOML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from petct.case import Tracer
from petct.manifest import Manifest, Member, TracerSettings


def manifest_toml(manifest: Manifest, *, comment: str) -> str:
    """The text of a manifest.

    Args:
        manifest: The manifest; its folders lie below the folder of its path.
        comment: A line or more for the head of the file.
    """
    root = manifest.path.resolve().parent
    organs = manifest.organs
    blocks = [
        "\n".join(f"# {line}" for line in comment.splitlines()),
        _lines(
            {
                "name": manifest.name,
                "warning": manifest.warning,
                "mode": manifest.mode.value,
                "backend": manifest.backend.value,
                "mirroring": manifest.mirroring,
                "tile_step": manifest.tile_step,
            }
        ),
        "[organs]\n"
        + _lines(
            {
                "task": organs.task.value,
                "weights": organs.weights.relative_to(root).as_posix(),
                "timeout_s": organs.timeout_s,
            }
        ),
        "[organs.sha256]\n" + _digests(organs.sha256),
        *(_tracer(manifest.tracer(tracer), tracer=tracer, root=root) for tracer in Tracer),
    ]
    return "\n\n".join(blocks) + "\n"


def _tracer(settings: TracerSettings, *, tracer: Tracer, root: Path) -> str:
    blocks = [
        f"[{tracer}]\n"
        + _lines(
            {
                "ttb_probability": settings.ttb_probability,
                "normal_probability": settings.normal_probability,
                "regrow_radius_mm": settings.regrow_radius_mm,
                "protected_organs": [organ.name.lower() for organ in sorted(settings.protected_organs)],
            }
        ),
        *(_member(member, tracer=tracer, root=root) for member in settings.members),
    ]
    if settings.refinement is not None:
        blocks.append(f"[{tracer}.refinement]\n" + _lines(asdict(settings.refinement)))
    return "\n\n".join(blocks)


def _member(member: Member, *, tracer: Tracer, root: Path) -> str:
    values = {
        "name": member.name,
        "folder": member.folder.relative_to(root).as_posix(),
        "architecture": member.architecture.value,
        "dataset_id": member.dataset_id,
        "folds": list(member.folds),
        "checkpoint": member.checkpoint.value,
        "organ_encoding": member.organ_encoding.value,
        "weight": member.weight,
    }
    return f"[[{tracer}.members]]\n{_lines(values)}\n[{tracer}.members.sha256]\n{_digests(member.sha256)}"


def _lines(values: Mapping[str, object]) -> str:
    # JSON's texts, numbers, true and false, and lists of them are TOML's too.
    return "\n".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items())


def _digests(sha256: Mapping[str, str]) -> str:
    return _lines({json.dumps(file): digest for file, digest in sorted(sha256.items())})
