import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from benchmark import cases
from benchmark.cases import CaseName, describe_case, make_case
from benchmark_case import CT_GRIDS, PET_GRIDS, write_benchmark_case
from petct.case import Tracer
from petct.errors import CaseError
from training.phantoms import PhantomSize, generate_patient
from training.phantoms.scanner import PET_GRIDS as PET_GRIDS_FILE
from training.phantoms.scanner import PetGrid, draw_scanner, real_pet_grids

REFERENCE_GRIDS = Path(__file__).resolve().parents[2] / "shared" / "reference" / "pet_grids.json"
CORNERS_MM = {"low_mm_xyz": np.array([-220.0, -120.0, 0.0]), "high_mm_xyz": np.array([220.0, 110.0, 1050.0])}


def voxels(grid: PetGrid) -> int:
    return int(np.prod(grid.shape_zyx))


def test_the_cases_grids_are_the_common_the_median_and_the_largest_real_ones() -> None:
    grids = real_pet_grids()
    every = [grid for tracer in Tracer for grid in grids[tracer]]
    for tracer in Tracer:
        assert max(set(grids[tracer]), key=grids[tracer].count) == cases.COMMON
        assert cases.MEDIAN in grids[tracer]
    assert tuple(np.median([grid.shape_zyx for grid in every], axis=0)) == cases.MEDIAN.shape_zyx
    spacings_mm = np.median([grid.spacing_mm_zyx for grid in every], axis=0)
    np.testing.assert_allclose(spacings_mm, cases.MEDIAN.spacing_mm_zyx, rtol=0.02)
    assert max(grids[Tracer.PSMA], key=voxels) == cases.LARGEST_PSMA
    assert max(grids[Tracer.FDG], key=voxels) == cases.LARGEST_FDG


def test_the_phantoms_grids_are_the_real_ones() -> None:
    if not REFERENCE_GRIDS.is_file():
        warnings.warn(
            f"nothing to compare the phantoms' PET grids with, it is missing: {REFERENCE_GRIDS}", stacklevel=1
        )
        return
    ours, real = (json.loads(file.read_text()) for file in (PET_GRIDS_FILE, REFERENCE_GRIDS))
    for tracer in Tracer:
        assert ours[tracer.value] == real[tracer.name]["pet_grids"]


@pytest.mark.parametrize("name", [name for name in CaseName if name is not CaseName.DEMO])
@pytest.mark.parametrize("tracer", list(Tracer))
def test_a_clinical_scan_has_the_grid_that_is_asked_for_and_is_else_what_it_was(name: CaseName, tracer: Tracer) -> None:
    wanted = cases._PET_GRIDS[name]
    drawn, given = (
        draw_scanner(
            np.random.default_rng(cases.CLINICAL_SEED),
            tracer=tracer,
            size=PhantomSize.CLINICAL,
            pet_grids=grids,
            **CORNERS_MM,
        )
        for grids in (None, wanted)
    )
    assert given.pet_grid.shape_zyx == wanted[tracer].shape_zyx
    assert given.pet_grid.spacing_mm_zyx == wanted[tracer].spacing_mm_zyx
    assert given.pet_grid.shape_zyx != drawn.pet_grid.shape_zyx
    for setting in ("psf_fwhm_mm", "noise_suv", "noise_fwhm_mm", "ct_noise_hu"):
        assert getattr(given, setting) == getattr(drawn, setting)
    assert given.to_scanner.GetParameters() == drawn.to_scanner.GetParameters()
    assert given.ct_grid.spacing_mm_xyz == drawn.ct_grid.spacing_mm_xyz
    assert given.ct_grid.size_xyz[:2] == (512, 512)
    long_mm = wanted[tracer].shape_zyx[0] * wanted[tracer].spacing_mm_zyx[0]
    assert abs(given.ct_grid.shape_zyx[0] * given.ct_grid.spacing_mm_xyz[2] - long_mm) < 3.0


def test_grids_are_for_clinical_phantoms_only() -> None:
    with pytest.raises(CaseError, match="PET grids may be given for clinical size only, got tiny"):
        generate_patient(3, size=PhantomSize.TINY, pet_grids=cases._PET_GRIDS[CaseName.COMMON])


def test_scanners_of_known_seeds_are_what_they_were() -> None:
    digest = hashlib.sha256()
    for seed in range(40):
        for tracer in Tracer:
            rng = np.random.default_rng(seed)
            scanner = draw_scanner(rng, tracer=tracer, size=PhantomSize.CLINICAL, **CORNERS_MM)
            settings = (scanner.psf_fwhm_mm, scanner.noise_suv, scanner.noise_fwhm_mm, scanner.ct_noise_hu)
            digest.update(repr((scanner.pet_grid, scanner.ct_grid, *settings)).encode())
    # Taken from the code before grids could be asked for.
    assert digest.hexdigest() == "944d4577c2fea2fa6175bf9c78747123d24a7923854b91ea330ff36993f66313"


def test_a_case_is_made_once(tmp_path: Path) -> None:
    made = make_case(CaseName.DEMO, work=tmp_path)
    assert made.folder == (tmp_path / "cases" / "demo" / f"train_{cases.DEMO_SEED:04d}").resolve()
    before = {file: file.stat().st_mtime_ns for file in made.folder.rglob("*")}
    assert make_case(CaseName.DEMO, work=tmp_path) == made
    assert {file: file.stat().st_mtime_ns for file in made.folder.rglob("*")} == before


def test_a_users_case_is_described_by_its_headers_and_its_files(tmp_path: Path) -> None:
    folder = write_benchmark_case(tmp_path / "train_0001")
    case = describe_case(folder, name="mine")
    for tracer in Tracer:
        for kind, grid in (("pet", PET_GRIDS[tracer]), ("ct", CT_GRIDS[tracer])):
            assert case.scans[tracer.value][kind]["shape_zyx"] == list(grid.shape_zyx)
            assert case.scans[tracer.value][kind]["spacing_mm_zyx"] == pytest.approx(grid.spacing_mm_zyx, abs=1e-4)
    (folder / "FDG" / "threshold.json").write_text("2.5")
    assert describe_case(folder, name="mine").sha256 != case.sha256
    (folder / "PSMA" / "totseg_24.nii.gz").unlink()
    with pytest.raises(CaseError, match="train_0001 PSMA: a case to measure must bring its organ maps"):
        describe_case(folder, name="mine")
