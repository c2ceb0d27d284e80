"""`python -m benchmark.our_organs`: our way to organ maps, from files to files, for a cold run of its own."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import SimpleITK as sitk

from petct.images import read_image
from petct.manifest import read_manifest
from segmentation.totalsegmentator import find_organ_maps


def main() -> None:
    """Find the organs of the CTs and write the maps, 0.nii.gz, 1.nii.gz and so on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cts", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder for the maps")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--crop-to-body", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    maps = find_organ_maps(
        {f"{number} {path.name}": read_image(path, where=str(path)) for number, path in enumerate(options.cts)},
        settings=read_manifest(options.manifest).organs,
        device=options.device,
        crop_to_body=options.crop_to_body,
    )
    for number, labels in enumerate(maps.values()):
        sitk.WriteImage(labels, options.output / f"{number}.nii.gz", useCompression=True)


if __name__ == "__main__":
    main()
