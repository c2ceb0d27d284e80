"""What a run ran on, as far as voxels may depend on it: processor, GPU, system, packages, environment variables."""

from __future__ import annotations

import functools
import os
import platform
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_CPUINFO = Path("/proc/cpuinfo")
DRIVER_FILE = Path("/proc/driver/nvidia/version")
# Instructions that decide which code numpy, PyTorch, oneDNN and OpenVINO compute with.
_FLAGS = re.compile(r"avx|amx|fma|f16c|sse4|bmi|asimd|sve|bf16|i8mm")
_PACKAGES = (
    "torch",
    "nnunetv2",
    "dynamic-network-architectures",
    "acvl-utils",
    "openvino",
    "TotalSegmentator",
    "nibabel",
    "SimpleITK",
    "numpy",
    "scipy",
    "connected-components-3d",
    "safetensors",
    "isal",
)
# How many threads there are, and which instructions and precision may be used.
_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "GLIBC_TUNABLES",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
    "MKL_CBWR",
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_NUM_THREADS",
    "NPY_DISABLE_CPU_FEATURES",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_DYNAMIC",
    "OMP_NUM_THREADS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)


@dataclass(frozen=True)
class Machine:
    """What a run ran on; what is not known is None.

    Attributes:
        system: Kernel and architecture.
        libc: The C library, whose mathematical functions are used.
        cpu: The processor's name.
        cpu_flags: Its instructions that matter, sorted.
        cores: Cores that this process may use.
        memory_mib: The machine's memory.
        gpu: The GPU's name, when networks run on one.
        gpu_driver: Its driver's version.
        cuda: The version of CUDA that PyTorch was made for, when networks run on a GPU.
    """

    system: str
    libc: str
    cpu: str | None
    cpu_flags: tuple[str, ...]
    cores: int
    memory_mib: int
    gpu: str | None
    gpu_driver: str | None
    cuda: str | None


def describe_machine(device: torch.device) -> Machine:
    """The machine.

    Args:
        device: Where the networks run.
    """
    has_gpu = device.type == "cuda"
    cpu, flags = _processor()
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        libc=_libc(),
        cpu=cpu,
        cpu_flags=flags,
        cores=len(os.sched_getaffinity(0)),
        memory_mib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        gpu=torch.cuda.get_device_name(device) if has_gpu else None,
        gpu_driver=gpu_driver() if has_gpu else None,
        cuda=torch.version.cuda if has_gpu else None,
    )


@functools.cache
def package_versions() -> dict[str, str | None]:
    """Python's version and those of the packages that voxels go through; None for one that is not installed."""
    return {"python": platform.python_version(), **{package: _version(package) for package in _PACKAGES}}


def environment() -> dict[str, str]:
    """The environment variables that can change results, as far as they are set."""
    return {name: os.environ[name] for name in _VARIABLES if name in os.environ}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@functools.cache
def _libc() -> str:
    return " ".join(platform.libc_ver())


@functools.cache
def _processor() -> tuple[str | None, tuple[str, ...]]:
    """Name and instructions of the first core; large machines have a hundred more alike."""
    entries: dict[str, str] = {}
    try:
        with _CPUINFO.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if not line.strip() and entries:
                    break
                name, _, value = line.partition(":")
                entries[name.strip()] = value.strip()
    except OSError:
        return None, ()
    flags = (entries.get("flags") or entries.get("Features") or "").split()
    return entries.get("model name"), tuple(sorted(flag for flag in flags if _FLAGS.search(flag)))


def gpu_driver() -> str | None:
    """The NVIDIA driver's version, or None if there is none."""
    try:
        text = DRIVER_FILE.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.08  ..." and "... Open Kernel Module for x86_64  550.54".
    found = re.search(r"Kernel Module\D*?(?:for \S+)?\s+(\d+(?:\.\d+)+)", text)
    return found[1] if found else None
