"""A member's folds, one after the other, on what the manifest and the machine say they run on."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch

from petct.errors import CaseError
from petct.manifest import Backend, Mode
from petct.stages import stage
from segmentation import openvino_network
from segmentation.openvino_network import ComputePrecision, OpenVinoNetwork
from segmentation.packed_model import PackedModel, build_network, load_fold
from segmentation.sliding_window import Network
from segmentation.torch_network import TorchNetwork

log = logging.getLogger(__name__)


def choose_backend(wanted: Backend, *, device: torch.device) -> Backend:
    """PyTorch or OpenVINO: what is asked for, else OpenVINO on a CPU if it is installed.

    Raises:
        CaseError: OpenVINO is asked for and is not installed, or the device is not a CPU.
    """
    if wanted is Backend.OPENVINO:
        if not openvino_network.is_available():
            raise CaseError("backend", "OpenVINO must be installed when it is asked for", "no package openvino")
        if device.type != "cpu":
            raise CaseError("backend", "OpenVINO runs on the CPU only", f"device {device.type}")
        return wanted
    if wanted is Backend.AUTO and device.type == "cpu" and openvino_network.is_available():
        return Backend.OPENVINO
    return Backend.TORCH


def choose_precision(mode: Mode, *, backend: Backend) -> ComputePrecision:
    """What OpenVINO computes with: float32 in an exact run, else bfloat16 where the CPU has it."""
    if backend is Backend.OPENVINO and mode is not Mode.EXACT and openvino_network.runs_bf16():
        return ComputePrecision.BFLOAT16
    return ComputePrecision.FLOAT32


def open_folds(
    model: PackedModel, *, mode: Mode, backend: Backend, device: torch.device, windows_at_once: int | None = None
) -> Iterator[tuple[int, Network]]:
    """A member's folds with their networks, one at a time.

    Args:
        model: The member's model.
        mode: How exact the networks have to be.
        backend: PyTorch or OpenVINO.
        device: Where they run.
        windows_at_once: Most windows to compute at a time; None for as many as keep the device busy.

    Raises:
        CaseError: A fold's weights are not those of the network.
    """
    precision = choose_precision(mode, backend=backend)
    network: torch.nn.Module | None = None
    converted: OpenVinoNetwork | None = None
    for fold in model.member.folds:
        with stage("load"):
            if backend is Backend.OPENVINO:
                converted = OpenVinoNetwork.compile(
                    model,
                    fold=fold,
                    precision=precision,
                    cache=openvino_network.default_cache(),
                    windows_at_once=windows_at_once,
                )
                opened: Network = converted
            else:
                network = network or build_network(model.configuration, model.dataset).to(device)
                load_fold(network, model, fold=fold)
                name = f"{model.where} fold {fold}"
                opened = TorchNetwork(network, device=device, name=name, windows_at_once=windows_at_once)
        yield fold, opened
        if converted is not None:
            converted.close()  # whoever took it may hold it still while the next one is made
