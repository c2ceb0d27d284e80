"""One case of a served process: how it ends, what is left of it, and when the process should run no more."""

import errno
import tempfile
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace

import pytest

from operation import service_case
from operation.ending import Stopped
from operation.service_case import CaseRunner
from petct import temporary
from petct.decisions import decide, decisions
from petct.errors import CaseError
from petct.stages import add, count, counts, stage_seconds


class GpuOutOfMemoryError(RuntimeError):
    """What PyTorch raises when the GPU's memory is used up."""


def gpu(*, error: Exception | None = None, is_initialized: bool = True) -> SimpleNamespace:
    """A PyTorch whose GPU answers every computation with an error, or none."""

    def ones(_size: int, *, device: str) -> SimpleNamespace:
        assert device == "cuda"
        if error is not None:
            raise error
        return SimpleNamespace(sum=lambda: SimpleNamespace(item=lambda: 1.0))

    cuda = SimpleNamespace(is_initialized=lambda: is_initialized, empty_cache=lambda: None, synchronize=lambda: None)
    return SimpleNamespace(ones=ones, cuda=cuda, OutOfMemoryError=GpuOutOfMemoryError)


def runner_of(error: BaseException | None, *, cleared: list[str] | None = None) -> CaseRunner:
    def invoke() -> None:
        if error is not None:
            raise error

    def clear() -> None:
        (cleared if cleared is not None else []).append("cleared")

    return CaseRunner(invoke, clear=clear)


@pytest.fixture(autouse=True)
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_temporary_files_go_with_the_case(temporary_files: Path) -> None:
    seen = []

    def invoke() -> None:
        seen.append(Path(tempfile.mkdtemp()))
        (seen[-1] / "file").write_text("left", encoding="utf-8")

    outcome = CaseRunner(invoke, clear=lambda: None).run()
    assert outcome.status is HTTPStatus.CREATED
    assert seen[0].is_relative_to(temporary_files)
    assert not list(temporary_files.iterdir())
    assert tempfile.gettempdir() == str(temporary_files)


def test_a_case_sees_nothing_of_what_was_counted_before_and_keeps_its_own() -> None:
    decide("something", "a", because="before")
    add("stage", 1.0)
    count("windows", 3)
    seen = []

    def invoke() -> None:
        seen.extend([decisions(), stage_seconds(), counts()])
        decide("something", "b", because="now")

    CaseRunner(invoke, clear=lambda: None).run()
    assert seen == [(), {}, {}]
    assert [decision.chosen for decision in decisions()] == ["b"]  # for who writes it down afterwards


def test_output_is_cleared_only_after_a_case_that_failed() -> None:
    cleared: list[str] = []
    runner_of(None, cleared=cleared).run()
    assert cleared == []
    runner_of(ValueError("x"), cleared=cleared).run()
    assert cleared == ["cleared"]
    with pytest.raises(Stopped):
        runner_of(Stopped(15), cleared=cleared).run()
    assert cleared == ["cleared"] * 2


def test_an_output_folder_that_cannot_be_cleared_does_not_hide_why_the_case_failed() -> None:
    def refuse() -> None:
        raise OSError(errno.EROFS, "read-only")

    def fail() -> None:
        raise ValueError("the reason")

    outcome = CaseRunner(fail, clear=refuse).run()
    assert outcome.status is HTTPStatus.INTERNAL_SERVER_ERROR
    assert "ValueError: the reason" in outcome.line


def test_a_full_disk_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(temporary.tempfile, "TemporaryDirectory", full)
    outcome = runner_of(None).run()
    assert outcome.status is HTTPStatus.UNPROCESSABLE_ENTITY
    assert outcome.line.endswith("must be a folder that can be written to, got No space left on device")
    assert outcome.doubt is None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("array"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("Exception thrown in SimpleITK: Failed to allocate memory for image."),
        RuntimeError("std::bad_alloc"),
        GpuOutOfMemoryError("CUDA out of memory"),
    ],
)
def test_memory_that_is_short_for_two_cases_in_a_row_is_a_doubt(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_case, "_torch", gpu)
    errors: list[Exception | None] = [error, ValueError("x"), error, None, error, error]

    def invoke() -> None:
        if (now := errors.pop(0)) is not None:
            raise now

    runner = CaseRunner(invoke, clear=lambda: None)
    doubts = [runner.run().doubt for _ in range(6)]
    assert doubts == [None] * 5 + ["memory must suffice, and has not for two cases in a row"]


def test_a_refusal_for_want_of_memory_in_the_middle_of_two_cases_is_a_doubt_too() -> None:
    def invoke() -> None:
        raise CaseError("PSMA network", "must fit in memory", "0.1 GiB left") from MemoryError("array")

    runner = CaseRunner(invoke, clear=lambda: None)
    outcomes = [runner.run() for _ in range(2)]
    assert [outcome.status for outcome in outcomes] == [HTTPStatus.UNPROCESSABLE_ENTITY] * 2
    assert [outcome.doubt for outcome in outcomes] == [None, "memory must suffice, and has not for two cases in a row"]


def test_a_refusal_is_no_shortage_of_memory() -> None:
    for words in ("file must be there", "memory of the case"):
        runner = runner_of(RuntimeError(words))
        assert [runner.run().doubt for _ in range(3)] == [None] * 3


@pytest.mark.parametrize(
    ("torch", "doubt"),
    [
        (gpu(), None),
        (gpu(error=GpuOutOfMemoryError("CUDA out of memory")), None),
        (gpu(is_initialized=False, error=RuntimeError("not asked")), None),
        (None, None),
        (
            gpu(error=RuntimeError("CUDA error: device-side assert triggered\nCompile with ...")),
            "CUDA must still compute after a failure, got CUDA error: device-side assert triggered",
        ),
    ],
)
def test_a_gpu_that_answers_no_more_is_a_doubt(
    torch: SimpleNamespace | None, doubt: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_case, "_torch", lambda: torch)
    assert runner_of(RuntimeError("something")).run().doubt == doubt


def test_abandoning_takes_away_what_the_running_case_has_written(temporary_files: Path) -> None:
    cleared: list[str] = []
    found: list[list[Path]] = []

    def invoke() -> None:
        Path(tempfile.mkdtemp(), "file").write_text("x", encoding="utf-8")
        runner.abandon()
        found.append(list(temporary_files.iterdir()))

    runner = CaseRunner(invoke, clear=lambda: cleared.append("cleared"))
    runner.abandon()
    assert not cleared  # between cases the masks are the last case's, and stay
    with suppress(OSError):
        runner.run()
    assert found == [[]]
    assert cleared == ["cleared"]
