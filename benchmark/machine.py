"""Where it was measured: processor, memory, GPU, threads, versions."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("nnunetv2", "torch", "openvino", "SimpleITK", "numpy", "scipy")
# What decides how fast convolutions are on a CPU.
_CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


def describe_machine() -> dict[str, Any]:
    """The machine, as JSON: what is not known is null."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    flags = set((_cpu_entry("flags", cpuinfo) or "").split())
    return {
        "cpu": _cpu_entry("model name", cpuinfo),
        "cores": len(os.sched_getaffinity(0)),
        "cpu_flags": [flag for flag in _CPU_FLAGS if flag in flags],
        "memory_mib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20),
        "gpu": gpu_name(),
        "kernel": platform.release(),
        "thread_variables": {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ},
    }


def gpu_name() -> str | None:
    """The first GPU's name, or None."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def package_versions() -> dict[str, str | None]:
    """Python's version and those of the packages that decide how long a run takes; None for one that is missing."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_entry(name: str, cpuinfo: str) -> str | None:
    found = re.search(rf"^{name}\s*: (.*)$", cpuinfo, re.MULTILINE)
    return found[1] if found else None
