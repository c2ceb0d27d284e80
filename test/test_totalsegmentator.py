"""The organ stage with stand-ins for TotalSegmentator that misbehave."""

import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from petct.errors import CaseError
from petct.geometry import Grid, grid_of, to_array, to_image
from petct.manifest import OrganSettings, OrganTask
from segmentation import totalsegmentator_process
from segmentation.totalsegmentator import (
    CHILD,
    WEIGHT_FILES,
    HurriedOrganSettings,
    find_organ_maps,
    find_organs,
    model_folders,
)
from segmentation.weight_files import sha256_of
from tiny_organ_net import CT_GRID, tiny_ct

# What every stand-in begins with.
OPTIONS = """
import json, os, subprocess, sys, time
import numpy as np
import SimpleITK as sitk
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
every = lambda name: [value for key, value in zip(sys.argv[1::2], sys.argv[2::2]) if key == name]
answer = lambda: os.write(int(options['--answers']), b'done\\n')
"""
WRITE = "sitk.WriteImage({map}, options['--organs'])\nanswer()"
MAP = "(sitk.ReadImage(options['--ct']) > 200) * 5"  # the block as liver, uint8


def settings(weights: Path, *, timeout_s: float = 300.0, sha256: dict[str, str] | None = None) -> OrganSettings:
    if sha256 is None:
        (model,) = model_folders(OrganTask.FASTEST)
        sha256 = {f"{model}/{file}": sha256_of(weights / model / file) for file in WEIGHT_FILES}
    return OrganSettings(task=OrganTask.FASTEST, weights=weights, timeout_s=timeout_s, sha256=sha256)


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
    options = dict(zip(told["argv"][::2], told["argv"][1::2], strict=True))
    assert (options["--task"], options["--device"], options["--box"]) == ("fastest", "gpu", "0,38,0,46,0,30")
    assert options["--least"] == "1,1,1"
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
        ("answer()", "must write an organ map, and did not"),
        ("os.close(int(options['--answers']))\ntime.sleep(60)", "must answer, and closed its answers"),
        ("open(options['--organs'], 'w').write('no image')\nanswer()", "organ map must be readable"),
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


# Liver wherever it is brighter than 200 HU, for one CT after the other.
WRITE_ALL = """
for number, (ct, organs) in enumerate(zip(every('--ct'), every('--organs'))):
    {before}
    sitk.WriteImage((sitk.ReadImage(ct) > 200) * 5, organs)
    answer()
time.sleep(60)
"""


def other_ct():
    """A bright block elsewhere, on another grid."""
    grid = Grid((17, 25, 21), (2.9, 4.4, 3.3), (8.0, -61.0, 340.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    hu = np.full(grid.shape_zyx, 30, dtype=np.int16)
    hu[3:9, 4:20, 6:13] = 400
    return to_image(hu, grid)


def test_both_cts_go_to_one_process_that_does_not_outlive_them(
    weights: Path, temporary: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    start = f"""
other = subprocess.Popen(['sleep', '60'])
open({str(tmp_path / "pids")!r}, 'a').write(f'{{os.getpid()}} {{other.pid}} ')
"""
    child = stand_in(tmp_path, start + WRITE_ALL.format(before="pass"))
    cts = {"psma ct": tiny_ct(), "fdg ct": other_ct()}

    maps = find_organ_maps(cts, settings=settings(weights), device="cpu", crop_to_body=False, child=child)

    assert list(maps) == ["psma ct", "fdg ct"]
    for where, ct in cts.items():
        assert grid_of(maps[where]) == grid_of(ct)
        np.testing.assert_array_equal(to_array(maps[where]), np.where(to_array(ct) > 200, 5, 0))
    started = [int(pid) for pid in (tmp_path / "pids").read_text(encoding="utf-8").split()]
    assert len(started) == 2
    deadline_s = time.monotonic() + 5.0
    while any(map(is_running, started)) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert [is_running(pid) for pid in started] == [False, False]
    assert not list(temporary.iterdir())
    found = [message for message in caplog.messages if "found 1 of 117 labels (liver)" in message]
    assert [message.partition(":")[0] for message in found] == ["psma ct", "fdg ct"]


def test_no_ct_needs_no_process(tmp_path: Path) -> None:
    absent = OrganSettings(task=OrganTask.FAST, weights=tmp_path, timeout_s=1.0, sha256={})
    assert find_organ_maps({}, settings=absent, device="cpu", crop_to_body=True) == {}


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ("number and sys.exit('no more memory')", "must end without an error, got exit status 1: no more memory$"),
        ("number and sys.exit(0)", "must write an organ map, and did not$"),
        ("number and time.sleep(60)", "must finish within 8 s, and was stopped$"),
        ("number and answer() and time.sleep(60)", "must write an organ map, and did not$"),
    ],
)
def test_error_names_the_ct_that_it_happened_with(
    weights: Path, temporary: Path, tmp_path: Path, before: str, message: str
) -> None:
    child = stand_in(tmp_path, WRITE_ALL.format(before=before))
    cts = {"psma ct": tiny_ct(), "fdg ct": other_ct()}
    with pytest.raises(CaseError, match=f"^fdg ct: TotalSegmentator {message}"):
        find_organ_maps(cts, settings=settings(weights, timeout_s=8.0), device="cpu", crop_to_body=False, child=child)
    assert not list(temporary.iterdir())


def test_each_ct_has_its_own_time(weights: Path, tmp_path: Path) -> None:
    child = stand_in(tmp_path, WRITE_ALL.format(before="time.sleep(4.5)"))
    cts = {"psma ct": tiny_ct(), "fdg ct": other_ct()}
    started_s = time.monotonic()
    maps = find_organ_maps(
        cts, settings=settings(weights, timeout_s=8.0), device="cpu", crop_to_body=False, child=child
    )
    assert len(maps) == 2
    assert time.monotonic() - started_s > 8.0


def hurried(weights: Path, *, timeout_s: float, total_s: float) -> HurriedOrganSettings:
    return HurriedOrganSettings(**vars(settings(weights, timeout_s=timeout_s)), total_s=total_s)


def test_what_a_quick_ct_leaves_of_all_their_time_is_the_next_ones(weights: Path, tmp_path: Path) -> None:
    # Half of the time for each would not be enough.
    child = stand_in(tmp_path, WRITE_ALL.format(before="time.sleep(6.0 * number)"))
    cts = {"psma ct": tiny_ct(), "fdg ct": other_ct()}
    allowed = hurried(weights, timeout_s=300.0, total_s=11.0)
    assert len(find_organ_maps(cts, settings=allowed, device="cpu", crop_to_body=False, child=child)) == 2


@pytest.mark.parametrize(
    ("timeout_s", "total_s", "sleep", "message"),
    [
        # A quarter of an even share is kept for the second.
        (300.0, 4.0, "60.0", r"psma ct: .* must finish within (2\.\d+|3(\.[0-5]\d*)?) s, and was stopped$"),
        (1.5, 300.0, "60.0", r"psma ct: .* must finish within 1\.5 s, and was stopped$"),
        (300.0, 8.0, "60.0 * number", r"fdg ct: .* must finish within [0-7](\.\d+)? s, and was stopped$"),
    ],
)
def test_all_cts_together_take_no_longer_than_they_may(
    weights: Path, tmp_path: Path, timeout_s: float, total_s: float, sleep: str, message: str
) -> None:
    child = stand_in(tmp_path, WRITE_ALL.format(before=f"time.sleep({sleep})"))
    cts = {"psma ct": tiny_ct(), "fdg ct": other_ct()}
    allowed = hurried(weights, timeout_s=timeout_s, total_s=total_s)
    started_s = time.monotonic()
    with pytest.raises(CaseError, match=f"^{message}"):
        find_organ_maps(cts, settings=allowed, device="cpu", crop_to_body=False, child=child)
    assert time.monotonic() - started_s < min(total_s, 10.0) + 5.0


def ct_with_a_patient():
    """A body of 100 x 120 x 144 mm in air, on a grid whose axes are not the patient's."""
    grid = Grid((60, 46, 50), (4.0, 5.0, 3.0), (10.0, 20.0, 30.0), tiny_ct().GetDirection())
    hu = np.full(grid.shape_zyx, -1000, dtype=np.int16)
    hu[12:60, 10:34, 20:45] = 40
    return to_image(hu, grid)


def test_child_is_told_where_the_patient_is(weights: Path, tmp_path: Path) -> None:
    (model,) = model_folders(OrganTask.FASTEST)
    plans = {"configurations": {"3d_fullres": {"patch_size": [9, 7, 8]}}, "transpose_forward": [2, 0, 1]}
    (weights / model / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
    report = f"json.dump(sys.argv[1:], open({str(tmp_path / 'report.json')!r}, 'w'))\n"
    child = stand_in(
        tmp_path, report + "sitk.WriteImage((sitk.ReadImage(options['--ct']) > 0) * 5, options['--organs'])\nanswer()"
    )

    find_organs(
        ct_with_a_patient(), settings=settings(weights), device="cpu", where="ct", crop_to_body=True, child=child
    )

    argv = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    options = dict(zip(argv[::2], argv[1::2], strict=True))
    # The network's first axis is the image's x, its second z, its third y.
    assert options["--least"] == "9,8,7"
    limits = [int(limit) for limit in options["--box"].split(",")]
    # 20 mm around the patient, at most two cells more, and the end of the scan.
    for (low, high), (inner_low, inner_high), size, spacing_mm in zip(
        zip(limits[::2], limits[1::2], strict=True),
        ((20, 45), (10, 34), (12, 60)),
        (50, 46, 60),
        (4.0, 5.0, 3.0),
        strict=True,
    ):
        assert max(0, inner_low - 45.0 / spacing_mm) <= low <= max(0, inner_low - 20.0 / spacing_mm)
        assert min(size, inner_high + 20.0 / spacing_mm) <= high <= min(size, inner_high + 45.0 / spacing_mm)
    assert limits[0] > 0


def test_weights_whose_window_nobody_knows_are_refused(weights: Path) -> None:
    with pytest.raises(CaseError, match=r"^ct: TotalSegmentator's .*plans.json must be nnU-Net plans, got KeyError"):
        find_organs(ct_with_a_patient(), settings=settings(weights), device="cpu", where="ct", crop_to_body=True)


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


def test_a_ct_that_finds_no_room_is_refused(weights: Path, temporary: Path, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20 << 10, before[1]))  # ITK says nothing when it cannot write
    try:
        with pytest.raises(CaseError, match=r"^psma ct: CT must fit into .*organs_\w+, got 20480 of \d+ bytes$"):
            find_organs(tiny_ct(), settings=settings(weights), device="cpu", where="psma ct", child=tmp_path / "none")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(temporary.iterdir())


def test_a_child_that_dies_on_a_full_disk_has_the_disk_named(
    weights: Path, temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(totalsegmentator_process, "why_unwritable", lambda folder: f"{folder.name[:7]} is full")
    child = stand_in(tmp_path, "sys.exit('half a')")
    with pytest.raises(CaseError, match=r"got exit status 1: organs_ is full in .*organs_\w+$"):
        find_organs(tiny_ct(), settings=settings(weights), device="cpu", where="psma ct", child=child)
