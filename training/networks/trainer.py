"""nnU-Net's trainer, shortened for the demo ensemble: no augmentation, few iterations, bfloat16 on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import nnUNetTrainerNoDA

ITERATIONS_PER_EPOCH = 50
FOCUS_SHARE = 0.25  # of the patches that are centred on a labelled voxel


class ShortTrainer(nnUNetTrainerNoDA):  # type: ignore[misc]
    """Trains a narrow network in minutes on a CPU.

    Phantoms are made, not scarce: every patient is new, so augmentation buys nothing and costs half of the time. The
    mirror axes are those of nnU-Net's trainer without augmentation: none.
    """

    def __init__(
        self, plans: dict[str, Any], configuration: str, fold: int, dataset_json: dict[str, Any], device: torch.device
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_iterations_per_epoch = ITERATIONS_PER_EPOCH
        self.num_val_iterations_per_epoch = 4
        self.oversample_foreground_percent = 0.8
        self.save_every = 2
        self.initial_lr = 2e-3
        self.focus_label: int | None = None

    def get_dataloaders(self) -> tuple[Any, Any]:
        """nnU-Net's loaders, the training one centred on the focus label more often than its share of the classes."""
        training, validation = super().get_dataloaders()
        if self.focus_label is not None:
            # Loaded in this process, or by others, which start with the first batch.
            loader = training.data_loader if hasattr(training, "data_loader") else training.generator
            choose = loader.get_bbox

            def choose_focused(shape: Any, force_fg: bool, locations: Any) -> Any:
                is_focused = force_fg and np.random.random() < FOCUS_SHARE  # noqa: NPY002 - as nnU-Net's loader draws
                return choose(shape, force_fg, locations, overwrite_class=self.focus_label if is_focused else None)

            loader.get_bbox = choose_focused
        return training, validation

    def configure_optimizers(self) -> tuple[Any, Any]:
        """AdamW with nnU-Net's polynomial decay: in a thousand iterations it gets further than SGD does."""
        from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

        optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's step, under autocast on the CPU too."""
        if self.device.type != "cpu":
            return dict(super().train_step(batch))
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = self.network(batch["data"])
        loss = self.loss([output.float() for output in outputs], batch["target"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        self.optimizer.step()
        return {"loss": loss.detach().numpy()}
