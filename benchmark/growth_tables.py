"""The growth tables as Markdown and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmark.growth import ALLOWED_SHARE, Cost, Quantity, Step, steps

_UNKNOWN = "-"  # not measured; never an estimate
_TITLES = {
    Quantity.VOXELS: "voxels of each PET, the manifest as it is",
    Quantity.MEMBERS: "members per tracer, all the same network",
    Quantity.FOLDS: "folds of one member per tracer, all the same network",
    Quantity.CHANNELS: "one member per tracer that sees organs so",
}
# What is asked of one added; voxels and channels are no networks.
_STEPPED = (Quantity.MEMBERS, Quantity.FOLDS)


def growth_json(costs: Sequence[Cost]) -> dict[str, Any]:
    """Costs by quantity, and what each step adds; what was not measured is null."""
    return {
        quantity.value: {
            "points": [asdict(cost) for cost in _of(costs, quantity)],
            "steps": [
                {**asdict(step), "rest_share": step.rest_share, "passes": step.passes}
                for step in (steps(_of(costs, quantity)) if quantity in _STEPPED else ())
            ],
            "allowed_rest_share": ALLOWED_SHARE if quantity in _STEPPED else None,
        }
        for quantity in _measured(costs)
    }


def growth_tables(costs: Sequence[Cost]) -> str:
    """A table per quantity, and below it what each step adds."""
    parts = []
    for quantity in _measured(costs):
        own = _of(costs, quantity)
        parts.append(_table(own, quantity=quantity))
        if quantity in _STEPPED and (added := steps(own)):
            parts.append(_step_table(added, quantity=quantity))
        parts += [f"- {quantity} {cost.label}: failed: {cost.error}" for cost in own if cost.error is not None]
    if loads := [cost.load_before for cost in costs if cost.load_before is not None]:
        parts.append(f"Load average of the machine before a run: at most {max(loads):.1f}.")
    return "\n\n".join(parts)


def verdict(added: Sequence[Step]) -> str:
    """Whether adding costs the network's time plus 5 %, by what all steps together add."""
    passes = added[-1].passes
    said = "cannot be said" if passes is None else "pass" if passes else "fail"
    return f"at most its network time plus {100 * ALLOWED_SHARE:g} % ({added[-1].label}): **{said}**"


def _table(costs: Sequence[Cost], *, quantity: Quantity) -> str:
    lines = [
        f"| {_TITLES[quantity]} | M voxels, both PETs | total, s | network, s | rest, s | host MiB | GPU MiB | runs |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for cost in costs:
        seconds = [_number(value, digits=2) for value in (cost.total_s, cost.network_s, cost.rest_s)]
        if cost.runs > 1 and cost.rest_range_s is not None:
            seconds[2] += f" ({cost.rest_range_s[0]:.2f} to {cost.rest_range_s[1]:.2f})"
        memory = [_number(value, digits=0) for value in (cost.peak_host_mib, cost.peak_gpu_mib)]
        cells = [cost.label, f"{cost.pet_voxels / 1e6:.1f}", *seconds, *memory, str(cost.runs)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _step_table(added: Sequence[Step], *, quantity: Quantity) -> str:
    lines = [f"| {quantity} | network, s | rest, s | rest / network |  |", "|---|---:|---:|---:|---|"]
    for step in added:
        share = _UNKNOWN if step.rest_share is None else f"{100 * step.rest_share:+.1f} %"
        said = _UNKNOWN if step.passes is None else "pass" if step.passes else "fail"
        lines.append(f"| {step.label} | {step.network_s:+.2f} | {step.rest_s:+.2f} | {share} | {said} |")
    return "\n".join([*lines, "", f"Adding one costs {verdict(added)}"])


def _measured(costs: Sequence[Cost]) -> list[Quantity]:
    held = {cost.quantity for cost in costs}
    return [quantity for quantity in Quantity if quantity in held]


def _of(costs: Sequence[Cost], quantity: Quantity) -> list[Cost]:
    return [cost for cost in costs if cost.quantity is quantity]


def _number(value: float | None, *, digits: int) -> str:
    return _UNKNOWN if value is None else f"{value:.{digits}f}"
