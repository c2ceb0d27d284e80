"""The organ stage with stand-ins for TotalSegmentator that misbehave."""

import json
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from petct.errors import CaseError
from petct.geometry import grid_of, to_array
from petct.manifest import OrganSettings, OrganTask
from segmentation.totalsegmentator import CHILD, WEIGHT_FILES, find_organs, model_folders
from tiny_organ_net import CT_GRID, tiny_ct

# What every stand-in begins with.
OPTIONS = """
import json, os, subprocess, sys, time
import numpy as np
import SimpleITK as sitk
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
"""
WRITE = "sitk.WriteImage({map}, options['--organs'])"
MAP = "(sitk.ReadImage(options['--ct']) > 200) * 5"  # the block as liver, uint8


def settings(weights: Path, *, timeout_s: float = 300.0, sha256: dict[str, str] | None = None) -> OrganSettings:
    return OrganSettings(task=OrganTask.FASTEST, weights=weights, timeout_s=timeout_s, sha256=sha256 or {})


def is_running(pid: int) -> bool:
    """Whether a process is there and is not dead and waiting to be collected."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights that are there, and are never read."""
    (model,) = model_folders(OrganTask.FASTEST)
    for file in WEIGHT_FILES:
        path = tmp_path / "weights" / model / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}", encoding="utf-8")
    return tmp_path / "weights"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def stand_in(tmp_path: Path, program: str) -> Path:
    path = tmp_path / "stand_in.py"
    path.write_text(OPTIONS + program, encoding="utf-8")
    return path


def test_folders_and_download_names_are_totalsegmentators() -> None:
    program = """
import json
from totalsegmentator.bin.totalseg_download_weights import TASK_TO_ID
from totalsegmentator.map_tasks_config import DEFAULT_CONFIG, TASK_CONFIGS, TASK_ID_WEIGHTS_CONFIGS
found = {}
for mode, task in TASK_CONFIGS["total"]["sub_modes"].items():
    ids = task["task_id"] if isinstance(task["task_id"], list) else [task["task_id"]]
    names = [TASK_ID_WEIGHTS_CONFIGS[i]["foldername"] for i in ids]
    folders = [f"{name}/{task['trainer']}__nnUNetPlans__{DEFAULT_CONFIG['model']}" for name in names]
    downloads = [name for name, every in TASK_TO_ID.items() if set(ids) <= set(every)]
    found[mode] = [folders, downloads, DEFAULT_CONFIG["folds"]]
print(json.dumps(found))
"""
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    theirs = json.loads(output.splitlines()[-1])

    for task, mode, download in (
        (OrganTask.TOTAL, "default", "total"),
        (OrganTask.FAST, "fast", "total_fast"),
        (OrganTask.FASTEST, "fastest", "total_fast"),
    ):
        folders, downloads, folds = theirs[mode]
        assert list(model_folders(task)) == folders
        assert download in downloads
        assert folds == [0]
        absent = OrganSettings(task=task, weights=Path("/absent"), timeout_s=1.0, sha256={})
        with pytest.raises(CaseError) as error:
            find_organs(tiny_ct(), settings=absent, device="cpu", where="psma ct")
        assert str(error.value) == (
            f"psma ct: TotalSegmentator's weights are missing: /absent/{folders[0]}/plans.json; to get them, run "
            f"TOTALSEG_WEIGHTS_PATH=/absent totalseg_download_weights -t {download} where there is a network"
        )


def test_weights_that_are_not_the_manifests_are_refused(weights: Path) -> None:
    (model,) = model_folders(OrganTask.FASTEST)
    wrong = settings(weights, sha256={f"{model}/plans.json": "0" * 64})
    with pytest.raises(CaseError, match=r"psma ct TotalSegmentator: sha256 of .*plans\.json must be 0{64}, got"):
        find_organs(tiny_ct(), settings=wrong, device="cpu", where="psma ct")


def test_child_is_told_what_to_do_in_an_environment_of_its_own(weights: Path, temporary: Path, tmp_path: Path) -> None:
    report = "{'argv': sys.argv[1:], 'environment': dict(os.environ), 'path': sys.path, 'config': config}"
    read = "config = json.load(open(os.path.join(os.environ['TOTALSEG_HOME_DIR'], 'config.json')))\n"
    write = f"json.dump({report}, open({str(tmp_path / 'report.json')!r}, 'w'))\n"
    child = stand_in(tmp_path, read + write + WRITE.format(map=MAP))

    organs = find_organs(tiny_ct(), settings=settings(weights), device="cuda", where="psma ct", child=child)

    assert grid_of(organs) == CT_GRID
    np.testing.assert_array_equal(to_array(organs), np.where(to_array(tiny_ct()) > 200, 5, 0))
    told = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert told["config"]["send_usage_stats"] is False
    assert told["environment"]["TOTALSEG_WEIGHTS_PATH"] == str(weights)
    home = Path(told["environment"]["TOTALSEG_HOME_DIR"])
    assert temporary in home.parents
    assert temporary in Path(told["environment"]["TMPDIR"]).parents
    assert told["argv"][-4:] == ["--task", "fastest", "--device", "gpu"]
    assert str(child.parent) not in told["path"]
    assert not list(temporary.iterdir())


def test_time_is_up_for_the_child_and_all_that_it_started(weights: Path, temporary: Path, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = f"""
print('half way', flush=True)
other = subprocess.Popen(['sleep', '60'])
with open({str(pids)!r}, 'w') as stream:
    stream.write(f'{{os.getpid()}} {{other.pid}}')
time.sleep(60)
"""
    child = stand_in(tmp_path, program)
    started_s = time.monotonic()
    message = "^psma ct: TotalSegmentator must finish within 5 s, and was stopped$"
    with pytest.raises(CaseError, match=message):
        find_organs(tiny_ct(), settings=settings(weights, timeout_s=5.0), device="cpu", where="psma ct", child=child)

    assert time.monotonic() - started_s < 30.0
    started = [int(pid) for pid in pids.read_text(encoding="utf-8").split()]
    deadline_s = time.monotonic() + 5.0
    while any(map(is_running, started)) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert [is_running(pid) for pid in started] == [False, False]
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("print('loading')\nraise MemoryError('no\\nroom')", r"exit status 1: .*MemoryError: no \| room$"),
        ("sys.exit('ERROR: no \\udcff license')", r"exit status 1: ERROR: no .* license$"),
        ("sys.exit(2)", "exit status 2: no output$"),
        ("os.kill(os.getpid(), 9)", "signal SIGKILL: no output$"),
    ],
)
def test_failure_of_the_child_is_one_line(
    weights: Path, temporary: Path, tmp_path: Path, program: str, message: str
) -> None:
    child = stand_in(tmp_path, program)
    with pytest.raises(CaseError, match=message) as error:
        find_organs(tiny_ct(), settings=settings(weights), device="cpu", where="fdg ct", child=child)

    assert str(error.value).startswith("fdg ct: TotalSegmentator must end without an error, got ")
    assert len(str(error.value).splitlines()) == 1
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("sys.exit(0)", "must write an organ map, and did not"),
        ("open(options['--organs'], 'w').write('no image')", "organ map must be readable"),
        (WRITE.format(map=f"({MAP})[:, :, 1:]"), r"organ map: grid must match the CT, got \(38, 46, 29\) voxels"),
        (
            f"organs = {MAP}\norgans.SetOrigin((-47.3, 12.7, 598.0))\n" + WRITE.format(map="organs"),
            "organ map: grid must match the CT within 0.01 mm, got origin that differs by 3.9 mm along z",
        ),
        (WRITE.format(map=f"sitk.Cast({MAP}, sitk.sitkFloat32)"), "must hold whole numbers, got float32"),
        (WRITE.format(map=f"({MAP}) + 113"), "labels must be within 0-117, got 113-118"),
        (WRITE.format(map=f"sitk.Cast({MAP}, sitk.sitkInt16) - 1"), "labels must be within 0-117, got -1-4"),
        (WRITE.format(map=f"({MAP}) * 0"), "must show bone, lung or liver, got 0 labelled voxels, none of them"),
        (
            WRITE.format(map=f"({MAP}) - sitk.Cast(({MAP}) > 0, sitk.sitkUInt8) * 4"),  # spleen
            "must show bone, lung or liver, got 3458 labelled voxels, none of them",
        ),
    ],
)
def test_map_that_is_no_organ_map_of_this_ct_is_refused(
    weights: Path, tmp_path: Path, program: str, message: str
) -> None:
    child = stand_in(tmp_path, program)
    with pytest.raises(CaseError, match=message) as error:
        find_organs(tiny_ct(), settings=settings(weights), device="cpu", where="fdg ct", child=child)
    assert str(error.value).startswith("fdg ct")


def test_output_of_the_child_is_in_the_log_at_debug(
    weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    program = "print('one')\nsys.stdout.flush()\nos.write(2, b'two \\xff')\n" + WRITE.format(map=MAP)
    find_organs(tiny_ct(), settings=settings(weights), device="cpu", where="fdg ct", child=stand_in(tmp_path, program))

    debug = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    assert debug == ["fdg ct: TotalSegmentator: one", "fdg ct: TotalSegmentator: two \ufffd"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "attempt",
    [
        "socket.create_connection(('127.0.0.1', 9))",
        "socket.socket().connect(('127.0.0.1', 9))",
        "urllib.request.urlopen('http://localhost:9/')",
    ],
)
def test_child_uses_no_network(attempt: str) -> None:
    program = (
        f"import socket, urllib.request\nimport totalsegmentator_child as child\nchild.forbid_network()\n{attempt}"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=CHILD.parent, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 1
    assert "RuntimeError: TotalSegmentator must not use the network, socket." in result.stderr
