"""A fold's network as OpenVINO's graph: converted by OpenVINO's own converter once, then found in a cache.

Conversion takes a second or more for each fold and needs the network in PyTorch; reading a converted one takes
hundredths. What a converted network was made from is its name, so that it can never be taken for another's.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from petct.case import Tracer
from petct.errors import CaseError
from petct.manifest import Manifest
from segmentation.openvino_cache import SHIPPED_FOLDER, is_kept, read_converted, write_converted
from segmentation.openvino_package import load_openvino
from segmentation.packed_model import PackedModel, Precision, build_network, load_fold, read_packed_model
from segmentation.weight_files import fold_file, sha256_of

# To be raised with every change to how networks are converted or kept.
_FORMAT = 1
# What makes a graph out of plans and weights; another version may make another one.
_MAKERS = ("openvino", "torch", "dynamic_network_architectures")

log = logging.getLogger(__name__)


def read_or_convert(model: PackedModel, *, fold: int, cache: Path | None) -> Any:
    """The network of one fold as an openvino `Model`, for one window of the plans' patch size.

    It is looked for among the shipped networks and in the cache, and kept there once it had to be converted. A cache
    that cannot be written costs time and a line in the log, nothing else.

    Args:
        model: The member's model.
        fold: One of the member's folds.
        cache: Folder of converted networks; None for none.

    Raises:
        CaseError: The fold's weights are missing or are not the network's.
    """
    where = f"{model.where} fold {fold}"
    key = graph_key(model, fold=fold)
    for folder in (SHIPPED_FOLDER, cache):
        if folder is not None and (graph := read_converted(folder, key=key, where=where)) is not None:
            return graph
    graph = _convert(model, fold=fold)
    if cache is not None:
        try:
            write_converted(graph, cache, key=key, half=model.stored_as is Precision.FLOAT16)
        except OSError as error:
            log.warning("%s: converted network is not kept for the next run: %s", where, error)
    return graph


def convert_all(manifest: Manifest, *, cache: Path) -> int:
    """Convert every fold of every member of a manifest that the cache does not hold yet.

    Args:
        manifest: The manifest.
        cache: Folder of converted networks, made if need be.

    Returns:
        How many networks were converted.

    Raises:
        CaseError: A member is not what the manifest says, or the cache cannot be written.
    """
    members = [member for tracer in Tracer for member in manifest.tracer(tracer).members]
    models = [read_packed_model(member) for member in members]
    folds = [(model, fold) for model in models for fold in model.member.folds]
    converted = 0
    for number, (model, fold) in enumerate(folds, start=1):
        key = graph_key(model, fold=fold)
        if not is_kept(cache, key=key):
            graph = _convert(model, fold=fold)
            try:
                write_converted(graph, cache, key=key, half=model.stored_as is Precision.FLOAT16)
            except OSError as error:
                raise CaseError(str(cache), "folder for converted networks must be writable", str(error)) from error
            converted += 1
        log.info("%s fold %d is there (%d of %d)", model.where, fold, number, len(folds))
    return converted


def graph_key(model: PackedModel, *, fold: int) -> str:
    """Hex digest of everything that the converted network depends on."""
    weights = model.member.folder / fold_file(fold, model.member.checkpoint)
    if not weights.is_file():
        raise CaseError(f"{model.where} fold {fold}", f"file is missing: {weights}")
    configuration = model.configuration
    made_from = {
        "format": _FORMAT,
        "makers": {name: version(name) for name in _MAKERS},
        "weights": sha256_of(weights),
        "stored_as": model.stored_as,
        "network": configuration.network_arch_class_name,
        "arguments": configuration.network_arch_init_kwargs,
        "imported": configuration.network_arch_init_kwargs_req_import,
        "channels": len(model.dataset["channel_names"]),
        "classes": len(model.dataset["labels"]),
        "patch": list(configuration.patch_size),
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def _convert(model: PackedModel, *, fold: int) -> Any:
    started_s = time.monotonic()
    network = build_network(model.configuration, model.dataset)
    load_fold(network, model, fold=fold)
    channels = len(model.dataset["channel_names"])
    patch = tuple(int(size) for size in model.configuration.patch_size)
    # A trace holds for any size that the strides divide, and the smallest one costs least.
    strides = zip(*model.configuration.pool_op_kernel_sizes, strict=True)
    example = (min(size, 2 * math.prod(steps)) for size, steps in zip(patch, strides, strict=True))
    with torch.no_grad(), warnings.catch_warnings():
        # PyTorch's checks of shapes become constants of the trace, as they should.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        traced = torch.jit.trace(network, torch.zeros(1, channels, *example), check_trace=False)
    graph = load_openvino().convert_model(traced, input=[(1, channels, *patch)])
    log.info("%s fold %d: converted for OpenVINO, %.1f s", model.where, fold, time.monotonic() - started_s)
    return graph
