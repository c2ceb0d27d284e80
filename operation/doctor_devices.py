"""What the doctor says of PyTorch, the GPU and its driver, and OpenVINO."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version

import torch

from operation.doctor_verdicts import Networks, Place, Verdict, fail, gib, ok, warn
from operation.machine import gpu_driver
from petct.manifest import Backend
from segmentation.networks import choose_backend, choose_precision
from segmentation.openvino_package import is_available, runs_bf16

# Every CUDA 12 runs on drivers from this one on (NVIDIA's minor version compatibility).
LEAST_DRIVER = 525
# Two windows of the largest network (ResEnc-L, 160 x 288 x 160) with its weights and what is summed up.
USUAL_GPU_BYTES = 8 << 30
LEAST_GPU_BYTES = 2 << 30

_ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)[a-z]?")


def check_torch(place: Place) -> Iterator[Verdict]:
    """PyTorch, and a GPU that it can compute on, if one is there or asked for."""
    build = f"PyTorch {torch.__version__}, CUDA {torch.version.cuda or 'not built in'}"
    driver = driver_version()
    if torch.cuda.is_available():
        yield ok("torch", build)
        yield from _check_gpu(driver)
        return
    if driver is not None and driver < (LEAST_DRIVER,):
        found, remedy = f"driver {_dotted(driver)}", f"install NVIDIA driver {LEAST_DRIVER} or newer"
    elif driver is not None:
        found, remedy = f"driver {_dotted(driver)} but no CUDA device", "docker run --gpus all"
    else:
        found, remedy = "no NVIDIA driver", "use a machine with an NVIDIA GPU, or --device cpu"
    if place.wanted_device == "cuda":
        yield fail("torch", f"CUDA must be available when it is asked for, got {found}", remedy=remedy)
    elif driver is not None and place.wanted_device == "auto":
        yield warn("torch", f"a GPU should be used where there is one, got {found} ({build})", remedy=remedy)
    else:
        yield ok("torch", f"{build}; {found}, networks run on the CPU")


def _check_gpu(driver: tuple[int, ...] | None) -> Iterator[Verdict]:
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    if driver is not None and driver < (LEAST_DRIVER,):
        rule = f"NVIDIA driver must be {LEAST_DRIVER} or newer, got {_dotted(driver)}"
        yield fail("driver", rule, remedy="renew the driver")
    elif driver is not None:
        yield ok("driver", f"NVIDIA {_dotted(driver)}")
    if problem := why_not_built_for(capability, built_for=torch.cuda.get_arch_list()):
        rule = f"{name} must be one that PyTorch is built for, got compute capability {_dotted(capability)}, {problem}"
        yield fail("GPU", rule, remedy="use --device cpu, or another build of PyTorch")
    else:
        yield ok("GPU", f"{name}, compute capability {_dotted(capability)}")
    free, total = torch.cuda.mem_get_info()
    if free < LEAST_GPU_BYTES:
        rule = f"{gib(LEAST_GPU_BYTES)} or more must be free, got {gib(free)} of {gib(total)}"
        yield fail("GPU memory", rule, remedy="end other programs on the GPU, or use --device cpu")
    elif free < USUAL_GPU_BYTES:
        rule = f"{gib(USUAL_GPU_BYTES)} or more should be free, got {gib(free)} of {gib(total)}"
        yield warn("GPU memory", rule, remedy="end other programs on the GPU; large networks may run slower")
    else:
        yield ok("GPU memory", f"{gib(free)} of {gib(total)} free")


def check_openvino(networks: Networks) -> Iterator[Verdict]:
    """OpenVINO, and what it computes with."""
    if not is_available():
        if networks.manifest.backend is Backend.OPENVINO:
            rule = "OpenVINO must be installed when the manifest asks for it, got no package openvino"
            yield fail("openvino", rule, remedy="install what requirements.lock says")
        elif networks.device.type == "cpu":
            yield warn("openvino", "should be installed, is not", remedy="networks run half as fast without it")
        return
    has = "computes" if runs_bf16() else "does not compute"
    backend = choose_backend(networks.manifest.backend, device=networks.device)
    use = "not used"
    if backend is Backend.OPENVINO:
        use = f"used, in {choose_precision(networks.manifest.mode, backend=backend)}"
    yield ok("openvino", f"{version('openvino')}, {use}; this CPU {has} bfloat16")


def why_not_built_for(capability: tuple[int, int], *, built_for: Sequence[str]) -> str | None:
    """Why a GPU cannot run a build of PyTorch, or None if it can.

    Args:
        capability: The GPU's compute capability.
        built_for: PyTorch's names of what it was built for, `sm_90` for machine code and `compute_90` for PTX.

    Returns:
        "too old" or "too new" and what it was built for, or None. Machine code runs on GPUs of its own major number
        from its minor number on, PTX on every newer one (NVIDIA's CUDA C++ programming guide, compatibility).
    """
    codes = [match.groups() for match in map(_ARCHITECTURE.fullmatch, built_for) if match]
    binaries = [(int(major), int(minor)) for kind, major, minor in codes if kind == "sm"]
    sources = [(int(major), int(minor)) for kind, major, minor in codes if kind == "compute"]
    if any(major == capability[0] and minor <= capability[1] for major, minor in binaries):
        return None
    if any(source <= capability for source in sources):
        return None
    age = "too old" if all(one > capability for one in (*binaries, *sources)) else "too new"
    return f"{age} for {', '.join(built_for) or 'a build without CUDA'}"


def driver_version() -> tuple[int, ...] | None:
    """The NVIDIA driver's version as numbers, or None if there is none."""
    text = gpu_driver()
    return tuple(map(int, text.split("."))) if text else None


def _dotted(numbers: Sequence[int]) -> str:
    return ".".join(map(str, numbers))
