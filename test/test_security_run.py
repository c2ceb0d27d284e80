"""A whole case in watched processes, TotalSegmentator's included: nothing is unpickled, nobody is reached."""

import subprocess
import sys
from pathlib import Path

import pytest

import inference
from petct.case import Tracer
from petct.channels import OrganEncoding
from petct.manifest import Architecture, Backend, OrganTask
from petct.output import mask_file
from segmentation.totalsegmentator import CHILD
from tiny_nnunet import make_member, make_results
from tiny_organ_net import write_tiny_fold
from training.weights.organ_weights import export_organ_weights
from watched_process import Watch
from whole_case import Models, write_case, write_manifest

PROGRAM = Path(inference.__file__)
# A package that others bring along asks on import whether there is IPv6, by a socket on ::1 that it closes at once; it
# takes the refusal for a no.
PROBE_OF_IPV6 = "socket.__new__ of family 10 by urllib3.util.connection._has_ipv6"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny networks for OpenVINO, and the organ network written by hand."""
    folder = tmp_path_factory.mktemp("models")
    members = {}
    for tracer, architecture, number, encoding in (
        (Tracer.PSMA, Architecture.RESENC_M, 911, OrganEncoding.BINARY),
        (Tracer.FDG, Architecture.PLAIN, 802, OrganEncoding.NONE),
    ):
        options = {"architecture": architecture, "dataset_id": number, "folds": (0,), "encoding": encoding}
        results = make_results(folder / "results", **options)
        members[tracer] = (make_member(results, folder / f"member_{number}", **options),)
    fold = write_tiny_fold(folder / "results")
    plans, dataset_json, weights = fold.parent / "plans.json", fold.parent / "dataset.json", folder / "organs"
    export_organ_weights(fold, plans=plans, dataset_json=dataset_json, task=OrganTask.FASTEST, destination=weights)
    return write_manifest(Models(folder=folder, members=members, organ_weights=weights), backend=Backend.OPENVINO)


def run(watch: Watch, *command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=PROGRAM.parent,
        env=watch.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_whole_case_reaches_nobody_and_unpickles_nothing(manifest: Path, tmp_path: Path) -> None:
    watch = Watch(tmp_path / "watch")
    case, output = write_case(tmp_path / "case", has_organs=False), tmp_path / "output"
    folders = ["--input", case, "--output", output]

    done = run(watch, PROGRAM, *folders, "--manifest", manifest, "--device", "cpu")

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert all(mask_file(output, tracer).is_file() for tracer in Tracer)
    assert "TotalSegmentator (fastest) found 7 of 117 labels" in done.stdout
    # Both programs were watched from their first line on.
    assert {note.process for note in watch.notes("start")} >= {PROGRAM.name, CHILD.name}
    assert {note.what for note in watch.notes("network")} <= {PROBE_OF_IPV6}
    assert watch.notes("pickle") == []


CALL = 'socket.socket().connect(("192.0.2.1", 443))'
CONNECTS = f"""
import inference, socket
def connect(*_, **__):
    {CALL}
inference.read_case = connect
raise SystemExit(inference.main())
"""
UNPICKLES = """
import inference, io, pathlib, torch
stream = io.BytesIO()
torch.save({"path": pathlib.PurePosixPath("somewhere")}, stream)
def unpickle(*_, **__):
    stream.seek(0)
    torch.load(stream, weights_only=False)
inference.read_case = unpickle
raise SystemExit(inference.main())
"""


@pytest.mark.parametrize(
    ("program", "kind", "what"),
    [
        (CONNECTS, "network", "socket.__new__ of family 2 by __main__.connect"),
        (CONNECTS.replace(CALL, "socket.getaddrinfo('a.invalid', 1)"), "network", "socket.getaddrinfo a.invalid"),
        (UNPICKLES, "pickle", "pathlib.PurePosixPath"),
        ("import pickle; pickle.loads(pickle.dumps(1))", "pickle", "loads"),
    ],
)
def test_the_watch_sees_what_it_is_for(program: str, kind: str, what: str, manifest: Path, tmp_path: Path) -> None:
    watch = Watch(tmp_path / "watch")
    options = ["--input", tmp_path, "--output", tmp_path / "output", "--manifest", manifest, "--device", "cpu"]

    done = run(watch, "-c", program, *options)

    assert what in [note.what for note in watch.notes(kind)], done
    if kind == "network":
        assert done.returncode != 0
        assert "watched: a process must not use the network" in done.stderr
