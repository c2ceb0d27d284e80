"""A scan's out-of-fold probabilities where they can matter, kept small: what the sweep over thresholds works on.

Disease grows from voxels with some P(ttb), and onto voxels at or above the SUV threshold. Every other voxel is
background whatever the limits, so only these are kept; a whole body's few per cent.

Probabilities are kept as float16, rounded to 11 bits: near 0.25 that is a step of 0.0002, near 0.75 of 0.0005. A voxel
whose probability lies within half a step of a limit may thus fall on its other side; nothing else changes.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inference import Predicted
from petct.errors import CaseError
from petct.geometry import Grid
from petct.labels import Label
from petct.written_whole import written_whole

FLOOR = 0.01  # a P(ttb) at or below this is kept as 0; no limit that anybody would use is as low


@dataclass(frozen=True)
class Candidates:
    """The voxels of a scan that limits on probabilities decide about; all arrays have one entry per voxel.

    Attributes:
        grid: The PET's grid.
        suv_threshold: SUV at or above which a voxel may be disease.
        index: Place in the raveled grid, rising.
        ttb: P(ttb), rounded to float16; 0 where it is at or below `FLOOR`.
        normal: P(normal), rounded to float16.
        organs: `Organ` values and 0.
        is_hot: Whether the PET is at or above the SUV threshold.
    """

    grid: Grid
    suv_threshold: float
    index: npt.NDArray[np.int64]
    ttb: npt.NDArray[np.float32]
    normal: npt.NDArray[np.float32]
    organs: npt.NDArray[np.uint8]
    is_hot: npt.NDArray[np.bool_]


def candidates_of(predicted: Predicted) -> Candidates:
    """The voxels of a prediction that can matter: P(ttb) above `FLOOR`, or at or above the SUV threshold."""
    is_hot = predicted.pet_suv >= float(predicted.suv_threshold)
    may_be_seed = predicted.probabilities[Label.TTB] > FLOOR
    index = np.flatnonzero(is_hot | may_be_seed)
    ttb = np.where(may_be_seed, predicted.probabilities[Label.TTB], np.float32(0.0)).ravel()[index]
    return Candidates(
        grid=predicted.grid,
        suv_threshold=predicted.suv_threshold,
        index=index,
        ttb=ttb.astype(np.float16).astype(np.float32),
        normal=predicted.probabilities[Label.NORMAL].ravel()[index].astype(np.float16).astype(np.float32),
        organs=predicted.organs.ravel()[index],
        is_hot=is_hot.ravel()[index],
    )


def write_candidates(path: Path, candidates: Candidates) -> None:
    """Write candidates as a compressed .npz; whole or not at all."""
    grid = candidates.grid
    # Steps from voxel to voxel are small numbers, which compress better than places do.
    steps = np.diff(candidates.index, prepend=0).astype(np.uint32)
    with written_whole(path) as partial, partial.open("wb") as stream:
        np.savez_compressed(
            stream,
            shape_zyx=np.array(grid.shape_zyx),
            spacing_mm_xyz=np.array(grid.spacing_mm_xyz),
            origin_mm_xyz=np.array(grid.origin_mm_xyz),
            direction=np.array(grid.direction),
            suv_threshold=np.array(candidates.suv_threshold),
            index_steps=steps,
            ttb=candidates.ttb.astype(np.float16),
            normal=candidates.normal.astype(np.float16),
            organs=candidates.organs,
            is_hot=candidates.is_hot,
        )


def read_candidates(path: Path, *, where: str) -> Candidates:
    """Read what `write_candidates` wrote; nothing is unpickled.

    Args:
        path: The .npz file.
        where: The file, as the user knows it.

    Raises:
        CaseError: The file is missing or is not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            content: dict[str, npt.NDArray[Any]] = {name: file[name] for name in file.files}
        z, y, x = (int(size) for size in content["shape_zyx"])
        grid = Grid(
            shape_zyx=(z, y, x),
            spacing_mm_xyz=tuple(content["spacing_mm_xyz"].tolist()),
            origin_mm_xyz=tuple(content["origin_mm_xyz"].tolist()),
            direction=tuple(content["direction"].tolist()),
        )
        return Candidates(
            grid=grid,
            suv_threshold=float(content["suv_threshold"]),
            index=np.cumsum(content["index_steps"], dtype=np.int64),
            ttb=content["ttb"].astype(np.float32),
            normal=content["normal"].astype(np.float32),
            organs=content["organs"],
            is_hot=content["is_hot"],
        )
    except FileNotFoundError as error:
        raise CaseError(where, "file is missing; `python -m training predict-oof` writes it") from error
    except (OSError, EOFError, KeyError, ValueError, TypeError, zlib.error, zipfile.BadZipFile) as error:
        raise CaseError(where, "file must be probabilities as predict-oof writes them", str(error)[:120]) from error
