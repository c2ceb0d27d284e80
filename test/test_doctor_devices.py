"""The doctor on PyTorch, GPU, driver, OpenVINO, and its forward pass; GPUs are made up."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from operation import doctor_devices, doctor_pass, doctor_weights, machine
from operation.doctor_verdicts import Networks, Place
from operation.network_cost import window_flops
from petct.channels import OrganEncoding
from petct.manifest import Backend, Manifest, read_manifest
from segmentation.packed_model import read_packed_model

ROOT = Path(doctor_devices.__file__).resolve().parents[1]
GIB = 1 << 30
CU128 = ["sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]  # of PyTorch 2.8.0's wheel


@pytest.fixture
def demo() -> Manifest:
    return read_manifest(ROOT / "resources" / "demo.toml")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file that tells of the driver, not there yet."""
    file = tmp_path / "version"
    monkeypatch.setattr(machine, "DRIVER_FILE", file)
    return file


def of_torch(wanted: str) -> list[str]:
    place = Place(program=ROOT, output=None, wanted_device=wanted)
    return [verdict.line for verdict in doctor_devices.check_torch(place)]


def of_openvino(manifest: Manifest) -> list[str]:
    networks = Networks(manifest=manifest, device=torch.device("cpu"))
    return [verdict.line for verdict in doctor_devices.check_openvino(networks)]


def make_gpu(monkeypatch: pytest.MonkeyPatch, *, capability: tuple[int, int], free_bytes: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: CU128)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free_bytes, 15 * GIB))


def write_driver(file: Path, version: str) -> None:
    file.write_text(
        f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Sat Feb 17 22:55:48 UTC 2024\nGCC 12\n"
    )


def test_a_gpu_that_will_do(monkeypatch: pytest.MonkeyPatch, driver: Path) -> None:
    make_gpu(monkeypatch, capability=(7, 5), free_bytes=14 * GIB)
    write_driver(driver, "535.161.08")
    build, *lines = of_torch("auto")
    assert build.startswith("ok   torch: PyTorch 2.8.0")
    assert lines == [
        "ok   driver: NVIDIA 535.161.8",
        "ok   GPU: Tesla T4, compute capability 7.5",
        "ok   GPU memory: 14.0 GiB of 15.0 GiB free",
    ]


def test_a_gpu_that_will_not(monkeypatch: pytest.MonkeyPatch, driver: Path) -> None:
    make_gpu(monkeypatch, capability=(6, 1), free_bytes=1 * GIB)
    write_driver(driver, "470.57.02")
    assert [line[:4] for line in of_torch("cuda")] == ["ok  ", "FAIL", "FAIL", "FAIL"]
    assert of_torch("cuda")[1].startswith("FAIL driver: NVIDIA driver must be 525 or newer, got 470.57.2 -> ")
    assert "got compute capability 6.1, too old for sm_70, sm_75, " in of_torch("cuda")[2]
    assert of_torch("cuda")[3].startswith("FAIL GPU memory: 2.0 GiB or more must be free, got 1.0 GiB of 15.0 GiB -> ")
    make_gpu(monkeypatch, capability=(7, 5), free_bytes=5 * GIB)
    assert of_torch("cuda")[3].startswith(
        "warn GPU memory: 8.0 GiB or more should be free, got 5.0 GiB of 15.0 GiB -> "
    )


@pytest.mark.parametrize(
    ("wanted", "version", "expected"),
    [
        ("auto", None, "ok   torch: PyTorch 2.8.0"),
        ("cpu", "535.161.08", "ok   torch: PyTorch 2.8.0"),
        (
            "auto",
            "535.161.08",
            "warn torch: a GPU should be used where there is one, got driver 535.161.8 but no CUDA ",
        ),
        ("auto", "470.57.02", "warn torch: a GPU should be used where there is one, got driver 470.57.2 ("),
        ("cuda", None, "FAIL torch: CUDA must be available when it is asked for, got no NVIDIA driver -> "),
        (
            "cuda",
            "470.57.02",
            "FAIL torch: CUDA must be available when it is asked for, got driver 470.57.2 -> install",
        ),
    ],
)
def test_no_gpu(wanted: str, version: str | None, expected: str, monkeypatch: pytest.MonkeyPatch, driver: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if version is not None:
        write_driver(driver, version)
    (line,) = of_torch(wanted)
    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("capability", "built_for", "expected"),
    [
        ((7, 5), CU128, None),
        ((8, 9), CU128, None),  # runs the code of sm_86
        ((9, 0), ["sm_90a"], None),
        ((12, 1), CU128, None),
        ((10, 3), ["sm_80", "sm_90", "compute_90"], None),  # translated by the driver
        ((6, 1), CU128, "too old"),
        ((7, 2), ["sm_75", "sm_80"], "too old"),
        ((13, 0), CU128, "too new"),
        ((9, 0), [], "too old"),
    ],
)
def test_capabilities(capability: tuple[int, int], built_for: list[str], expected: str | None) -> None:
    problem = doctor_devices.why_not_built_for(capability, built_for=built_for)
    assert (problem and problem[:7]) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.08  Sat Feb 17 2024", (535, 161, 8)),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build", (550, 54, 15)),
        ("something else", None),
    ],
)
def test_drivers(text: str, expected: tuple[int, ...] | None, driver: Path) -> None:
    assert doctor_devices.driver_version() is None
    driver.write_text(text)
    assert doctor_devices.driver_version() == expected


def test_openvino(monkeypatch: pytest.MonkeyPatch, demo: Manifest) -> None:
    (line,) = of_openvino(demo)
    assert line.startswith("ok   openvino: 2026.")
    assert ", used, in " in line
    assert ", not used; " in of_openvino(replace(demo, backend=Backend.TORCH))[0]
    monkeypatch.setattr(doctor_devices, "is_available", lambda: False)
    assert of_openvino(demo)[0].startswith("warn openvino: should be installed, is not")
    assert of_openvino(replace(demo, backend=Backend.OPENVINO))[0].startswith(
        "FAIL openvino: OpenVINO must be installed when the manifest asks for it, got no package openvino -> "
    )


@pytest.mark.parametrize("backend", [Backend.TORCH, Backend.OPENVINO])
def test_a_network_that_gives_no_numbers(backend: Backend, monkeypatch: pytest.MonkeyPatch, demo: Manifest) -> None:
    networks = Networks(manifest=replace(demo, backend=backend), device=torch.device("cpu"))
    (verdict,) = doctor_pass.check_forward_pass(networks)
    assert verdict.line.startswith(f"ok   forward pass: PSMA plain_801 fold 0 by {backend} on the CPU, a window of ")

    class Broken:
        def __init__(self, *_: object, **__: object) -> None: ...

        def __call__(self, windows):
            logits = torch.zeros(3, *windows[0].shape[1:])
            logits[1, 3, 4, 5] = torch.nan
            return [logits]

        compile = classmethod(lambda cls, *_, **__: cls())

    monkeypatch.setattr(doctor_pass, "TorchNetwork", Broken)
    monkeypatch.setattr(doctor_pass, "OpenVinoNetwork", Broken)
    (verdict,) = doctor_pass.check_forward_pass(networks)
    assert verdict.line.startswith("FAIL forward pass: logits of PSMA plain_801 fold 0 must be finite numbers")


def test_a_large_window_is_cut_on_a_cpu_and_whole_on_a_gpu(monkeypatch: pytest.MonkeyPatch, demo: Manifest) -> None:
    model = read_packed_model(demo.psma.members[0])
    patch = tuple(model.configuration.patch_size)
    assert doctor_pass.window_zyx(model, is_whole=True) == patch
    whole = window_flops(model)
    monkeypatch.setattr(doctor_pass, "_CPU_FLOP", whole / 2)
    window = doctor_pass.window_zyx(model, is_whole=False)
    assert 0 < window_flops(doctor_pass.seeing(model, window)) <= whole / 2
    assert all(1 < size <= most for size, most in zip(window, patch, strict=True))
    monkeypatch.setattr(doctor_pass, "_CPU_FLOP", 1.0)  # the least that the network can see
    networks = Networks(manifest=demo, device=torch.device("cpu"))
    (verdict,) = doctor_pass.check_forward_pass(networks)
    least = doctor_pass.window_zyx(model, is_whole=False)
    assert verdict.line.startswith("ok   forward pass: ")
    assert f"a window of {' x '.join(map(str, least))} in " in verdict.line


def test_networks_that_are_yet_to_be_converted(monkeypatch: pytest.MonkeyPatch, demo: Manifest, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor_weights, "SHIPPED_FOLDER", tmp_path / "shipped")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    networks = Networks(manifest=demo, device=torch.device("cpu"))
    (verdict,) = doctor_weights.check_converted(networks)
    assert verdict.line.startswith(
        "warn converted networks: 7 of 7 are made when they run first, some seconds each -> "
    )
    on_torch = Networks(manifest=replace(demo, backend=Backend.TORCH), device=torch.device("cpu"))
    assert list(doctor_weights.check_converted(on_torch)) == []


def test_weights_that_do_not_fit_the_network(demo: Manifest) -> None:
    """The digests are right and the files are whole; what the manifest says of the network is not."""
    binary = demo.psma.members[1]
    without_organs = replace(binary, organ_encoding=OrganEncoding.NONE)
    wrong = replace(demo, psma=replace(demo.psma, members=(without_organs, demo.psma.members[0])))
    lines = [verdict.line for verdict in doctor_weights.check_members(Networks(wrong, torch.device("cpu")))]
    assert lines[0].startswith(
        "FAIL member resenc_m_901: network with organ encoding none must have 2 channels, got 10 -> "
    )
    assert [line[:9] for line in lines[1:]] == ["ok   PSMA", *["ok   FDG "] * 3]
