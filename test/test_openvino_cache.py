"""Converted networks are kept whole, found again, and never taken for others."""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from petct.channels import OrganEncoding
from petct.errors import CaseError
from petct.manifest import Architecture, Manifest, Member, TracerSettings, read_manifest
from segmentation import convert, openvino_cache, openvino_conversion
from segmentation.openvino_network import ComputePrecision, OpenVinoNetwork, convert_all, default_cache
from segmentation.packed_model import Precision, read_packed_model
from tiny_nnunet import make_member, make_results
from training.weights.pack import pack_model

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> tuple[Member, Member]:
    """Two folds of a plain network with two channels, and one residual encoder with ten."""
    root = tmp_path_factory.mktemp("nnUNet_results")
    packed = tmp_path_factory.mktemp("packed")
    plain, resenc, binary = Architecture.PLAIN, Architecture.RESENC_M, OrganEncoding.BINARY
    first = make_results(root, architecture=plain, dataset_id=801, folds=(0, 1))
    second = make_results(root, architecture=resenc, dataset_id=902, folds=(3,), encoding=binary)
    return (
        make_member(first, packed / "plain", architecture=plain, dataset_id=801, folds=(0, 1)),
        make_member(second, packed / "resenc", architecture=resenc, dataset_id=902, folds=(3,), encoding=binary),
    )


@pytest.fixture(autouse=True)
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shipped"
    monkeypatch.setattr(openvino_conversion, "SHIPPED_FOLDER", folder)
    return folder


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for each conversion."""
    lines: list[str] = []
    convert_one = openvino_conversion._convert

    def count(model: Any, *, fold: int) -> Any:
        lines.append(f"{model.member.name} {fold}")
        return convert_one(model, fold=fold)

    monkeypatch.setattr(openvino_conversion, "_convert", count)
    return lines


def logits(member: Member, *, cache: Path | None, fold: int = 0) -> torch.Tensor:
    model = read_packed_model(member)
    network = OpenVinoNetwork.compile(model, fold=fold, precision=ComputePrecision.FLOAT32, cache=cache)
    shape = (len(model.dataset["channel_names"]), *model.configuration.patch_size)
    (found,) = network([torch.randn(shape, generator=torch.Generator().manual_seed(7))])
    return found


@pytest.mark.parametrize("stored_as", Precision)
def test_a_kept_network_is_the_converted_one_bit_by_bit(stored_as: Precision, tmp_path: Path, conversions: list[str]):
    results = make_results(tmp_path / "results", architecture=Architecture.PLAIN, dataset_id=801, folds=(0,))
    member = make_member(results, tmp_path / "m", architecture=Architecture.PLAIN, dataset_id=801, folds=(0,))
    shutil.rmtree(member.folder)
    half = stored_as is Precision.FLOAT16
    pack_model(results, folds=(0,), destination=member.folder, clip=None, provenance={}, half=half)
    assert read_packed_model(member).stored_as is stored_as
    converted = logits(member, cache=tmp_path / "cache")
    kept = logits(member, cache=tmp_path / "cache")
    assert torch.equal(kept, converted)
    assert torch.equal(kept, logits(member, cache=None))
    assert conversions == ["m 0", "m 0"]  # not the second time
    (folder,) = (tmp_path / "cache").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["network.bin", "network.xml", "sha256.json"]
    weights = sum(path.stat().st_size for path in member.folder.rglob("*.safetensors"))
    assert (folder / "network.bin").stat().st_size < 1.1 * weights


def test_other_weights_plans_or_converters_are_another_network(
    members: tuple[Member, Member], monkeypatch: pytest.MonkeyPatch
):
    model = read_packed_model(members[0])
    keys = [openvino_conversion.graph_key(model, fold=fold) for fold in (0, 1)]
    keys.append(openvino_conversion.graph_key(replace(model, stored_as=Precision.FLOAT16), fold=0))
    for change in ("patch_size", "architecture"):
        other = read_packed_model(members[0])
        if change == "patch_size":
            other.configuration.configuration["patch_size"] = [16, 32, 24]
        else:
            other.configuration.configuration["architecture"]["arch_kwargs"]["nonlin_kwargs"] = {"inplace": False}
        keys.append(openvino_conversion.graph_key(other, fold=0))
    monkeypatch.setattr(openvino_conversion, "version", lambda name: f"{name} of tomorrow")
    keys.append(openvino_conversion.graph_key(model, fold=0))
    assert len(set(keys)) == 6
    monkeypatch.undo()
    assert openvino_conversion.graph_key(read_packed_model(members[0]), fold=0) == keys[0]


def test_folds_do_not_share_a_network(members: tuple[Member, Member], tmp_path: Path):
    first, second = (logits(members[0], cache=tmp_path / "cache", fold=fold) for fold in (0, 1))
    assert not torch.equal(first, second)
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize(
    "damage", ["a changed byte", "half of the weights", "no graph", "no digests", "an empty folder"]
)
def test_a_damaged_network_is_made_anew(
    damage: str,
    members: tuple[Member, Member],
    tmp_path: Path,
    conversions: list[str],
    caplog: pytest.LogCaptureFixture,
):
    cache = tmp_path / "cache"
    right = logits(members[0], cache=cache)
    (folder,) = cache.iterdir()
    weights = folder / "network.bin"
    if damage == "a changed byte":
        content = bytearray(weights.read_bytes())
        content[len(content) // 2] ^= 0x41
        weights.write_bytes(content)
    elif damage == "half of the weights":
        os.truncate(weights, weights.stat().st_size // 2)
    elif damage == "no graph":
        (folder / "network.xml").unlink()
    elif damage == "no digests":
        (folder / "sha256.json").unlink()
    else:
        shutil.rmtree(folder)
        folder.mkdir()
    with caplog.at_level(logging.INFO):
        assert torch.equal(logits(members[0], cache=cache), right)
    assert f"member plain fold 0: converted network is damaged, another one is made: {folder}" in caplog.messages
    assert torch.equal(logits(members[0], cache=cache), right)
    assert conversions == ["plain 0", "plain 0"]
    assert list(cache.iterdir()) == [folder]


def test_a_network_that_openvino_cannot_read_is_made_anew(
    members: tuple[Member, Member], tmp_path: Path, conversions: list[str]
):
    cache = tmp_path / "cache"
    right = logits(members[0], cache=cache)
    (folder,) = cache.iterdir()
    (folder / "network.xml").write_text("<net>")
    (folder / "sha256.json").write_text(json.dumps(openvino_cache._digests(folder)))
    assert torch.equal(logits(members[0], cache=cache), right)
    assert conversions == ["plain 0", "plain 0"]


def test_a_cache_that_cannot_be_written_is_only_said(
    members: tuple[Member, Member], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").touch()
    assert torch.equal(logits(members[0], cache=tmp_path / "file" / "cache"), logits(members[0], cache=None))
    (message,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert message.startswith("member plain fold 0: converted network is not kept for the next run: ")


def test_a_full_disk_leaves_nothing_behind(
    members: tuple[Member, Member], tmp_path: Path, caplog: pytest.LogCaptureFixture, conversions: list[str]
):
    cache = tmp_path / "cache"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # less than weights or graph
    try:
        logits(members[0], cache=cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "not kept for the next run" in caplog.text
    assert list(cache.iterdir()) == []
    logits(members[0], cache=cache)
    logits(members[0], cache=cache)
    assert len(conversions) == 2


def test_shipped_networks_come_first_and_may_be_read_only(
    members: tuple[Member, Member], tmp_path: Path, shipped: Path, conversions: list[str]
):
    right = logits(members[0], cache=shipped)
    times = {path: path.stat().st_mtime_ns for path in shipped.rglob("*")}
    assert torch.equal(logits(members[0], cache=tmp_path / "cache"), right)
    assert conversions == ["plain 0"]
    assert not (tmp_path / "cache").exists()
    assert {path: path.stat().st_mtime_ns for path in shipped.rglob("*")} == times
    # A damaged one is made up for in the user's own cache; the shipped folder is never written.
    (damaged,) = shipped.glob("*/network.bin")
    os.truncate(damaged, 100)
    for _ in range(2):
        assert torch.equal(logits(members[0], cache=tmp_path / "cache"), right)
    assert conversions == ["plain 0", "plain 0"]
    assert damaged.stat().st_size == 100


def test_another_process_that_was_faster_wins(
    members: tuple[Member, Member], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    cache = tmp_path / "cache"
    convert_one = openvino_conversion._convert
    kept: list[int] = []

    def while_another_converts(model: Any, *, fold: int) -> Any:
        monkeypatch.setattr(openvino_conversion, "_convert", convert_one)
        logits(members[0], cache=cache, fold=fold)  # the other process, from beginning to end
        (folder,) = cache.iterdir()
        kept.append((folder / "network.bin").stat().st_ino)
        return convert_one(model, fold=fold)

    monkeypatch.setattr(openvino_conversion, "_convert", while_another_converts)
    right = logits(members[0], cache=cache)
    (folder,) = cache.iterdir()
    assert (folder / "network.bin").stat().st_ino == kept[0]
    assert torch.equal(logits(members[0], cache=cache), right)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_two_processes_convert_at_once(members: tuple[Member, Member], tmp_path: Path, conversions: list[str]):
    cache = tmp_path / "cache"
    program = (
        "import sys, pathlib; sys.path[:0] = sys.argv[1:3]\n"
        "import test_openvino_cache as t, pickle\n"
        "member = pickle.loads(bytes.fromhex(sys.argv[3]))\n"
        "sys.stdin.readline()\n"  # start together
        "t.logits(member, cache=pathlib.Path(sys.argv[4]))\n"
    )
    arguments = [str(ROOT), str(ROOT / "test"), pickle.dumps(members[0]).hex(), str(cache)]
    processes = [
        subprocess.Popen([sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.close()
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert len(list(cache.iterdir())) == 1
    assert torch.equal(logits(members[0], cache=cache), logits(members[0], cache=None))
    assert conversions == ["plain 0"]  # of `cache=None` alone


def manifest_of(members: tuple[Member, Member]) -> Manifest:
    demo = read_manifest(ROOT / "resources" / "demo.toml")

    def settings(tracer: TracerSettings, member: Member) -> TracerSettings:
        return replace(tracer, members=(member,))

    return replace(demo, psma=settings(demo.psma, members[0]), fdg=settings(demo.fdg, members[1]))


def test_a_whole_manifest_is_converted_once(members: tuple[Member, Member], tmp_path: Path, conversions: list[str]):
    cache = tmp_path / "cache"
    assert convert_all(manifest_of(members), cache=cache) == 3
    assert convert_all(manifest_of(members), cache=cache) == 0
    assert sorted(conversions) == ["plain 0", "plain 1", "resenc 3"]
    (damaged, *_) = cache.iterdir()
    os.truncate(damaged / "network.bin", 5)
    assert convert_all(manifest_of(members), cache=cache) == 1
    logits(members[1], cache=cache, fold=3)
    assert len(conversions) == 4
    (tmp_path / "file").touch()
    with pytest.raises(CaseError, match=r"file/cache: folder for converted networks must be writable"):
        convert_all(manifest_of(members), cache=tmp_path / "file" / "cache")


def test_the_command_refuses_what_is_no_manifest(tmp_path: Path):
    (tmp_path / "m.toml").write_text("name = 3")
    with pytest.raises(SystemExit, match=r"^m.toml name: "):
        convert.main([str(tmp_path / "m.toml"), "--into", str(tmp_path / "cache")])
    assert not (tmp_path / "cache").exists()


def test_the_command_converts_what_a_manifest_names(
    members: tuple[Member, Member], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(convert, "read_manifest", lambda path: manifest_of(members))
    with caplog.at_level(logging.INFO):
        convert.main([str(tmp_path / "m.toml"), "--into", str(tmp_path / "cache")])
    assert caplog.messages[-1].endswith(f": 3 networks converted, into {tmp_path / 'cache'}")
    assert len(list((tmp_path / "cache").iterdir())) == 3
    (members[0].folder / "plans.json").rename(members[0].folder / "plans.away")
    with pytest.raises(SystemExit, match=r"^member plain: file is missing: .*plans.json$"):
        convert.main([str(tmp_path / "m.toml"), "--into", str(tmp_path / "cache")])
    (members[0].folder / "plans.away").rename(members[0].folder / "plans.json")


def test_the_user_s_cache_is_where_the_specification_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "xdg" / "psma-fdg-ttb" / "openvino"
    assert (tmp_path / "xdg" / "psma-fdg-ttb" / "openvino").is_dir()
    for ignored in ("", "not/absolute"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert default_cache() == tmp_path / "home" / ".cache" / "psma-fdg-ttb" / "openvino"


def test_there_is_no_cache_where_none_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert default_cache() is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "read_only"))

    def refuse(path: object, mode: int) -> bool:
        return not mode & os.W_OK

    monkeypatch.setattr(os, "access", refuse)
    assert default_cache() is None


def test_a_folder_that_may_not_be_replaced_is_an_error_of_writing(
    members: tuple[Member, Member], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refuse(source: object, target: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(openvino_cache.os, "replace", refuse)
    logits(members[0], cache=tmp_path / "cache")
    assert "not kept for the next run" in caplog.text
    assert list((tmp_path / "cache").iterdir()) == []
