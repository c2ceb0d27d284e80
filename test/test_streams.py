"""The log's streams, in processes of their own because they are changed for good."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import operation.streams

ROOT = Path(operation.streams.__file__).parents[1]
PROGRAM = f"""
import logging, os, sys
sys.path.insert(0, {str(ROOT)!r})
from operation.streams import say, steady_streams
steady_streams()
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
file = open(sys.argv[1], "w")
logging.info("log \\udcff")
os.write(1, b"library\\n")
say("why")
file.write("mine")
file.close()
os._exit(5)
"""


@pytest.mark.parametrize(
    ("how", "stderr"),
    [
        ("", "why\n"),
        ("<&-", "why\n"),
        (">&-", "why\n"),
        ("2>&-", ""),
        ("<&- >&- 2>&-", ""),
        (">/dev/full", "why\n"),
        ("2>/dev/full", ""),
    ],
)
def test_no_stream_can_cost_a_case(how: str, stderr: str, tmp_path: Path) -> None:
    program = PROGRAM.replace('os.write(1, b"library\\n")\n', "") if "full" in how else PROGRAM
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {how}', "sh", sys.executable, "-c", program, tmp_path / "file"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 5, done.stderr
    assert done.stderr.decode() == stderr
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"
    if how in ("", "<&-", "2>&-"):
        assert done.stdout.decode("utf-8").splitlines()[0] == r"log \udcff"
