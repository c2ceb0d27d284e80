"""Networks of the size that the challenge needs, with random weights: what a GPU is timed with, without a training."""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch.utils.flop_counter import FlopCounterMode

from petct.case import Tracer
from petct.channels import OrganEncoding, channel_names
from petct.labels import Label
from petct.manifest import Architecture, Checkpoint, Member
from petct.typed_table import TypedTable
from segmentation.packed_model import PackedModel, build_network, own_tensors, read_packed_model
from segmentation.plans import three
from segmentation.weight_files import DATASET_FILE, PLANS_FILE
from training.datasets.descriptions import dataset_name
from training.datasets.planning import CONFIGURATION, NNUNET_PLANS
from training.phantoms.scanner import PetGrid, real_pet_grids
from training.weights.pack import pack_model

REAL_NETWORKS = Path(__file__).with_name("real_networks.toml")
TILE_STEP = 0.5  # nnU-Net's own
RANDOM_FOLD = 0  # of a packed model with random weights
_DATASET_IDS = {OrganEncoding.NONE: 801, OrganEncoding.BINARY: 901, OrganEncoding.SOFT_DISTANCE: 921}
_CLASSES = {
    Architecture.PLAIN: "PlainConvUNet",
    Architecture.RESENC_M: "ResidualEncoderUNet",
    Architecture.RESENC_L: "ResidualEncoderUNet",
}


@dataclass(frozen=True)
class RealNetwork:
    """One of nnU-Net's networks, as its planner makes it for the challenge's data.

    Attributes:
        architecture: The family.
        transpose: The array axis (z, y, x) that each of the network's axes is.
        patch: The window in voxels, along the network's axes.
        features: Feature maps per stage.
        strides: Stride per stage, along the network's axes.
        blocks: Convolutions (plain) or residual blocks (ResEnc) per stage of the encoder.
        decoder_convolutions: Convolutions per stage of the decoder.
    """

    architecture: Architecture
    transpose: tuple[int, int, int]
    patch: tuple[int, int, int]
    features: tuple[int, ...]
    strides: tuple[tuple[int, int, int], ...]
    blocks: tuple[int, ...]
    decoder_convolutions: int

    def plans(self, encoding: OrganEncoding) -> dict[str, Any]:
        """nnU-Net's plans of a data set with this network and the challenge's median PSMA spacing.

        Args:
            encoding: How the network sees organs, which says how many channels it has.
        """
        channels = len(channel_names(encoding))
        spacing_mm_zyx = network_spacing_mm_zyx(Tracer.PSMA)
        spline = {"is_seg": False, "order_z": 0, "force_separate_z": None}
        return {
            "dataset_name": dataset_name(_DATASET_IDS[encoding]),
            "plans_name": NNUNET_PLANS[self.architecture],
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": list(self.transpose),
            "transpose_backward": [self.transpose.index(axis) for axis in range(3)],
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {
                str(channel): {"mean": 0.0, "std": 1.0, "percentile_00_5": -1.0, "percentile_99_5": 1.0}
                for channel in range(channels)
            },
            "configurations": {
                CONFIGURATION: {
                    "data_identifier": f"nnUNetPlans_{CONFIGURATION}",
                    "preprocessor_name": "DefaultPreprocessor",
                    "patch_size": list(self.patch),
                    "spacing": [spacing_mm_zyx[axis] for axis in self.transpose],
                    "normalization_schemes": ["NoNormalization"] * channels,
                    "use_mask_for_norm": [False] * channels,
                    "resampling_fn_data": "resample_data_or_seg_to_shape",
                    "resampling_fn_data_kwargs": spline | {"order": 3},
                    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                    "resampling_fn_probabilities_kwargs": spline | {"order": 1},
                    "architecture": self._architecture(),
                }
            },
        }

    def _architecture(self) -> dict[str, Any]:
        blocks = "n_conv_per_stage" if self.architecture is Architecture.PLAIN else "n_blocks_per_stage"
        stages = len(self.features)
        return {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{_CLASSES[self.architecture]}",
            "arch_kwargs": {
                "n_stages": stages,
                "features_per_stage": list(self.features),
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [[3, 3, 3]] * stages,
                "strides": [list(stride) for stride in self.strides],
                blocks: list(self.blocks),
                "n_conv_per_stage_decoder": [self.decoder_convolutions] * (stages - 1),
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        }

    def dataset(self, encoding: OrganEncoding) -> dict[str, Any]:
        """nnU-Net's dataset.json for it."""
        return {
            "channel_names": {str(number): name for number, name in enumerate(channel_names(encoding))},
            "labels": {label.name.lower(): label.value for label in Label},
            "numTraining": 0,
            "file_ending": ".nii.gz",
        }

    def build(self, encoding: OrganEncoding) -> torch.nn.Module:
        """The network as the product builds it from plans, on torch's default device, with random weights."""
        configuration = PlansManager(self.plans(encoding)).get_configuration(CONFIGURATION)
        return build_network(configuration, self.dataset(encoding))

    def pack(self, encoding: OrganEncoding, *, folder: Path) -> PackedModel:
        """The network with random weights as a packed model.

        Args:
            encoding: How it sees organs.
            folder: Where to; must be there.
        """
        results = folder / "results"
        fold_folder = results / f"fold_{RANDOM_FOLD}"
        fold_folder.mkdir(parents=True)
        dataset = self.dataset(encoding)
        for name, content in ((PLANS_FILE, self.plans(encoding)), (DATASET_FILE, dataset)):
            (results / name).write_text(json.dumps(content), encoding="utf-8")
        checkpoint = {
            "network_weights": self.build(encoding).state_dict(),
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": CONFIGURATION, "fold": RANDOM_FOLD, "dataset_json": dataset},
            "inference_allowed_mirroring_axes": (0, 1, 2),
        }
        torch.save(checkpoint, fold_folder / f"checkpoint_{Checkpoint.FINAL}.pth")
        destination = folder / "packed"
        member = Member(
            name=f"random {self.architecture}",
            folder=destination,
            architecture=self.architecture,
            dataset_id=_DATASET_IDS[encoding],
            folds=(RANDOM_FOLD,),
            checkpoint=Checkpoint.FINAL,
            organ_encoding=encoding,
            weight=1.0,
            sha256=pack_model(
                results, folds=(RANDOM_FOLD,), destination=destination, clip=None, provenance={"weights": "random"}
            ),
        )
        return read_packed_model(member)

    def measure(self, encoding: OrganEncoding) -> NetworkSize:
        """How large the network is and what a window costs; nothing is computed."""
        with torch.device("meta"), torch.no_grad():
            network = self.build(encoding)
            window = torch.empty((1, len(channel_names(encoding)), *self.patch))
            with FlopCounterMode(display=False) as counter:
                network(window)
        return NetworkSize(
            parameters=sum(tensor.numel() for tensor in own_tensors(network).values()),
            tflop_per_forward=counter.get_total_flops() / 1e12,
        )

    def windows(self, grid: PetGrid, *, tracer: Tracer) -> int:
        """How many windows nnU-Net's tiling lays over a whole PET, at the spacing of a tracer's plans."""
        patch_zyx = [self.patch[self.transpose.index(axis)] for axis in range(3)]
        resampled = compute_new_shape(grid.shape_zyx, grid.spacing_mm_zyx, network_spacing_mm_zyx(tracer))
        padded = [max(int(size), window) for size, window in zip(resampled, patch_zyx, strict=True)]
        return math.prod(len(steps) for steps in compute_steps_for_sliding_window(padded, patch_zyx, TILE_STEP))


@dataclass(frozen=True)
class NetworkSize:
    """What a network is, whatever it runs on.

    Attributes:
        parameters: Numbers in its weights.
        tflop_per_forward: 10^12 floating-point operations of one forward pass of one window (torch's counter: a
            multiplication and an addition are two; convolutions and matrix products alone count).
    """

    parameters: int
    tflop_per_forward: float


def read_real_networks(path: Path = REAL_NETWORKS) -> dict[Architecture, RealNetwork]:
    """The networks of a table.

    Raises:
        CaseError: A key is missing, unknown, or of the wrong kind.
    """
    table = TypedTable(tomllib.loads(path.read_text(encoding="utf-8")), where=path.name)
    transpose = three(table.wholes("transpose"))
    networks = {
        architecture: _read_network(table.table(architecture.value), architecture=architecture, transpose=transpose)
        for architecture in Architecture
    }
    table.finish()
    return networks


def _read_network(table: TypedTable, *, architecture: Architecture, transpose: tuple[int, int, int]) -> RealNetwork:
    patch, decoder_convolutions = three(table.wholes("patch", distinct=False)), table.whole("decoder_convolutions")
    stages = []
    for stage in table.tables("stages"):
        stages.append((stage.whole("features"), three(stage.wholes("stride", distinct=False)), stage.whole("blocks")))
        stage.finish()
    table.finish()
    features, strides, blocks = zip(*stages, strict=True)
    return RealNetwork(
        architecture=architecture,
        transpose=transpose,
        patch=patch,
        features=features,
        strides=strides,
        blocks=blocks,
        decoder_convolutions=decoder_convolutions,
    )


def network_spacing_mm_zyx(tracer: Tracer) -> tuple[float, float, float]:
    """The spacing of nnU-Net's plans for a tracer: the median of the challenge's PETs, axis by axis."""
    return three(np.median([grid.spacing_mm_zyx for grid in real_pet_grids()[tracer]], axis=0).tolist())
