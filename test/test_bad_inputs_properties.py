"""Whatever is changed in a file that the readers accept: a checked scan or a refusal, never anything else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cases import write_training_case
from fuzz.mutations import compress, mutate_json, mutate_metaimage, mutate_nifti
from fuzz.readers import read_inputs, read_pet, read_threshold, refusal_of, seeds
from petct.checks import check_threshold
from petct.errors import CaseError, one_line, shown
from petct.folders import find_files
from petct.geometry import grid_of, to_array
from petct.metaimage_header import read_metaimage_header
from petct.nifti_header import read_nifti_header
from petct.scan_files import ScanFiles, read_scan

MANY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
RANDOMS = st.randoms(use_true_random=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    return {target: seeds(target, tmp_path_factory.mktemp(target)) for target in ("mha", "nii", "niigz", "threshold")}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    case = tmp_path_factory.mktemp("inputs")
    forms = seeds("inputs", case)
    return case / "input" / "inputs.json", forms


def test_the_readers_accept_what_the_changes_begin_with(
    contents: dict[str, list[bytes]], inputs: tuple[Path, list[bytes]], folder: Path
) -> None:
    for target, name in (("mha", "a.mha"), ("nii", "a.nii"), ("niigz", "c.nii.gz"), ("threshold", "t.json")):
        read = read_threshold if target == "threshold" else read_pet
        for content in contents[target]:
            (folder / name).write_bytes(content)
            assert refusal_of(lambda read=read, name=name: read(folder / name)) is None
    for content in inputs[1]:
        inputs[0].write_bytes(content)
        assert refusal_of(lambda: read_inputs(inputs[0])) is None


@MANY
@given(random=RANDOMS)
def test_any_metaimage(contents: dict[str, list[bytes]], folder: Path, random: Random) -> None:
    content = random.choice(contents["mha"])
    for _ in range(random.choice((1, 1, 3))):
        content = mutate_metaimage(content, random)
    (folder / "b.mha").write_bytes(content)
    refusal_of(lambda: read_pet(folder / "b.mha"))


@MANY
@given(random=RANDOMS)
def test_any_nifti(contents: dict[str, list[bytes]], folder: Path, random: Random) -> None:
    content = mutate_nifti(random.choice(contents["nii"]), random)
    (folder / "b.nii").write_bytes(content)
    refusal = refusal_of(lambda: read_pet(folder / "b.nii"))
    (folder / "d.nii.gz").write_bytes(compress(content))
    refusal_compressed = refusal_of(lambda: read_pet(folder / "d.nii.gz"))
    assert (refusal is None) == (refusal_compressed is None)


@MANY
@given(random=RANDOMS)
def test_any_inputs_json(inputs: tuple[Path, list[bytes]], random: Random) -> None:
    path, forms = inputs
    path.write_bytes(mutate_json(random.choice(forms), random))
    refusal_of(lambda: read_inputs(path))


@MANY
@given(random=RANDOMS)
def test_any_threshold_file(contents: dict[str, list[bytes]], folder: Path, random: Random) -> None:
    (folder / "b.json").write_bytes(mutate_json(random.choice(contents["threshold"]), random))
    refusal_of(lambda: read_threshold(folder / "b.json"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text() | st.just("suv_threshold"), children),
    max_leaves=20,
)


@MANY
@given(value=JSON)
def test_any_threshold_value(value: object) -> None:
    taken = []
    refusal = refusal_of(lambda: taken.append(check_threshold(value, where="t.json")))
    assert (refusal is None) == bool(taken)
    assert all(isinstance(suv, float) and 0.1 <= suv <= 100.0 for suv in taken)
    assert refusal is None or len(str(refusal)) < 500


@MANY
@given(head=st.binary(max_size=2000) | st.binary(min_size=352, max_size=400))
def test_any_bytes_as_a_header(head: bytes) -> None:
    for read in (read_metaimage_header, read_nifti_header):
        with pytest.raises(CaseError):
            read(head, file_bytes=len(head), where="PET")


@MANY
@given(text=st.text(st.characters()), length=st.sampled_from((1, 1, 1, 1000)))
def test_any_text_becomes_one_line(text: str, length: int) -> None:
    for line in (one_line(text * length), shown({text: [text * length]}), str(CaseError(text, text, text))):
        assert line.isprintable()
        assert len(line.encode("utf-8")) < 65536


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ScanFiles]:
    """The files of a PSMA scan in both formats."""
    folder = tmp_path_factory.mktemp("scans")
    return {
        suffix: next(iter(find_files(write_training_case(folder / suffix, suffix=suffix)).values()))
        for suffix in (".mha", ".nii")
    }


@settings(MANY, max_examples=60)
@given(random=RANDOMS, suffix=st.sampled_from((".mha", ".nii")), what=st.sampled_from(("pet", "ct", "organs")))
def test_any_image_of_a_scan(scans: dict[str, ScanFiles], folder: Path, random: Random, suffix: str, what: str) -> None:
    files = scans[suffix]
    file = getattr(files, what)
    changed = folder / f"changed{suffix}"
    mutate = mutate_metaimage if suffix == ".mha" else mutate_nifti
    changed.write_bytes(mutate(file.path.read_bytes(), random))
    found = []
    refusal = refusal_of(lambda: found.append(read_scan(replace(files, **{what: replace(file, path=changed)}))))
    assert (refusal is None) == bool(found)
    for scan in found:
        for image in (scan.pet, scan.ct, scan.organs):
            assert np.all(np.isfinite(to_array(image)))
            assert min(grid_of(image).spacing_mm_xyz) > 0.0
        assert to_array(scan.organs).max() <= 117
        assert grid_of(scan.organs).shape_zyx == grid_of(scan.ct).shape_zyx
