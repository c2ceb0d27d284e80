"""Makes a function of the program fail; on PYTHONPATH it is imported by every Python that starts, before the program.

    FAULT=exception@networks FAULT_MARKER=/marks/fired PYTHONPATH=test/faults/injected python inference.py

FAULT is `<action>@<place>`, or `<action>:<number>@<place>`; it strikes the first time that the place is reached. The
file FAULT_MARKER appears at that moment, so that a fault that never struck is known. Never part of the image.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import importlib.abc
import importlib.machinery
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Module and function where each stage begins or is in full swing.
PLACES = {
    "read": ("petct.folders", "read_case"),
    "organs": ("segmentation.totalsegmentator_process", "RunningChild.wait_for_answer"),
    "organs-write": ("segmentation.totalsegmentator", "to_image"),
    "child": ("totalsegmentator.python_api", "totalsegmentator"),  # in TotalSegmentator's own process
    "beside": ("segmentation.preprocessing", "ScanPreprocessor.run"),  # in the thread beside the networks
    "load": ("segmentation.openvino_cache", "write_converted"),
    "networks": ("segmentation.sliding_window", "predict_logits"),
    "postprocess": ("postprocessing.threshold", "threshold"),  # in the thread, too
    "refine": ("postprocessing.refine", "refine"),
    "write": ("petct.mask_check", "check_mask_file"),
    "publish": ("petct.written_whole", "take_places"),
    "between": ("os", "replace"),
}
_LONG_S = 120.0
_STOPPED_BY_RUNNER_S = 60.0
_YEARS_S = 3e8


class OddError(BaseException):
    """An error that is no Exception."""


def _mark() -> None:
    Path(os.environ["FAULT_MARKER"]).touch()


def _await_runner() -> None:
    """Wait for what the runner does from outside, and go on when it says so."""
    go = Path(os.environ["FAULT_MARKER"] + ".go")
    deadline_s = time.monotonic() + _STOPPED_BY_RUNNER_S
    while not go.exists() and time.monotonic() < deadline_s:
        time.sleep(0.02)


def _raise(error: BaseException) -> None:
    raise error


def _compute() -> None:
    """A long step in C that hears no Python signal handler and lets other threads run, as a network's window is."""
    hashlib.pbkdf2_hmac("sha256", b"fault", b"fault", 1_000_000_000)


def _hang() -> None:
    threading.Event().wait(_LONG_S)


def _limit_memory(number: float) -> None:
    """Leave the process some MiB more than it has."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            limit = (int(line.split()[1]) << 10) + int(number * 2**20)
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _limit_files(number: float) -> None:
    """No file may grow beyond some KiB: as a full disk, for somebody who may not make a small one."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(number * 1024), int(number * 1024)))


def _fill(folder: str) -> None:
    try:
        with (Path(folder) / "filler").open("wb", buffering=0) as stream:
            while True:
                stream.write(b"\1" * 4096)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def _write_map(kind: str, image: Any, organs: Any) -> None:
    import nibabel as nib
    import numpy as np

    labels = np.zeros(image.shape, dtype=np.uint8)
    if kind == "unknown":
        labels[2:6, 3:9, 4:11] = 5
        labels[0, 0, 0] = 222
    if kind == "grid":
        labels = np.full((image.shape[0], image.shape[1], image.shape[2] + 1), 5, dtype=np.uint8)
    nib.save(nib.Nifti1Image(labels, image.affine), organs)


def _strike(action: str, number: float, arguments: tuple[Any, ...]) -> bool:
    """Do it; True if the function is not to be run after it."""
    if action.startswith("map-"):
        _write_map(action.removeprefix("map-"), *arguments[:2])
        return True
    if action == "silent":
        os._exit(0)
    deeds: dict[str, Callable[[], object]] = {
        "hold": _await_runner,
        "compute": _compute,
        "hang": _hang,
        "exception": lambda: _raise(RuntimeError("injected\n  in two lines")),
        "odd": lambda: _raise(OddError("injected")),
        "exit": lambda: sys.exit(int(number)),
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
        "abort": os.abort,
        "segfault": lambda: ctypes.string_at(0),
        "memory": lambda: _limit_memory(number),
        "files": lambda: _limit_files(number),
        "fill-tmp": lambda: _fill("/tmp"),
        "fill-output": lambda: _fill("/output"),
    }
    deeds[action]()
    return False


def _wrapped(function: Callable[..., Any], *, action: str, number: float, skip: int) -> Callable[..., Any]:
    lock = threading.Lock()
    calls = 0

    @functools.wraps(function)
    def struck(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        if function is _os_replace and not str(arguments[1]).endswith("ttb.mha"):
            return function(*arguments, **options)
        with lock:
            calls += 1
            now = calls == 1 + skip
        if now:
            _mark()
            if _strike(action, number, arguments):
                return None
        return function(*arguments, **options)

    return struck


def _wrap(module: Any, name: str, **how: Any) -> None:
    *parents, last = name.split(".")
    for parent in parents:
        module = getattr(module, parent)
    setattr(module, last, _wrapped(getattr(module, last), **how))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the place's module as Python would, and wraps the function as soon as the module is there."""

    def __init__(self, module: str, wrap: Callable[[Any], None]) -> None:
        self._module, self._wrap = module, wrap

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_wrap(module: Any) -> None:
                execute(module)
                self._wrap(module)

            spec.loader.exec_module = execute_and_wrap  # type: ignore[method-assign]
        return spec


def _jump_clock() -> None:
    """The wall clock jumps by ten years, to and fro, each time that it is asked."""
    real = time.time
    jumps = 0

    def jumping() -> float:
        nonlocal jumps
        jumps += 1
        return real() + (_YEARS_S if jumps % 2 else -_YEARS_S)

    time.time = jumping


_os_replace = os.replace


def _install(fault: str) -> None:
    deed, _, place = fault.partition("@")
    action, _, number = deed.partition(":")
    if action == "clock":
        _mark()
        _jump_clock()
        return
    module, name = PLACES[place]
    how = {"action": action, "number": float(number or 0), "skip": 1 if place == "between" else 0}
    if module == "os":
        _wrap(os, name, **how)
        return
    sys.meta_path.insert(0, _Finder(module, lambda found: _wrap(found, name, **how)))


if os.environ.get("FAULT"):
    _install(os.environ["FAULT"])
