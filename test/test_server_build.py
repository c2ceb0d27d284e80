"""What build.sh asks Docker for, and what the Dockerfile makes of it: one image for each of the platform's two ways."""

import os
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from operation.server import PORT

REPOSITORY = Path(__file__).resolve().parents[1]
LABEL = "org.grand-challenge.api-method"
NAME = re.search(r'^name = "(.*)"$', (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"), re.M)[1]
VERSION = re.search(r'^version = "(.*)"$', (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"), re.M)[1]


def build(tmp_path: Path, *options: str) -> tuple[subprocess.CompletedProcess, list[list[str]]]:
    """Run build.sh with a Docker that only writes down what it is asked for; returns that, too."""
    called = tmp_path / "called"
    called.touch()
    fake = tmp_path / "docker"
    fake.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" >>"{called}"\nprintf "\\n" >>"{called}"\n', encoding="utf-8")
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for name in ("BASE_IMAGE", "BUILD_NETWORK"):
        environment.pop(name, None)
    result = subprocess.run(
        [REPOSITORY / "build.sh", *options], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    return result, [line.split("\0")[:-1] for line in called.read_text(encoding="utf-8").splitlines()]


def option(command: list[str], name: str) -> list[str]:
    return [value for key, value in pairwise(command) if key == name]


@pytest.mark.parametrize(
    ("options", "target", "tag"),
    [
        ((), "exec", f"{NAME}:{VERSION}"),
        (("--api", "exec"), "exec", f"{NAME}:{VERSION}"),
        (("--api", "invoke"), "invoke", f"{NAME}:{VERSION}"),
        (("--tag", "other:1"), "exec", "other:1"),
        (("--tag", "other:1", "--api", "invoke"), "invoke", "other:1"),
        (("--api", "invoke", "--tag", "other:1"), "invoke", "other:1"),
    ],
)
def test_what_docker_is_asked_for(tmp_path: Path, options: tuple[str, ...], target: str, tag: str) -> None:
    result, (built, inspected) = build(tmp_path, *options)
    assert (result.returncode, result.stderr) == (0, "")
    assert built[0] == "build"
    assert built[-1] == "."
    assert option(built, "--target") == [target]
    assert option(built, "--tag") == [tag]
    assert option(built, "--platform") == ["linux/amd64"]
    assert option(built, "--build-arg") == [f"VERSION={VERSION}"]
    assert inspected[:2] == ["image", "inspect"]
    assert inspected[-1] == tag


@pytest.mark.parametrize(
    "options",
    [
        ("--api",),
        ("--api", "http"),
        ("--api", ""),
        ("--api", "invoke", "--tag"),
        ("--push",),
        ("--push", "yes"),
        ("x",),
    ],
)
def test_other_arguments_are_refused(tmp_path: Path, options: tuple[str, ...]) -> None:
    result, calls = build(tmp_path, *options)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "--api" in result.stderr
    assert not calls


@pytest.mark.parametrize("name", ["-h", "--help"])
def test_help_names_both_ways(tmp_path: Path, name: str) -> None:
    result, calls = build(tmp_path, name)
    assert result.returncode == 0
    assert "--api exec|invoke" in result.stdout
    assert f'{LABEL}="invoke"' in result.stdout
    assert result.stdout.rstrip().endswith("DOCKER_BUILDKIT=0 for the classic builder.")
    assert not calls


def stages() -> dict[str, str]:
    """The Dockerfile's stages by name, in order."""
    text = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    parts = re.split(r"^FROM (\S+) AS (\w+)$", text, flags=re.M)
    return {name: f"FROM {base}\n{body}" for base, name, body in zip(*(parts[n::3] for n in (1, 2, 3)), strict=True)}


def instructions(stage: str) -> list[str]:
    return [line for line in stage.splitlines() if line and not line.startswith("#")]


def test_only_the_http_way_has_the_label_and_the_command() -> None:
    by_name = stages()
    assert instructions(by_name["invoke"]) == [
        "FROM product",
        f'LABEL {LABEL}="invoke"',
        f"EXPOSE {PORT}",
        'CMD ["serve"]',
    ]
    # The last stage is what a build without a target makes.
    assert list(by_name)[-1] == "exec"
    assert instructions(by_name["exec"]) == ["FROM product"]
    assert LABEL not in by_name["product"]
    assert not re.search(r"^CMD", by_name["product"], flags=re.M)
    # In its other form Docker would start a shell, which takes no more arguments and keeps SIGTERM to itself.
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", by_name["product"], flags=re.M)
    assert entry.startswith("[")
