"""What nnU-Net left behind about the training of one fold: how long it was trained, with what, and its Dice."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petct.errors import CaseError

_DEBUG_FILE = "debug.json"
_SUMMARY_FILE = Path("validation", "summary.json")


def fold_record(
    checkpoint: Mapping[str, Any], *, fold_folder: Path, checkpoint_name: str, labels: Mapping[str, int], where: str
) -> dict[str, Any]:
    """A fold's training, as JSON values, for people.

    The Dice is that of nnU-Net's validation on whole images when it was run with these weights; else the one of the
    last epoch's validation patches, which nnU-Net calls pseudo-Dice, as `dice_of` says.

    Args:
        checkpoint: nnU-Net's checkpoint of the fold.
        fold_folder: Its folder; debug.json and validation/summary.json in it are read when they are there.
        checkpoint_name: `final` or `best`.
        labels: dataset.json's labels.
        where: Whose it is, for the errors.

    Raises:
        CaseError: debug.json or summary.json is not what nnU-Net writes.
    """
    record: dict[str, Any] = {}
    if "current_epoch" in checkpoint:
        record["epochs"] = int(checkpoint["current_epoch"])
    debug = _read_json(fold_folder / _DEBUG_FILE, where=where)
    # nnU-Net writes all of its trainer's attributes as texts.
    if str(debug.get("num_iterations_per_epoch", "")).isdecimal():
        record["iterations_per_epoch"] = int(debug["num_iterations_per_epoch"])
    for key, name in (("torch_version", "torch"), ("gpu_name", "gpu"), ("device", "device")):
        if key in debug:
            record[name] = str(debug[key])
    foreground = [name for name, label in sorted(labels.items(), key=lambda item: item[1]) if label != 0]
    # nnU-Net validates the weights of the last epoch.
    summary = _read_json(fold_folder / _SUMMARY_FILE, where=where) if checkpoint_name == "final" else {}
    if summary:
        record |= {"dice_of": "validation", "dice": _validation_dice(summary, labels, where=where)}
    elif epochs := dict(checkpoint.get("logging") or {}).get("dice_per_class_or_region"):
        dice = dict(zip(foreground, map(_number, epochs[-1]), strict=False))
        record |= {"dice_of": "pseudo-Dice of the last epoch", "dice": dice}
    return record


def _validation_dice(summary: Mapping[str, Any], labels: Mapping[str, int], *, where: str) -> dict[str, float | None]:
    names = {str(label): name for name, label in labels.items()}
    try:
        return {names.get(label, label): _number(metrics["Dice"]) for label, metrics in summary["mean"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CaseError(where, f"{_SUMMARY_FILE} must be nnU-Net's", f"{type(error).__name__}: {error}") from error


def _number(value: Any) -> float | None:
    """Four digits; None for a class that no image shows, which JSON has no number for."""
    number = float(value)
    return round(number, 4) if math.isfinite(number) else None


def _read_json(path: Path, *, where: str) -> dict[str, Any]:
    """The file's content; empty when there is none."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CaseError(where, f"{path.name} must be JSON in UTF-8", str(error)) from error
    if not isinstance(content, dict):
        raise CaseError(where, f"{path.name} must hold a JSON object", type(content).__name__)
    return content
