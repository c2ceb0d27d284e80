"""Every row of the table of bad inputs: refused in one line within 10 s and 1 GiB, or taken for what it is."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import forked_reader
from bad_files import Place
from bad_inputs import BadInput, Layout, Outcome, table
from cases import THRESHOLDS_SUV, write_input, write_training_case
from petct.case import Case, Tracer
from petct.folders import SCAN_FOLDERS, read_case
from petct.geometry import grid_of, resample_labels, to_array
from petct.sockets import KNOWN_PLACES, SOCKETS

TABLE = table()
REFUSED = [row for row in TABLE if row.outcome is Outcome.REFUSED]
TAKEN = [row for row in TABLE if row.outcome is not Outcome.REFUSED]


class Reader:
    """The process that reads each case in a process of its own."""

    def __init__(self) -> None:
        command = [sys.executable, forked_reader.__file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(self, case: Path, *, stdout: Path, stderr: Path) -> dict[str, float]:
        """Read a case; what it says goes to the files."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"case": str(case), "stdout": str(stdout), "stderr": str(stderr)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, float] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    process = Reader()
    yield process
    process.close()


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> dict[Layout, Path]:
    folder = tmp_path_factory.mktemp("healthy")
    return {Layout.TRAINING: write_training_case(folder / "case"), Layout.PLATFORM: write_input(folder / "platform")}


@pytest.fixture(scope="module")
def expected(healthy: dict[Layout, Path]) -> dict[Layout, Case]:
    return {layout: read_case(folder) for layout, folder in healthy.items()}


def spoilt(row: BadInput, healthy: dict[Layout, Path], folder: Path) -> Place:
    """A copy of the healthy case, spoilt."""
    place = Place(folder / "case", is_platform=row.layout is Layout.PLATFORM)
    shutil.copytree(healthy[row.layout], place.folder, symlinks=True)
    row.spoil(place)
    return place


def expected_line(row: BadInput) -> re.Pattern[str]:
    """The row's regular expression with the places of the files that its name is about."""
    what = next((what for what in ("threshold", "organs", "ct", "pet") if re.search(rf"\b{what}\b", row.name)), "pet")
    is_platform = row.layout is Layout.PLATFORM
    slugs = [getattr(sockets, what) for sockets in SOCKETS.values()]
    places = [KNOWN_PLACES[slug] for slug in slugs]
    if what != "threshold":
        places = [place + r"/[^:]+?\.mha" for place in places]
    name = {"pet": "PET", "ct": "CT", "organs": "totseg_24", "threshold": "threshold"}[what]
    suffix = r"\.json" if what == "threshold" else r"\.nii\.gz"
    stems = [f"{folder}/{name}" for folder in SCAN_FOLDERS.values()]
    ct = r"images/psma-ct/[^:]+?\.mha" if is_platform else r"PSMA/CT\.nii\.gz"
    named = {
        "{file}": f"({'|'.join(places if is_platform else [stem + suffix for stem in stems])})",
        "{slug}": f"({'|'.join(slugs)})",
        "{stem}": f"({'|'.join(stems)})",
        "{ct}": ct,
    }
    line = row.line
    for word, pattern in named.items():
        line = line.replace(word, pattern)
    return re.compile(line)


@pytest.mark.parametrize("row", REFUSED, ids=[row.name for row in REFUSED])
def test_it_is_refused_by_the_last_line_of_stderr(
    row: BadInput, reader: Reader, healthy: dict[Layout, Path], tmp_path: Path
) -> None:
    place = spoilt(row, healthy, tmp_path)

    done = reader.read(place.folder, stdout=tmp_path / "stdout", stderr=tmp_path / "stderr")

    said = (tmp_path / "stderr").read_text(encoding="utf-8")
    assert done["status"] == 1, f"{done}: {said}"
    assert said.count("\n") == 1
    line = said.rstrip("\n")
    assert line.isprintable()
    assert expected_line(row).fullmatch(line), f"{line!r} is not {expected_line(row).pattern!r}"
    (tmp_path / "stdout").read_text(encoding="utf-8")  # the log, too, must be UTF-8
    assert done["seconds"] < forked_reader.LIMIT_S
    assert done["peak_mib"] < forked_reader.LIMIT_MIB


@pytest.mark.parametrize("row", TAKEN, ids=[row.name for row in TAKEN])
def test_it_is_taken_for_what_it_is(
    row: BadInput,
    healthy: dict[Layout, Path],
    expected: dict[Layout, Case],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    place = spoilt(row, healthy, tmp_path)
    caplog.set_level(logging.INFO)

    case = read_case(place.folder)

    warnings = [record.getMessage() for record in caplog.records]
    assert all(message.isprintable() for message in warnings)
    assert capfd.readouterr() == ("", "")
    if row.outcome is Outcome.WARNED:
        assert any(expected_line(row).match(message) for message in warnings), warnings
    else:
        assert warnings == []
    if row.is_same:
        assert_same(case, expected[row.layout])


def assert_same(case: Case, other: Case) -> None:
    """The same voxels in the same places."""
    for tracer in Tracer:
        scan, before = case.scan(tracer), other.scan(tracer)
        assert scan.suv_threshold == before.suv_threshold
        for image, image_before in ((scan.pet, before.pet), (scan.ct, before.ct), (scan.organs, before.organs)):
            assert image is not None
            assert image_before is not None
            assert np.array_equal(to_array(image), to_array(image_before))
            assert grid_of(image).shape_zyx == grid_of(image_before).shape_zyx
            # NIfTI's quaternions are rounded once more when a file is rewritten.
            corners_mm = grid_of(image_before).corners_mm_xyz()
            assert np.allclose(grid_of(image).corners_mm_xyz(), corners_mm, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["organs and ct stored the other way round", "pet stored feet first", "pet stored left"]
)
@pytest.mark.parametrize("layout", Layout)
def test_a_flipped_image_shows_the_same_patient(
    name: str, layout: Layout, healthy: dict[Layout, Path], expected: dict[Layout, Case], tmp_path: Path
) -> None:
    (row,) = [row for row in TAKEN if row.name.startswith(name) and row.layout is layout]

    case = read_case(spoilt(row, healthy, tmp_path).folder)

    flips = 0
    for tracer in Tracer:
        scan, before = case.scan(tracer), expected[layout].scan(tracer)
        assert scan.suv_threshold == THRESHOLDS_SUV[SCAN_FOLDERS[tracer]]
        for image, image_before in ((scan.pet, before.pet), (scan.ct, before.ct), (scan.organs, before.organs)):
            flips += grid_of(image).direction != pytest.approx(grid_of(image_before).direction, abs=1e-3)
            there = to_array(resample_labels(image, grid_of(image_before)))
            # Nearest neighbours: only at the very rim may rounding lose one.
            assert np.mean(there != to_array(image_before)) < 0.02
    assert flips == (2 if "organs" in name else 1)


def test_the_table_is_as_long_as_it_should_be() -> None:
    names = [row.name for row in TABLE]
    assert len(set(names)) == len(names)
    assert len(REFUSED) >= 80
    assert {row.layout for row in REFUSED} == set(Layout)


def test_names_of_cases_may_be_any_bytes(healthy: dict[Layout, Path], reader: Reader, tmp_path: Path) -> None:
    case = tmp_path / "line\nbreak\x1b[2J"
    shutil.copytree(healthy[Layout.TRAINING], case)
    assert read_case(case).name == r"line break\x1b[2J"
    not_text = Path(str(tmp_path / "not") + "\udcff")
    case.rename(not_text)
    done = reader.read(not_text, stdout=tmp_path / "stdout", stderr=tmp_path / "stderr")
    assert done["status"] == 1
    line = "PSMA/PET.nii.gz: file name must be UTF-8, because ITK reads no other\n"
    assert (tmp_path / "stderr").read_text(encoding="utf-8") == line
