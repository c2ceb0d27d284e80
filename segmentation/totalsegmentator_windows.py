"""nnU-Net's prediction of TotalSegmentator's images, without worker processes and without the logits of a whole scan.

nnU-Net sums the logits of all labels over the whole scan in half precision: 4 GB at 3 mm for 118 outputs, and as much
again to judge them. Its windows advance along the first axis last, so slices that no window will reach any more can be
turned into labels at once, and only one window's depth of logits is ever held. Every sum, its order and its rounding
are nnU-Net's own, so the labels are equal. It runs inside TotalSegmentator's process only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import insert_crop_into_image
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from nnunetv2.utilities.file_path_utilities import get_output_folder
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from segmentation.unpickling import read_checkpoint

# nnUNetPredictor's own arguments of compute_gaussian.
SIGMA_PER_WINDOW = 1.0 / 8
GAUSSIAN_PEAK = 10.0

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Model:
    """One of TotalSegmentator's networks, on its device, with its plans."""

    network: torch.nn.Module
    plans: PlansManager
    configuration: Any
    dataset: dict[str, Any]
    device: torch.device

    @property
    def outputs(self) -> int:
        """Number of labels, background included."""
        return int(self.plans.get_label_manager(self.dataset).num_segmentation_heads)


def predict_folder(
    dir_in: Path,
    dir_out: Path,
    task_id: int,
    model: str,
    folds: Sequence[int],
    trainer: str,
    tta: bool,
    *_workers: int,
    plans: str,
    device: str | torch.device,
    step_size: float,
    pinned: Mapping[Path, str],
    **_unused: object,
) -> None:
    """In place of `totalsegmentator.nnunet.nnUNetv2_predict`: labels of the images that TotalSegmentator wrote.

    `pinned` has the digests that the manifest gives, by checkpoint; the other arguments are TotalSegmentator's.

    Raises:
        ValueError: More than one fold or mirroring is asked for, which no task of ours does, the model has regions
            instead of labels, or an image is not in the model's spacing.
        RuntimeError: A logit is infinite, as in nnU-Net.
    """
    if len(folds) != 1 or tta:
        raise ValueError(f"one fold and no mirroring must be asked for, got folds {folds} and mirroring {tta}")
    folder = get_output_folder(task_id, trainer, plans, model)
    sha256 = pinned.get(checkpoint_file(Path(folder), fold=folds[0]).resolve())
    opened = open_model(Path(folder), fold=folds[0], device=torch.device(device), sha256=sha256)
    ending = opened.dataset["file_ending"]
    for image in sorted(dir_in.glob(f"*_0000{ending}")):
        reader = opened.plans.image_reader_writer_class()
        data, properties = reader.read_images([str(image)])
        labels = predict_image(opened, data, properties=properties, tile_step=step_size)
        name = image.name.removesuffix(f"_0000{ending}")
        reader.write_seg(labels, str(dir_out / f"{name}{ending}"), properties)


# The second CT finds the first one's model; the five of the `total` task would take too much memory together.
@lru_cache(maxsize=1)
def open_model(folder: Path, *, fold: int, device: torch.device, sha256: str | None) -> Model:
    """A model in nnU-Net's layout, read and built once.

    nnU-Net looks for the class of the trainer among all of its trainers, which takes seconds; those of TotalSegmentator
    build the network as the plans say.

    Args:
        folder: The model.
        fold: Which of its folds.
        device: Where it is to run.
        sha256: The digest that the manifest gives for the fold's checkpoint; see `read_checkpoint`.
    """
    dataset = load_json(str(folder / "dataset.json"))
    plans = PlansManager(load_json(str(folder / "plans.json")))
    if plans.get_label_manager(dataset).has_regions:
        raise ValueError(f"{folder}: labels must not be regions")
    checkpoint = read_checkpoint(checkpoint_file(folder, fold=fold), sha256=sha256)
    configuration = plans.get_configuration(checkpoint["init_args"]["configuration"])
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        determine_num_input_channels(plans, configuration, dataset),
        plans.get_label_manager(dataset).num_segmentation_heads,
        allow_init=False,
        deep_supervision=False,
    )
    network.load_state_dict(checkpoint["network_weights"])
    network.to(device).eval()
    return Model(network, plans, configuration, dataset, device)


def checkpoint_file(folder: Path, *, fold: int) -> Path:
    """Where nnU-Net keeps a fold's weights."""
    return folder / f"fold_{fold}" / "checkpoint_final.pth"


def predict_image(model: Model, data: npt.NDArray[Any], *, properties: dict[str, Any], tile_step: float) -> Labels:
    """Labels of one image.

    Args:
        model: The network.
        data: The image as nnU-Net's reader gives it, (channel, z, y, x).
        properties: What the reader says of it; nnU-Net's preprocessing adds to them.
        tile_step: Step from window to window as a fraction of the window.

    Returns:
        uint8 labels, (z, y, x).
    """
    preprocessor = model.configuration.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case_npy(
        data, None, properties, model.plans, model.configuration, model.dataset
    )
    if data.shape[1:] != tuple(properties["shape_after_cropping_and_before_resampling"]):
        # TotalSegmentator has already resampled the image, and the windows give labels, not logits to resample.
        raise ValueError(f"image must be in the model's spacing {model.configuration.spacing} mm")
    cropped = predict_labels(model, torch.from_numpy(data), tile_step=tile_step)
    labels: Labels = np.zeros(properties["shape_before_cropping"], dtype=np.uint8)
    labels = insert_crop_into_image(labels, cropped, properties["bbox_used_for_cropping"])
    labels = labels.transpose(model.plans.transpose_backward)
    return labels


@torch.inference_mode()
def predict_labels(model: Model, data: torch.Tensor, *, tile_step: float) -> Labels:
    """nnU-Net's sliding window over a preprocessed image, and the label of the highest logit.

    Args:
        model: The network.
        data: Preprocessed image, (channel, and three axes in the network's order), float32.
        tile_step: Step from window to window as a fraction of the window.

    Returns:
        uint8 labels, (the three axes of `data`).
    """
    window = tuple(model.configuration.patch_size)
    data, unpad = pad_nd_image(data, window, "constant", {"value": 0}, True, None)
    shape = data.shape[1:]
    gaussian = compute_gaussian(
        window, sigma_scale=SIGMA_PER_WINDOW, value_scaling_factor=GAUSSIAN_PEAK, device=model.device
    )
    first_axis, *other_axes = compute_steps_for_sliding_window(tuple(shape), window, tile_step)
    # Slice by slice, so that the logits of finished slices lie together.
    sums = torch.zeros((window[0], model.outputs, *shape[1:]), dtype=torch.half, device=model.device)
    weights = torch.zeros((window[0], *shape[1:]), dtype=torch.half, device=model.device)
    labels: Labels = np.empty(tuple(shape), dtype=np.uint8)
    for low, following in zip(first_axis, [*first_axis[1:], shape[0]], strict=True):
        for corner in product(*other_axes):
            inner = tuple(slice(start, start + size) for start, size in zip(corner, window[1:], strict=True))
            part = data[(slice(None), slice(low, low + window[0]), *inner)]
            prediction = _forward(model, part).mul_(gaussian)
            for slice_sums, slice_prediction in zip(
                sums[(slice(None), slice(None), *inner)], prediction.transpose(0, 1), strict=True
            ):
                # What `slice_sums += slice_prediction` gives, at half its time.
                slice_sums.copy_(slice_sums.float().add_(slice_prediction))
            del prediction, slice_prediction  # 0.8 GB at 3 mm, which the next window's network needs
            weights[(slice(None), *inner)] += gaussian
        finished = min(following - low, window[0])
        labels[low : low + finished] = _highest(sums[:finished], weights[:finished])
        _advance(sums, finished)
        _advance(weights, finished)
    labels = labels[tuple(unpad[1:])]
    return labels


def _forward(model: Model, part: torch.Tensor) -> torch.Tensor:
    """Logits of one window, (output, and three axes); half precision on CUDA, as in nnU-Net."""
    on_gpu = model.device.type == "cuda"
    with torch.autocast(model.device.type, enabled=on_gpu), torch.backends.cudnn.flags(enabled=True, benchmark=True):
        logits: torch.Tensor = model.network(part[None].to(model.device))[0]
    return logits


def _highest(sums: torch.Tensor, weights: torch.Tensor) -> Labels:
    """Label of the highest mean logit, slice by slice; the mean is rounded as nnU-Net rounds it."""
    labels = np.empty(tuple(weights.shape), dtype=np.uint8)
    for number, (logits, weight) in enumerate(zip(sums, weights, strict=True)):
        mean = logits.float().div_(weight.float()).half().cpu().numpy()
        if np.isinf(mean).any():
            raise RuntimeError("the network's logits must be finite in half precision")
        labels[number] = mean.argmax(axis=0)
    return labels


def _advance(held: torch.Tensor, finished: int) -> None:
    """Make room for as many new slices as are finished."""
    kept = held[finished:].clone()
    held[: len(kept)] = kept
    held[len(kept) :] = 0
