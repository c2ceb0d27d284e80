"""Writes a manifest for networks of real size with random weights, one member and one fold for either scan.

    PYTHONPATH=. python test/real_manifest.py ARCHITECTURE FOLDER

Mirroring is off: it takes eight times as long and no more memory. Masks mean nothing.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from benchmark.real_networks import read_real_networks
from petct.channels import OrganEncoding
from petct.manifest import MANIFEST_NAME, Architecture, read_manifest
from training.weights.manifest_text import manifest_toml

DEMO = Path(__file__).resolve().parent.parent / "resources" / "demo.toml"


def main(architecture: str, folder: str) -> None:
    """Pack the network and write the manifest into the folder."""
    root = Path(folder).resolve()
    demo = read_manifest(DEMO)
    (root / "network").mkdir(parents=True)
    network = read_real_networks()[Architecture(architecture)]
    member = network.pack(OrganEncoding.NONE, folder=root / "network").member
    shutil.rmtree(root / "network" / "results")  # what it was packed from
    member = replace(member, name=f"random_{architecture}")
    manifest = replace(
        demo,
        path=root / MANIFEST_NAME,
        name=f"random_{architecture}",
        warning="random weights: masks mean nothing",
        mirroring=False,
        organs=replace(demo.organs, weights=root / "organs"),
        psma=replace(demo.psma, members=(member,)),
        fdg=replace(demo.fdg, members=(member,)),
    )
    text = manifest_toml(manifest, comment="Networks of real size with random weights: a test of memory.")
    (root / MANIFEST_NAME).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
