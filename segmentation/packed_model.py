"""A packed model: an nnU-Net's plans and its weights, read without unpickling anything.

Its folder holds nnU-Net's own `plans.json` and `dataset.json`, our `model.json`, and per fold one safetensors file.
nnU-Net's networks hold one weight under several names; it is stored once, under the first of them, and the network that
is built from the plans shares it again. `training.weights.pack` writes such folders.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from safetensors import SafetensorError, safe_open

from petct.channels import ClipHU, channel_names
from petct.errors import CaseError
from petct.labels import Label
from petct.manifest import Architecture, Member
from petct.typed_table import TypedTable
from segmentation.weight_files import DATASET_FILE, MODEL_FILE, PLANS_FILE, fold_file

# Class number to the names that it may bear in dataset.json; the challenge's own data sets say `norm`.
_LABEL_NAMES = {Label.BACKGROUND: ("background",), Label.TTB: ("ttb",), Label.NORMAL: ("normal", "norm")}
_NETWORK_CLASSES = {
    Architecture.PLAIN: "PlainConvUNet",
    Architecture.RESENC_M: "ResidualEncoderUNet",
    Architecture.RESENC_L: "ResidualEncoderUNet",
}


class Precision(StrEnum):
    """How weights are stored; the network computes with float32 (or autocast) either way."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"

    @property
    def dtype(self) -> torch.dtype:
        """Torch's name for it."""
        return torch.float32 if self is Precision.FLOAT32 else torch.float16


@dataclass(frozen=True)
class PackedModel:
    """One member's model, weights left on the disk.

    Attributes:
        member: The manifest's entry.
        plans: nnU-Net's plans.
        configuration: The configuration that was trained, out of the plans.
        dataset: nnU-Net's dataset.json.
        mirroring_axes: The network's spatial axes that training mirrored.
        clip: Limits that the CT was clipped to in the training data, or None.
        stored_as: How the weights are stored.
    """

    member: Member
    plans: PlansManager
    configuration: ConfigurationManager
    dataset: Mapping[str, Any]
    mirroring_axes: tuple[int, ...]
    clip: ClipHU | None
    stored_as: Precision

    @property
    def where(self) -> str:
        """What errors and the log call it."""
        return f"member {self.member.name}"


def read_packed_model(member: Member) -> PackedModel:
    """Read a member's plans and check that they are what the manifest says.

    Raises:
        CaseError: A file is missing or is not what it should be; or the network class, the data set, the labels or the
            number of channels are not the member's.
    """
    where = f"member {member.name}"
    plans = PlansManager(_read_json(member.folder / PLANS_FILE, where=where))
    dataset = _read_json(member.folder / DATASET_FILE, where=where)
    table = TypedTable(_read_json(member.folder / MODEL_FILE, where=where), where=f"{where} {MODEL_FILE}")
    configuration_name = table.text("configuration")
    mirroring_axes = table.wholes("mirroring_axes") if table.has("mirroring_axes") else ()
    clip = _read_clip(table.table("ct_clip")) if table.has("ct_clip") else None
    stored_as = table.choice("stored_as", Precision)
    table.table("provenance")  # for people; nothing here depends on it
    table.finish()
    if configuration_name not in plans.available_configurations:
        raise CaseError(where, f"{PLANS_FILE} must hold the configuration of {MODEL_FILE}", configuration_name)
    model = PackedModel(
        member=member,
        plans=plans,
        configuration=plans.get_configuration(configuration_name),
        dataset=dataset,
        mirroring_axes=mirroring_axes,
        clip=clip,
        stored_as=stored_as,
    )
    _check(model)
    return model


def model_json(
    *,
    configuration: str,
    mirroring_axes: tuple[int, ...],
    clip: ClipHU | None,
    stored_as: Precision,
    provenance: Mapping[str, Any],
) -> str:
    """The text of `model.json`, as `read_packed_model` reads it.

    Args:
        configuration: nnU-Net's configuration name (`3d_fullres`).
        mirroring_axes: The network's spatial axes that training mirrored; left out of the file when there are none.
        clip: Limits that the CT was clipped to; left out of the file when it was not.
        stored_as: How the weights are stored.
        provenance: Where the model comes from, for people; JSON values, nested or not.
    """
    content: dict[str, Any] = {"configuration": configuration}
    if mirroring_axes:
        content["mirroring_axes"] = list(mirroring_axes)
    if clip is not None:
        content["ct_clip"] = {"low_hu": clip.low_hu, "high_hu": clip.high_hu}
    content["stored_as"] = str(stored_as)
    content["provenance"] = dict(provenance)
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def build_network(configuration: ConfigurationManager, dataset: Mapping[str, Any]) -> torch.nn.Module:
    """The network of the plans without deep supervision, in evaluation mode, on the CPU, with arbitrary weights.

    nnU-Net asks the trainer's class to build it. That class may not be installed here; one that builds something else
    than the plans say is found out when the weights do not fit.

    Args:
        configuration: The configuration that was trained.
        dataset: nnU-Net's dataset.json, for the numbers of channels and labels.
    """
    network: torch.nn.Module = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        len(dataset["channel_names"]),
        len(dataset["labels"]),
        allow_init=False,
        deep_supervision=False,
    )
    return network.eval()


def own_tensors(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The network's weights, each once, under the first of its names."""
    named: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in network.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            named[name] = tensor
    return named


def load_fold(network: torch.nn.Module, model: PackedModel, *, fold: int) -> None:
    """Fill a network, as `build_network` makes it, with one fold's weights.

    Args:
        network: The network; it may be on any device.
        model: The model that it was built from.
        fold: One of the member's folds.

    Raises:
        CaseError: The file is missing or no safetensors file, or a tensor is missing, not known, of another shape, or
            stored in another way than `model.json` says.
    """
    path = model.member.folder / fold_file(fold, model.member.checkpoint)
    where = f"{model.where} fold {fold}"
    if not path.is_file():
        raise CaseError(where, f"file is missing: {path}")
    wanted = own_tensors(network)
    try:
        with safe_open(path, framework="pt", device="cpu") as stored:
            _check_names(set(stored.keys()), set(wanted), where=where)
            for name, tensor in wanted.items():
                weights = stored.get_tensor(name)
                _check_tensor(name, weights, wanted=tensor, stored_as=model.stored_as, where=where)
                tensor.data.copy_(weights)
    except SafetensorError as error:
        raise CaseError(where, "weights must be a safetensors file", str(error)) from error


def _check_names(stored: set[str], wanted: set[str], *, where: str) -> None:
    if missing := sorted(wanted - stored):
        raise CaseError(where, f"weights must hold every tensor of the network, {missing[0]} is missing")
    if unknown := sorted(stored - wanted):
        raise CaseError(where, f"weights must hold nothing but the network's tensors, got {unknown[0]}")


def _check_tensor(name: str, stored: torch.Tensor, *, wanted: torch.Tensor, stored_as: Precision, where: str) -> None:
    if stored.shape != wanted.shape:
        raise CaseError(where, f"tensor {name} must have shape {tuple(wanted.shape)}", str(tuple(stored.shape)))
    if wanted.is_floating_point() and stored.dtype is not stored_as.dtype:
        raise CaseError(where, f"tensor {name} must be stored as {stored_as}", str(stored.dtype))


def _check(model: PackedModel) -> None:
    member = model.member
    expected = _NETWORK_CLASSES[member.architecture]
    network_class = model.configuration.network_arch_class_name.rsplit(".", 1)[-1]
    if network_class != expected:
        raise CaseError(
            model.where, f"network of architecture {member.architecture} must be a {expected}", network_class
        )
    dataset_name = model.plans.dataset_name
    # 801 and 802 differ in nothing but their tracer, so only the name tells that they were swapped.
    if not dataset_name.startswith(f"Dataset{member.dataset_id:03d}_"):
        raise CaseError(model.where, f"plans must be those of data set {member.dataset_id}", dataset_name)
    labels = {number: name for name, number in model.dataset["labels"].items()}
    if labels.keys() != _LABEL_NAMES.keys() or any(labels[label] not in names for label, names in _LABEL_NAMES.items()):
        raise CaseError(model.where, "labels must be background 0, ttb 1, normal 2", str(model.dataset["labels"]))
    count = len(channel_names(member.organ_encoding))
    channels = len(model.dataset["channel_names"])
    if channels != count:
        rule = f"network with organ encoding {member.organ_encoding} must have {count} channels"
        raise CaseError(model.where, rule, str(channels))


def _read_clip(table: TypedTable) -> ClipHU:
    clip = ClipHU(low_hu=table.number("low_hu"), high_hu=table.number("high_hu"))
    table.finish()
    return clip


def _read_json(path: Path, *, where: str) -> dict[str, Any]:
    if not path.is_file():
        raise CaseError(where, f"file is missing: {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CaseError(where, f"{path.name} must be JSON in UTF-8", str(error)) from error
    if not isinstance(content, dict):
        raise CaseError(where, f"{path.name} must hold a JSON object")
    return content
