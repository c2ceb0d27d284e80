"""Timing many settings of real-size networks, each in a process of its own, and showing them."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmark.cases import COMMON
from benchmark.kept_rows import KEY, Row, read_rows, row_key, write_rows
from benchmark.machine import describe_machine, package_versions
from benchmark.network_timing import NetworkPrecision, NetworkTiming, Setting, time_setting
from benchmark.real_networks import RealNetwork, read_real_networks
from evaluation.runs import breakdown_of
from petct.case import Tracer
from petct.channels import OrganEncoding
from petct.errors import CaseError
from petct.manifest import Architecture, Backend
from segmentation.networks import choose_backend

COMMAND = "networks"
MIRRORINGS = (1, 2, 4, 8)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MeasuredNetworks:
    """What is known of the settings asked for.

    Attributes:
        rows: One per setting that could be timed.
        windows: Windows of the challenge's most common PET grid, by network and tracer.
        refused: Why settings could not be timed, a line each.
    """

    rows: tuple[Row, ...]
    windows: dict[str, dict[str, int]]
    refused: tuple[str, ...]


def plan_settings(
    architectures: Sequence[Architecture],
    *,
    encoding: OrganEncoding,
    backend: Backend,
    device: str,
    precisions: Sequence[str] | None,
    mirrorings: Sequence[int],
    flips: Sequence[int] | None,
    windows: int,
    warm_up: int,
    threads: int | None,
) -> list[Setting]:
    """Every combination that can be run, networks first.

    Args:
        architectures: Which of `real_networks.toml`.
        encoding: How they see organs.
        backend: What computes them.
        device: `cpu` or `cuda`.
        precisions: What to compute with; None takes what the product may use there.
        mirrorings: Mirrorings per window.
        flips: Mirrorings computed together; None takes what the product may use there. What is no divisor of the
            mirrorings is left out.
        windows: Windows to time.
        warm_up: Windows before them.
        threads: On the CPU; None for torch's own number.

    Raises:
        CaseError: A combination cannot be run.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise CaseError("--device", "CUDA must be available when it is asked for", "no CUDA device")
    if wrong := [count for count in mirrorings if count not in MIRRORINGS]:
        raise CaseError("--mirrorings", f"must be among {', '.join(map(str, MIRRORINGS))}", str(wrong[0]))
    if warm_up < 0:
        raise CaseError("--warm-up", "must be >= 0", str(warm_up))
    if backend is Backend.OPENVINO:
        choose_backend(backend, device=torch.device(device))
    chosen = precisions or _usual_precisions(backend, device=device)
    if NetworkPrecision.FLOAT16 in chosen and device == "cpu":
        raise CaseError("--precisions", "float16 must come with --device cuda", device)
    networks = read_real_networks()
    return [
        Setting(
            network=networks[architecture],
            encoding=encoding,
            backend=backend,
            precision=NetworkPrecision(precision),
            device=device,
            flips_at_once=together,
            mirrorings=count,
            windows=windows,
            warm_up=warm_up,
            threads=threads,
        )
        for architecture, precision, count, together in product(
            architectures, chosen, mirrorings, flips or ((1, 2, 4) if device == "cuda" else (1,))
        )
        if count % together == 0
    ]


def measure(settings: Sequence[Setting], *, file: Path, overwrite: bool) -> MeasuredNetworks:
    """Time what the file does not hold yet, writing it after each setting.

    Args:
        settings: What to time.
        file: JSON to go on from.
        overwrite: Whether what it holds is measured again.

    Raises:
        CaseError: The file is of another kind or cannot be written.
    """
    kept = {} if overwrite else {row[KEY]: row for row in read_rows(file, command=COMMAND)}
    keys = [setting_key(setting) for setting in settings]
    windows = _windows_of([setting.network for setting in settings])
    refused = []
    for number, (key, setting) in enumerate(zip(keys, settings, strict=True), start=1):
        name = _name(setting)
        if key in kept:
            log.info("%s: measured already (%d of %d)", name, number, len(settings))
            continue
        load_before = os.getloadavg()[0]
        outcome = time_in_own_process(setting)
        if isinstance(outcome, str):
            refused.append(f"{name}: {outcome}")
            log.warning("%s (%d of %d)", refused[-1], number, len(settings))
            continue
        kept[key] = {**_row(setting, outcome, key=key), "load_before": load_before}
        write_rows(
            file,
            list(kept.values()),
            command=COMMAND,
            machine=describe_machine(),
            versions=package_versions(),
            windows_of_common_grid=windows,
        )
        log.info("%s: %.3f s per window (%d of %d)", name, outcome.median_s, number, len(settings))
    return MeasuredNetworks(
        rows=tuple(kept[key] for key in keys if key in kept), windows=windows, refused=tuple(refused)
    )


def time_in_own_process(setting: Setting) -> NetworkTiming | str:
    """Time a setting in a new process; its timing, or why there is none."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(time_setting, setting).result()
        except CaseError as error:
            return str(error)
        except BrokenProcessPool:
            return "process was killed, most likely for memory"
        except (RuntimeError, MemoryError) as error:
            return breakdown_of(error)


def table(measured: MeasuredNetworks) -> str:
    """The rows as Markdown, and the windows of the common grid."""
    lines = [
        "| network | channels | parameters, M | TFLOP per forward | backend | precision | mirrorings | at once "
        "| s per window | TFLOP/s | host MiB | GPU MiB |",
        "|---|---:|---:|---:|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in measured.rows:
        gpu = "-" if row["peak_gpu_mib"] is None else f"{row['peak_gpu_mib']:.0f}"
        lines.append(
            f"| {row['network']} | {row['channels']} | {row['parameters'] / 1e6:.1f} | {row['tflop_per_forward']:.3f} "
            f"| {row['backend']}, {row['device']} | {row['precision']} | {row['mirrorings']} | {row['flips_at_once']} "
            f"| {row['median_s']:.3f} | {row['tflop_per_s']:.2f} | {row['peak_host_mib']:.0f} | {gpu} |"
        )
    if measured.rows:
        load = max(row["load_before"] for row in measured.rows)
        lines += ["", f"Load average of the machine before a timing: at most {load:.1f}."]
    grid, spacing = (" x ".join(f"{n:g}" for n in values) for values in (COMMON.shape_zyx, COMMON.spacing_mm_zyx))
    lines += ["", f"Windows of the whole of the most common PET grid ({grid} voxels, z y x, at {spacing} mm), a count:"]
    lines += [
        f"- {network}: {', '.join(f'{tracer.upper()} {count}' for tracer, count in counts.items())}"
        for network, counts in measured.windows.items()
    ]
    return "\n".join(lines)


def setting_key(setting: Setting) -> str:
    """What a timing depends on: the setting, the machine and its packages."""
    return row_key({**asdict(setting), "machine": describe_machine(), "versions": package_versions()})


def _row(setting: Setting, timing: NetworkTiming, *, key: str) -> Row:
    size = setting.network.measure(setting.encoding)
    return {
        KEY: key,
        **setting.described(),
        **asdict(size),
        **asdict(timing),
        "median_s": timing.median_s,
        "tflop_per_s": size.tflop_per_forward * setting.mirrorings / timing.median_s,
    }


def _windows_of(networks: Sequence[RealNetwork]) -> dict[str, dict[str, int]]:
    return {
        network.architecture.value: {tracer.value: network.windows(COMMON, tracer=tracer) for tracer in Tracer}
        for network in networks
    }


def _usual_precisions(backend: Backend, *, device: str) -> list[str]:
    if backend is Backend.OPENVINO:
        return [NetworkPrecision.FLOAT32, NetworkPrecision.BFLOAT16]
    return [NetworkPrecision.FLOAT32, NetworkPrecision.FLOAT16] if device == "cuda" else [NetworkPrecision.FLOAT32]


def _name(setting: Setting) -> str:
    return (
        f"{setting.network.architecture} {setting.backend} {setting.device} {setting.precision}, "
        f"{setting.mirrorings} mirrorings, {setting.flips_at_once} at once"
    )
