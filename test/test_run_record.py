"""The record as a file: what is written is read back, and anything else is refused by place, rule and value."""

import copy
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from operation import machine
from operation.machine import environment, package_versions
from operation.product import product_in, this_product
from operation.run_record import OutcomeKind, RunRecord, is_record, read_record, write_record
from petct.errors import CaseError
from run_records import run_record


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.json"
    write_record(run_record(), path)
    assert read_record(path) == run_record()
    assert is_record(path)
    assert [file.name for file in path.parent.iterdir()] == ["run.json"]


def test_the_json_is_plain(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_record(run_record(), path)
    content = json.loads(path.read_text(encoding="ascii"))
    assert content["options"]["mode"] == "exact"
    assert content["scans"]["psma"]["files"]["ct"]["grid"]["shape_zyx"] == [24, 38, 46]
    assert content["scans"]["fdg"]["organs"] == "totalsegmentator"
    assert content["executed"] == run_record().executed.as_json()
    assert [decision["chosen"] for decision in content["decisions"] if decision["is_loss"]] == ["fast"]
    assert content["outcome"]["masks"]["fdg"]["voxels"] == 0


def test_a_refused_case_has_a_record_with_little_in_it(tmp_path: Path) -> None:
    error = "FDG/PET.nii.gz: no UTF-8 \udcff either"
    record = replace(
        run_record(),
        options=None,
        manifest=None,
        weights=(),
        scans={},
        executed=None,
        outcome=replace(run_record().outcome, kind=OutcomeKind.REFUSED, error=error, masks={}),
    )
    write_record(record, tmp_path / "run.json")
    assert read_record(tmp_path / "run.json") == record


def test_a_record_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_record(replace(run_record(), total_s=float("nan")), tmp_path / "run.json")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------ refusals

_NOTHING = object()


def with_changed(place: str, value: object) -> dict[str, Any]:
    """The record's JSON with one value changed, or without it."""
    content = copy.deepcopy(run_record().as_json())
    *way, last = place.split(".")
    inner: Any = content
    for key in way:
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    if value is _NOTHING:
        del inner[last]
    else:
        inner[int(last) if isinstance(inner, list) else last] = value
    return content


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("format", 2, r"^run.json format: must be 1, got 2$"),
        ("format", True, r"^run.json format: must be 1, got True$"),
        ("format", _NOTHING, r"^run.json: must be a run record, an object with format and outcome$"),
        ("manifest", _NOTHING, r"^run.json: key manifest is missing$"),
        ("manifest.owner", "me", r"^run.json manifest: key is not known, got 'owner'$"),
        ("manifest.sha256", 5, r"^run.json manifest.sha256: must be a text, got 5$"),
        ("options.mode", "slow", r"^run.json options.mode: must be one of exact, balanced, fast, got 'slow'$"),
        ("options.threads", True, r"^run.json options.threads: must be a whole number, got True$"),
        ("options.threads", 1.5, r"^run.json options.threads: must be a whole number, got 1.5$"),
        ("total_s", "90", r"^run.json total_s: must be a finite number, got '90'$"),
        ("total_s", 10**400, r"^run.json total_s: must be a finite number, got 1000\d*\.\.\.0+$"),
        ("peak_host_mib", None, r"^run.json peak_host_mib: must be a finite number, got None$"),
        ("versions.torch", 2.8, r"^run.json versions.torch: must be a text, got 2.8$"),
        ("machine.cpu_flags", "avx2", r"^run.json machine.cpu_flags: must be a list, got 'avx2'$"),
        ("weights", {}, r"^run.json weights: must be a list, got {}$"),
        ("weights.1.file", None, r"^run.json weights.1.file: must be a text, got None$"),
        ("scans.xyz", {}, r"^run.json scans key: must be one of psma, fdg, got 'xyz'$"),
        ("scans.psma.files.pet.grid.shape_zyx", [1, 2], r"pet.grid.shape_zyx: must hold 3 values, got 2$"),
        ("decisions.0.is_loss", 1, r"^run.json decisions.0.is_loss: must be true or false, got 1$"),
        ("executed.fold_runs.0.mirrorings", 0, r"^run.json executed 0: mirrorings must be >= 1, got 0$"),
        ("outcome.kind", "good", r"^run.json outcome.kind: must be one of masks, refused, failed, got 'good'$"),
        ("outcome.masks", [], r"^run.json outcome.masks: must be an object, got \[\]$"),
    ],
)
def test_another_content_is_refused(tmp_path: Path, place: str, value: object, message: str) -> None:
    path = written(tmp_path / "run.json", with_changed(place, value))
    with pytest.raises(CaseError, match=message):
        read_record(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"^run.json: file must be JSON in UTF-8, got JSONDecodeError"),
        (b'{"format": 1, "outcome": ', r"^run.json: file must be JSON in UTF-8, got JSONDecodeError"),
        (b'{"format": 1, "format": 1}', r"^run.json: an object must not hold a key twice, got 'format'$"),
        (b"\xff\xfe\x00", r"^run.json: file must be JSON in UTF-8, got UnicodeDecodeError"),
        (b"[" * 100_000, r"^run.json: file must be JSON in UTF-8, got RecursionError"),
        (b"[1, 2]", r"^run.json: must be a run record"),
        (b"x" * (5 << 20), r"^run.json: file must have at most 4 MiB, got more$"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    assert not is_record(path)
    with pytest.raises(CaseError, match=message):
        read_record(path)


def test_a_missing_record_is_named_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=rf"^run.json: run record must be a file, got {tmp_path}/run.json$"):
        read_record(tmp_path / "run.json")
    assert not is_record(tmp_path / "run.json")


def test_a_record_of_a_future_format_is_known_for_one(tmp_path: Path) -> None:
    assert is_record(written(tmp_path / "run.json", {"format": 99, "outcome": "as others say it", "more": 1}))


def places(value: object, way: str = "") -> list[str]:
    """Every place in a JSON value."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, entry in entries for place in (f"{way}{key}", *places(entry, f"{way}{key}."))]


_ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
# Keys of mappings hold dots themselves (`plans.json` never is one here), so every place can be walked to.
_PLACES = places(run_record().as_json())


@settings(max_examples=300, deadline=None)
@given(place=st.sampled_from(_PLACES), value=_ANY_JSON)
def test_any_other_value_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: str, value: object
) -> None:
    path = written(tmp_path_factory.getbasetemp() / "any.json", with_changed(place, value))
    refusal = ""
    try:
        assert isinstance(read_record(path), RunRecord)
    except CaseError as error:
        refusal = str(error)
    assert refusal == "" or refusal.startswith("any.json")


# --------------------------------------------------------------------------------------------- the program, the machine


@pytest.fixture
def program(tmp_path: Path) -> Path:
    for file in ("inference.py", "petct/case.py", "operation/x/y.py", "resources/organs.json", "test/test_case.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(file, encoding="utf-8")
    return tmp_path


def test_the_code_has_one_digest(program: Path) -> None:
    files = ("inference.py", "operation/x/y.py", "petct/case.py", "resources/organs.json")
    lines = "".join(f"{hashlib.sha256(file.encode()).hexdigest()}  {file}\n" for file in files)
    assert product_in(program).code_sha256 == hashlib.sha256(lines.encode()).hexdigest()


def test_any_change_of_what_a_case_goes_through_shows(program: Path) -> None:
    before = product_in(program)
    (program / "test" / "test_case.py").write_text("other", encoding="utf-8")
    assert product_in(program) == before
    (program / "petct" / "case.py").rename(program / "petct" / "cases.py")
    renamed = product_in(program)
    (program / "operation" / "x" / "y.py").write_text("other", encoding="utf-8")
    assert len({before.code_sha256, renamed.code_sha256, product_in(program).code_sha256}) == 3


def test_the_version_is_pyprojects_and_unknown_without_it(program: Path) -> None:
    assert (product_in(program).name, product_in(program).version) == (None, None)
    (program / "pyproject.toml").write_text('[project]\nname = "a"\nversion = "1.2.3"\n', encoding="utf-8")
    assert (product_in(program).name, product_in(program).version) == ("a", "1.2.3")


def test_this_program_and_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("PATIENT", "somebody")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert this_product().name == "psma-fdg-ttb"
    assert package_versions()["torch"] == torch.__version__.split("+")[0]
    assert package_versions()["SimpleITK"] is not None
    variables = environment()
    assert variables["OMP_NUM_THREADS"] == "3"
    assert not {"PATIENT", "MKL_NUM_THREADS"} & set(variables)
    here = machine.describe_machine(torch.device("cpu"))
    assert here.cores >= 1
    assert here.memory_mib > 256
    assert list(here.cpu_flags) == sorted(here.cpu_flags)
    assert (here.gpu, here.gpu_driver, here.cuda) == (None, None, None)


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n", "535.104.05"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build\n", "550.54.15"),
        ("something else 1.2\n", None),
    ],
)
def test_a_gpu_is_described_with_its_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, version: str | None
) -> None:
    (tmp_path / "version").write_text(line, encoding="utf-8")
    monkeypatch.setattr(machine, "DRIVER_FILE", tmp_path / "version")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a GPU ({device})")
    found = machine.describe_machine(torch.device("cuda"))
    assert (found.gpu, found.gpu_driver, found.cuda) == ("a GPU (cuda)", version, torch.version.cuda)


def test_the_first_core_describes_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = "model name\t: One\nflags\t\t: fpu fma avx2 sse4_1\n\nmodel name\t: Two\nflags\t\t: avx512f\n\n"
    (tmp_path / "cpuinfo").write_text(cores, encoding="utf-8")
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    assert machine._processor.__wrapped__() == ("One", ("avx2", "fma", "sse4_1"))
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "none")
    assert machine._processor.__wrapped__() == (None, ())
