"""openvino is imported only when it is needed, and never reports to its makers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from segmentation import convert, openvino_network
from segmentation.openvino_package import is_available, load_openvino

ROOT = Path(__file__).resolve().parent.parent

# Records, and refuses, what could reach a network; openvino sends from a process that it forks.
WATCH = """
import sys
seen = []
watched = "socket.getaddrinfo socket.connect socket.sendto os.fork os.posix_spawn subprocess.Popen".split()
def watch(event, details):
    if event in watched:
        seen.append(event)
        raise RuntimeError(event)
"""
PROGRAM = """
sys.addaudithook(watch)
import pathlib, torch
from petct.manifest import read_manifest
from segmentation.openvino_network import ComputePrecision, OpenVinoNetwork, runs_bf16
assert "openvino" not in sys.modules, "imported before it is needed"
from segmentation.packed_model import read_packed_model
runs_bf16()
model = read_packed_model(read_manifest(pathlib.Path("resources/demo.toml")).psma.members[0])
for _ in range(2):
    network = OpenVinoNetwork.compile(
        model, fold=0, precision=ComputePrecision.FLOAT32, cache=pathlib.Path(sys.argv[1])
    )
    network([torch.zeros(2, *model.configuration.patch_size)])
print(seen)
"""
# openvino itself, as it is without us.
CONTROL = """
sys.addaudithook(watch)
import time
import openvino
for _ in range(100):
    if not seen:
        time.sleep(0.05)
print(seen)
"""


def run(program: str, *arguments: str, home: Path) -> str:
    home.mkdir()
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WATCH + program, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout.splitlines()[-1]


def test_nothing_is_sent_and_nothing_is_kept_about_the_user(tmp_path: Path):
    assert run(PROGRAM, str(tmp_path / "cache"), home=tmp_path / "home") == "[]"
    assert len(list((tmp_path / "cache").iterdir())) == 1  # it did convert
    assert not (tmp_path / "home" / "intel").exists()


def test_the_watch_sees_what_openvino_does_by_itself(tmp_path: Path):
    assert run(CONTROL, home=tmp_path / "home") != "[]"


def test_an_openvino_that_reports_already_is_refused(monkeypatch: pytest.MonkeyPatch):
    load_openvino()
    monkeypatch.setitem(sys.modules, "openvino_telemetry", sys)
    with pytest.raises(RuntimeError, match="imported by load_openvino only"):
        load_openvino()


def test_it_may_be_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert is_available()
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert not openvino_network.is_available()
    with pytest.raises(ImportError):
        load_openvino()
    with pytest.raises(SystemExit, match=r"^backend: OpenVINO must be installed to convert networks for it"):
        convert.main([str(ROOT / "resources" / "demo.toml"), "--into", str(tmp_path / "cache")])


def test_a_mere_folder_of_its_name_is_not_openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    (tmp_path / "openvino").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert not is_available()
    (tmp_path / "openvino" / "__init__.py").touch()
    sys.path_importer_cache.pop(str(tmp_path / "openvino"), None)
    sys.path_importer_cache.pop(str(tmp_path), None)
    assert is_available()
