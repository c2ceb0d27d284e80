"""Networks that OpenVINO has converted, kept in folders: one shipped with the program, one of the user's own.

A network lies in a folder of its own, named by what it was made from: OpenVINO's two files, and a file with their
digests. The folder gets its name only when it is whole; one that is damaged later is found out by the digests. Any of
it may be deleted at any time.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from segmentation.openvino_package import load_core, load_openvino
from segmentation.weight_files import sha256_of

# Made while the image is built. Not called `openvino`: it lies where Python looks for packages.
SHIPPED_FOLDER = Path(__file__).resolve().parent.parent / "openvino_networks"

_GRAPH_FILE = "network.xml"
_WEIGHTS_FILE = "network.bin"
_DIGESTS_FILE = "sha256.json"

log = logging.getLogger(__name__)


def default_cache() -> Path | None:
    """The user's folder for converted networks, made if need be; None where there can be none.

    It is `psma-fdg-ttb/openvino` in XDG_CACHE_HOME, or in `~/.cache` (XDG Base Directory Specification).
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        # The specification: a path that is not absolute is to be ignored.
        home = named if named.is_absolute() else Path.home() / ".cache"
        folder = home / "psma-fdg-ttb" / "openvino"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: this user has no home
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def read_converted(cache: Path, *, key: str, where: str) -> Any | None:
    """A converted network.

    Args:
        cache: The folder of all networks; it need not be there.
        key: What the network was made from.
        where: Whose network it is, for the log.

    Returns:
        An openvino `Model`, its weights left on the disk until it is compiled; or None if there is none that is whole.
    """
    folder = cache / key
    if not folder.is_dir():
        return None
    if is_kept(cache, key=key):
        try:
            return load_core().read_model(folder / _GRAPH_FILE)
        except RuntimeError:  # OpenVINO cannot read it, or somebody has just taken it away
            pass
    log.warning("%s: converted network is damaged, another one is made: %s", where, folder)
    return None


def write_converted(graph: Any, cache: Path, *, key: str, half: bool) -> None:
    """Keep a converted network. One that another process has put there in the meantime is left alone.

    Args:
        graph: An openvino `Model`.
        cache: The folder of all networks, made if need be.
        key: What the network was made from.
        half: Whether its weights are float16 numbers, which halves what is stored and changes nothing.

    Raises:
        OSError: It cannot be written.
    """
    folder = cache / key
    cache.mkdir(parents=True, exist_ok=True)
    with _hidden_sibling(folder) as partial:
        try:
            load_openvino().save_model(graph, partial / _GRAPH_FILE, compress_to_fp16=half)
        except RuntimeError as error:  # OpenVINO's word for a full disk, too
            raise OSError(f"OpenVINO cannot write {partial}") from error  # its own words name lines of its sources
        (partial / _DIGESTS_FILE).write_text(json.dumps(_digests(partial)) + "\n", encoding="utf-8")
        try:
            os.replace(partial, folder)
        except OSError:
            # A folder takes the place of an empty one only, so another process was faster, or what is there is damaged.
            if not is_kept(cache, key=key):
                with _hidden_sibling(folder) as damaged:
                    os.replace(folder, damaged)
                os.replace(partial, folder)


def is_kept(cache: Path, *, key: str) -> bool:
    """Whether the network is there and whole."""
    folder = cache / key
    try:
        return bool(_digests(folder) == json.loads((folder / _DIGESTS_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False


def _digests(folder: Path) -> dict[str, str]:
    return {name: sha256_of(folder / name) for name in (_GRAPH_FILE, _WEIGHTS_FILE)}


@contextmanager
def _hidden_sibling(folder: Path) -> Iterator[Path]:
    """An empty folder beside, of no other process, which is gone again at the end."""
    sibling = folder.with_name(f".partial.{folder.name}.{secrets.token_hex(4)}")
    sibling.mkdir()
    try:
        yield sibling
    finally:
        with suppress(OSError):  # it has been renamed, or what went wrong is told already
            shutil.rmtree(sibling)
