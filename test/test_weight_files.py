import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from petct.channels import OrganEncoding
from petct.errors import CaseError
from petct.manifest import Architecture, Checkpoint, Member
from segmentation.weight_files import check_files, check_member_files, member_files

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def member(tmp_path: Path) -> Member:
    member = Member(
        name="psma a",
        folder=tmp_path / "a",
        architecture=Architecture.PLAIN,
        dataset_id=801,
        folds=(0, 3),
        checkpoint=Checkpoint.BEST,
        organ_encoding=OrganEncoding.NONE,
        weight=1.0,
        sha256={},
    )
    for file in member_files(member):
        path = member.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.encode())
    return replace(member, sha256={file: digest(file.encode()) for file in member_files(member)})


def test_a_member_needs_its_plans_and_the_weights_of_its_folds(member: Member) -> None:
    assert member_files(member) == (
        "plans.json",
        "dataset.json",
        "model.json",
        "fold_0/checkpoint_best.safetensors",
        "fold_3/checkpoint_best.safetensors",
    )


def test_good_files_pass(member: Member) -> None:
    check_member_files(member)


def test_no_files_pass(tmp_path: Path) -> None:
    check_files(tmp_path, {}, where="organ weights")


def test_a_missing_file_is_named_with_its_whole_path(member: Member) -> None:
    missing = member.folder / "fold_3" / "checkpoint_best.safetensors"
    missing.unlink()
    with pytest.raises(CaseError, match=f"^member psma a: file is missing: {missing}$"):
        check_member_files(member)


def test_a_missing_file_comes_before_missing_digests(member: Member) -> None:
    (member.folder / "dataset.json").unlink()
    with pytest.raises(CaseError, match=r"file is missing: .*dataset\.json$"):
        check_member_files(replace(member, sha256={}))


def test_a_file_without_a_digest_is_refused(member: Member) -> None:
    digests = {file: value for file, value in member.sha256.items() if not file.startswith("fold_3")}
    with pytest.raises(CaseError, match="manifest must give the sha256 of fold_3/checkpoint_best"):
        check_member_files(replace(member, sha256=digests))


def test_a_changed_file_is_refused(member: Member) -> None:
    (member.folder / "plans.json").write_bytes(b"other")
    with pytest.raises(CaseError, match=rf"plans\.json must be {digest(b'plans.json')}, got {digest(b'other')}$"):
        check_member_files(member)


def test_a_listed_file_that_the_member_does_not_need_is_checked_too(member: Member) -> None:
    with pytest.raises(CaseError, match="file is missing: .*LICENCE$"):
        check_member_files(replace(member, sha256={**member.sha256, "LICENCE": digest(b"")}))


def test_a_git_lfs_pointer_is_recognised(member: Member) -> None:
    file = "fold_0/checkpoint_best.safetensors"
    (member.folder / file).write_bytes(POINTER)
    with pytest.raises(CaseError, match=r"fold_0.* is a git-LFS pointer, not the weights: run git lfs pull$"):
        check_member_files(member)
    with pytest.raises(CaseError, match=r"^organs: .* is a git-LFS pointer"):
        check_files(member.folder, {file: digest(POINTER)}, where="organs")
