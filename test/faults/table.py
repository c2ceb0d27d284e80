"""The faults: when and how each strikes, and what must become of it."""

from __future__ import annotations

import signal

from faults import spoil
from faults.fault import Fault, Outcome, Where
from faults.kit import SHORT
from faults.table_disks import disks, weights

TERM, KILL = signal.SIGTERM, signal.SIGKILL
STOP_S = 5.0  # what the platform leaves between SIGTERM and SIGKILL
STAGES = ("read", "organs", "networks", "postprocess", "refine", "write", "between")
_WORDS = {
    "between": "between the two masks",
    "beside": "the thread beside the networks",
    "postprocess": "post-processing",
}
REFUSED, MASKS, EITHER, SILENT = Outcome.REFUSED, Outcome.MASKS, Outcome.EITHER, Outcome.SILENT
CONTAINER = Where.CONTAINER


def table() -> list[Fault]:
    """All faults."""
    return [
        *_signals(),
        *_errors(),
        *_memory(),
        *disks(),
        *weights(),
        *_totalsegmentator(),
        *_surroundings(),
        *_little_memory(),
    ]


def _said(place: str) -> str:
    return _WORDS.get(place, place)


def _signals() -> list[Fault]:
    stopped = {"outcome": REFUSED, "codes": (143,), "line": "got SIGTERM", "within_s": STOP_S}
    rows = [
        Fault(
            "SIGTERM",
            _said(stage),
            inject=f"hold@{stage}",
            signals=(TERM,),
            finds_organs=stage == "organs",
            **stopped,
        )
        for stage in STAGES
    ]
    rows += [
        Fault("SIGTERM in a step that hears nothing", _said(at), inject=f"compute@{at}", signals=(TERM,), **stopped)
        for at in ("networks", "beside")
    ]
    rows += [
        Fault("SIGTERM with a thread that hangs", _said("beside"), inject="hang@beside", signals=(TERM,), **stopped),
        Fault(
            "a thread that hangs, until the time limit",
            _said("beside"),
            REFUSED,
            inject="hang@beside",
            arguments=("--time-limit", "15"),
            codes=(142,),
            line="got SIGALRM",
        ),
        Fault("SIGTERM twice", "write", inject="hold@between", signals=(TERM, TERM), **stopped),
        Fault("SIGTERM, then SIGINT", "networks", inject="compute@networks", signals=(TERM, signal.SIGINT), **stopped),
        Fault(
            "SIGINT",
            "networks",
            REFUSED,
            inject="hold@networks",
            signals=(signal.SIGINT,),
            codes=(130,),
            line="got SIGINT",
            within_s=STOP_S,
        ),
    ]
    rows += [
        Fault(
            "SIGKILL",
            _said(stage),
            SILENT,
            inject=f"hold@{stage}",
            signals=(KILL,),
            codes=(137,),
            finds_organs=stage == "organs",
            leaves_files=True,
            within_s=STOP_S,
        )
        for stage in ("organs", "networks", "write")
    ]
    died = {"outcome": REFUSED, "leaves_files": True}
    rows += [
        Fault("killed by the kernel", "networks", inject="kill@networks", codes=(137,), line="SIGKILL.*memory", **died),
        Fault("killed by the kernel", "write", inject="kill@write", codes=(137,), line="SIGKILL.*memory", **died),
        Fault("a library's abort", "networks", inject="abort@networks", codes=(134,), line="got SIGABRT", **died),
        Fault("segmentation fault", "networks", inject="segfault@networks", codes=(139,), line="got SIGSEGV", **died),
        Fault("segmentation fault", _said("beside"), inject="segfault@beside", codes=(139,), line="SIGSEGV", **died),
    ]
    return rows


def _errors() -> list[Fault]:
    rows = [
        Fault(
            "an error that nobody expects",
            _said(at),
            REFUSED,
            inject=f"exception@{at}",
            codes=(2,),
            line="RuntimeError: injected in two lines$",
            finds_organs=at == "organs",
        )
        for at in ("read", "organs", "beside", "networks", "postprocess", "refine", "write")
    ]
    rows += [
        Fault("an error that is no Exception", _said(at), REFUSED, inject=f"odd@{at}", codes=(2,), line="OddError")
        for at in ("beside", "networks")
    ]
    rows += [
        Fault("a library leaves with exit code 0", _said(at), REFUSED, inject=f"exit:0@{at}", codes=(2,))
        for at in ("beside", "networks")
    ]
    return rows


def _memory() -> list[Fault]:
    return [
        Fault(
            f"{mib} MiB of memory are left",
            _said(at),
            EITHER,
            inject=f"memory:{mib}@{at}",
            prepare=spoil.forget_converted if at == "load" else None,
            finds_organs=at == "organs-write",
            leaves_files=True,
        )
        for at in ("read", "organs-write", "beside", "load", "networks", "postprocess", "refine", "write")
        for mib in (1, 30)
    ]


def _totalsegmentator() -> list[Fault]:
    rows = [
        Fault(
            f"TotalSegmentator {does}",
            "organs",
            REFUSED,
            inject=f"{action}@child",
            codes=(1,),
            line=f"^PSMA organs.*{line}",
            finds_organs=True,
            arguments=("--manifest", f"{{models}}/{SHORT}") if "finish within" in line else (),
        )
        for does, action, line in (
            ("hangs", "hang", "must finish within 20 s"),
            ("is stopped by a signal", "stop", "must finish within 20 s"),
            ("raises", "exception", "must end without an error, got exit status 1: .*RuntimeError: injected"),
            ("crashes", "segfault", "must end without an error, got signal SIGSEGV"),
            ("is killed for memory", "kill", "must end without an error, got signal SIGKILL"),
            ("leaves with exit code 0", "exit:0", "must write an organ map, and did not"),
            ("leaves without a word", "silent", "must write an organ map, and did not"),
            ("leaves with exit code 3", "exit:3", "got exit status 3"),
            ("gives an empty map", "map-empty", "must show bone, lung or liver"),
            ("gives a map on another grid", "map-grid", "grid must match the CT"),
            ("gives unknown labels", "map-unknown", "labels must be within 0-117, got 0-222"),
        )
    ]
    rows += [
        Fault(
            f"{mib} MiB of memory are left to TotalSegmentator",
            "organs",
            EITHER,
            inject=f"memory:{mib}@child",
            finds_organs=True,
        )
        for mib in (1, 30)
    ]
    return rows


def _surroundings() -> list[Fault]:
    cuda = Fault(
        "CUDA asked for and absent",
        "start",
        REFUSED,
        arguments=("--device", "cuda"),
        codes=(1,),
        line="^--device: CUDA",
    )
    no_utf8 = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    whole = {"stage": "whole run", "outcome": MASKS}
    return [
        cuda,
        Fault("the clock jumps by years", inject="clock", **whole),
        Fault("locale C, no UTF-8", environment=no_utf8, **whole),
        Fault("stdin closed", shell='exec "$@" <&-', finds_organs=True, **whole),
        Fault("stdout closed", shell='exec "$@" >&-', **whole),
        Fault("stdout full", shell='exec "$@" >/dev/full', **whole),
        Fault(
            "stdout without a reader",
            shell='{ "$@"; echo $? >"$FAULT_MARKER.code"; } | true; exit "$(cat "$FAULT_MARKER.code")"',
            **whole,
        ),
        Fault("stderr closed", shell='exec "$@" 2>&-', **whole),
        Fault("all three closed", shell='exec "$@" <&- >&- 2>&-', finds_organs=True, **whole),
        Fault(
            "stderr closed, weights spoilt",
            "start",
            SILENT,
            prepare=spoil.weights(spoil.flip_byte),
            shell='exec "$@" 2>&-',
            codes=(1,),
        ),
        *(
            Fault(
                f"at most {number} processes and threads",
                "whole run",
                EITHER,
                docker=("--pids-limit", str(number)),
                where=CONTAINER,
            )
            for number in (6, 8, 12)
        ),
    ]


def _little_memory() -> list[Fault]:
    """A phantom with the demo networks in less and less memory: what the platform limits, and what the engine does."""
    whole = {"stage": "whole run of the demo case", "outcome": EITHER, "is_large": True}
    return [
        *(
            Fault(f"at most {limit_gib:g} GiB of data", shell=f'ulimit -d {int(limit_gib * 2**20)}; exec "$@"', **whole)
            for limit_gib in (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.3, 1.4, 1.5, 2.0)
        ),
        *(
            Fault(
                f"a container of {limit_mib} MiB",
                docker=("--memory", f"{limit_mib}m", "--memory-swap", f"{limit_mib}m"),
                where=CONTAINER,
                leaves_files=True,
                **whole,
            )
            for limit_mib in (150, 300, 600)
        ),
    ]
