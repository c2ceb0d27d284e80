"""What memory a case is predicted to take, against what it takes; and what is given up so that it fits, in order."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from cases import CT_GRIDS, PET_GRIDS
from memory_run import ROOT, measure
from operation.memory_need import MARGIN_BYTES, MARGIN_SHARE, Compute, NetworkSize, ScanSize, predict_need
from operation.memory_plan import TRIED_ABOVE, _organ_share, choose_use, scan_size
from petct.case import Scan, Tracer
from petct.decisions import decisions, forget_decisions
from petct.errors import CaseError
from petct.geometry import Grid, to_image
from petct.manifest import Backend, read_manifest
from petct.memory import Budget
from segmentation.memory_use import MemoryUse
from training.phantoms import PhantomSize
from training.phantoms.population import write_patients

DEMO = ROOT / "resources" / "demo.toml"
MIB, GIB = 1 << 20, 1 << 30
ON_CPU = Compute(Backend.OPENVINO, 4, is_gpu=False, threads=2)
ON_GPU = Compute(Backend.TORCH, 2, is_gpu=True, threads=2)

PLAIN = NetworkSize(
    name="plain",
    seen="none",
    made="a",
    channels=2,
    voxels=10 * MIB,
    padded_voxels=10 * MIB,
    window_voxels=2 * MIB,
    features=32,
    weight_bytes=100 * MIB,
    folds=1,
    has_distances=False,
)
BINARY = replace(PLAIN, name="binary", seen="binary", channels=10)
OTHER = replace(BINARY, name="other", made="b")
SOFT = replace(BINARY, name="soft", seen="soft", has_distances=True)
PSMA = ScanSize("PSMA", 90 * MIB, 20 * MIB, (PLAIN, BINARY, OTHER, SOFT))
FDG = ScanSize("FDG", 12 * MIB, 5 * MIB, (PLAIN, BINARY))


@pytest.fixture(autouse=True)
def no_decisions() -> Iterator[None]:
    forget_decisions()
    yield
    forget_decisions()


def free(number: float) -> Budget:
    return Budget(data_bytes=round(number), resident_bytes=1 << 50, resident_by="the machine")


def chosen() -> list[str]:
    return [decision.chosen for decision in decisions()]


def need(use: MemoryUse, *, compute: Compute = ON_CPU) -> float:
    """What has to be free for a plan, with the margin for what the prediction misses."""
    return predict_need([PSMA, FDG], use=use, compute=compute).host_bytes / (1 - MARGIN_SHARE) + MARGIN_BYTES + 1


NOTHING_BESIDE = replace(MemoryUse.ample(), is_overlapped=False)
ONE_MEMBER = replace(NOTHING_BESIDE, is_group_held=False)
SPACING = (5.8388, 5.272, 5.272)  # of the demo networks, in mm, (z, y, x)
LEAST = replace(ONE_MEMBER, are_channels_remembered=False)


def test_the_need_is_a_sum_of_what_lives_at_the_same_time() -> None:
    one = ScanSize("PSMA", 90 * MIB, 20 * MIB, (PLAIN,))
    got = predict_need([one], use=LEAST, compute=ON_CPU)
    # Labels 2, PET 4, CT 4, mean 12 and resampling the CT 16 bytes a voxel; data, and two channels while they are made;
    # OpenVINO 350 MiB.
    assert got.where == "PSMA plain channels"
    assert got.host_bytes == (90 * (2 + 4 + 4 + 12 + 16) + 10 * 2 * 4 + 10 * 2 * 4 + 350) * MIB
    assert got.gpu_bytes == 0
    small = replace(one, voxels=1 * MIB)
    # Four times the first stage's 256 MiB, the window and its copy, weights three times, data, logits and weights' sum.
    window = 4 * 32 * 2 * 4 + 2 * 2 * 2 * 4
    assert predict_need([small], use=LEAST, compute=ON_CPU).where == "PSMA plain network"
    expected = (2 + 4 + 4 + 12) + 350 + 10 * 2 * 4 + 10 * 4 * 4 + window + 3 * 100
    assert predict_need([small], use=LEAST, compute=ON_CPU).host_bytes == expected * MIB


def test_sums_and_windows_on_a_gpu_take_its_memory_and_not_the_hosts() -> None:
    one = ScanSize("PSMA", 1 * MIB, 1 * MIB, (replace(PLAIN, folds=2),))
    ample = MemoryUse.ample()
    sums = (4 + 3) * 4 * 10 * MIB  # logits and their weights, and the mean of the folds
    both = predict_need([one], use=ample, compute=ON_GPU)
    there = predict_need([one], use=replace(ample, is_sum_on_host=True), compute=ON_GPU)
    assert both.gpu_bytes - there.gpu_bytes == sums
    assert there.host_bytes > both.host_bytes
    single = predict_need([one], use=replace(ample, windows_at_once=1), compute=ON_GPU)
    assert both.gpu_bytes - single.gpu_bytes == (6 * 32 * 2 * 2 + 2 * 2 * 2 * 4) * MIB  # one window less
    on_cpu = predict_need([one], use=replace(ample, is_network_on_host=True), compute=ON_GPU)
    assert on_cpu.gpu_bytes == 0
    assert on_cpu.host_bytes > there.host_bytes


@pytest.mark.parametrize("change", ["voxels", "organ_voxels"])
def test_a_larger_scan_needs_more(change: str) -> None:
    larger = replace(PSMA, **{change: 2 * getattr(PSMA, change)})
    for use in (MemoryUse.ample(), LEAST):
        before = predict_need([PSMA, FDG], use=use, compute=ON_CPU).host_bytes
        assert predict_need([larger, FDG], use=use, compute=ON_CPU).host_bytes > before


def test_nothing_is_given_up_where_all_fits() -> None:
    assert choose_use([PSMA, FDG], compute=ON_CPU, budget=free(64 * GIB), gpu_bytes=0) == MemoryUse.ample()
    assert choose_use([PSMA, FDG], compute=ON_GPU, budget=free(64 * GIB), gpu_bytes=64 * GIB) == MemoryUse.ample()
    assert decisions() == ()


def test_what_is_given_up_comes_in_order_and_no_more_than_needed() -> None:
    budgets = [need(use) for use in (MemoryUse.ample(), NOTHING_BESIDE, ONE_MEMBER, LEAST)]
    assert budgets == sorted(budgets, reverse=True)
    assert len(set(budgets)) == 4
    for use, budget in zip((MemoryUse.ample(), NOTHING_BESIDE, ONE_MEMBER, LEAST), budgets, strict=True):
        assert choose_use([PSMA, FDG], compute=ON_CPU, budget=free(budget), gpu_bytes=0) == use
    # One window at a time would not have lowered the peak, which is where channels are made.
    assert chosen()[-3:] == [
        "nothing is done beside the networks",
        "each member's channels are made when its turn comes",
        "no channels are kept for other members",
    ]
    assert not any(decision.is_loss for decision in decisions())
    assert "GiB would be needed for PSMA " in decisions()[-1].because
    assert "left by RLIMIT_DATA" in decisions()[-1].because


def test_windows_go_one_by_one_where_they_are_what_is_large() -> None:
    small = replace(PLAIN, window_voxels=MIB // 4, weight_bytes=MIB, voxels=MIB, padded_voxels=MIB)
    scan = ScanSize("PSMA", 1 * MIB, 1 * MIB, (small,))
    # 32 MiB of features: four side by side fit in OpenVINO's share, if there are as many threads.
    compute = replace(ON_CPU, threads=8)
    most = predict_need([scan], use=NOTHING_BESIDE, compute=compute).host_bytes
    least = predict_need([scan], use=replace(NOTHING_BESIDE, windows_at_once=1), compute=compute).host_bytes
    assert most - least == 3 * (4 * 32 * MIB + 2 * 2 * MIB)
    budget = least / (1 - MARGIN_SHARE) + MARGIN_BYTES + 1
    use = choose_use([scan], compute=compute, budget=free(budget), gpu_bytes=0)
    assert use.windows_at_once == 1
    assert "one window at a time" in chosen()


def test_a_small_gpu_gives_up_in_order() -> None:
    ample = MemoryUse.ample()
    one = replace(ample, windows_at_once=1)
    sums = replace(one, is_sum_on_host=True)
    cpu = replace(sums, is_network_on_host=True)
    gpu = [predict_need([PSMA, FDG], use=use, compute=ON_GPU).gpu_bytes for use in (ample, one, sums)]
    assert gpu == sorted(gpu, reverse=True)
    for use, least in zip((ample, one, sums, cpu), (*gpu, 0), strict=True):
        forget_decisions()
        assert choose_use([PSMA, FDG], compute=ON_GPU, budget=free(64 * GIB), gpu_bytes=least) == use
    assert chosen() == [
        "one window at a time",
        "windows are summed in the host's memory",
        "the networks run on the CPU",
    ]
    assert [decision.is_loss for decision in decisions()] == [False, False, True]


def test_what_nearly_fits_is_tried_and_what_never_fits_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    least = predict_need([PSMA, FDG], use=LEAST, compute=ON_CPU).host_bytes
    nearly = least / (1 + TRIED_ABOVE) + 1
    assert choose_use([PSMA, FDG], compute=ON_CPU, budget=free(nearly), gpu_bytes=0) == LEAST
    assert "may not suffice; it is tried" in caplog.text
    pattern = (
        r"^memory: case must fit in memory, and needs [\d.]+ GiB for PSMA soft channels, got [\d.]+ GiB left by RL"
    )
    with pytest.raises(CaseError, match=pattern):
        choose_use([PSMA, FDG], compute=ON_CPU, budget=free(least / (1 + TRIED_ABOVE) - 1), gpu_bytes=0)


def test_the_organs_box_with_what_distances_reach() -> None:
    pet_grid = Grid((100, 60, 80), (5.0, 4.0, 3.0), (1.0, 2.0, 3.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    ct_grid = Grid((120, 90, 160), (2.0, 2.0, 2.5), (9.0, 2.0, 3.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    pet = to_image(np.zeros(pet_grid.shape_zyx, dtype=np.float32), pet_grid)
    organs = np.zeros(ct_grid.shape_zyx, dtype=np.uint8)
    assert _organ_share(to_image(organs, ct_grid), pet=pet) == 0.0
    organs[20:60, 12:20, 40:100] = 5
    # Samples 5 to 14, 3 to 4 and 10 to 24 of every fourth voxel, and one more on either side; 40 mm around.
    share = (11 * 4 * 2.5 + 80) / 300 * (3 * 4 * 2.0 + 80) / 240 * (16 * 4 * 2.0 + 80) / 400
    assert _organ_share(to_image(organs, ct_grid), pet=pet) == pytest.approx(share)
    turned = replace(ct_grid, direction=(0, 1, 0, -1, 0, 0, 0, 0, 1))
    assert _organ_share(to_image(organs, turned), pet=pet) == 1.0


def test_the_sizes_of_a_scan() -> None:
    grid, ct_grid = PET_GRIDS["PSMA"], CT_GRIDS["PSMA"]
    pet = to_image(np.zeros(grid.shape_zyx, dtype=np.float32), grid)
    ct = to_image(np.zeros(ct_grid.shape_zyx, dtype=np.int16), ct_grid)
    organs = sitk.Cast(ct, sitk.sitkUInt8)
    members = read_manifest(DEMO).psma.members
    size = scan_size(Scan(Tracer.PSMA, pet, ct, organs, 3.0), organs=organs, members=members)
    assert (size.name, size.voxels) == ("PSMA", int(np.prod(grid.shape_zyx)))
    assert [(network.name, network.channels, network.has_distances) for network in size.networks] == [
        ("plain_801", 2, False),
        ("resenc_m_901", 10, False),
        ("resenc_l_921", 10, True),
    ]
    for network, member in zip(size.networks, members, strict=True):
        assert network.voxels == np.prod(
            [round(n * s / new) for n, s, new in zip(grid.shape_zyx, grid.spacing_mm_zyx, SPACING, strict=True)]
        )
        assert network.padded_voxels == network.window_voxels == 64 * 48 * 48
        assert network.features == 16
        assert network.folds == len(member.folds)
    assert size.networks[0].seen != size.networks[1].seen != size.networks[2].seen


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A phantom of either size."""
    folders = {}
    for size in (PhantomSize.TINY, PhantomSize.DEMO):
        folder = tmp_path_factory.mktemp(size.value)
        write_patients([7], size=size, folder=folder, processes=1)
        folders[size.value] = next(folder.glob("train_*"))
    return folders


@pytest.mark.parametrize(
    ("size", "mode", "backend"),
    [("tiny", "exact", "torch"), ("demo", "exact", "openvino"), ("tiny", "balanced", "auto")],
)
def test_a_run_takes_no_more_than_was_predicted(size: str, mode: str, backend: str, patients: dict[str, Path]) -> None:
    run = measure(patients[size], manifest=DEMO, mode=mode, backend=backend, limit_bytes=15 * GIB)
    assert run.watched.exit_code == 0, run.watched.log
    took = run.watched.data_bytes - run.held_bytes
    assert took > 100 * MIB  # or nothing was measured
    assert took * (1 - MARGIN_SHARE) - MARGIN_BYTES <= run.predicted_bytes, run.predicted_by
    assert run.watched.resident_bytes <= run.held_bytes + run.predicted_bytes
    # Nor so much that a case is refused that fits.
    assert run.predicted_bytes <= 3.0 * took
