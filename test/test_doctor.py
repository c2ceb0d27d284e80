"""The doctor's command: a verdict for everything, whatever breaks, and the exit code."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from operation import doctor
from operation.doctor import main, run_checks
from operation.doctor_verdicts import Level, ok
from petct.errors import CaseError

ROOT = Path(doctor.__file__).resolve().parents[1]
DEMO = ROOT / "resources" / "demo.toml"


def choose(wanted: Path | None) -> Path:
    return wanted or DEMO


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a GPU, and a cache that is nobody's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    output = capsys.readouterr()
    assert output.err == ""
    return output.out.splitlines()


def test_a_machine_that_will_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    status = main(["--device", "cpu", "--output", str(tmp_path)], default_manifest=choose)

    *lines, summary = told(capsys)
    assert all(re.fullmatch(r"(ok  |warn|FAIL) [^:]+: .+", line) for line in lines), lines
    assert [line for line in lines if line.startswith("FAIL")] == []
    assert status == 0
    assert re.fullmatch(r"\d+ ok, \d+ to be warned of, 0 failed: cases can run here", summary)
    starts = (
        r"ok   manifest: demo \(.*demo\.toml\), mode balanced, backend auto",
        r"warn manifest: demonstration weights, trained on phantoms: not for patients -> ",
        r"ok   python: 3\.11\.",
        r"ok   packages: \d+ of requirements\.txt, in its versions",
        r"(ok  |warn) user: ",
        r"(ok  |warn) temporary folder: ",
        rf"ok   output: {tmp_path}, ",
        r"(ok  |warn) caches: ",
        r"(ok  |warn) /dev/shm: ",
        r"(ok  |warn) memory: ",
        r"(ok  |warn) processors: ",
        r"ok   threads: ",
        r"ok   clock: \d{4}-",
        r"ok   time limit: ",
        r"ok   torch: PyTorch 2\.8\.0.*, networks run on the CPU",
        r"ok   openvino: ",
        r"ok   PSMA plain_801: 4 files, sha256 as the manifest says; 1 fold of a plain network with 2 channels",
        r"ok   FDG plain_802: 5 files, sha256 as the manifest says; 2 folds of a plain network with 2 channels",
        r"ok   FDG resenc_l_922: 4 files, .* with 10 channels \(organs: soft_distance\)",
        r"ok   TotalSegmentator \(fastest\): 3 files in ",
        r"(ok  |warn) converted networks: ",
        r"ok   forward pass: PSMA plain_801 fold 0 by openvino on the CPU, a window of .*GFLOP/s, .*logits are finite",
    )
    for start in starts:
        assert len([line for line in lines if re.match(start, line)]) == 1, (start, lines)
    # Nothing is left behind but what a case would leave, too.
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "cache"}


def test_a_manifest_that_cannot_be_read_leaves_the_machine_to_be_judged(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["--manifest", str(tmp_path / "none.toml")], default_manifest=choose) == 1

    lines = told(capsys)
    assert lines[0] == (
        f"FAIL none.toml: manifest file is missing, got {tmp_path / 'none.toml'} -> "
        "name a manifest with --manifest, or write this one anew"
    )
    assert any(line.startswith("ok   torch: ") for line in lines)
    assert not any("forward pass" in line for line in lines)
    assert lines[-1].endswith(" 1 failed: cases cannot run here")


def test_no_manifest_where_there_should_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(_wanted: Path | None) -> Path:
        raise CaseError("/opt/ml/model", "model tarball must hold manifest.toml", "weights")

    assert main([], default_manifest=refuse) == 1
    assert told(capsys)[0].startswith("FAIL /opt/ml/model: model tarball must hold manifest.toml, got weights -> ")


def test_damaged_weights_are_named_each_in_its_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shutil.copytree(DEMO.parent, tmp_path / "resources")
    demo = tmp_path / "resources" / "demo"
    pointer = demo / "plain_801" / "fold_0" / "checkpoint_final.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (demo / "resenc_m_901" / "plans.json").unlink()
    with (demo / "plain_802" / "model.json").open("a") as stream:
        stream.write(" ")
    next((demo / "totalsegmentator").rglob("checkpoint_final.pth")).unlink()

    assert main(["--manifest", str(tmp_path / "resources" / "demo.toml")], default_manifest=choose) == 1

    lines = told(capsys)
    failures = [line for line in lines if line.startswith("FAIL")]
    patterns = (
        rf"FAIL member plain_801: {pointer} is a git-LFS pointer, not the weights: run git lfs pull -> .+",
        r"FAIL member resenc_m_901: file is missing: .*resenc_m_901/plans\.json -> .+",
        r"FAIL member plain_802: sha256 of .*model\.json must be [0-9a-f]{64}, got [0-9a-f]{64} -> .+",
        r"FAIL organs: TotalSegmentator's weights are missing: .*checkpoint_final\.pth; to get them, run .* -> .+",
        r"FAIL .*plain_801.*",  # the forward pass has no network
    )
    for pattern in patterns:
        assert any(re.fullmatch(pattern, line) for line in failures), (pattern, failures)
    assert len([line for line in lines if re.match(r"ok   (PSMA|FDG) ", line)]) == 3


def test_a_check_that_breaks_is_a_failure_and_the_others_go_on() -> None:
    def check_first(subject: str):
        yield ok("first", subject)
        raise ZeroDivisionError("by\nzero")

    def check_second(subject: str):
        raise CaseError("there", "it must be so", "not so")
        yield

    def check_last(subject: str):
        yield ok("last", subject)

    verdicts = list(run_checks([check_first, check_second, check_last], "seen"))

    assert [verdict.level for verdict in verdicts] == [Level.OK, Level.FAIL, Level.FAIL, Level.OK]
    assert verdicts[1].line == (
        "FAIL first: check must end without an error, got ZeroDivisionError: by zero -> report it with all lines"
    )
    assert verdicts[2].line == "FAIL there: it must be so, got not so -> see the lines above"
    assert verdicts[3].line == "ok   last: seen"
