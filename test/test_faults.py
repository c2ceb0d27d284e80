"""Faults that strike while the program runs, on this machine; test/run_faults.sh tries them in the container, too."""

from __future__ import annotations

import pytest

from faults.fault import Where
from faults.machines import Host
from faults.table import table
from faults.trials import Trials

BESIDE = "the thread beside the networks"
# One of each kind; the others differ in the stage.
SAMPLE = (
    "SIGTERM, organs",
    "SIGTERM, between the two masks",
    "SIGTERM in a step that hears nothing, networks",
    f"a thread that hangs, until the time limit, {BESIDE}",
    "SIGTERM twice, write",
    "SIGKILL, organs",
    "SIGKILL, write",
    "killed by the kernel, write",
    f"segmentation fault, {BESIDE}",
    f"an error that nobody expects, {BESIDE}",
    f"an error that is no Exception, {BESIDE}",
    "a library leaves with exit code 0, networks",
    f"1 MiB of memory are left, {BESIDE}",
    "1 MiB of memory are left, write",
    "no file may grow, organs",
    "no file may grow, write",
    "no file may grow, converted networks",
    "/output emptied, write",
    "/output's folder becomes a file, write",
    "one bit of a member's weights, start",
    "one bit of TotalSegmentator's weights, start",
    "one bit of a converted network, networks",
    "TotalSegmentator leaves without a word, organs",
    "TotalSegmentator gives an empty map, organs",
    "locale C, no UTF-8, whole run",
    "all three closed, whole run",
    "stdout full, whole run",
)


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Trials:
    return Trials(Host(), folder=tmp_path_factory.mktemp("faults"))


def test_each_fault_has_a_title_of_its_own() -> None:
    titles = [fault.title for fault in table()]
    assert len(titles) == len(set(titles))


@pytest.mark.parametrize("title", SAMPLE)
def test_fault_ends_as_it_must(title: str, trials: Trials) -> None:
    (fault,) = [fault for fault in table() if fault.title == title]
    assert fault.where is not Where.CONTAINER
    trial = trials.run(fault)
    assert trial.wrong == [], trial.ended
