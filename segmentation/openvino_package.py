"""The package openvino, kept from using the network.

On import and on every conversion openvino sends usage statistics to its makers (unless somebody has declined on this
machine), through the package openvino_telemetry. Where that package is missing it sends nothing, so it is made missing.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from typing import Any

_STATISTICS_PACKAGE = "openvino_telemetry"


def is_available() -> bool:
    """Whether openvino is installed; it is not imported for that."""
    spec = importlib.util.find_spec("openvino")
    return spec is not None and spec.origin is not None  # a mere folder of that name has no origin


def load_openvino() -> Any:
    """The package openvino, imported the first time this is called.

    Raises:
        ImportError: It is not installed.
        RuntimeError: Something else has imported it already, with what sends usage statistics.
    """
    if "openvino" not in sys.modules:
        sys.modules[_STATISTICS_PACKAGE] = None  # type: ignore[assignment]  # Python's way of saying that there is none
    elif sys.modules.get(_STATISTICS_PACKAGE) is not None:
        raise RuntimeError("openvino must be imported by load_openvino only, or it sends usage statistics")
    return importlib.import_module("openvino")


@functools.cache
def load_core() -> Any:
    """OpenVINO's `Core`, one for the process."""
    return load_openvino().Core()


def runs_bf16() -> bool:
    """Whether the CPU computes with bfloat16 by itself; elsewhere OpenVINO would only imitate it."""
    return "BF16" in load_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
