from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from inference import Segmented
from petct.case import Case, Tracer
from petct.errors import CaseError
from petct.geometry import grid_of, to_array
from petct.manifest import read_manifest
from segmentation.organ_maps import OrganSource
from tiny_patients import DISEASE, write_patient
from training.studies import picture as module
from training.studies.picture import draw_found

PAPER = Path(__file__).resolve().parent.parent / "resources" / "paper.toml"


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The method, replaced: it finds the disease's middle slice; the cases that it is asked about are noted."""
    asked: list[str] = []

    def segment_case(case: Case, *, organ_source: OrganSource, **_: object) -> dict[Tracer, Segmented]:
        assert organ_source is OrganSource.TOTALSEGMENTATOR
        asked.append(case.name)
        found = {}
        for tracer in Tracer:
            grid = grid_of(case.scan(tracer).pet)
            ttb = np.zeros(grid.shape_zyx, dtype=bool)
            ttb[DISEASE[0].start + 1, DISEASE[1], DISEASE[2]] = True
            labels = np.zeros(grid.shape_zyx, dtype=np.uint8)
            found[tracer] = Segmented(grid=grid, pet_suv=to_array(case.scan(tracer).pet), labels=labels, ttb=ttb)
        return found

    monkeypatch.setattr(module, "segment_case", segment_case)
    return asked


def draw(patients: list[Path], file: Path) -> Path:
    return draw_found(patients, manifest=read_manifest(PAPER), device=torch.device("cpu"), file=file)


def test_truth_is_red_and_what_was_found_is_blue(tmp_path: Path, calls: list[str]) -> None:
    patients = [write_patient(tmp_path / f"train_{seed:04d}", seed=seed) for seed in range(2)]
    pixels = to_array(sitk.ReadImage(draw(patients, tmp_path / "docs" / "new" / "picture.png"))).astype(int)
    assert calls == ["train_0000", "train_0001"]
    red, green, blue = (pixels[..., channel] for channel in range(3))
    assert (red - np.maximum(green, blue) > 100).any()
    assert (blue - red > 100).any()


@pytest.mark.parametrize("count", [0, 5])
def test_too_many_patients_are_refused_before_any_is_run(tmp_path: Path, calls: list[str], count: int) -> None:
    patients = [tmp_path / f"train_{seed:04d}" for seed in range(count)]
    with pytest.raises(CaseError, match=f"--names: must be one to four patients, got {count}"):
        draw(patients, tmp_path / "picture.png")
    assert calls == []
    assert list(tmp_path.iterdir()) == []
