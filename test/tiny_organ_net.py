"""A network for TotalSegmentator's 6 mm task, small enough to be written down, and a CT for it.

Inside a bright block it says liver. At the block's faces, told apart by the sign of the difference of the two
neighbours along one axis of the array that nnU-Net sees, it names the side of the patient on which the face lies.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from petct.geometry import Grid, to_image
from petct.organs import label_number, totalsegmentator_labels

TISSUE_HU = 40.0  # intensity 0 for the network; not 0 HU, which nnU-Net takes for "outside" and crops away
BLOCK_HU = 340.0  # intensity 3

# Array axis (z, y, x), whether the intensity grows along it, and the label there. TotalSegmentator feeds RAS arrays: x
# grows to the patient's right, y to the front, z upwards. So an intensity that grows along x is met at the left face.
FACES = (
    (2, True, "lung_upper_lobe_left"),
    (2, False, "lung_upper_lobe_right"),
    (1, True, "vertebrae_T6"),
    (1, False, "sternum"),
    (0, True, "urinary_bladder"),
    (0, False, "thyroid_gland"),
)

# SimpleITK's axes run to the patient's feet, left and front, 12 degrees off: NIfTI, RAS and back all have to be right.
_TILT = np.deg2rad(12.0)
_TURN = np.array([[np.cos(_TILT), -np.sin(_TILT), 0.0], [np.sin(_TILT), np.cos(_TILT), 0.0], [0.0, 0.0, 1.0]])
_DIRECTION = tuple(map(float, (_TURN @ np.array([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [-1.0, 0.0, 0.0]])).ravel()))
CT_GRID = Grid((30, 46, 38), (3.1, 2.3, 4.2), (-47.3, 12.7, 601.9), _DIRECTION)
BLOCK = (slice(8, 21), slice(14, 33), slice(11, 25))  # 54.6 x 43.7 x 43.4 mm along z, y, x


def tiny_ct() -> sitk.Image:
    """A bright block in tissue, off the middle of a CT whose voxels are no cubes."""
    hu = np.full(CT_GRID.shape_zyx, TISSUE_HU, dtype=np.int16)
    hu[BLOCK] = BLOCK_HU
    return to_image(hu, CT_GRID)


def tiny_plans() -> dict[str, Any]:
    """nnU-Net plans of a linear U-Net of two stages and four features at 6 mm."""
    resample = "resample_data_or_seg_to_shape"
    order = {"order": 1, "order_z": 0, "force_separate_z": None}
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [4, 4],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
            "strides": [[1, 1, 1], [2, 2, 2]],
            "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "conv_bias": True,
            "norm_op": None,
            "norm_op_kwargs": None,
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": None,
            "nonlin_kwargs": None,
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    configuration = {
        "data_identifier": "tiny",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [16, 16, 16],
        "spacing": [6.0, 6.0, 6.0],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": resample,
        "resampling_fn_data_kwargs": {"is_seg": False, **order},
        "resampling_fn_seg": resample,
        "resampling_fn_seg_kwargs": {"is_seg": True, **order},
        "resampling_fn_probabilities": resample,
        "resampling_fn_probabilities_kwargs": {"is_seg": False, **order},
        "architecture": architecture,
        "batch_dice": False,
    }
    intensity = {"mean": TISSUE_HU, "std": 100.0, "percentile_00_5": -1000.0, "percentile_99_5": 1000.0}
    return {
        "dataset_name": "Dataset998_Tiny",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "configurations": {"3d_fullres": configuration, "2d": {"spacing": [6.0, 6.0]}},
        "foreground_intensity_properties_per_channel": {"0": intensity},
    }


def tiny_dataset() -> dict[str, Any]:
    """nnU-Net's dataset.json of a training set stored as .mha."""
    labels = {"background": 0, **{name: number for number, name in totalsegmentator_labels().items()}}
    return {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".mha"}


def tiny_network() -> torch.nn.Module:
    """The network with its weights set by hand."""
    architecture = tiny_plans()["configurations"]["3d_fullres"]["architecture"]
    network: Any = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        1,
        118,
        deep_supervision=False,
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        # Feature 0 is the intensity, features 1-3 its differences along z, y, x.
        first = network.encoder.stages[0][0].convs[0].conv.weight
        first[0, 0, 1, 1, 1] = 1.0
        for axis in range(3):
            before, after = [1, 1, 1], [1, 1, 1]
            before[axis], after[axis] = 0, 2
            first[(1 + axis, 0, *before)] = -1.0
            first[(1 + axis, 0, *after)] = 1.0
        # The decoder sees four upsampled features, then the four of the skip connection.
        last = network.decoder.stages[0].convs[0].conv.weight
        for feature in range(4):
            last[feature, 4 + feature, 1, 1, 1] = 1.0
        head = network.decoder.seg_layers[-1]
        head.bias[1:] = -100.0
        liver = label_number("liver")
        head.weight[liver, 0], head.bias[liver] = 1.0, -1.0
        for axis, is_growing, name in FACES:
            label = label_number(name)
            head.weight[label, 1 + axis] = 4.0 if is_growing else -4.0
            head.bias[label] = -2.0
    return network


def write_tiny_fold(folder: Path) -> Path:
    """nnU-Net's results of training the network, as nnU-Net's trainer writes them: plans, data set and fold 0.

    Returns:
        The fold's folder; plans.json and dataset.json lie in its parent.
    """
    fold = folder / "nnUNetTrainer__nnUNetPlans__3d_fullres" / "fold_0"
    fold.mkdir(parents=True)
    (fold.parent / "plans.json").write_text(json.dumps(tiny_plans()), encoding="utf-8")
    (fold.parent / "dataset.json").write_text(json.dumps(tiny_dataset()), encoding="utf-8")
    network = tiny_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.99)
    checkpoint = {
        "network_weights": network.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": None,
        "current_epoch": 1000,
        "init_args": {"plans": tiny_plans(), "configuration": "3d_fullres", "fold": 0, "dataset_json": tiny_dataset()},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(checkpoint, fold / "checkpoint_final.pth")
    return fold
