"""A tiny preprocessed nnU-Net data set, made by nnU-Net itself in seconds, for tests of what trains on it."""

import json
import multiprocessing
import multiprocessing.dummy
import multiprocessing.pool
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.training.logging.nnunet_logger import LocalLogger

from petct.manifest import Architecture
from training.datasets.descriptions import dataset_name
from training.datasets.planning import plan_and_preprocess, set_nnunet_folders
from training.datasets.provenance import DatasetProvenance, write_provenance

CASES = 5
SHAPE_ZYX = (11, 17, 13)
SPACING_MM_XYZ = (4.1, 2.9, 3.4)
ORIGIN_MM_XYZ = (-31.0, 12.5, 77.0)
NNUNET_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_n_proc_DA", "nnUNet_def_n_proc")


@contextmanager
def quick_nnunet() -> Iterator[pytest.MonkeyPatch]:
    """nnU-Net without what takes it long and changes nothing that tests look at; its environment is put back."""

    def sample_little(extractor: DatasetFingerprintExtractor, *arguments: Any, **options: Any) -> None:
        init(extractor, *arguments, **options)
        extractor.num_foreground_voxels_for_intensitystats = 10_000  # nnU-Net's 10 ** 8 take half a minute

    def threads_for_spawn(method: str | None = None) -> Any:
        return multiprocessing.dummy if method == "spawn" else get_context(method)

    init, get_context = DatasetFingerprintExtractor.__init__, multiprocessing.get_context
    with pytest.MonkeyPatch.context() as patch:
        for name in NNUNET_VARIABLES:
            patch.setenv(name, "")
            patch.delenv(name)  # both are undone, and with them what the commands set
        # Threads, because every process of nnU-Net's imports torch for seconds.
        patch.setattr(multiprocessing, "get_context", threads_for_spawn)
        patch.setattr(DatasetFingerprintExtractor, "__init__", sample_little)
        patch.setattr(LocalLogger, "plot_progress_png", lambda logger, folder: None)
        yield patch


def make_dataset(nnunet: Path, *, number: int, channels: int = 2) -> Path:
    """Write, plan and preprocess a tiny data set, under `quick_nnunet`; returns its preprocessed folder."""
    set_nnunet_folders(nnunet)
    raw = nnunet / "nnUNet_raw" / dataset_name(number)
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    for case in range(CASES):
        random = np.random.default_rng(case)
        labels = np.zeros(SHAPE_ZYX, dtype=np.uint8)
        labels[2:5, 3:8, 2:6] = 1
        labels[6:10, 9:15, 6:12] = 2
        for channel in range(channels):
            image = random.normal(size=SHAPE_ZYX).astype(np.float32) + 3.0 * labels
            _write(image, raw / "imagesTr" / f"train_{case:04d}_{channel:04d}.mha")
        _write(labels, raw / "labelsTr" / f"train_{case:04d}.mha")
    description = {
        "channel_names": {str(channel): "CT" if channel == 1 else "noNorm" for channel in range(channels)},
        "labels": {"background": 0, "ttb": 1, "normal": 2},
        "numTraining": CASES,
        "file_ending": ".mha",
        "overwrite_image_reader_writer": "SimpleITKIO",
    }
    (raw / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    names = tuple(f"train_{case:04d}" for case in range(CASES))
    provenance = DatasetProvenance(names, corrected=(), left_out=(), organs_computed=(), clip=None, sha256="5" * 64)
    write_provenance(raw, provenance)
    plan_and_preprocess(number, architectures=Architecture, nnunet=nnunet, processes=1)
    return nnunet / "nnUNet_preprocessed" / dataset_name(number)


def _write(array_zyx: np.ndarray, path: Path) -> None:
    image = sitk.GetImageFromArray(array_zyx)
    image.SetSpacing(SPACING_MM_XYZ)
    image.SetOrigin(ORIGIN_MM_XYZ)
    sitk.WriteImage(image, str(path))
