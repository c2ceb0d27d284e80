"""Which jobs a recipe has, how far each is by its files, and how that is told."""

import re
from pathlib import Path

import pytest
import torch

from petct.errors import CaseError
from petct.manifest import Architecture
from training.networks.checkpoints import FINAL, ResumePoint, is_finished, next_epoch, resume_point, write_whole
from training.networks.estimate import Speed, total_h
from training.networks.jobs import Job, Progress, State, Validation, choose_jobs, is_trained, look, results_folder
from training.networks.locks import held
from training.networks.progress_table import duration, progress_table
from training.networks.recipe import NetworkRecipe, TrainerName, read_recipe

RECIPES = Path(__file__).resolve().parent.parent / "training" / "recipes"
PAPER = read_recipe(RECIPES / "paper.toml")


def network(trainer: TrainerName = TrainerName.STANDARD, epochs: int | None = None) -> NetworkRecipe:
    return NetworkRecipe("plain_801", 801, Architecture.PLAIN, trainer, (0, 3), 1.0, epochs, None, "", None)


def write_checkpoint(path: Path, *, epoch: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"network_weights": {"w": torch.arange(3000.0)}, "current_epoch": epoch}, path)
    return path


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def test_the_matrix_is_120_jobs_and_the_final_choice_7() -> None:
    assert len(choose_jobs(read_recipe(RECIPES / "paper_matrix.toml"), only=(), folds=())) == 2 * 4 * 3 * 5
    assert [job.name for job in choose_jobs(PAPER, only=(), folds=())] == [
        "resenc_l_801_fold_0",
        "resenc_m_911_fold_3",
        "resenc_m_921_250epochs_fold_2",
        "plain_802_fold_0",
        "plain_802_fold_1",
        "resenc_m_912_250epochs_fold_4",
        "resenc_m_922_250epochs_fold_2",
    ]


@pytest.mark.parametrize(
    ("only", "folds", "names"),
    [
        (["802"], [], ["plain_802_fold_0", "plain_802_fold_1"]),
        (["plain_802_fold_1", "921"], [], ["resenc_m_921_250epochs_fold_2", "plain_802_fold_1"]),
        (["802"], [1], ["plain_802_fold_1"]),
        ([], [3, 4], ["resenc_m_911_fold_3", "resenc_m_912_250epochs_fold_4"]),
    ],
)
def test_some_of_the_jobs(only: list[str], folds: list[int], names: list[str]) -> None:
    assert [job.name for job in choose_jobs(PAPER, only=only, folds=folds)] == names


@pytest.mark.parametrize(
    ("only", "folds", "error"),
    [
        (["901", "802"], [], "data sets of the recipe, which has 801, 802, 911, 912, 921, 922, got 901"),
        (["plain_9"], [], "--only: must be networks or data sets of the recipe, which has plain_802_fold_0, "),
        (["802"], [4, 1], "--folds: must be folds of the networks chosen, which have 0, 1, got 4"),
    ],
)
def test_jobs_that_the_recipe_lacks_are_refused(only: list[str], folds: list[int], error: str) -> None:
    with pytest.raises(CaseError, match=re.escape(error)):
        choose_jobs(PAPER, only=only, folds=folds)


def test_how_far_a_job_is(tmp_path: Path) -> None:
    job = Job(network(), 3)
    folder = job.folder(tmp_path)
    assert folder.name == "fold_3"
    assert folder.parent == results_folder(job.network, nnunet=tmp_path)

    def state(validation: Validation = Validation.OWN) -> tuple[State, int]:
        progress = look(job, nnunet=tmp_path, validation=validation)
        return progress.state, progress.epoch

    assert state() == (State.NEW, 0)
    write_checkpoint(folder / "checkpoint_best.pth", epoch=37)
    assert state() == (State.INTERRUPTED, 37)
    write_checkpoint(folder / "checkpoint_latest.pth", epoch=50)
    assert state() == (State.INTERRUPTED, 50)
    write_checkpoint(folder / FINAL, epoch=1000)
    assert state() == (State.TO_VALIDATE, 1000)
    assert state(Validation.NONE) == (State.FINISHED, 1000)
    summary = folder / "validation" / "summary.json"
    summary.parent.mkdir()
    summary.write_text('{"foreground_mean": ', encoding="utf-8")  # killed while it was written
    assert state() == (State.TO_VALIDATE, 1000)
    summary.write_text("{}", encoding="utf-8")
    assert state() == (State.FINISHED, 1000)


def test_a_trial_of_a_few_epochs_does_not_pass_for_the_training(tmp_path: Path) -> None:
    job = Job(network(), 0)
    write_checkpoint(job.folder(tmp_path) / FINAL, epoch=2)
    error = "plain_801_fold_0: must have been trained for the recipe's 1000 epochs; remove "
    with pytest.raises(CaseError, match=re.escape(error) + ".*, got 2 epochs"):
        look(job, nnunet=tmp_path, validation=Validation.OWN)
    with pytest.raises(CaseError, match=re.escape(error)):
        is_trained(job.network, fold=0, nnunet=tmp_path)


def test_the_checkpoint_that_is_further_is_gone_on_with(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint_latest.pth", epoch=50)
    best = write_checkpoint(tmp_path / "checkpoint_best.pth", epoch=98)
    assert resume_point(tmp_path) == ResumePoint(best, 98)


def test_the_demo_trainer_is_validated_only_when_asked(tmp_path: Path) -> None:
    job = Job(network(TrainerName.SHORT, epochs=4), 0)
    write_checkpoint(job.folder(tmp_path) / FINAL, epoch=4)
    assert look(job, nnunet=tmp_path, validation=Validation.OWN).state is State.FINISHED
    assert look(job, nnunet=tmp_path, validation=Validation.ALL).state is State.TO_VALIDATE


@pytest.mark.parametrize("damage", ["cut_off", "empty", "no_checkpoint"])
def test_a_checkpoint_that_was_killed_in_the_writing_is_named_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    def spoil(path: Path) -> None:
        if damage == "cut_off":
            cut_off(path)
        elif damage == "empty":
            path.write_bytes(b"")
        else:
            torch.save({"weights": 1}, path)

    latest = write_checkpoint(tmp_path / "checkpoint_latest.pth", epoch=50)
    best = write_checkpoint(tmp_path / "checkpoint_best.pth", epoch=37)
    final = write_checkpoint(tmp_path / FINAL, epoch=1000)
    assert is_finished(tmp_path)
    spoil(final)
    assert not is_finished(tmp_path)
    point = resume_point(tmp_path)
    assert point is not None
    assert (point.checkpoint, point.epoch) == (latest, 50)
    spoil(latest)
    point = resume_point(tmp_path)
    assert point is not None
    assert (point.checkpoint, point.epoch) == (best, 37)
    spoil(best)
    assert resume_point(tmp_path) is None
    broken = "cannot be read, so it was cut off while it was written; not used"
    for path in (final, latest, best):
        assert f"{path}: {broken}" in caplog.messages
    assert caplog.messages[-1] == f"{tmp_path}: no checkpoint can be read, the training starts again at epoch 0"


def test_nothing_is_said_of_checkpoints_that_never_were(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert resume_point(tmp_path) is None
    assert not is_finished(tmp_path)
    assert caplog.messages == []


def test_a_checkpoint_is_replaced_when_the_new_one_is_whole(tmp_path: Path) -> None:
    class Trainer:
        """Saves in place, as nnU-Net's trainer does, and dies in the middle when told to."""

        epoch = 7
        dies = False
        disable_checkpointing = False

        def save_checkpoint(self, path: str) -> None:
            write_checkpoint(Path(path), epoch=self.epoch)
            if self.dies:
                cut_off(Path(path))
                raise KeyboardInterrupt

    trainer = Trainer()
    write_whole(trainer)
    latest = tmp_path / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(latest))
    assert next_epoch(latest) == 7
    trainer.epoch, trainer.dies = 8, True
    with pytest.raises(KeyboardInterrupt):
        trainer.save_checkpoint(str(latest))
    assert next_epoch(latest) == 7
    assert list(tmp_path.iterdir()) == [latest]


def test_a_trainer_that_writes_no_checkpoints_still_says_so(tmp_path: Path) -> None:
    class Trainer:
        """As nnU-Net's trainers for benchmarks."""

        disable_checkpointing = True

        def __init__(self) -> None:
            self.told: list[str] = []

        def save_checkpoint(self, path: str) -> None:
            self.told.append(path)

    trainer = Trainer()
    write_whole(trainer)
    trainer.save_checkpoint(str(tmp_path / FINAL))
    assert trainer.told == [str(tmp_path / FINAL)]
    assert list(tmp_path.iterdir()) == []


def test_the_table_says_what_is_left_and_how_long_it_takes() -> None:
    def progress(fold: int, state: State, epoch: int, owner: str = "") -> Progress:
        return Progress(Job(network(), fold), state, epoch, owner)

    jobs = [
        progress(0, State.FINISHED, 1000),
        progress(1, State.INTERRUPTED, 400),
        progress(2, State.NEW, 0),
        progress(3, State.TO_VALIDATE, 1000),
        progress(4, State.BUSY, 50, "process 12 on node-3"),
    ]
    speed = Speed(iteration_s=0.2, epoch_s=72.0)
    speeds: dict[str, Speed | None] = {"plain_801_fold_1": speed, "plain_801_fold_2": speed}
    # 600 and 1000 epochs of 72 s.
    assert total_h(jobs, speeds, at_once=1) == pytest.approx((12.0 + 20.0, 12.0 + 20.0))
    assert total_h(jobs, speeds, at_once=2) == pytest.approx((12.0 + 20.0, 20.0))
    assert progress_table(jobs, speeds=speeds, at_once=2) == [
        "job               s/iteration   takes  state",
        "plain_801_fold_0                       finished",
        "plain_801_fold_1          0.2  12.0 h  goes on at epoch 400 of 1000",
        "plain_801_fold_2          0.2  20.0 h  new, 1000 epochs",
        "plain_801_fold_3                       trained, to be validated",
        "plain_801_fold_4                       in training by process 12 on node-3",
        "3 of 5 are left: 1 finished, 1 trained, to be validated, 1 goes on, 1 new, 1 in training."
        " About 32.0 h of training, 20.0 h with 2 at once, validation not counted.",
    ]
    speeds["plain_801_fold_2"] = None
    lines = progress_table(jobs, speeds=speeds, at_once=1)
    assert lines[3] == "plain_801_fold_2            ?       ?  new, 1000 epochs"
    end = "About 12.0 h of training, validation not counted. 1 could not be measured and are not in it."
    assert lines[-1].endswith(end)
    assert progress_table(jobs, speeds=None, at_once=2)[-1].endswith("1 in training.")


@pytest.mark.parametrize(("hours", "text"), [(0.0, "0 s"), (59 / 3600, "59 s"), (0.75, "45 min"), (30.26, "30.3 h")])
def test_durations(hours: float, text: str) -> None:
    assert duration(hours) == text


def test_a_job_in_training_elsewhere_is_not_left(tmp_path: Path) -> None:
    import subprocess
    import sys

    from training.networks.command_lines import CODE_FOLDER

    job = Job(network(), 0)
    script = (
        "import sys; from pathlib import Path; from training.networks.locks import held\n"
        "with held(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(job.lock(tmp_path))]
    process = subprocess.Popen(command, cwd=CODE_FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    progress = look(job, nnunet=tmp_path, validation=Validation.OWN)
    assert (progress.state, progress.is_left) == (State.BUSY, False)
    assert progress.text.startswith(f"in training by process {process.pid} on ")
    process.communicate()
    assert look(job, nnunet=tmp_path, validation=Validation.OWN).state is State.NEW
    with held(job.lock(tmp_path)):
        pass
