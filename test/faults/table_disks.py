"""Faults of what lies on the disk."""

from __future__ import annotations

from pathlib import Path

from faults import spoil
from faults.fault import Fault, Outcome, Where
from faults.kit import CONVERTED

_NO_SPACE = r"No space left|File too large|must fit into|room for"
REFUSED, MASKS, SILENT = Outcome.REFUSED, Outcome.MASKS, Outcome.SILENT
HOST, CONTAINER = Where.HOST, Where.CONTAINER


def disks() -> list[Fault]:
    """Disks that are full or read-only, folders that change under the program."""
    small = ("--mount", "type=tmpfs,destination=/tmp,tmpfs-size=300k,tmpfs-mode=1777")
    shared = {"outcome": REFUSED, "line": _NO_SPACE}
    unkept = {"outcome": MASKS, "says": "converted network is not kept"}
    in_container = {"where": CONTAINER, "leaves_files": True}
    return [
        Fault("no file may grow", "organs", inject="files:20@organs-write", finds_organs=True, where=HOST, **shared),
        Fault("no file may grow", "write", inject="files:0.3@write", where=HOST, **shared),
        Fault(
            "no file may grow",
            "converted networks",
            inject="files:20@load",
            prepare=spoil.forget_converted,
            where=HOST,
            **unkept,
        ),
        Fault(
            "/tmp full",
            "organs",
            inject="fill-tmp@organs-write",
            finds_organs=True,
            docker=small,
            **in_container,
            **shared,
        ),
        Fault(
            "/tmp full",
            "converted networks",
            inject="fill-tmp@load",
            prepare=spoil.forget_converted,
            docker=small,
            **in_container,
            says=unkept["says"],
            **shared,
        ),
        Fault(
            "/tmp full",
            "TotalSegmentator's process",
            inject="fill-tmp@child",
            finds_organs=True,
            docker=("--mount", "type=tmpfs,destination=/tmp,tmpfs-size=8m,tmpfs-mode=1777"),
            **in_container,
            **shared,
        ),
        Fault(
            "/tmp full",
            "write",
            inject="fill-tmp@postprocess",
            docker=small,
            **in_container,
            **shared,
        ),
        Fault(
            "/output full",
            "write",
            inject="fill-output@write",
            prepare=spoil.lose_output,
            # Nobody sees a tmpfs once its container has ended.
            shell='"$@"; code=$?; rm /output/filler; cp -r /output/. /kept; exit $code',
            docker=(
                *("--mount", "type=tmpfs,destination=/output,tmpfs-size=100k,tmpfs-mode=1777"),
                *("--volume", "{output}:/kept"),
            ),
            where=CONTAINER,
            **shared,
        ),
        Fault(
            "/tmp read-only",
            "start",
            REFUSED,
            docker=("--volume", "{tmp}:/tmp:ro"),
            codes=(1,),
            line=r"^(/tmp|temporary folder): must be a folder that can be written to",
            where=CONTAINER,
        ),
        Fault(
            "/output read-only",
            "start",
            SILENT,
            docker=("--volume", "{output}:/output:ro"),
            prepare=spoil.lose_output,
            codes=(1,),
            where=CONTAINER,
        ),
        Fault("/output emptied", "write", MASKS, inject="hold@write", react=spoil.lose_output),
        Fault(
            "/output's folder becomes a file",
            "write",
            REFUSED,
            inject="hold@write",
            react=spoil.put_file_into_output,
            codes=(1,),
            line="ttb.mha: mask must be writable, got",
        ),
    ]


def weights() -> list[Fault]:
    """Weights that are not what the manifest means, converted networks that are not what they were."""
    refused = {"stage": "start", "outcome": REFUSED, "codes": (1,)}
    remade = {"stage": "networks", "outcome": MASKS, "says": "converted network is damaged, another one is made"}
    unlike = r"sha256 of .*checkpoint_final.* must be"

    def removed(file: Path) -> None:
        file.unlink()

    return [
        Fault("one bit of a member's weights", prepare=spoil.weights(spoil.flip_byte), line=unlike, **refused),
        Fault("a member's weights cut off", prepare=spoil.weights(spoil.cut_off), line=unlike, **refused),
        Fault("a pointer for weights", prepare=spoil.weights(spoil.point_elsewhere), line="git-LFS pointer", **refused),
        Fault("a member's weights missing", prepare=spoil.weights(removed), line="file is missing", **refused),
        Fault("the manifest means other weights", prepare=spoil.other_digest, line=unlike, **refused),
        Fault(
            "one bit of TotalSegmentator's weights",
            prepare=spoil.organ_weights(spoil.flip_byte),
            line=unlike,
            finds_organs=True,
            **refused,
        ),
        Fault(
            "one bit of a converted network",
            prepare=spoil.converted(spoil.flip_byte, file="network.bin"),
            **remade,
        ),
        Fault("a converted network cut off", prepare=spoil.converted(spoil.cut_off, file="network.bin"), **remade),
        Fault(
            "one bit of a converted network's graph",
            prepare=spoil.converted(spoil.flip_byte, file="network.xml"),
            **remade,
        ),
        Fault(
            "one bit of a converted network's digests",
            prepare=spoil.converted(spoil.flip_byte, file="sha256.json"),
            **remade,
        ),
        Fault(
            "one bit of the image's converted networks",
            prepare=spoil.converted(spoil.flip_byte, file="network.bin"),
            docker=("--volume", f"{{tmp}}/cache/{CONVERTED}:/opt/app/openvino_networks:ro"),
            where=CONTAINER,
            **remade,
        ),
    ]
