"""One scan's ensemble of real networks on a simulated device: real plans and decisions, and time that only passes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from benchmark.real_networks import read_real_networks
from benchmark.simulated_device import SimulatedDevice
from operation.deadline_plan import FoldCost
from operation.network_cost import window_flops
from petct.channels import OrganEncoding
from petct.manifest import Architecture, Backend, Checkpoint, Member, Mode
from segmentation.fold_runs import FoldRun
from segmentation.pace import Allowance, FoldGivenUp, FoldTask, FoldWork, Pace, WindowTimes
from segmentation.packed_model import PackedModel, Precision
from segmentation.running import FAST_MIRRORINGS, Running

MIRRORINGS = 8
# What other work really takes on the reference machine: less than half of what the planner reserves for it.
_OPENING_S = 1.0
_LOOK_S_PER_VOXEL = 1e-8
_MEMBER_S_PER_VOXEL = 5e-8
_AFTER_S_PER_VOXEL = 5e-8


@dataclass(frozen=True)
class SimulatedMember:
    """A member of a scan's ensemble.

    Attributes:
        architecture: Its network.
        encoding: How it sees organs.
        folds: How many folds it has.
        weight: Its weight.
        windows: Its windows in each mode.
    """

    architecture: Architecture
    encoding: OrganEncoding
    folds: int
    weight: float
    windows: Mapping[Mode, int]


class SimulatedScan:
    """One scan's ensemble, as a pace sees it.

    Args:
        name: The tracer's name.
        members: Its members.
        voxels: Voxels of the PET.
        mode: The mode that is asked for.
        device: What it runs on.
    """

    def __init__(
        self, name: str, *, members: Sequence[SimulatedMember], voxels: int, mode: Mode, device: SimulatedDevice
    ) -> None:
        self.name = name
        self.voxels = voxels
        self.running = Running(mode, Backend.TORCH, True, 0.5, torch.device("cpu"))
        self.has_looked = False
        self._device = device
        self._members: dict[str, SimulatedMember] = {}
        self._works: list[FoldWork] = []
        total_weight = sum(member.weight for member in members)
        for place, member in enumerate(members):
            model = _model(member, name=f"{member.architecture}_{place}")
            self._members[model.member.name] = member
            for rank in range(member.folds):
                task = FoldTask(name, model.member.name, rank, len(self._works))
                self._works.append(FoldWork(task, model, rank, member.weight / total_weight))

    def folds(self) -> list[FoldWork]:
        """Its folds, in their order."""
        return list(self._works)

    def windows(self, model: PackedModel, *, mode: Mode) -> int:
        """How many windows a fold takes; all of the whole scan before it was looked at."""
        return self._members[model.member.name].windows[mode if self.has_looked else Mode.EXACT]

    def windows_of(self, member: str) -> int:
        """How many windows a member takes in the mode that was settled."""
        return self._members[member].windows[self.running.mode]

    def mirrorings(self, model: PackedModel, *, mode: Mode) -> int:
        """Eight, or two in a fast run."""
        return FAST_MIRRORINGS if mode is Mode.FAST else MIRRORINGS

    def look(self) -> None:
        """Takes some time."""
        self.has_looked = True
        self._device.work(self.voxels * _LOOK_S_PER_VOXEL)

    def time_window(self, work: FoldWork) -> WindowTimes:
        """Open a network and run one window."""
        started_s = self._device.now_s
        self._device.work(_OPENING_S)
        opened_s = self._device.now_s
        self._device.compute(_flops(work))
        return WindowTimes(open_s=opened_s - started_s, pass_s=self._device.now_s - opened_s)

    def settle(self, *, mode: Mode, first: FoldTask | None) -> None:
        """Choose mode and order."""
        self.running = replace(self.running, mode=mode)
        if first is not None:
            named = first.member
            self._works.sort(key=lambda work: work.task.member != named)

    def run(self, works: Sequence[FoldWork], *, pace: Pace, is_ready: bool) -> bool:
        """Folds of one member, as `MemberRun.run_folds` runs them; whether none was given up."""
        if not is_ready:
            self._device.work(self.voxels * _MEMBER_S_PER_VOXEL)
        for work in works:
            allowance = pace.allow(work.task)
            if not allowance.mirrorings:
                return False
            self._device.work(_OPENING_S)
            while True:
                mirrorings = min(allowance.mirrorings, self.mirrorings(work.model, mode=self.running.mode))
                try:
                    run = self._run_fold(work, allowance=allowance, mirrorings=mirrorings)
                    break
                except FoldGivenUp:
                    allowance = pace.allow(work.task)
                    if not allowance.mirrorings:
                        return False
            pace.done(run, task=work.task)
        return True

    def _run_fold(self, work: FoldWork, *, allowance: Allowance, mirrorings: int) -> FoldRun:
        task, windows, passes = work.task, self.windows_of(work.task.member), 0
        done = FoldRun(task.tracer, task.member, task.fold, mirrorings, windows, is_whole=True)
        if allowance.next_mirrorings is None:
            while passes < windows * mirrorings:
                if allowance.passed is not None:
                    allowance.passed(passes)
                self._device.compute(_flops(work))
                passes += 1
            return done
        asked: list[int] = []
        while len(asked) < windows and (now := allowance.next_mirrorings(len(asked))):
            self._device.compute(now * _flops(work))  # nobody is asked before all mirrorings of a window are done
            asked.append(now)
        whole = asked.count(mirrorings)
        return replace(
            done,
            windows=whole,
            is_whole=len(asked) == windows,
            windows_unmirrored=len(asked) - whole,
            is_by_uptake=True,
        )

    def costs(self) -> list[FoldCost]:
        """What folds really cost, in operations instead of seconds."""
        return [
            FoldCost(
                task=work.task,
                rank=work.rank,
                share=work.share,
                windows=self._members[work.task.member].windows,
                mirrorings={mode: self.mirrorings(work.model, mode=mode) for mode in Mode},
                pass_s=dict.fromkeys(Mode, _flops(work)),
                opening_s=self._device.other_flops(_OPENING_S),
                member_s=self._device.other_flops(self.voxels * _MEMBER_S_PER_VOXEL),
            )
            for work in self._works
        ]


def after_s(scans: Sequence[SimulatedScan]) -> float:
    """What all work after the last window takes on the reference machine."""
    return sum(scan.voxels for scan in scans) * _AFTER_S_PER_VOXEL


def _flops(work: FoldWork) -> float:
    return _network(work.model.member.architecture, work.model.member.organ_encoding)[1]


def _model(member: SimulatedMember, *, name: str) -> PackedModel:
    like, _ = _network(member.architecture, member.encoding)
    return replace(like, member=replace(like.member, name=name, folds=tuple(range(member.folds)), weight=member.weight))


@cache
def _network(architecture: Architecture, encoding: OrganEncoding) -> tuple[PackedModel, float]:
    """A model of the challenge's size without weights, and the operations of one pass."""
    network = read_real_networks()[architecture]
    plans = PlansManager(json.loads(json.dumps(network.plans(encoding))))
    (configuration,) = plans.available_configurations
    model = PackedModel(
        member=Member(
            name=architecture.value,
            folder=Path(),
            architecture=architecture,
            dataset_id=801,
            folds=(0,),
            checkpoint=Checkpoint.FINAL,
            organ_encoding=encoding,
            weight=1.0,
            sha256={},
        ),
        plans=plans,
        configuration=plans.get_configuration(configuration),
        dataset=network.dataset(encoding),
        mirroring_axes=(0, 1, 2),
        clip=None,
        stored_as=Precision.FLOAT32,
    )
    return model, window_flops(model)
