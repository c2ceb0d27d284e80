"""What a user sees when a run is refused: one line that names the fault, and never a mask."""

import logging
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import inference
from operation import setting
from petct.case import Tracer
from petct.geometry import to_image
from petct.manifest import MANIFEST_NAME
from petct.output import mask_file
from platform_case import write_platform_case
from whole_case import CT_GRIDS, PET_GRIDS, Models, stand_in_models, write_case, write_manifest

PROGRAM = Path(inference.__file__)
PAPER = PROGRAM.parent / "resources" / "paper.toml"
ONE_LINE = re.compile(r"\S[^:\n]*: \S[^\n]*\n")  # where: rule, got value


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return stand_in_models(tmp_path / "models")


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """The case in the platform's layout, with organ maps."""
    write_platform_case(write_case(tmp_path / "training"), input_dir=tmp_path / "input")
    return tmp_path / "input"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output folder with the masks of an earlier case."""
    for tracer in Tracer:
        old = mask_file(tmp_path / "output", tracer)
        old.parent.mkdir(parents=True)
        sitk.WriteImage(to_image(np.ones(PET_GRIDS[tracer].shape_zyx, dtype=np.uint8), PET_GRIDS[tracer]), old)
    return tmp_path / "output"


def files_below(folder: Path) -> list[Path]:
    """All but the run's record."""
    return [path for path in folder.rglob("*") if not path.is_dir() and path.name != "run.json"]


def arguments(case: Path, output: Path, manifest: Path, *options: str) -> list[str]:
    return ["--input", str(case), "--output", str(output), "--manifest", str(manifest), *options]


@pytest.fixture
def refusal(output: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a case that must be refused; returns the line on stderr, of the process and its libraries."""

    def run(case: Path, manifest: Path, *options: str, status: int = 1) -> str:
        assert len(files_below(output)) == len(Tracer)
        assert inference.main(arguments(case, output, manifest, *options)) == status
        assert files_below(output) == []
        said = capfd.readouterr().err
        assert ONE_LINE.fullmatch(said), said
        return said.rstrip("\n")

    return run


# ---------------------------------------------------------------------------------------- the program, as it is started


def lose_the_pet(case: Path) -> None:
    (pet,) = (case / "images/psma-pet-ga-68").iterdir()
    pet.unlink()


def negate_the_threshold(case: Path) -> None:
    (case / "fdg-pet-suv-threshold.json").write_text("-1")


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (
            lose_the_pet,
            "psma-pet-ga-68: images/psma-pet-ga-68 must hold one image (.mha, .nii.gz, .nii), got nothing",
        ),
        (negate_the_threshold, "fdg-pet-suv-threshold.json: SUV threshold must be > 0, got -1"),
    ],
)
def test_the_program_says_what_is_wrong_with_a_case_in_one_line(
    spoil: Callable[[Path], None], line: str, models: Models, case: Path, output: Path, tmp_path: Path
) -> None:
    spoil(case)

    done = subprocess.run(
        [sys.executable, PROGRAM, *arguments(case, output, write_manifest(models))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert (done.returncode, done.stderr) == (1, line + "\n")
    assert "Traceback" not in done.stdout
    assert files_below(output) == []


def test_a_failure_inside_ends_the_program_with_code_2_and_one_line(models: Models, case: Path, output: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import inference\n"
        "def fail(*_, **__): raise RuntimeError('CUDA out of memory.\\n  Tried to allocate 20 GiB')\n"
        "inference.segment_case = fail; sys.exit(inference.main(sys.argv[1:]))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(PROGRAM.parent), *arguments(case, output, write_manifest(models))],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    rule = "inference: must fit in memory"
    assert done.stderr == f"{rule}, got RuntimeError: CUDA out of memory. Tried to allocate 20 GiB\n"
    assert done.returncode == 2
    assert "Traceback" in done.stdout
    assert files_below(output) == []


def test_a_run_that_is_told_to_stop_ends_at_once_and_leaves_no_mask(models: Models, case: Path, output: Path) -> None:
    program = (
        "import sys, time; sys.path.insert(0, sys.argv.pop(1)); import inference\n"
        "inference.segment_case = lambda *_, **__: (print('computing', flush=True), time.sleep(300))\n"
        "sys.exit(inference.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, str(PROGRAM.parent), *arguments(case, output, write_manifest(models))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "computing" not in process.stdout.readline():
            assert process.poll() is None
        process.terminate()
        # The platform kills what is still there 5 s later.
        _, said = process.communicate(timeout=5)

    assert process.returncode == 143
    assert said == "inference: must end by itself, got SIGTERM (a time limit, or somebody stopped it)\n"
    assert files_below(output) == []


# ------------------------------------------------------------------------------------------------- the case, in process


def test_an_organ_map_on_another_grid_is_refused(refusal: Callable[..., str], models: Models, case: Path) -> None:
    (organs,) = (case / "images/fdg-ct-organ-segmentation").iterdir()
    grid = CT_GRIDS[Tracer.FDG]
    x, y, z = grid.origin_mm_xyz
    sitk.WriteImage(
        to_image(np.ones(grid.shape_zyx, dtype=np.uint8), replace(grid, origin_mm_xyz=(x, y + 3.2, z))), organs
    )

    line = refusal(case, write_manifest(models))

    assert line.startswith(f"images/fdg-ct-organ-segmentation/{organs.name}: grid must match images/fdg-ct/")
    assert line.endswith(" within 0.01 mm, got origin that differs by 3.2 mm along y")


def test_a_case_without_organ_maps_is_refused_when_only_given_ones_are_wanted(
    refusal: Callable[..., str], models: Models, tmp_path: Path
) -> None:
    case = write_case(tmp_path / "case", has_organs=False)
    # Even without TotalSegmentator's weights: they are not what is asked for.
    manifest = write_manifest(replace(models, organ_weights=models.folder / "none"))

    line = refusal(case, manifest, "--organs", "given")

    assert line == "PSMA organs: organ map must come with the case when --organs is given"


@pytest.mark.parametrize("source", ["auto", "totalsegmentator"])
def test_missing_organ_weights_are_named_with_the_command_that_gets_them(
    source: str, refusal: Callable[..., str], models: Models, tmp_path: Path
) -> None:
    case = write_case(tmp_path / "case", has_organs=source == "totalsegmentator")
    weights = models.folder / "none"

    line = refusal(case, write_manifest(replace(models, organ_weights=weights)), "--organs", source)

    assert line.startswith(f"PSMA organs: TotalSegmentator's weights are missing: {weights}/Dataset298")
    assert f"TOTALSEG_WEIGHTS_PATH={weights} totalseg_download_weights -t total_fast" in line


def test_organ_weights_are_not_needed_for_a_case_that_brings_its_maps(
    refusal: Callable[..., str], models: Models, case: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    manifest = write_manifest(replace(models, organ_weights=models.folder / "none"))

    assert "weights" not in refusal(case, manifest, "--device", "cuda")  # refused later, for want of a GPU


# ------------------------------------------------------------------------------------------------- models and manifests


def test_a_git_lfs_pointer_is_refused(refusal: Callable[..., str], models: Models, case: Path) -> None:
    pointer = models.members[Tracer.FDG][0].folder / "fold_0" / "checkpoint_final.safetensors"
    pointer.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123456789\n")

    line = refusal(case, write_manifest(models))

    assert line == f"member fdg_member: {pointer} is a git-LFS pointer, not the weights: run git lfs pull"


def test_weights_with_another_digest_are_refused(refusal: Callable[..., str], models: Models, case: Path) -> None:
    file = models.members[Tracer.PSMA][0].folder / "plans.json"
    file.write_text("psma plans.json, but others")

    line = refusal(case, write_manifest(models))

    assert re.fullmatch(rf"member psma_member: sha256 of {file} must be [0-9a-f]{{64}}, got [0-9a-f]{{64}}", line)


def test_the_papers_manifest_names_the_file_that_its_authors_never_published(
    refusal: Callable[..., str], case: Path
) -> None:
    line = refusal(case, PAPER)

    assert line == f"member resenc_l_801: file is missing: {PAPER.parent}/paper/resenc_l_801/plans.json"


def test_a_manifest_that_is_not_there_is_refused(refusal: Callable[..., str], case: Path, tmp_path: Path) -> None:
    assert refusal(case, tmp_path / "none.toml") == f"none.toml: manifest file is missing, got {tmp_path}/none.toml"


def test_a_manifest_without_a_setting_is_refused(refusal: Callable[..., str], case: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.toml").write_text("name = 'odd'\n")

    assert refusal(case, tmp_path / "odd.toml") == "odd.toml: key warning is missing"


def test_cuda_is_refused_where_there_is_none(
    refusal: Callable[..., str], models: Models, case: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    line = refusal(case, write_manifest(models), "--device", "cuda")

    assert line == "--device: CUDA must be available when it is asked for, got no CUDA device"


def test_a_failure_while_masks_are_written_leaves_none(
    refusal: Callable[..., str], models: Models, case: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_bad_mask(*_: object, **__: object) -> dict[Tracer, inference.Segmented]:
        scans = {}
        for tracer in Tracer:
            grid = PET_GRIDS[tracer]
            ttb = np.zeros(grid.shape_zyx, dtype=np.bool_ if tracer is Tracer.PSMA else np.float32)
            scans[tracer] = inference.Segmented(grid=grid, pet_suv=ttb, labels=ttb, ttb=ttb)
        return scans

    monkeypatch.setattr(inference, "segment_case", one_bad_mask)

    line = refusal(case, write_manifest(models), status=2)

    assert line.endswith("got ValueError: mask must be boolean, got float32")


# ----------------------------------------------------------------------------------------------- which manifest is used


def test_the_tarballs_manifest_wins_over_the_images_and_the_users_over_both(
    models: Models, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(setting, "MODEL_TARBALL", models.folder / "tarball")
    monkeypatch.setattr(setting, "DEFAULT_MANIFEST", write_manifest(models, name="image"))
    users = write_manifest(models, name="user")

    def manifest_of(*options: str) -> str:
        caplog.clear()
        assert inference.main(["--input", str(tmp_path / "none"), "--output", str(output), *options]) == 1
        (line,) = [message for message in caplog.messages if message.startswith("manifest: ")]
        return line

    assert manifest_of() == f"manifest: image ({models.folder}/image.toml)"
    (models.folder / "tarball" / "lost+found").mkdir(parents=True)
    (models.folder / "tarball" / ".keep").touch()
    assert manifest_of() == f"manifest: image ({models.folder}/image.toml)"
    shipped = models.folder / "tarball" / "manifest.toml"
    shipped.write_text(write_manifest(models, name="tarball").read_text())
    assert manifest_of() == f"manifest: tarball ({shipped})"
    assert manifest_of("--manifest", str(users)) == f"manifest: user ({users})"


@pytest.mark.parametrize("held", ["weights/manifest.toml", "Manifest.toml", "manifest.toml/file"])
def test_a_model_tarball_without_a_manifest_is_refused_and_the_images_networks_do_not_run(
    held: str, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tarball = tmp_path / "tarball"
    (tarball / held).parent.mkdir(parents=True)
    (tarball / held).touch()
    monkeypatch.setattr(setting, "MODEL_TARBALL", tarball)
    output = ["--input", str(tmp_path / "none"), "--output", str(tmp_path / "masks")]
    assert inference.main(output) == 1
    line = f"{tarball}: model tarball must hold the file manifest.toml at its top, got {held.split('/')[0]}\n"
    assert capsys.readouterr().err == line
    assert inference.main([*output, "--manifest", str(write_manifest(models, name="user"))]) == 1
    assert "input" in capsys.readouterr().err  # what is asked for by name is run


def test_the_platforms_folders_are_the_defaults() -> None:
    assert (str(setting.INPUT), str(setting.OUTPUT)) == ("/input", "/output")
    assert str(setting.MODEL_TARBALL / MANIFEST_NAME) == "/opt/ml/model/manifest.toml"
