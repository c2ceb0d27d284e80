from types import SimpleNamespace

import numpy as np
import pytest
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import nnUNetTrainerNoDA

from training.networks.trainer import FOCUS_SHARE, ShortTrainer


def chosen_labels(monkeypatch: pytest.MonkeyPatch, *, focus: int | None, force_fg: bool) -> list[int | None]:
    """The label that each of 400 training patches is told to be centred on; None leaves the choice to nnU-Net."""
    chosen: list[int | None] = []

    def get_bbox(shape: object, force_fg: bool, locations: object, overwrite_class: int | None = None) -> None:
        chosen.append(overwrite_class)

    loaders = SimpleNamespace(data_loader=SimpleNamespace(get_bbox=get_bbox)), SimpleNamespace()
    monkeypatch.setattr(nnUNetTrainerNoDA, "get_dataloaders", lambda self: loaders)
    trainer = ShortTrainer.__new__(ShortTrainer)
    trainer.focus_label = focus
    training, validation = trainer.get_dataloaders()
    assert validation is loaders[1]
    np.random.seed(5)  # noqa: NPY002 - nnU-Net's loader draws from numpy's global generator
    for _ in range(400):
        training.data_loader.get_bbox((8, 9, 10), force_fg, {11: [(0, 1, 2, 3)]})
    return chosen


def test_a_quarter_of_the_labelled_patches_is_centred_on_the_focus(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = chosen_labels(monkeypatch, focus=11, force_fg=True)
    assert set(chosen) == {11, None}
    # Four standard deviations of a binomial share around a quarter.
    assert abs(chosen.count(11) / 400 - FOCUS_SHARE) < 4 * np.sqrt(0.25 * 0.75 / 400)


@pytest.mark.parametrize(("focus", "force_fg"), [(11, False), (None, True)])
def test_other_patches_are_left_to_nnunet(monkeypatch: pytest.MonkeyPatch, focus: int | None, force_fg: bool) -> None:
    assert set(chosen_labels(monkeypatch, focus=focus, force_fg=force_fg)) == {None}
