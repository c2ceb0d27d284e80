"""Taking TotalSegmentator's own weights along with a packed ensemble, as they are, with a digest of each file."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from petct.manifest import OrganSettings
from segmentation.totalsegmentator import WEIGHT_FILES, check_organ_weights, model_folders
from segmentation.weight_files import sha256_of

WHERE = "organ weights"


def has_organ_weights(settings: OrganSettings) -> bool:
    """Whether any model of the task is in the folder of weights."""
    return any((settings.weights / model).is_dir() for model in model_folders(settings.task))


def take_organ_weights(settings: OrganSettings, *, destination: Path) -> OrganSettings:
    """Copy the files of the task's models; what else lies in the folder is left behind.

    Args:
        settings: Task and folder; the files are checked against the digests, if there are any.
        destination: The new folder of weights, which does not exist yet.

    Returns:
        The settings with the new folder and the digest of every file.

    Raises:
        CaseError: A file is missing, is a git-LFS pointer or differs from its digest.
    """
    check_organ_weights(settings, where=WHERE)
    digests = {}
    for model in model_folders(settings.task):
        for name in WEIGHT_FILES:
            file = f"{model}/{name}"
            copy = destination / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(settings.weights / file, copy)
            digests[file] = sha256_of(copy)
    taken = replace(settings, weights=destination, sha256=digests)
    check_organ_weights(taken, where=WHERE)  # refuses the pointers that git-LFS leaves in place of weights
    return taken
