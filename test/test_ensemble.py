import json
import logging
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from safetensors.torch import load_file, save_file
from scipy import ndimage

from petct import stages
from petct.channels import Channel, ClipHU, OrganEncoding, channel_names
from petct.errors import CaseError
from petct.geometry import check_same_grid, grid_of, to_array, to_image
from petct.manifest import Architecture, Backend, Member, Mode
from segmentation import sliding_window
from segmentation.beside_networks import AtOnce, Background, OneThread, one_ahead
from segmentation.ensemble import Running, ScanEnsemble, mirrorings_of
from segmentation.packed_model import build_network, load_fold, read_packed_model
from segmentation.torch_network import TorchNetwork
from tiny_nnunet import CONFIGURATION, GRID, dataset_name, make_member, make_results, tiny_channels

CPU = torch.device("cpu")
Float = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def nnunet_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nnUNet_results")


@pytest.fixture(scope="module")
def plain(nnunet_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Member:
    """Two folds of a plain network."""
    results = make_results(nnunet_results, architecture=Architecture.PLAIN, dataset_id=801, folds=(0, 1))
    destination = tmp_path_factory.mktemp("packed") / "plain"
    return make_member(results, destination, architecture=Architecture.PLAIN, dataset_id=801, folds=(0, 1))


@pytest.fixture(scope="module")
def resenc(nnunet_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Member:
    """One fold of a residual encoder."""
    results = make_results(nnunet_results, architecture=Architecture.RESENC_M, dataset_id=802, folds=(0,))
    destination = tmp_path_factory.mktemp("packed") / "resenc"
    return make_member(results, destination, architecture=Architecture.RESENC_M, dataset_id=802, folds=(0,))


@pytest.fixture(scope="module")
def soft(nnunet_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Member:
    """One fold of the other residual encoder, which sees organs."""
    encoding = OrganEncoding.SOFT_DISTANCE
    results = make_results(
        nnunet_results, architecture=Architecture.RESENC_L, dataset_id=921, folds=(2,), encoding=encoding
    )
    destination = tmp_path_factory.mktemp("packed") / "soft"
    return make_member(
        results, destination, architecture=Architecture.RESENC_L, dataset_id=921, folds=(2,), encoding=encoding
    )


class TinyScan:
    """Stands in for a scan's channels, and keeps what was built; two voxels can be disease."""

    grid = GRID

    def __init__(self) -> None:
        self.built: list[Channel] = []
        self.ct_hu = tiny_channels()[1]
        self.can_be_disease = np.zeros(GRID.shape_zyx, dtype=np.bool_)
        self.can_be_disease[(9, 12), (14, 17), (12, 16)] = True

    def build(self, channel: Channel) -> Float:
        self.built.append(channel)
        voxels = tiny_channels(10)[channel_names(OrganEncoding.BINARY).index(channel.name)]
        return voxels if channel.clip is None else np.clip(voxels, channel.clip.low_hu, channel.clip.high_hu)


def predict(
    members: Sequence[Member],
    *,
    mirroring: bool = False,
    tile_step: float = 0.5,
    mode: Mode = Mode.EXACT,
    backend: Backend = Backend.TORCH,
    is_everywhere: bool = True,
    background: Background | None = None,
    scan: TinyScan | None = None,
) -> Float:
    ensemble = ScanEnsemble(
        scan or TinyScan(),
        members=members,
        running=Running(mode, backend, mirroring, tile_step, CPU),
        reach_mm=5.0,
        is_everywhere=is_everywhere,
        name="PSMA",
    )
    beside = background or AtOnce()
    return ensemble.predict(one_ahead(ensemble.inputs(), background=beside), background=beside)


def labels_of_nnunets_command(member: Member, folder: Path, *, results: Path, mirroring: bool) -> npt.NDArray[np.uint8]:
    """What `nnUNetv2_predict` writes for the unpacked weights, from channels in files."""
    (folder / "in").mkdir()
    for number, channel in enumerate(tiny_channels()):
        sitk.WriteImage(to_image(channel, GRID), folder / "in" / f"case_{number:04d}.nii.gz")
    command = [
        str(Path(sys.executable).parent / "nnUNetv2_predict"),
        *("-i", str(folder / "in"), "-o", str(folder / "out"), "-d", str(member.dataset_id), "-c", "3d_fullres"),
        *("-p", "nnUNetPlans" if member.architecture is Architecture.PLAIN else "nnUNetResEncUNetMPlans"),
        *("-f", *[str(fold) for fold in member.folds], "-device", "cpu", "-npp", "0", "-nps", "0"),
        *(() if mirroring else ("--disable_tta",)),
    ]
    folders = {f"nnUNet_{name}": str(results) for name in ("raw", "preprocessed", "results")}
    done = subprocess.run(command, env=os.environ | folders, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    written = sitk.ReadImage(folder / "out" / "case.nii.gz")
    check_same_grid(grid_of(written), GRID, where="nnUNetv2_predict", name="the channels")
    return to_array(written)


@pytest.mark.parametrize(
    ("name", "folds", "mirroring"),
    [("plain", (0,), True), ("plain", (0,), False), ("plain", (0, 1), False), ("resenc", (0,), True)],
)
def test_labels_are_those_of_nnunets_command(
    name: str,
    folds: tuple[int, ...],
    mirroring: bool,
    nnunet_results: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    member = replace(request.getfixturevalue(name), folds=folds)
    expected = labels_of_nnunets_command(member, tmp_path, results=nnunet_results, mirroring=mirroring)
    share = np.bincount(expected.ravel(), minlength=3) / expected.size
    assert share.min() > 0.03  # all three labels are there to be confused

    probabilities = predict([member], mirroring=mirroring)
    differs = probabilities.argmax(axis=0) != expected
    assert differs.mean() <= 1e-4
    _, second, first = np.sort(probabilities[:, differs], axis=0)
    assert (first - second < 0.02).all()  # a toss-up

    # The one thing that we do otherwise is the precision of the sum, so it explains every voxel that differs.
    monkeypatch.setattr(sliding_window, "SUM_DTYPE", torch.half)
    assert np.array_equal(predict([member], mirroring=mirroring).argmax(axis=0), expected)


def test_mirroring_and_folds_and_tile_step_matter(plain: Member) -> None:
    labels = [
        predict([replace(plain, folds=(0,))]).argmax(axis=0),
        predict([replace(plain, folds=(0,))], mirroring=True).argmax(axis=0),
        predict([plain]).argmax(axis=0),
        predict([replace(plain, folds=(0,))], tile_step=1.0).argmax(axis=0),
    ]
    for other in labels[1:]:
        assert (other != labels[0]).mean() > 1e-3  # ten times what the comparison with nnU-Net lets pass


def test_a_scan_smaller_than_the_window_is_padded_as_nnunet_does(plain: Member) -> None:
    model = read_packed_model(plain)
    network = build_network(model.configuration, model.dataset)
    load_fold(network, model, fold=1)
    data = torch.randn(2, 13, 40, 27, generator=torch.Generator().manual_seed(3))
    logits = sliding_window.predict_logits(
        TorchNetwork(network, device=CPU, name="tiny"),
        data,
        window=model.configuration.patch_size,
        classes=3,
        mirrorings=sliding_window.all_mirrorings((0, 2)),
        tile_step=0.7,
        device=CPU,
        name="tiny",
    )
    nnunet = nnUNetPredictor(tile_step_size=0.7, device=CPU, allow_tqdm=False)
    nnunet.manual_initialization(
        network, model.plans, model.configuration, None, dict(model.dataset), "nnUNetTrainer", (0, 2)
    )
    expected = nnunet.predict_sliding_window_return_logits(data).float()
    assert logits.shape == expected.shape == (3, 13, 40, 27)
    # nnU-Net's half keeps 11 bits: a thousandth, a few times over where windows overlap.
    assert (logits - expected).abs().median() < 1e-3 * expected.abs().max()
    assert (logits - expected).abs().quantile(0.99) < 1e-2 * expected.abs().max()


class Several:
    """Stands in for a network: its logits are its window's first channels; it keeps how many windows it was given."""

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.asked: list[int] = []

    def __call__(self, windows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        self.asked.append(len(windows))
        return [window[:3].clone() for window in windows]


@pytest.mark.parametrize("at_once", [1, 3, 4, 100])
@pytest.mark.parametrize("axes", [(), (1,), (0, 1, 2)])
def test_windows_are_handed_in_several_at_a_time(at_once: int, axes: tuple[int, ...]) -> None:
    data = torch.randn(4, 21, 17, 30, generator=torch.Generator().manual_seed(8))
    network = Several(at_once)
    mirrorings = sliding_window.all_mirrorings(axes)
    logits = sliding_window.predict_logits(
        network, data, window=(8, 9, 16), classes=3, mirrorings=mirrorings, tile_step=0.5, device=CPU, name="several"
    )
    # Whatever way a window is flipped, it is flipped back, so that the mean is the data.
    np.testing.assert_allclose(logits, data[:3], rtol=0.0, atol=1e-5)
    windows = 5 * 3 * 3 * len(mirrorings)  # (21 - 8) / 4, (17 - 9) / 4.5 and (30 - 16) / 8 steps, rounded up, and one
    assert sum(network.asked) == windows
    assert network.asked == [at_once] * (windows // at_once) + ([windows % at_once] if windows % at_once else [])


def test_all_mirrorings() -> None:
    assert sliding_window.all_mirrorings(()) == [()]
    assert sliding_window.all_mirrorings((0, 2)) == [(), (0,), (2,), (0, 2)]
    assert len(sliding_window.all_mirrorings((0, 1, 2))) == 8


def test_members_are_averaged_as_weighted_probabilities(plain: Member, resenc: Member, soft: Member) -> None:
    members = [replace(plain, folds=(1,), weight=2.0), replace(soft, weight=1.0), replace(resenc, weight=0.5)]
    mean = predict(members)
    one, two, three = (predict([member]) for member in members)
    np.testing.assert_allclose(mean, (2.0 * one + 1.0 * two + 0.5 * three) / (2.0 + 1.0 + 0.5), atol=1e-6)
    np.testing.assert_allclose(mean.sum(axis=0), 1.0, atol=1e-5)
    assert mean.dtype == np.float32
    assert mean.shape == (3, *GRID.shape_zyx)


def near_disease(reach: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    """The voxels within so many of one that can be disease, along every axis."""
    return ndimage.maximum_filter(TinyScan().can_be_disease, size=[2 * r + 1 for r in reach])


# 5 mm are one voxel or two.
REACH = tuple(math.ceil(5.0 / size) for size in GRID.spacing_mm_zyx)


@pytest.mark.parametrize("mirroring", [False, True])
def test_leaving_out_what_does_not_matter_changes_nothing_that_does(plain: Member, mirroring: bool) -> None:
    everywhere = predict([plain], tile_step=0.25, mirroring=mirroring)
    where_it_matters = predict([plain], tile_step=0.25, mirroring=mirroring, is_everywhere=False)
    near = near_disease(REACH)
    assert 0.0 < near.mean() < 0.5
    np.testing.assert_allclose(where_it_matters[:, near], everywhere[:, near], rtol=0.0, atol=1e-6)
    assert (where_it_matters.sum(axis=0) == 0.0).any()


def test_windows_that_do_not_matter_are_not_run(plain: Member) -> None:
    windows = {}
    for is_everywhere in (True, False):
        stages.reset()
        scan = TinyScan()
        scan.can_be_disease[...] = False
        scan.can_be_disease[9, 14, 6] = True
        predict([plain], tile_step=0.05, is_everywhere=is_everywhere, scan=scan)
        windows[is_everywhere] = stages.counts()["windows"]
    assert 0 < windows[False] < windows[True]


def test_beside_the_networks_or_not_is_the_same(plain: Member, soft: Member) -> None:
    members = [plain, soft, replace(plain, folds=(1,))]
    with OneThread() as background:
        beside = predict(members, tile_step=1.0, background=background)
    np.testing.assert_array_equal(beside, predict(members, tile_step=1.0))


@pytest.mark.parametrize("mode", [Mode.BALANCED, Mode.FAST])
def test_a_body_that_fills_the_scan_is_not_cropped(plain: Member, mode: Mode) -> None:
    scan = TinyScan()
    scan.ct_hu = np.full(GRID.shape_zyx, 30.0, dtype=np.float32)
    scan.can_be_disease = np.ones(GRID.shape_zyx, dtype=np.bool_)
    step = 0.75 if mode is Mode.FAST else 0.5
    cropped = predict([plain], mode=mode, scan=scan)
    np.testing.assert_allclose(cropped, predict([plain], tile_step=step), rtol=0.0, atol=1e-6)


def test_a_body_at_one_side_is_cropped_and_runs_fewer_windows(plain: Member) -> None:
    scan = TinyScan()
    scan.ct_hu = np.full(GRID.shape_zyx, -1000.0, dtype=np.float32)
    scan.ct_hu[2:23, 4:34, 2:20] = 30.0
    windows = []
    for mode in (Mode.EXACT, Mode.BALANCED):
        stages.reset()
        probabilities = predict([replace(plain, folds=(0,))], mode=mode, scan=scan, tile_step=0.25)
        windows.append(stages.counts()["windows"])
        np.testing.assert_allclose(probabilities.sum(axis=0), 1.0, atol=1e-5)
    assert windows[1] < windows[0]


def test_a_fast_run_mirrors_left_to_right_at_most(plain: Member) -> None:
    model = read_packed_model(plain)
    assert model.plans.transpose_forward == [1, 0, 2]
    running = Running(Mode.FAST, Backend.TORCH, True, 0.5, CPU)
    for axes, expected in (
        ((0, 1, 2), [(), (2,)]),
        ((0, 1), [(), (0,)]),
        ((), [()]),
    ):
        assert mirrorings_of(replace(model, mirroring_axes=axes), running=running) == expected
    assert mirrorings_of(model, running=replace(running, mirroring=False)) == [()]
    assert len(mirrorings_of(replace(model, mirroring_axes=(0, 1, 2)), running=replace(running, mode=Mode.EXACT))) == 8


def test_openvino_says_what_torch_says(plain: Member, resenc: Member, soft: Member) -> None:
    members = [plain, resenc, soft]
    torchs = predict(members, mirroring=True)
    openvinos = predict(members, mirroring=True, backend=Backend.OPENVINO)
    np.testing.assert_allclose(openvinos, torchs, rtol=0.0, atol=1e-4)


def test_channels_are_built_once_and_with_the_models_clip(plain: Member, tmp_path: Path) -> None:
    clip = ClipHU(-100.0, 30.0)
    clipped = replace(plain, folder=edited(plain, tmp_path, "model.json", ct_clip={"low_hu": -100.0, "high_hu": 30.0}))
    scan = TinyScan()
    members = [replace(member, folds=(0,)) for member in (plain, clipped, plain)]
    mean = predict(members, tile_step=1.0, scan=scan)
    assert len(scan.built) == 3
    assert set(scan.built) == {Channel("pet_ratio"), Channel("ct"), Channel("ct", clip=clip)}
    alone = [predict([member], tile_step=1.0) for member in members]
    assert not np.array_equal(alone[0], alone[1])
    np.testing.assert_allclose(mean, sum(alone) / 3.0, atol=1e-6)


def test_plans_may_have_different_voxels(plain: Member, tmp_path: Path) -> None:
    plans = json.loads((plain.folder / "plans.json").read_text())
    plans["configurations"][CONFIGURATION] |= {"spacing": [4.1, 3.2, 3.5]}
    finer = replace(plain, folder=edited(plain, tmp_path, "plans.json", **plans))
    members = [replace(member, folds=(0,)) for member in (plain, finer, plain)]
    mean = predict(members, tile_step=1.0)
    alone = [predict([member], tile_step=1.0) for member in members[:2]]
    assert np.abs(alone[0] - alone[1]).max() > 0.1
    np.testing.assert_allclose(mean, (2.0 * alone[0] + alone[1]) / 3.0, atol=1e-6)


def test_the_log_has_one_line_per_member_and_says_that_it_lives(
    plain: Member, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dict(os.environ)
    with caplog.at_level(logging.INFO):
        predict([plain], tile_step=1.0)
        said, line = caplog.messages
        assert said == "PSMA networks: exact: nnU-Net's own windows of the whole scan, all mirrorings; PyTorch, float32"
        assert line.startswith("member plain: folds 0, 1: ")
        caplog.clear()
        monkeypatch.setattr(sliding_window, "PROGRESS_INTERVAL_S", 0.0)
        predict([plain], tile_step=1.0)
    assert any(message.startswith("member plain fold 1: 3 of ") for message in caplog.messages)
    assert capfd.readouterr() == ("", "")  # nnU-Net's own code prints freely
    assert dict(os.environ) == before


def test_importing_says_nothing_without_nnunets_environment() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("nnUNet")}
    done = subprocess.run(
        [sys.executable, "-c", "import segmentation.ensemble"],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")


def edited(member: Member, destination: Path, file: str, **changes: object) -> Path:
    """A copy of the packed model with some keys of one of its JSON files set."""
    folder = destination / "edited"
    shutil.copytree(member.folder, folder)
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"organ_encoding": OrganEncoding.BINARY}, "organ encoding binary must have 10 channels, got 2"),
        ({"architecture": Architecture.RESENC_M}, "resenc_m must be a ResidualEncoderUNet, got PlainConvUNet"),
        ({"dataset_id": 802}, "plans must be those of data set 802, got Dataset801_TINY"),
        ({"folds": (0, 3)}, r"^member plain fold 3: file is missing: .*fold_3/checkpoint_final\.safetensors"),
        ({"checkpoint": "best"}, r"file is missing: .*checkpoint_best\.safetensors"),
        ({"folder": Path("nowhere")}, r"file is missing: nowhere/plans\.json"),
    ],
)
def test_a_manifest_that_does_not_fit_the_model_is_refused(
    plain: Member, changes: dict[str, object], rule: str
) -> None:
    with pytest.raises(CaseError, match=rule) as refusal:
        predict([replace(plain, **changes)], tile_step=1.0)
    assert str(refusal.value).startswith("member plain")


@pytest.mark.parametrize(
    ("file", "changes", "rule"),
    [
        ("dataset.json", {"labels": {"background": 0, "normal": 1, "ttb": 2}}, "must be background 0, ttb 1, normal 2"),
        ("dataset.json", {"labels": {"background": 0, "ttb": 1}}, "must be background 0, ttb 1, normal 2"),
        ("model.json", {"configuration": "3d_lowres"}, "must hold the configuration of model.json, got 3d_lowres"),
        ("model.json", {"stored_as": "int8"}, "must be one of float32, float16, got int8"),
        ("model.json", {"stored_as": "float16"}, "must be stored as float16, got torch.float32"),
        ("model.json", {"mirror_axes": [0]}, "key is not known, got mirror_axes"),
    ],
)
def test_a_model_that_is_not_ours_is_refused(
    plain: Member, tmp_path: Path, file: str, changes: dict[str, object], rule: str
) -> None:
    with pytest.raises(CaseError, match=rule) as refusal:
        predict([replace(plain, folder=edited(plain, tmp_path, file, **changes))], tile_step=1.0)
    assert str(refusal.value).startswith("member plain")


def test_the_challenges_own_spelling_of_normal_is_read(plain: Member, tmp_path: Path) -> None:
    labels = {"background": 0, "ttb": 1, "norm": 2}
    read_packed_model(replace(plain, folder=edited(plain, tmp_path, "dataset.json", labels=labels)))


def drop(weights: dict[str, torch.Tensor]) -> None:
    del weights["encoder.stages.0.0.convs.0.conv.weight"]


def add(weights: dict[str, torch.Tensor]) -> None:
    weights["classifier.weight"] = torch.zeros(3)


def reshape(weights: dict[str, torch.Tensor]) -> None:
    weights["decoder.seg_layers.1.bias"] = torch.zeros(4)


def spoil(weights: dict[str, torch.Tensor]) -> None:
    weights["decoder.seg_layers.1.bias"][0] = float("nan")


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (drop, r"every tensor of the network, encoder\.stages\.0\.0\.convs\.0\.conv\.weight is missing"),
        (add, r"nothing but the network's tensors, got classifier\.weight"),
        (reshape, r"tensor decoder\.seg_layers\.1\.bias must have shape \(3,\), got \(4,\)"),
        (spoil, "logits must be finite, got NaN or infinity"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    plain: Member, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], rule: str
) -> None:
    folder = edited(plain, tmp_path, "model.json")
    path = folder / "fold_1" / "checkpoint_final.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    with pytest.raises(CaseError, match=f"^member plain fold 1: .*{rule}"):
        predict([replace(plain, folder=folder)], tile_step=1.0)


def test_a_pickle_in_place_of_weights_is_refused(plain: Member, nnunet_results: Path, tmp_path: Path) -> None:
    folder = edited(plain, tmp_path, "model.json")
    pickled = nnunet_results / dataset_name(801) / "nnUNetTrainer__nnUNetPlans__3d_fullres" / "fold_0"
    shutil.copyfile(pickled / "checkpoint_final.pth", folder / "fold_0" / "checkpoint_final.safetensors")
    with pytest.raises(CaseError, match="^member plain fold 0: weights must be a safetensors file"):
        predict([replace(plain, folder=folder)], tile_step=1.0)


def test_an_ensemble_without_members_is_refused() -> None:
    with pytest.raises(ValueError, match="an ensemble must have at least one member"):
        predict([])
