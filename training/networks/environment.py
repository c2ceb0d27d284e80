"""The environment variables that nnU-Net reads, and those of a process that trains."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

RESULTS = "nnUNet_results"
LOADER_PROCESSES = "nnUNet_n_proc_DA"  # that load and augment
EXPORT_PROCESSES = "nnUNet_def_n_proc"  # that write the validation's masks; read when nnU-Net is imported
# As nnU-Net's own command sets them: its loaders are processes, and threads in each of them only get in the way.
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS")


def training_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that trains; what the user has set stays, and its log is written line by line."""
    return {**dict.fromkeys(_ONE_THREAD, "1"), **environment, "PYTHONUNBUFFERED": "1"}


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """Set a variable of this process for a block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
