"""Tiny nnU-Nets with random weights, in nnU-Net's own results layout, and a scan for them to look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from sklearn.linear_model import LogisticRegression

from petct.channels import OrganEncoding, channel_names
from petct.geometry import Grid
from petct.manifest import Architecture, Checkpoint, Member
from segmentation.packed_model import build_network
from training.weights.pack import pack_model

# Three sizes, three spacings, an origin, axes turned about x and then z: nothing stays the same with two axes swapped.
_COS, _SIN = float(np.cos(0.3)), float(np.sin(0.3))
GRID = Grid(
    shape_zyx=(25, 38, 49),
    spacing_mm_xyz=(3.1, 2.6, 4.4),
    origin_mm_xyz=(-71.5, 38.25, 12.0),
    direction=(_COS, 0.0, _SIN, _SIN, 0.0, -_COS, 0.0, 1.0, 0.0),
)
CONFIGURATION = "3d_fullres"
CT_MEAN_HU = 50.2
CT_STD_HU = 191.9
_PLANS_NAMES = {
    Architecture.PLAIN: "nnUNetPlans",
    Architecture.RESENC_M: "nnUNetResEncUNetMPlans",
    Architecture.RESENC_L: "nnUNetResEncUNetLPlans",
}
# To the network's axes and back. (1, 0, 2) is nnU-Net's choice for the challenge's data; (2, 0, 1) is not its inverse.
_TRANSPOSES = {
    Architecture.PLAIN: ((1, 0, 2), (1, 0, 2)),
    Architecture.RESENC_M: ((2, 0, 1), (1, 2, 0)),
    Architecture.RESENC_L: ((1, 0, 2), (1, 0, 2)),
}


def results_folder(root: Path, *, architecture: Architecture, dataset_id: int) -> Path:
    """Where nnU-Net keeps such a model below its `nnUNet_results`."""
    return root / dataset_name(dataset_id) / f"nnUNetTrainer__{_PLANS_NAMES[architecture]}__{CONFIGURATION}"


def dataset_name(dataset_id: int) -> str:
    return f"Dataset{dataset_id:03d}_TINY"


def make_results(
    root: Path,
    *,
    architecture: Architecture,
    dataset_id: int,
    folds: Sequence[int],
    encoding: OrganEncoding = OrganEncoding.NONE,
    mirroring_axes: tuple[int, ...] | None = (0, 2),
) -> Path:
    """A results folder as nnU-Net's trainer leaves it, with random weights; each fold has its own."""
    folder = results_folder(root, architecture=architecture, dataset_id=dataset_id)
    channels = channel_names(encoding)
    plans = _plans(architecture, dataset_id=dataset_id, channels=len(channels))
    dataset = {
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": {"background": 0, "ttb": 1, "normal": 2},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    for fold in folds:
        network = build_network(PlansManager(plans).get_configuration(CONFIGURATION), dataset)
        _randomise(network, seed=1000 * dataset_id + fold)
        (folder / f"fold_{fold}").mkdir()
        checkpoint = {
            "network_weights": network.state_dict(),
            "optimizer_state": {"state": {0: torch.zeros(3)}},
            "init_args": {"configuration": CONFIGURATION, "fold": fold, "dataset_json": dataset},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": mirroring_axes,
        }
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def make_member(
    results: Path,
    destination: Path,
    *,
    architecture: Architecture,
    dataset_id: int,
    folds: Sequence[int],
    encoding: OrganEncoding = OrganEncoding.NONE,
) -> Member:
    """Pack a results folder and write down what a manifest would."""
    return Member(
        name=destination.name,
        folder=destination,
        architecture=architecture,
        dataset_id=dataset_id,
        folds=tuple(folds),
        checkpoint=Checkpoint.FINAL,
        organ_encoding=encoding,
        weight=1.0,
        sha256=pack_model(results, folds=folds, destination=destination, clip=None, provenance={"data": "none"}),
    )


def tiny_channels(count: int = 2, *, seed: int = 5) -> npt.NDArray[np.float32]:
    """A scan of `GRID`, (channel, z, y, x): round lesions and organs as PET / threshold, CT in HU, and masks."""
    return _scan(seed)[0][:count]


def _scan(seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Ten channels, and the truth: ttb is hot bone, normal hot fat, so that no edge of one looks like the other."""
    random = np.random.default_rng(seed)
    axes_mm = [np.arange(n) * mm for n, mm in zip(GRID.shape_zyx, GRID.spacing_mm_zyx, strict=True)]
    place_mm = np.stack(np.meshgrid(*axes_mm, indexing="ij"))
    channels = np.zeros((10, *GRID.shape_zyx), dtype=np.float32)
    truth = np.zeros(GRID.shape_zyx, dtype=np.uint8)
    for blob in range(9):
        centre_mm = np.array([random.uniform(0.2, 0.8) * axis[-1] for axis in axes_mm])
        inside = np.linalg.norm(place_mm - centre_mm[:, None, None, None], axis=0) < random.uniform(18.0, 26.0)
        label = (0, 2, 1)[blob % 3]
        truth[inside] = label
        channels[0][inside] = (0.5, 7.0, 7.0)[label]
        channels[1][inside] = (40.0, 400.0, -700.0)[label]
        for mask in channels[2:]:
            mask[inside] = float(random.random() < 0.5)
    return channels, truth


def _randomise(network: torch.nn.Module, *, seed: int) -> None:
    """Random weights, but for the last layer, which is fitted to a scan of its own.

    Without that a random network is undecided nearly everywhere, and rounding alone moves its labels.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * (2.0 / parameter[0].numel()) ** 0.5)
            else:
                parameter.copy_((1.0 if name.endswith("weight") else 0.0) + 0.2 * noise)
        _fit_last_layer(network, seed=seed)


def _fit_last_layer(network: torch.nn.Module, *, seed: int) -> None:
    channels, truth = _scan(seed)
    inside = (slice(0, 24), slice(0, 36), slice(0, 48))  # divisible by the network's strides
    count = next(network.parameters()).shape[1]
    scan = torch.from_numpy(channels[:count][(slice(None), *inside)])[None]
    scan[:, 1] = (scan[:, 1] - CT_MEAN_HU) / CT_STD_HU
    last = network.decoder.seg_layers[-1]
    features: list[torch.Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0][0].flatten(1).T))
    network(scan)
    hook.remove()
    fit = LogisticRegression(C=100.0, max_iter=200, class_weight="balanced")
    fit.fit(features[0][::7].numpy(), truth[inside].ravel()[::7])
    # As sure as a trained network: twenty times the fit's logits.
    last.weight.copy_(20.0 * torch.from_numpy(fit.coef_).reshape(last.weight.shape))
    last.bias.copy_(20.0 * torch.from_numpy(fit.intercept_))


def _plans(architecture: Architecture, *, dataset_id: int, channels: int) -> dict[str, Any]:
    forward, backward = _TRANSPOSES[architecture]
    resampling = {"is_seg": False, "order_z": 0, "force_separate_z": None}
    return {
        "dataset_name": dataset_name(dataset_id),
        "plans_name": _PLANS_NAMES[architecture],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(forward),
        "transpose_backward": list(backward),
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(channel): {"mean": CT_MEAN_HU, "std": CT_STD_HU, "percentile_00_5": -725.0, "percentile_99_5": 976.0}
            for channel in range(channels)
        },
        "configurations": {
            CONFIGURATION: {
                "data_identifier": f"nnUNetPlans_{CONFIGURATION}",
                "preprocessor_name": "DefaultPreprocessor",
                "patch_size": [16, 24, 32],
                "spacing": [3.4, 4.0, 2.9],
                "normalization_schemes": ["NoNormalization", "CTNormalization", *["NoNormalization"] * (channels - 2)],
                "use_mask_for_norm": [False] * channels,
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": resampling | {"order": 3},
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_seg_kwargs": resampling | {"is_seg": True, "order": 1},
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": resampling | {"order": 1},
                "architecture": _architecture(architecture),
            }
        },
    }


def _architecture(architecture: Architecture) -> dict[str, Any]:
    plain = architecture is Architecture.PLAIN
    encoder = {
        Architecture.PLAIN: {"n_conv_per_stage": [2, 2, 2]},
        Architecture.RESENC_M: {"n_blocks_per_stage": [1, 1, 2]},
        Architecture.RESENC_L: {"n_blocks_per_stage": [1, 2, 3]},
    }
    network_class = "PlainConvUNet" if plain else "ResidualEncoderUNet"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{network_class}",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": [12, 8, 8],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * 3,
            "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
            **encoder[architecture],
            "n_conv_per_stage_decoder": [2, 2] if plain else [1, 1],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
