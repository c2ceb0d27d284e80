"""What a run is asked for: the time limit and the device."""

import argparse
import re

import pytest
import torch

from operation.setting import (
    DEFAULT_MANIFEST,
    TIME_LIMIT_S,
    TIME_LIMIT_VARIABLE,
    add_options,
    choose_device,
    choose_setting,
    choose_time_limit,
)
from petct.errors import CaseError
from petct.manifest import Backend, Mode


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return parser.parse_args(arguments)


def test_the_platforms_limit_leaves_its_own_transfers_five_of_thirty_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TIME_LIMIT_VARIABLE, raising=False)

    assert choose_time_limit(None) == TIME_LIMIT_S == (30 - 5) * 60


def test_the_option_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIME_LIMIT_VARIABLE, "90")

    assert choose_time_limit(None) == 90
    assert choose_time_limit("45.5") == 45.5
    assert choose_time_limit("none") is None


@pytest.mark.parametrize("text", ["0", "-3", "nan", "inf", "soon", "", "1e999"])
def test_a_limit_that_is_no_time_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        CaseError, match=re.escape(f"--time-limit: time limit must be seconds above 0, or none, got {text!r}")
    ):
        choose_time_limit(text)
    monkeypatch.setenv(TIME_LIMIT_VARIABLE, text)
    with pytest.raises(CaseError, match=f"{TIME_LIMIT_VARIABLE}: time limit must be"):
        choose_time_limit(None)


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(CaseError, match="--device: CUDA must be available when it is asked for, got no CUDA device"):
        choose_device("cuda")


def test_mode_and_backend_of_the_command_line_win_over_the_manifests() -> None:
    as_written = choose_setting(options("--device", "cpu"))
    asked = choose_setting(options("--device", "cpu", "--mode", "exact", "--backend", "torch", "--time-limit", "60"))

    assert as_written.manifest.path == DEFAULT_MANIFEST
    assert (as_written.manifest.mode, as_written.manifest.backend) == (Mode.BALANCED, Backend.AUTO)
    assert (asked.manifest.mode, asked.manifest.backend, asked.time_limit_s) == (Mode.EXACT, Backend.TORCH, 60)
