"""The locks: every package by version and digest, from anywhere, and no other than the requirements say."""

import json
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from security.lock import Locked, lock_text, main, problems, read_lock, read_pins, read_report

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements", "requirements-dev", "requirements-security", "requirements-build")
SHA256 = "0123456789abcdef" * 4


def lock_of(name: str) -> dict[str, Locked]:
    return read_lock((ROOT / f"{name}.lock").read_text(encoding="utf-8"))


def test_the_locks_fit_their_requirements() -> None:
    assert main([str(ROOT)]) == 0
    for name in LOCKS[:3]:
        assert (
            read_pins(ROOT / f"{name}.txt").items()
            <= {package: locked.version for package, locked in lock_of(name).items()}.items()
        )


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_place(name: str) -> None:
    text = (ROOT / f"{name}.lock").read_text(encoding="utf-8")
    entries = [line for line in text.splitlines() if not line.startswith("#")]
    options = r"--require-hashes|--only-binary :all:|--no-binary [a-z0-9-]+"
    allowed = rf"{options}|[a-z0-9-]+==[a-z0-9.]+ \\|    --hash=sha256:\w{{64}}"
    assert [line for line in entries if not re.fullmatch(allowed, line)] == []
    assert "://" not in text


def test_locks_agree() -> None:
    product = lock_of("requirements").items()
    assert product <= lock_of("requirements-dev").items()
    assert lock_of("requirements-build").items() <= product
    assert [name for name, package in product if not package.is_wheel] == ["acvl-utils"]  # the only one without wheels
    assert len([name for name, _ in product if name.startswith("nvidia-")]) == 14  # all that torch asks for


def test_everything_that_is_needed_is_locked() -> None:
    """What the packages say that they need, followed from the requirements on."""
    lock = lock_of("requirements")
    todo, seen = [Requirement(name) for name in read_pins(ROOT / "requirements.txt")], set()
    while todo:
        requirement = todo.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert name in lock, f"{requirement} is not in requirements.lock"
        assert requirement.specifier.contains(lock[name].version, prereleases=True), requirement
        key = (name, frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            needed = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:  # the environment is younger or older than the lock; the test of versions says so
            pytest.fail(f"{name} must be installed")
        for one in needed:
            extras = ["", *requirement.extras]
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(one)
    assert {name for name, _ in seen} == set(lock)  # and nothing else


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path in (*ROOT.glob("requirements*"), ROOT / "constraints.txt"):
        shutil.copy(path, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "line", "other", "expected"),
    [
        ("requirements.txt", "numpy==2.4.6", "numpy==2.4.7", "requirements.lock: numpy must be 2.4.7, got 2.4.6"),
        (
            "requirements.txt",
            "scipy==1.17.1",
            "scipy==1.17.1\nrequests-cache==1.2.1",
            "requests-cache must be in the lock",
        ),
        ("constraints.txt", "attrs==26.1.0", "attrs==26.2.0", "requirements.lock: attrs must be 26.2.0, got 26.1.0"),
        ("constraints.txt", "attrs==26.1.0\n", "", "attrs must be in requirements or constraints, is in the lock only"),
        (
            "requirements.lock",
            "attrs==26.1.0 \\",
            "attrs==26.1.0",
            "requirements.lock: lock must hold a version and one",
        ),
        (
            "requirements-dev.txt",
            "ruff==0.17.6",
            "ruff==0.17.7",
            "requirements-dev.lock: ruff must be 0.17.7, got 0.17.6",
        ),
    ],
)
def test_a_lock_that_no_longer_fits(
    file: str, line: str, other: str, expected: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder)]) == 0
    text = (folder / file).read_text(encoding="utf-8")
    assert line in text
    (folder / file).write_text(text.replace(line, other), encoding="utf-8")
    assert main([str(folder)]) == 1
    error = capsys.readouterr().err
    assert expected in error
    assert error.endswith("; run security/lock.sh\n")


def entry(name: str, file: str, *, url: str = "https://index.example/a/b", **archive: object):
    info = {"url": f"{url}/{file}", "archive_info": archive or {"hashes": {"sha256": SHA256}}}
    return {"metadata": {"name": name, "version": "1.2"}, "download_info": info}


def test_a_report_becomes_a_lock() -> None:
    report = {
        "install": [
            entry("Zeta_Pack.age", "Zeta_Pack.age-1.2-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"),
            entry("alpha", "alpha-1.2.tar.gz"),
            entry("beta", "beta-1.2%2Bcu1-py3-none-any.whl"),
        ]
    }
    packages = read_report(report)
    assert packages == (
        Locked("alpha", "1.2", SHA256, is_wheel=False),
        Locked("beta", "1.2", SHA256),
        Locked("zeta-pack-age", "1.2", SHA256),
    )
    text = lock_text(packages, what="For a test.")
    assert text.splitlines()[2:6] == ["--require-hashes", "--only-binary :all:", "--no-binary alpha", "alpha==1.2 \\"]
    assert "index.example" not in text
    assert list(read_lock(text).values()) == list(packages)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (entry("a", "a-1.2-py3-none-any.whl", url="file:///wheels"), "must be a file of an index .* got scheme file"),
        (entry("a", "a-1.2-py3-none-any.whl", hashes={"md5": "0"}), "must be a file of an index with its sha256"),
        (
            entry("a", "a-1.2-cp311-cp311-manylinux_2_39_x86_64.whl"),
            "wheel must run with glibc 2.36 on x86-64, got a-1",
        ),
        (entry("a", "a-1.2-cp311-cp311-manylinux_2_17_aarch64.whl"), "wheel must run with glibc 2.36 on x86-64"),
    ],
)
def test_files_that_others_do_not_get_are_refused(bad: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        read_report({"install": [bad]})


def test_an_empty_lock_lacks_everything() -> None:
    assert problems({}, wanted={"numpy": "2"}, constraints={}) == ["numpy must be in the lock, is not"]
    assert problems({}, wanted={}, constraints={"numpy": "2"}) == []


def test_whoever_installs_asks_for_digests() -> None:
    """Nothing that is built or run is installed from anything but a lock."""
    files = ("Dockerfile", "environment.sh", "security/tools.sh")
    for file in files:
        text = (ROOT / file).read_text(encoding="utf-8").replace("\\\n", " ")
        installs = [line for line in text.splitlines() if "pip install" in line]
        assert installs, file
        assert all("--require-hashes" in line for line in installs), file
        assert not re.search(r"--requirement \S*\.txt", text), file
    context = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {"!requirements.lock", "!requirements-build.lock", "!requirements.txt"} <= set(context)


def test_the_command_says_the_same() -> None:
    done = subprocess.run([ROOT / "security" / "lock.sh", "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    report = json.dumps({"install": []})
    assert read_report(json.loads(report)) == ()
