"""Converts a manifest's networks for OpenVINO ahead of time: `python -m segmentation.convert MANIFEST --into FOLDER`.

Without it, a network is converted when it first runs on a CPU. The image is built with its own networks converted.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from petct.case import Tracer
from petct.errors import CaseError
from petct.manifest import read_manifest
from segmentation.openvino_network import convert_all, is_available
from segmentation.weight_files import check_member_files

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and convert; leaves with status 1 and one line if something given breaks a rule."""
    parser = argparse.ArgumentParser(
        prog="python -m segmentation.convert", description="Convert a manifest's networks for OpenVINO ahead of time."
    )
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="whose networks, .toml")
    parser.add_argument(
        "--into",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="where converted networks are kept; those that are there already are left alone",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout
    )
    try:
        _convert(options.manifest, into=options.into)
    except CaseError as error:
        sys.exit(str(error))


def _convert(path: Path, *, into: Path) -> None:
    if not is_available():
        raise CaseError("backend", "OpenVINO must be installed to convert networks for it", "no package openvino")
    manifest = read_manifest(path)
    for tracer in Tracer:
        for member in manifest.tracer(tracer).members:
            check_member_files(member)
    converted = convert_all(manifest, cache=into)
    log.info("%s: %d networks converted, into %s", manifest.name, converted, into)


if __name__ == "__main__":
    main()
