"""A fold's network on OpenVINO says what it says on PyTorch."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from petct.errors import CaseError
from petct.manifest import Architecture, Member, read_manifest
from segmentation import openvino_conversion, openvino_network, openvino_package
from segmentation.openvino_network import ComputePrecision, OpenVinoNetwork
from segmentation.packed_model import PackedModel, build_network, load_fold, read_packed_model

RESOURCES = Path(__file__).resolve().parent.parent / "resources"
MEMBERS = {member.architecture: member for member in read_manifest(RESOURCES / "demo.toml").psma.members}
# Air after nnU-Net's CT normalisation, with the deviation of soft tissue.
AIR = -5.3


@pytest.fixture(autouse=True)
def nothing_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_conversion, "SHIPPED_FOLDER", tmp_path / "none")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("converted")


def window(member: Member, *, seed: int) -> torch.Tensor:
    """Noise in one half, air (and no PET, no organs) in the other, lower along the second axis than along the first."""
    model = read_packed_model(member)
    shape = (len(model.dataset["channel_names"]), *model.configuration.patch_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    noise[:, :, : shape[2] // 2] = 0.0
    noise[1, :, : shape[2] // 2] = AIR
    return noise


def air(member: Member) -> torch.Tensor:
    values = torch.zeros_like(window(member, seed=0))
    values[1] = AIR
    return values


def torch_logits(model: PackedModel, windows: list[torch.Tensor], *, fold: int = 0) -> list[torch.Tensor]:
    network = build_network(model.configuration, model.dataset)
    load_fold(network, model, fold=fold)
    with torch.no_grad():
        return [network(window[None])[0] for window in windows]


@pytest.mark.parametrize("architecture", Architecture)
def test_it_says_what_pytorch_says(architecture: Architecture, cache: Path):
    member = MEMBERS[architecture]
    model = read_packed_model(member)
    windows = [window(member, seed=1), air(member), torch.flip(window(member, seed=2), (1, 3))]
    expected = torch_logits(model, windows)

    exact = OpenVinoNetwork.compile(model, fold=0, precision=ComputePrecision.FLOAT32, cache=cache)(windows)
    # With OpenVINO's own normalisation the window of air is wrong by 0.2, and those that are half air by 0.02.
    for ours, theirs, tolerance in zip(exact, expected, (3e-4, 3e-3, 3e-4), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=tolerance)

    rough = OpenVinoNetwork.compile(model, fold=0, precision=ComputePrecision.BFLOAT16, cache=cache)(windows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = torch_logits(model, windows)
    # The same precision costs PyTorch as much.
    for ours, theirs, right in zip(rough, autocast, expected, strict=True):
        assert ours.dtype is torch.float32
        assert 1e-3 < rms(ours - right) < 2.0 * rms(theirs.float() - right)
        assert float((ours.argmax(0) == right.argmax(0)).double().mean()) > 0.995


def rms(difference: torch.Tensor) -> float:
    return float(difference.square().mean().sqrt())


def test_results_repeat_themselves_bit_by_bit_on_one_thread_and_on_two(cache: Path):
    model = read_packed_model(MEMBERS[Architecture.RESENC_M])
    windows = [window(model.member, seed=seed) for seed in (1, 2, 1, 2, 1)]
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 1, 2):
            torch.set_num_threads(threads)
            network = OpenVinoNetwork.compile(model, fold=0, precision=ComputePrecision.FLOAT32, cache=cache)
            found += [network(windows), network(windows)]
    finally:
        torch.set_num_threads(before)
    for logits in found:
        for ours, first in zip(logits, found[0], strict=True):
            assert torch.equal(ours, first)
    # Two requests at least run one after the other in the same memory: results are theirs alone.
    assert torch.equal(found[0][0], found[0][2])
    assert not torch.equal(found[0][0], found[0][1])


def test_the_process_may_still_run_on_every_core(cache: Path):
    cores = os.sched_getaffinity(0)
    model = read_packed_model(MEMBERS[Architecture.PLAIN])
    OpenVinoNetwork.compile(model, fold=0, precision=ComputePrecision.FLOAT32, cache=cache)([air(model.member)])
    assert os.sched_getaffinity(0) == cores


def test_windows_need_not_be_contiguous_and_stay_as_they_are(cache: Path):
    model = read_packed_model(MEMBERS[Architecture.PLAIN])
    network = OpenVinoNetwork.compile(model, fold=0, precision=ComputePrecision.FLOAT32, cache=cache)
    whole = window(model.member, seed=3)
    doubled = torch.zeros((whole.shape[0], *(2 * size for size in whole.shape[1:])))
    doubled[:, ::2, ::2, ::2] = whole
    strided = doubled[:, ::2, ::2, ::2]
    assert not strided.is_contiguous()
    (ours,) = network([strided])
    (theirs,) = network([whole])
    assert torch.equal(ours, theirs)
    assert torch.equal(strided, whole)
    assert network([]) == []


def test_windows_of_another_shape_or_type_are_refused(cache: Path):
    model = read_packed_model(MEMBERS[Architecture.PLAIN])
    network = OpenVinoNetwork.compile(model, fold=0, precision=ComputePrecision.FLOAT32, cache=cache)
    fitting = window(model.member, seed=3)
    with pytest.raises(ValueError, match=r"float32 \(2, 64, 48, 48\) .* got torch.float32 \(3, 64, 48, 48\)"):
        network([fitting, torch.cat([fitting, fitting[:1]])])
    with pytest.raises(ValueError, match=r"got torch.float32 \(2, 48, 64, 48\)"):
        network([fitting.transpose(1, 2)])
    with pytest.raises(ValueError, match=r"got torch.float64"):
        network([fitting.double()])
    assert len(network([fitting])) == 1  # and it goes on working


def test_large_windows_run_one_by_one_and_small_ones_side_by_side():
    ov = openvino_package.load_openvino()

    def side_by_side(size: int, precision: ComputePrecision) -> int:
        voxels = ov.opset13.parameter([1, 2, size, 96, 80], ov.Type.f32)
        joined = ov.opset13.concat([voxels] * 32, 1)
        graph = ov.Model([ov.opset13.relu(joined)], [voxels], "joined")
        return openvino_network._side_by_side(graph, precision=precision)

    # 64 features x size x 96 x 80 numbers of 4 bytes, twice: 3.75 MiB for each of `size`; 512 MiB in all.
    assert side_by_side(12, ComputePrecision.FLOAT32) == 8
    assert side_by_side(40, ComputePrecision.FLOAT32) == 3
    assert side_by_side(40, ComputePrecision.BFLOAT16) == 6
    assert side_by_side(140, ComputePrecision.FLOAT32) == 1


def test_bfloat16_is_refused_where_the_cpu_has_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(openvino_network, "runs_bf16", lambda: False)
    model = read_packed_model(MEMBERS[Architecture.PLAIN])
    with pytest.raises(CaseError, match=r"^member plain_801 fold 0: CPU must compute bfloat16 by itself"):
        OpenVinoNetwork.compile(model, fold=0, precision=ComputePrecision.BFLOAT16, cache=None)


def test_missing_weights_are_refused_by_name():
    model = read_packed_model(MEMBERS[Architecture.PLAIN])
    model = replace(model, member=replace(model.member, folds=(4,)))
    with pytest.raises(CaseError, match=r"^member plain_801 fold 4: file is missing: .*fold_4/checkpoint_final"):
        OpenVinoNetwork.compile(model, fold=4, precision=ComputePrecision.FLOAT32, cache=None)


def test_windows_one_by_one_say_the_same_from_the_start_or_once_memory_is_short(cache: Path):
    model = read_packed_model(MEMBERS[Architecture.PLAIN])
    windows = [window(model.member, seed=seed) for seed in (1, 2, 3)]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        network = OpenVinoNetwork.compile(model, fold=0, precision=ComputePrecision.FLOAT32, cache=cache)
        assert network.at_once > 1
        several = network(windows)
        assert network.go_one_by_one() is not None
        assert network.at_once == 1
        single = OpenVinoNetwork.compile(
            model, fold=0, precision=ComputePrecision.FLOAT32, cache=cache, windows_at_once=1
        )
        assert single.at_once == 1
        assert single.go_one_by_one() is None
        found = [network(windows), single(windows)]
    finally:
        torch.set_num_threads(before)
    for logits in found:
        for ours, first in zip(logits, several, strict=True):
            assert torch.equal(ours, first)


def test_windows_side_by_side_by_their_first_stage():
    # 4 numbers of memory for each of the first stage's, 512 MiB in all, and never more than 8 or fewer than 1.
    assert [openvino_network.side_by_side(mib << 20) for mib in (1, 16, 20, 64, 65, 900)] == [8, 8, 6, 2, 1, 1]
