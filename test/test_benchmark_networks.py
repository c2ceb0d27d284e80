import json
import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    nnUNetPlannerResEncL,
    nnUNetPlannerResEncM,
)
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from benchmark import network_runs
from benchmark.__main__ import main
from benchmark.network_timing import NetworkPrecision, Setting, predict_window, time_setting
from benchmark.real_networks import RANDOM_FOLD, RealNetwork, network_spacing_mm_zyx, read_real_networks
from nnunet_plans import ORGANISERS
from petct.case import Tracer
from petct.channels import OrganEncoding
from petct.manifest import Architecture, Backend
from segmentation.openvino_network import ComputePrecision, OpenVinoNetwork
from segmentation.packed_model import build_network, load_fold
from segmentation.sliding_window import all_mirrorings
from training.phantoms.scanner import PetGrid, real_pet_grids

PLANNERS = {
    Architecture.PLAIN: ExperimentPlanner,
    Architecture.RESENC_M: nnUNetPlannerResEncM,
    Architecture.RESENC_L: nnUNetPlannerResEncL,
}
TINY = RealNetwork(
    architecture=Architecture.PLAIN,
    transpose=(1, 0, 2),
    patch=(8, 24, 16),
    features=(4, 6),
    strides=((1, 1, 1), (2, 2, 2)),
    blocks=(2, 2),
    decoder_convolutions=2,
)
SETTING = Setting(
    network=TINY,
    encoding=OrganEncoding.NONE,
    backend=Backend.TORCH,
    precision=NetworkPrecision.FLOAT32,
    device="cpu",
    flips_at_once=1,
    mirrorings=1,
    windows=2,
    warm_up=1,
    threads=1,
)


@pytest.fixture
def tiny_networks(monkeypatch):
    """Every architecture is the tiny network."""
    networks = {architecture: replace(TINY, architecture=architecture) for architecture in Architecture}
    monkeypatch.setattr(network_runs, "read_real_networks", lambda: networks)


def planned(architecture, tracer, *, channels, root, monkeypatch):
    """What nnU-Net's planner makes of the challenge's grids."""
    name = "Dataset801_PLANNED"
    raw, preprocessed = root / "raw" / name, root / "preprocessed" / name
    for folder in (raw / "imagesTr", raw / "labelsTr", preprocessed):
        folder.mkdir(parents=True)
    dataset = {
        "channel_names": {str(channel): "CT" if channel == 1 else "noNorm" for channel in range(channels)},
        "labels": {"background": 0, "ttb": 1, "normal": 2},
        "numTraining": 100,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(dataset))
    grids = real_pet_grids()[tracer]
    fingerprint = {
        "spacings": [grid.spacing_mm_zyx for grid in grids],
        "shapes_after_crop": [grid.shape_zyx for grid in grids],
        "median_relative_size_after_cropping": 1.0,
    }
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    monkeypatch.setattr(default_experiment_planner, "nnUNet_raw", str(root / "raw"))
    monkeypatch.setattr(default_experiment_planner, "nnUNet_preprocessed", str(root / "preprocessed"))
    planner = PLANNERS[architecture](name)
    transpose, _ = planner.determine_transpose()
    spacing = planner.determine_fullres_target_spacing()
    shape = np.median(
        [compute_new_shape(grid.shape_zyx, grid.spacing_mm_zyx, spacing) for grid in grids],
        axis=0,
    )
    plan = planner.get_plans_for_configuration(
        spacing[transpose], shape[transpose], "planned", float(shape.prod()) * dataset["numTraining"], {}
    )
    return [int(axis) for axis in transpose], plan


def as_json(content):
    return json.loads(json.dumps(content, default=lambda number: number.item()))


@pytest.mark.parametrize(
    ("architecture", "tracer", "encoding"),
    [
        (Architecture.PLAIN, Tracer.FDG, OrganEncoding.NONE),
        (Architecture.RESENC_M, Tracer.PSMA, OrganEncoding.BINARY),
        (Architecture.RESENC_L, Tracer.PSMA, OrganEncoding.NONE),
    ],
)
def test_the_networks_are_those_that_nnunet_plans(architecture, tracer, encoding, tmp_path, monkeypatch):
    network = read_real_networks()[architecture]
    dataset = network.dataset(encoding)
    transpose, plan = planned(
        architecture, tracer, channels=len(dataset["channel_names"]), root=tmp_path, monkeypatch=monkeypatch
    )
    ours = network.plans(encoding)["configurations"]["3d_fullres"]
    assert list(network.transpose) == transpose
    assert list(network.patch) == as_json(plan["patch_size"])
    assert as_json(ours["architecture"]) == as_json(plan["architecture"])
    spacing_mm_zyx = network_spacing_mm_zyx(tracer)
    assert [spacing_mm_zyx[axis] for axis in transpose] == pytest.approx(list(plan["spacing"]))
    with torch.device("meta"):
        nnunets = get_network_from_plans(
            plan["architecture"]["network_class_name"],
            plan["architecture"]["arch_kwargs"],
            plan["architecture"]["_kw_requires_import"],
            len(dataset["channel_names"]),
            3,
            allow_init=False,
            deep_supervision=False,
        )
    assert network.measure(encoding).parameters == sum(weights.numel() for weights in nnunets.parameters())


def test_the_plain_network_is_the_organisers():
    if not ORGANISERS.is_file():
        warnings.warn(f"the organisers' plans are missing, nothing is compared: {ORGANISERS}", stacklevel=1)
        return
    theirs = json.loads(ORGANISERS.read_text())["configurations"]["3d_fullres"]
    ours = read_real_networks()[Architecture.PLAIN].plans(OrganEncoding.NONE)["configurations"]["3d_fullres"]
    assert ours["architecture"] == theirs["architecture"]
    assert ours["patch_size"] == theirs["patch_size"]
    assert ours["spacing"] == pytest.approx(theirs["spacing"], abs=1e-4)


def test_size_of_a_network_is_arithmetic():
    size = TINY.measure(OrganEncoding.NONE)
    convolutions = [(2, 4), (4, 4), (4, 6), (6, 6), (8, 4), (4, 4)]  # encoder, encoder, decoder: from, to
    norms = [2 * to for _, to in convolutions]
    up, last = 6 * 4 * 2**3 + 4, 4 * 3 + 3
    assert size.parameters == sum(27 * one * to + to for one, to in convolutions) + sum(norms) + up + last
    voxels = 8 * 24 * 16
    fine, coarse = [(2, 4), (4, 4), (8, 4), (4, 4)], [(4, 6), (6, 6)]
    multiplications = (
        sum(27 * one * to for one, to in fine) * voxels
        + sum(27 * one * to for one, to in coarse) * voxels // 8
        + (6 * 4 + 4 * 3) * voxels
    )
    assert size.tflop_per_forward * 1e12 == pytest.approx(2 * multiplications)


def test_a_random_network_can_be_packed(tmp_path):
    model = TINY.pack(OrganEncoding.BINARY, folder=tmp_path)
    network = build_network(model.configuration, model.dataset)
    load_fold(network, model, fold=RANDOM_FOLD)
    with torch.no_grad():
        logits = network(torch.ones((1, 10, *TINY.patch)))
    assert logits.shape == (1, 3, *TINY.patch)
    assert logits.std() > 0.0
    assert model.mirroring_axes == (0, 1, 2)


def test_windows_of_a_grid_follow_the_patch_and_not_its_mirror_image():
    # Network axes are (y, z, x), so the patch is 24 along z, 8 along y, 16 along x.
    z_mm, y_mm, x_mm = network_spacing_mm_zyx(Tracer.PSMA)
    same = PetGrid(spacing_mm_zyx=(z_mm, y_mm, x_mm), shape_zyx=(24, 8, 16))
    assert TINY.windows(same, tracer=Tracer.PSMA) == 1
    # Half a window further per step: 36 = 24 + 12 is two windows, 8 + 2 x 4 three, 16 + 1 two.
    assert TINY.windows(replace(same, shape_zyx=(36, 16, 17)), tracer=Tracer.PSMA) == 2 * 3 * 2
    # Twice the voxels of half the size are the same patient; smaller than the window is one window.
    finer = PetGrid(spacing_mm_zyx=(z_mm / 2, y_mm, x_mm), shape_zyx=(72, 3, 4))
    assert TINY.windows(finer, tracer=Tracer.PSMA) == 2


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_a_window_is_the_mean_over_its_mirrorings(at_once):
    torch.manual_seed(3)
    network = TINY.build(OrganEncoding.NONE)
    window = torch.randn((2, *TINY.patch))
    flips = all_mirrorings((0, 1, 2))
    sizes = []

    def counted(windows):
        sizes.append(len(windows))
        return list(network(torch.stack(windows)))

    with torch.no_grad():
        found = predict_window(counted, window, flips=flips, at_once=at_once)
        expected = sum(
            torch.flip(network(torch.flip(window, [axis + 1 for axis in axes])[None])[0], [axis + 1 for axis in axes])
            for axes in flips
        )
    assert sizes == [at_once] * (8 // at_once)
    torch.testing.assert_close(found, expected / 8)


@pytest.mark.parametrize("precision", [NetworkPrecision.FLOAT32, NetworkPrecision.BFLOAT16])
def test_a_setting_is_timed_as_often_as_asked_without_its_warm_up(precision):
    timing = time_setting(replace(SETTING, precision=precision, mirrorings=4, flips_at_once=2))
    assert len(timing.seconds_s) == 2
    assert min(timing.seconds_s) > 0.0
    assert timing.median_s == pytest.approx(sum(timing.seconds_s) / 2)
    assert timing.peak_host_mib > 50.0
    assert timing.peak_gpu_mib is None
    assert timing.threads == 1


def test_openvino_is_given_a_packed_network(monkeypatch):
    given = []
    compile_network = OpenVinoNetwork.compile

    def compiled(model, **options):
        given.append((model.where, options["fold"], options["precision"]))
        return compile_network(model, **options)

    monkeypatch.setattr(OpenVinoNetwork, "compile", compiled)
    timing = time_setting(replace(SETTING, backend=Backend.OPENVINO, mirrorings=2, flips_at_once=2))
    assert given == [("member random plain", RANDOM_FOLD, ComputePrecision.FLOAT32)]
    assert len(timing.seconds_s) == 2
    assert timing.load_s > 0.0


def test_mirrorings_that_do_not_fill_the_passes_are_refused():
    with pytest.raises(ValueError, match="multiple of 4, got 2"):
        time_setting(replace(SETTING, mirrorings=2, flips_at_once=4))


def test_a_setting_that_breaks_down_leaves_the_others(tmp_path):
    # 9 voxels cannot be halved and doubled again, so the decoder's maps do not meet.
    broken = replace(SETTING, network=replace(TINY, patch=(9, 24, 16)))
    measured = network_runs.measure([broken, SETTING], file=tmp_path / "networks.json", overwrite=False)
    (line,) = measured.refused
    assert line.startswith("plain torch cpu float32, 1 mirrorings, 1 at once: RuntimeError: ")
    (row,) = measured.rows
    assert row["patch"] == [8, 24, 16]


@pytest.mark.usefixtures("tiny_networks")
def test_the_command_measures_once_and_shows_it_again(tmp_path, capsys, monkeypatch):
    file = tmp_path / "networks.json"
    command = ["networks", "--json", str(file), "--windows", "1", "--warm-up", "0", "--threads", "1"]
    command += ["--mirrorings", "1", "2", "--flips", "1", "2", "--architectures", "plain"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    # Two mirrorings at once need two mirrorings.
    assert shown.count("| plain | 2 |") == 3
    rows = json.loads(file.read_text())["rows"]
    assert [(row["mirrorings"], row["flips_at_once"]) for row in rows] == [(1, 1), (2, 1), (2, 2)]
    assert f"at most {max(row['load_before'] for row in rows):.1f}." in shown
    size = TINY.measure(OrganEncoding.NONE)
    for row in rows:
        assert row["parameters"] == size.parameters
        assert row["tflop_per_s"] == pytest.approx(size.tflop_per_forward * row["mirrorings"] / row["median_s"])
        assert math.isfinite(row["peak_host_mib"])

    def measured_again(setting):
        raise AssertionError(f"measured again: {setting}")

    monkeypatch.setattr(network_runs, "time_in_own_process", measured_again)
    assert main(command) == 0
    assert capsys.readouterr().out == shown
    with pytest.raises(AssertionError, match="measured again"):
        main([*command, "--overwrite"])
    with pytest.raises(AssertionError, match="measured again"):  # ten channels are another measurement
        main([*command, "--organs", "binary"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precisions", "float16"], "--precisions: float16 must come with --device cuda, got cpu"),
        (["--mirrorings", "3"], "--mirrorings: must be among 1, 2, 4, 8, got 3"),
        (["--warm-up", "-1"], "--warm-up: must be >= 0, got -1"),
        (["--json", "missing/file.json"], "--json: folder must exist, got missing"),
    ],
)
def test_what_cannot_be_run_is_refused(arguments, message, tmp_path, capsys):
    assert main(["networks", "--json", str(tmp_path / "networks.json"), *arguments]) == 1
    assert capsys.readouterr().err.strip() == message


def test_a_file_of_another_command_is_left_alone(tmp_path, capsys):
    file: Path = tmp_path / "growth.json"
    file.write_text('{"command": "growth", "rows": []}')
    assert main(["networks", "--json", str(file)]) == 1
    assert "must be a file of `python -m benchmark networks`, got other JSON" in capsys.readouterr().err
    assert file.read_text() == '{"command": "growth", "rows": []}'
