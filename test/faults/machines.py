"""Runs the program with a fault: as a process of this machine, or in a container under the platform's restrictions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from faults.fault import Ended, Fault, Place, Where
from faults.judging import files_left
from faults.kit import MANIFEST, REPOSITORY, program_environment

INJECTED = Path(__file__).parent / "injected"
LIMIT_S = 150.0  # a run that takes longer hangs
_STRIKE_LIMIT_S = 90.0
_BETWEEN_SIGNALS_S = 0.1
_LOOK_S = 0.02


class Machine(Protocol):
    """Where faults are tried."""

    where: Where

    def run(self, fault: Fault, *, place: Place) -> Ended:
        """Run the program in these folders while the fault strikes."""
        ...


class Host:
    """This machine. The program is started as the container starts it."""

    where = Where.HOST

    def run(self, fault: Fault, *, place: Place) -> Ended:
        """Run the program in these folders while the fault strikes."""
        program = [sys.executable, "-P", str(REPOSITORY / "operation" / "first_process.py")]
        folders = ["--input", str(place.input), "--output", str(place.output)]
        manifest = ["--manifest", str(place.models / MANIFEST)]
        options = [argument.format(models=place.models) for argument in fault.arguments]
        command = _in_shell([*program, *folders, *manifest, "--device", "cpu", *options], shell=fault.shell)
        environment = os.environ | program_environment(
            tmp=str(place.tmp), marker=str(place.marker), inject=fault.inject, more=fault.environment
        )
        environment |= {"PYTHONPATH": str(INJECTED), "FAULT_RUN": str(place.marks)}
        with (place.marks / "out").open("wb") as out, (place.marks / "err").open("wb") as err:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=place.marks
            )
            return _watch(process, fault, place, send=process.send_signal, left=lambda: _processes_of(str(place.marks)))


class Container:
    """The image, under the restrictions of the platform.

    Args:
        image: Its name and tag.
    """

    where = Where.CONTAINER

    def __init__(self, image: str) -> None:
        self._image = image

    def run(self, fault: Fault, *, place: Place) -> Ended:
        """Run the program in these folders while the fault strikes."""
        container = self._create(fault, place=place)
        try:
            with (place.marks / "out").open("wb") as out, (place.marks / "err").open("wb") as err:
                # Created and started apart, so that the engine's own warnings do not mix with the program's stderr.
                process = subprocess.Popen(
                    ["docker", "start", "--attach", container], stdin=subprocess.DEVNULL, stdout=out, stderr=err
                )
                return _watch(
                    process,
                    fault,
                    place,
                    send=lambda number: subprocess.run(
                        # It may have ended since it was looked at.
                        ["docker", "kill", "--signal", str(number), container],
                        check=False,
                        capture_output=True,
                    ),
                    left=tuple,  # a container's processes end with its first one
                )
        finally:
            subprocess.run(["docker", "rm", "--force", container], check=True, capture_output=True)

    def _create(self, fault: Fault, *, place: Place) -> str:
        environment = program_environment(
            tmp="/tmp", marker="/marks/fired", inject=fault.inject, more=fault.environment
        )
        volumes = {
            "/input:ro": place.input,
            "/output": place.output,
            "/tmp": place.tmp,
            "/opt/ml/model:ro": place.models,
            "/marks": place.marks,
            "/faults:ro": INJECTED,
        }
        options = [
            *("--platform=linux/amd64", "--network", "none", "--read-only", "--cap-drop", "ALL"),
            *("--security-opt", "no-new-privileges", "--pids-limit", "512", "--shm-size", "64m"),
            *("--ulimit", "data=16106127360"),
        ]
        for target, folder in volumes.items():
            if not _is_mounted(target.removesuffix(":ro"), fault.docker):
                options += ["--volume", f"{folder}:{target}"]
        for key, value in (environment | {"PYTHONPATH": "/faults"}).items():
            options += ["--env", f"{key}={value}"]
        options += [option.format(tmp=place.tmp, output=place.output) for option in fault.docker]
        arguments = [argument.format(models="/opt/ml/model") for argument in fault.arguments]
        command = ["--device", "cpu", *arguments]
        if fault.shell:
            entry = ["python", "-P", "/opt/app/operation/first_process.py", *command]
            options += ["--entrypoint", "/bin/sh"]
            command = _in_shell(entry, shell=fault.shell)[1:]
        made = subprocess.run(
            ["docker", "create", *options, self._image, *command], check=True, capture_output=True, text=True
        )
        return made.stdout.split()[-1]


def _is_mounted(target: str, options: Sequence[str]) -> bool:
    """Whether a fault mounts something of its own there."""
    return any(f"destination={target}," in option or option.split(":")[1:2] == [target] for option in options)


def _in_shell(command: Sequence[str], *, shell: str) -> list[str]:
    return ["/bin/sh", "-c", shell, "sh", *command] if shell else list(command)


def _watch(
    process: subprocess.Popen[bytes],
    fault: Fault,
    place: Place,
    *,
    send: Callable[[int], object],
    left: Callable[[], tuple[str, ...]],
) -> Ended:
    """Wait for the strike, do what the fault does from outside, wait for the end."""
    started_s = time.monotonic()
    signalled_s: float | None = None
    has_hung = False
    try:
        if fault.signals or fault.react:
            while not place.marker.exists() and process.poll() is None:
                if time.monotonic() - started_s > _STRIKE_LIMIT_S:
                    break
                time.sleep(_LOOK_S)
            if fault.react:
                fault.react(place)
                place.marker.with_name("fired.go").touch()
            for number in fault.signals:
                if process.poll() is None:
                    send(number)
                signalled_s = time.monotonic()
                time.sleep(_BETWEEN_SIGNALS_S)
        process.wait(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        has_hung = True
        send(signal.SIGKILL)
        process.wait()
    ended_s = time.monotonic()
    code = process.returncode
    return Ended(
        code=128 - code if code < 0 else code,
        stdout=(place.marks / "out").read_text(encoding="utf-8", errors="replace"),
        stderr=(place.marks / "err").read_text(encoding="utf-8", errors="replace"),
        seconds=ended_s - started_s,
        seconds_after_signal=None if signalled_s is None else ended_s - signalled_s,
        has_struck=place.marker.exists(),
        has_hung=has_hung,
        files_left=files_left(place.tmp),
        processes_left=_settled(left),
    )


def _settled(left: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
    """What is left a moment later: who is killed is not gone at once."""
    for _ in range(50):
        if not (found := left()):
            return ()
        time.sleep(_LOOK_S)
    return found


def _processes_of(run: str) -> tuple[str, ...]:
    """Names of the processes that a run has started, by their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and f"FAULT_RUN={run}".encode() in (folder / "environ").read_bytes().split(
                b"\0"
            ):
                found.append(f"{folder.name} {(folder / 'comm').read_text().strip()}")
        except OSError:  # it has just ended, or is somebody else's
            continue
    return tuple(found)
