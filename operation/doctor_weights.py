"""What the doctor says of everything that is learned: members, TotalSegmentator's models, converted networks."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from operation.doctor_verdicts import Networks, Verdict, fail, ok, refused, warn
from petct.case import Tracer
from petct.errors import CaseError
from petct.manifest import Backend, Member
from segmentation import openvino_conversion
from segmentation.networks import choose_backend
from segmentation.openvino_cache import SHIPPED_FOLDER, default_cache, is_kept
from segmentation.packed_model import build_network, load_fold, read_packed_model
from segmentation.totalsegmentator import WEIGHT_FILES, check_organ_weights, model_folders, unpinned_files
from segmentation.weight_files import check_member_files, member_files

_GET_WEIGHTS = "get the files that the manifest means, or name another manifest with --manifest"


def check_members(networks: Networks) -> Iterator[Verdict]:
    """Each member's files are there and the manifest's, and its networks can be filled with them."""
    for tracer in Tracer:
        for member in networks.manifest.tracer(tracer).members:
            try:
                yield _check_member(member, name=f"{tracer.name} {member.name}")
            except CaseError as error:
                yield refused(error, remedy=_GET_WEIGHTS)


def _check_member(member: Member, *, name: str) -> Verdict:
    check_member_files(member)
    model = read_packed_model(member)
    with torch.device("meta"):  # shapes without numbers: every tensor is read and compared, and nothing is computed
        network = build_network(model.configuration, model.dataset)
    for fold in member.folds:
        load_fold(network, model, fold=fold)
    channels = len(model.dataset["channel_names"])
    files, folds = len(member_files(member)), len(member.folds)
    return ok(
        name,
        f"{files} files, sha256 as the manifest says; {folds} fold{'s'[: folds > 1]} of a {member.architecture} "
        f"network with {channels} channels (organs: {member.organ_encoding})",
    )


def check_organs(networks: Networks) -> Iterator[Verdict]:
    """TotalSegmentator's models for the manifest's task are there, and are the manifest's."""
    settings = networks.manifest.organs
    if not settings.sha256:
        rule = "the manifest should give every file's sha256, gives none"
        remedy = "cases that bring organ maps run without TotalSegmentator; all others are refused"
        yield warn(f"TotalSegmentator ({settings.task})", rule, remedy=remedy)
        return
    try:
        check_organ_weights(settings, where="organs")
    except CaseError as error:
        yield refused(error, remedy="cases that bring organ maps run without them; all others need them")
        return
    about, files = f"TotalSegmentator ({settings.task})", len(model_folders(settings.task)) * len(WEIGHT_FILES)
    if unpinned := unpinned_files(settings):
        rule = f"every file must have its sha256 in the manifest, {len(unpinned)} of {files} have none"
        remedy = f"add it to [organs.sha256]: sha256sum {settings.weights / unpinned[0]}"
        yield fail(about, rule, remedy=remedy)
    else:
        yield ok(about, f"{files} files in {settings.weights}, sha256 as the manifest says")


def check_converted(networks: Networks) -> Iterator[Verdict]:
    """Whether OpenVINO's networks are there already, where OpenVINO is what computes."""
    if choose_backend(networks.manifest.backend, device=networks.device) is not Backend.OPENVINO:
        return
    members = [member for tracer in Tracer for member in networks.manifest.tracer(tracer).members]
    caches = [cache for cache in (SHIPPED_FOLDER, default_cache()) if cache is not None]
    folds = missing = 0
    for member in members:
        model = read_packed_model(member)
        for fold in member.folds:
            key = openvino_conversion.graph_key(model, fold=fold)
            folds += 1
            missing += not any(is_kept(cache, key=key) for cache in caches)
    if missing:
        yield warn(
            "converted networks",
            f"{missing} of {folds} are made when they run first, some seconds each",
            remedy=f"python -m segmentation.convert {networks.manifest.path} --into {caches[-1]}",
        )
    else:
        yield ok("converted networks", f"all {folds} are there for OpenVINO")
