"""Trainings as a Slurm job array: submitit runs for real, on this machine and on a Slurm made of shell scripts."""

import os
import re
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from petct.errors import CaseError
from training.networks.cluster import ClusterTask, SlurmOptions, build_executor, minutes, submit
from training.networks.command_lines import CODE_FOLDER
from training.networks.gpu_queue import BUSY_CODE

OPTIONS = SlurmOptions(
    partition="gpu", time_min=90, gpus=1, cpus=6, memory_gb=48, at_once=2, more={"account": "me", "qos": "long"}
)
# Slurm's commands, as far as submitit calls them. Each step runs in a process group of its own, because Slurm sends its
# signals to all processes of a step. The numbers of the array's tasks come from FAKE_TASKS; none for a single job.
SLURM = {
    "sbatch": """
cp "${@: -1}" "$FAKE_SLURM/submitted.sh"
echo "Submitted batch job 77"
for job in ${FAKE_TASKS:-alone}; do "$FAKE_SLURM/bin/run" "77_$job"; done
""",
    "run": """
export SLURM_JOB_ID=77 SLURM_NTASKS=1
if [[ $1 != *alone ]]; then export SLURM_ARRAY_JOB_ID=77 SLURM_ARRAY_TASK_ID=${1#77_}; fi
bash "$FAKE_SLURM/submitted.sh" >>"$FAKE_SLURM/$1.out" 2>&1 &
""",
    "srun": """
while [[ $1 == --* ]]; do [[ $1 == --output || $1 == --error ]] && shift; shift; done
echo $$ >"$FAKE_SLURM/step"
exec setsid "$@"
""",
    "scontrol": """
echo "$@" >>"$FAKE_SLURM/requeued"
"$FAKE_SLURM/bin/run" 77_alone
""",
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what `sbatch` was given; the trainings are run from where the code is, as users run them."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, script in SLURM.items():
        (tools / name).write_text(f"#!/bin/bash{script}", encoding="utf-8")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path))
    for name in ("nnUNet_n_proc_DA", "FAKE_TASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(CODE_FOLDER)
    return tmp_path


def stub(script: str) -> tuple[str, ...]:
    return (sys.executable, "-c", script)


def wait_for(path: Path) -> str:
    deadline_s = time.monotonic() + 60
    while not (path.exists() and path.read_text(encoding="utf-8")):
        assert time.monotonic() < deadline_s, f"{path} did not come"
        time.sleep(0.05)
    return path.read_text(encoding="utf-8")


def test_the_array_is_what_was_asked_for_and_runs_every_command(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TASKS", "0 1 2")
    note = "import os; open({!r}, 'w').write(os.getcwd() + ' ' + os.environ['nnUNet_n_proc_DA'])"
    commands = {f"job_{n}": stub(note.format(str(slurm / f"note_{n}"))) for n in range(3)}
    executor = build_executor(slurm / "logs", options=OPTIONS)
    jobs = submit(commands, executor=executor, folder=slurm, cpus=6)
    assert [job.job_id for job in jobs.values()] == ["77_0", "77_1", "77_2"]
    script = (slurm / "submitted.sh").read_text(encoding="utf-8")
    wanted = {
        "array": "0-2%2",
        "partition": "gpu",
        "time": "90",
        "gpus-per-node": "1",
        "cpus-per-task": "6",
        "mem": "48GB",
        "account": "me",
        "qos": "long",
        "job-name": "ttb_train",
    }
    found = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", script, flags=re.MULTILINE))
    assert {key: found.get(key) for key in wanted} == wanted
    for number in range(3):
        assert wait_for(slurm / f"note_{number}") == f"{slurm} 6"


def test_a_failed_command_fails_its_job_and_one_that_is_trained_elsewhere_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CODE_FOLDER)
    executor = build_executor(tmp_path / "logs", options=replace(OPTIONS, gpus=0), cluster="local")
    commands = {
        "good": stub("print('epoch 0')"),
        "elsewhere": stub(f"raise SystemExit({BUSY_CODE})"),
        "bad": stub("raise SystemExit(3)"),
    }
    jobs = submit(commands, executor=executor, folder=tmp_path, cpus=2)
    assert jobs["good"].result() == "done"
    assert "epoch 0\n" in jobs["good"].stdout()
    assert jobs["elsewhere"].result() == "in training by another process"
    with pytest.raises(Exception, match="returned non-zero exit status 3"):
        jobs["bad"].result()


def test_what_the_time_limit_ends_is_queued_again_and_goes_on(slurm: Path) -> None:
    # The first run waits to be ended, the second goes on where it was.
    script = (
        f"import os, time; path = {str(slurm / 'checkpoint')!r}; is_second = os.path.exists(path)\n"
        f"open(path, 'a').write('x'); is_second and open(path + '_final', 'w').write('x'); is_second or time.sleep(60)"
    )
    submit({"job": stub(script)}, executor=build_executor(slurm / "logs", options=OPTIONS), folder=slurm, cpus=2)
    wait_for(slurm / "checkpoint")
    os.killpg(int(wait_for(slurm / "step")), signal.SIGUSR2)
    wait_for(slurm / "checkpoint_final")
    assert (slurm / "requeued").read_text(encoding="utf-8") == "requeue 77\n"
    assert (slurm / "checkpoint").read_text(encoding="utf-8") == "xx"


def test_what_is_queued_again_is_the_same() -> None:
    task = ClusterTask(stub("pass"), "/", 2)
    delayed: Any = task.checkpoint()
    assert (delayed.function, delayed.args, delayed.kwargs) == (task, (), {})


def test_without_submitit_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    error = "--slurm: submitit must be installed, by `pip install --requirement requirements-cluster.txt`, got none"
    with pytest.raises(CaseError, match=re.escape(error)):
        build_executor(tmp_path, options=OPTIONS)


def test_without_slurm_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CaseError, match="--slurm: must be given where Slurm's srun and sbatch are, got none"):
        build_executor(tmp_path / "logs", options=OPTIONS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90),
        ("90:30", 90),
        ("24:00:00", 24 * 60),
        ("1:30:59", 90),
        ("2-12", (2 * 24 + 12) * 60),
        ("2-12:30", (2 * 24 + 12) * 60 + 30),
        ("1-00:00:00", 24 * 60),
    ],
)
def test_time_limits(text: str, expected: int) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "0", "0:59", "-5", "1.5", "2d", "1:2:3:4", "1-"])
def test_time_limits_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(CaseError, match="--slurm-time: must be minutes"):
        minutes(text)
