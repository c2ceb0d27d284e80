"""A server whose cases are words in a file, for tests: `python test/fake_service.py INPUT OUTPUT [LOAD]`.

The log says which port it took. INPUT/what.txt says what the case does, OUTPUT is where masks go; both are looked up
anew for each case, and may be links. LOAD says what loading the models does.
"""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from operation.server import serve
from petct.case import Tracer
from petct.decisions import decide, decisions
from petct.errors import CaseError
from petct.output import mask_file, prepare_output
from petct.stages import add, stage_seconds

INPUT, OUTPUT = Path(sys.argv[1]), Path(sys.argv[2])
LOAD = sys.argv[3] if len(sys.argv) > 3 else ""


def load() -> None:
    while LOAD == "waits" and not (INPUT / "go").exists():
        time.sleep(0.01)
    if LOAD == "refuses":
        raise CaseError("manifest", "member must be there")


def invoke() -> None:
    prepare_output(OUTPUT)
    # What is left of the case before would be seen by this one.
    assert not decisions()
    assert not stage_seconds()
    decide("fake", "case", because="a test")
    add("fake", 1.0)
    kept = Path(tempfile.mkdtemp()) / "kept"
    kept.write_text("temporary", encoding="utf-8")
    (INPUT / "temporary_file").write_text(str(kept), encoding="utf-8")
    what = (INPUT / "what.txt").read_text(encoding="utf-8").split()
    for word in what:
        act(word)
    write_mask(Tracer.PSMA)
    write_mask(Tracer.FDG)


def act(word: str) -> None:
    match word:
        case "refuse":
            raise CaseError("psma-pet", "file must be there", "none")
        case "half":
            write_mask(Tracer.PSMA)
        case "crash":
            raise ZeroDivisionError("one\ntwo")
        case "leave":
            sys.exit("a library leaves")
        case "memory":
            raise MemoryError
        case "child":
            pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            child = subprocess.Popen(["sleep", "300"], process_group=0, **pipes)
            (INPUT / "child").write_text(str(child.pid), encoding="utf-8")
        case "begin":
            (INPUT / "begun").touch()
        case "wait":
            while not (INPUT / "go").exists():
                time.sleep(0.01)
        case "compute":  # in one step of the interpreter, which no signal breaks
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)


def write_mask(tracer: Tracer) -> None:
    file = mask_file(OUTPUT, tracer)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text((INPUT / "what.txt").read_text(encoding="utf-8"), encoding="utf-8")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        serve(load, invoke, host="127.0.0.1", port=0, clear=lambda: prepare_output(OUTPUT))
    except CaseError as error:
        sys.exit(str(error))
