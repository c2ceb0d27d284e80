"""The ensemble: folds averaged as logits, members as weighted probabilities, in nnU-Net's own steps."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from petct.channels import ClipHU, OrganEncoding, ScanChannels, channels_of
from petct.manifest import Member, Mode
from segmentation.beside_networks import Background
from segmentation.crop import Surroundings
from segmentation.member_run import MemberRun, WatchedNetwork
from segmentation.opened_folds import OpenedFolds
from segmentation.pace import FoldTask, FoldWork, Pace, Unhurried, WindowTimes
from segmentation.packed_model import PackedModel, read_packed_model
from segmentation.plans import Recipe, read_recipe
from segmentation.preprocessing import Preprocessed, ScanPreprocessor
from segmentation.probability_sum import ProbabilitySum
from segmentation.running import Running, mirrorings_of
from segmentation.scan_view import ScanView
from segmentation.short_memory import Reliefs

__all__ = ["Inputs", "Running", "ScanEnsemble", "mirrorings_of"]

log = logging.getLogger(__name__)

Float = npt.NDArray[np.float32]

_SHORT_S = 1.0  # a window that takes no longer is timed again, because the first one is always slower


@dataclass(frozen=True)
class _Member:
    """A member's model, how its scan is preprocessed, and its folds."""

    model: PackedModel
    recipe: Recipe
    works: tuple[FoldWork, ...]

    @property
    def seen(self) -> tuple[OrganEncoding, ClipHU | None]:
        """What tells its channels from others'."""
        return _seen(self.model)

    @property
    def tasks(self) -> tuple[FoldTask, ...]:
        """Its folds."""
        return tuple(work.task for work in self.works)


@dataclass(frozen=True)
class Inputs:
    """What the members of a group see, one entry each, and what is asked of them; nothing if none is wanted."""

    seen: list[Preprocessed]
    surroundings: Surroundings | None


class ScanEnsemble:
    """The ensemble on one scan.

    Args:
        scan: The scan's channels.
        members: The ensemble, at least one.
        running: How the networks are run.
        reach_mm: How far from a voxel that can be disease probabilities matter.
        is_everywhere: Whether probabilities are wanted where they do not matter, too.
        name: What the log calls the scan.

    Raises:
        CaseError: A member's files are not what its manifest says.
        ValueError: There are no members.
    """

    def __init__(
        self,
        scan: ScanChannels,
        *,
        members: Sequence[Member],
        running: Running,
        reach_mm: float,
        is_everywhere: bool,
        name: str,
    ) -> None:
        if not members:
            raise ValueError("an ensemble must have at least one member")
        self._members = tuple(members)
        self._scan = scan
        self._view = ScanView(scan, reach_mm=reach_mm, is_everywhere=is_everywhere)
        self._is_everywhere = is_everywhere
        self.name = name
        self.running = running
        self._preprocessor = ScanPreprocessor(
            scan.grid,
            scan.build,
            device=running.device,
            does_remember=running.memory.are_channels_remembered,
        )
        self._groups = _groups(members, name=name, is_group_held=running.memory.is_group_held)
        self._begun: deque[MemberRun] = deque()
        self._has_said = False

    @property
    def voxels(self) -> int:
        """How many voxels the PET has."""
        return int(np.prod(self._scan.grid.shape_zyx))

    def folds(self) -> list[FoldWork]:
        """Its folds, in the order in which they are averaged."""
        return [work for group in self._groups for member in group for work in member.works]

    def windows(self, model: PackedModel, *, mode: Mode) -> int:
        """How many windows a fold of the model takes in a mode; too many, if anything, before `look`."""
        return self._view.windows(model, recipe=_recipe(model), running=replace(self.running, mode=mode))

    def mirrorings(self, model: PackedModel, *, mode: Mode) -> int:
        """How many mirrorings a model is asked for in a mode."""
        return len(mirrorings_of(model, running=replace(self.running, mode=mode)))

    @property
    def has_looked(self) -> bool:
        """Whether windows in the present mode are counted exactly."""
        return self._view.has_looked(has_body=self.running.mode is not Mode.EXACT)

    def look(self) -> None:
        """Find the body and what is needed, so that windows can be counted."""
        self._view.look(has_body=True)

    def time_window(self, work: FoldWork) -> WindowTimes:
        """Open a fold's network and run windows of noise.

        Raises:
            CaseError: The fold's weights are not those of the network, or there is too little memory for one window.
        """
        model, started_s = work.model, time.perf_counter()
        opened = OpenedFolds(model, folds=(work.task.fold,), running=self.running)
        network = WatchedNetwork(opened.open_next(), device=opened.device)
        open_s = time.perf_counter() - started_s
        shape = (len(channels_of(*_seen(model))), *model.configuration.patch_size)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        reliefs = Reliefs(
            str(work.task),
            on_gpu=[network.go_one_by_one, network.leave_gpu],
            on_host=[network.go_one_by_one],
        )

        def run() -> float:
            together = [noise.to(network.device)] * network.at_once
            began_s = time.perf_counter()
            network(together)[0].cpu()  # which waits for a GPU
            return (time.perf_counter() - began_s) / len(together)

        seconds: list[float] = []
        while len(seconds) < 1 or (len(seconds) < 3 and seconds[-1] < _SHORT_S):
            seconds.append(reliefs.run(run, what="window of noise"))
        return WindowTimes(open_s=open_s, pass_s=min(seconds))

    def settle(self, *, mode: Mode, first: FoldTask | None) -> None:
        """Choose the mode, and the fold whose member is run first; before anything is made."""
        self.running = replace(self.running, mode=mode)
        for group in self._groups:
            group.sort(key=lambda member: first not in member.tasks)
        self._groups.sort(key=lambda group: first not in group[0].tasks)

    def inputs(self, *, pace: Pace | None = None) -> Iterator[Callable[[], Inputs]]:
        """Pieces of work that make what is predicted from, in its order; they may run in another thread, one by one.

        Args:
            pace: Says for which members nothing needs to be made any more; all are when None.
        """
        for group in self._groups:
            yield lambda group=group: self._prepare(group, pace=pace)  # type: ignore[misc]

    def predict(self, inputs: Iterator[Inputs], *, background: Background) -> Float:
        """Probabilities of the three classes, of all members and folds: `begin` and `finish` without a clock."""
        pace = Unhurried()
        self.begin(inputs, background=background, pace=pace)
        return self.finish(inputs, background=background, pace=pace)

    def begin(self, inputs: Iterator[Inputs], *, background: Background, pace: Pace) -> None:
        """Run the first fold of the first member, so that there is something to make a mask of.

        Args:
            inputs: What the pieces of work of `inputs` made, in order; the first is taken.
            background: Puts away what one member says while the next is computed.
            pace: Decides what is run.

        Raises:
            CaseError: A member's weights are not what its plans say, or its logits are not finite.
        """
        self._begun = self._member_runs(self._groups[0], made=next(inputs), background=background, pace=pace)
        if self._begun:
            self._begun[0].run_folds(most=1)

    def finish(self, inputs: Iterator[Inputs], *, background: Background, pace: Pace) -> Float:
        """Run all the rest.

        Args:
            inputs: As in `begin`; as many are taken as are left.
            background: Puts away what one member says while the next is computed.
            pace: Decides what is run.

        Returns:
            float32 (3, z, y, x) on the scan's grid: background, ttb, normal. They sum to 1 in every voxel where they
            matter, and may be 0 in others unless they are wanted everywhere. Members that were not run have no weight;
            when none was, all is background.

        Raises:
            CaseError: A member's weights are not what its plans say, or its logits are not finite.
        """
        total = ProbabilitySum(
            self._scan.grid.shape_zyx,
            weights=[member.weight for member in self._members],
            device=self.running.device,
            background=background,
        )
        runs = self._begun
        for number, group in enumerate(self._groups):
            if number > 0:
                runs = self._member_runs(group, made=next(inputs), background=background, pace=pace)
            while runs:
                run = runs.popleft()  # what it saw is let go of as soon as it is done
                run.run_folds()
                logits = run.mean_logits()
                if logits is not None:
                    total.add(run.model, logits, seen=run.seen, needed=run.needed)
                del run, logits
        return total.mean()

    def _member_runs(
        self, group: list[_Member], *, made: Inputs, background: Background, pace: Pace
    ) -> deque[MemberRun]:
        """The members of a group, ready to be run; none if none is wanted."""
        if made.surroundings is None:
            return deque()
        return deque(
            MemberRun(
                member.model,
                seen,
                tasks=member.tasks,
                needed=None if self._is_everywhere else made.surroundings.needed,
                running=self.running,
                pace=pace,
                make_room=background.make_room,
            )
            for member, seen in zip(group, made.seen, strict=True)
        )

    def _prepare(self, group: list[_Member], *, pace: Pace | None) -> Inputs:
        """What the members of a group see, made once for those with equal plans."""
        if pace is not None and not pace.is_wanted(task for member in group for task in member.tasks):
            return Inputs([], None)
        surroundings = self._view.look(has_body=self.running.mode is not Mode.EXACT)
        if not self._has_said:
            self._has_said = True
            log.info("%s networks: %s", self.name, self.running)
        made: dict[tuple[Recipe, tuple[int, ...] | None], Preprocessed] = {}
        seen = []
        for member in group:
            crop = self._view.crop(member.model, running=self.running, surroundings=surroundings)
            key = member.recipe, tuple(member.model.configuration.patch_size) if crop else None
            if key not in made:
                made[key] = self._preprocessor.run(channels_of(*member.seen), recipe=member.recipe, region=crop)
            seen.append(made[key])
        return Inputs(seen, surroundings)


def _groups(members: Sequence[Member], *, name: str, is_group_held: bool) -> list[list[_Member]]:
    """Members that see the same channels, together, so that only one set of channels is held at a time.

    Args:
        members: All members.
        name: The tracer's name.
        is_group_held: Whether all of a group's channels are made together; else each member is a group of its own.
    """
    models = [read_packed_model(member) for member in members]
    total_weight, number, groups = sum(member.weight for member in members), 0, []
    for seen in dict.fromkeys(_seen(model) for model in models):
        group = []
        for model in (model for model in models if _seen(model) == seen):
            works = []
            for rank, fold in enumerate(model.member.folds):
                task = FoldTask(name, model.member.name, fold, number)
                works.append(FoldWork(task, model, rank, model.member.weight / total_weight))
                number += 1
            group.append(_Member(model, _recipe(model), tuple(works)))
        groups += [group] if is_group_held else [[member] for member in group]
    return groups


def _seen(model: PackedModel) -> tuple[OrganEncoding, ClipHU | None]:
    return model.member.organ_encoding, model.clip


def _recipe(model: PackedModel) -> Recipe:
    channels = len(channels_of(*_seen(model)))
    return read_recipe(model.plans, model.configuration, channels=channels, where=model.where)
