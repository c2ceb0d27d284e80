"""What is made of pip-audit's findings, and the bill of materials."""

import json
from pathlib import Path

import pytest

from security import audit, sbom
from security.audit import Explained, Result, judge, read_explained
from security.lock import Locked

EXPLAINED = (Explained("torch", frozenset({"CVE-1", "GHSA-1"}), "Never called."),)
SHA256 = "fedcba9876543210" * 4


def report(**vulnerabilities: list[dict[str, object]] | None) -> dict[str, object]:
    """pip-audit's report: findings per package, or None for one that the service knows nothing of."""
    entries = [
        {"name": name, "skip_reason": f"Dependency not found on PyPI and could not be audited: {name}"}
        if found is None
        else {"name": name, "version": "2.8.0", "vulns": found}
        for name, found in vulnerabilities.items()
    ]
    return {"dependencies": entries, "fixes": []}


def found(*ids: str, fixed: tuple[str, ...] = ("2.9.0",)) -> dict[str, object]:
    return {"id": ids[0], "aliases": list(ids[1:]), "fix_versions": list(fixed), "description": "..."}


def test_nothing_is_known() -> None:
    result, lines = judge(report(numpy=[], torch=[]), packages=["numpy", "torch"], explained=())
    assert (result, lines) == (Result.NOTHING_UNEXPLAINED, ["2 packages audited, nothing unexplained"])


def test_what_is_explained_passes_by_any_of_its_names() -> None:
    result, lines = judge(
        report(numpy=[], torch=[found("PYSEC-1", "CVE-1")]), packages=["numpy", "torch"], explained=EXPLAINED
    )
    assert result is Result.NOTHING_UNEXPLAINED
    assert lines[0] == "torch 2.8.0: CVE-1 PYSEC-1, fixed in 2.9.0; explained: Never called."


def test_what_is_not_explained_fails() -> None:
    result, lines = judge(
        report(numpy=[found("CVE-1", fixed=())], torch=[found("CVE-2"), found("GHSA-1")]),
        packages=["numpy", "torch"],
        explained=EXPLAINED,
    )
    assert result is Result.UNEXPLAINED
    assert "numpy 2.8.0: CVE-1, fixed in no version; NOT EXPLAINED" in lines  # the reason is another package's
    assert "torch 2.8.0: CVE-2, fixed in 2.9.0; NOT EXPLAINED" in lines
    assert lines[-1] == "2 to be renewed or explained in security/explained.toml"


def test_an_explanation_that_nothing_needs_any_more_is_named() -> None:
    result, lines = judge(report(torch=[]), packages=["torch"], explained=EXPLAINED)
    assert result is Result.NOTHING_UNEXPLAINED
    assert lines[0] == "torch: CVE-1 GHSA-1 is explained and was not found: remove it"


@pytest.mark.parametrize(
    ("given", "count"),
    [
        (None, 2),
        ({"dependencies": []}, 2),
        (report(numpy=None, torch=None), 2),
        (report(numpy=[], torch=None), 1),
    ],
)
def test_a_service_that_does_not_answer_is_no_result(given: dict[str, object] | None, count: int) -> None:
    result, lines = judge(given, packages=["numpy", "torch"], explained=EXPLAINED)
    assert result is Result.NOT_AUDITED
    assert result not in (0, 1)
    assert lines[-1].startswith(f"NOT AUDITED: {count} of 2 packages were not judged")
    assert not any("is explained and was not found" in line for line in lines)
    result, _ = judge(report(numpy=[found("CVE-9")], torch=None), packages=["numpy", "torch"], explained=EXPLAINED)
    assert result is Result.UNEXPLAINED


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"torch==2.8.0 \\\n    --hash=sha256:{SHA256}\n", encoding="utf-8")
    file = tmp_path / "report.json"
    assert audit.main([str(file), "--lock", str(lock)]) == 3
    file.write_text("", encoding="utf-8")
    assert audit.main([str(file), "--lock", str(lock)]) == 3
    assert capsys.readouterr().out.count("NOT AUDITED: 1 of 1 packages") == 2
    file.write_text(json.dumps(report(torch=[found("CVE-2026-24747")])), encoding="utf-8")
    assert audit.main([str(file), "--lock", str(lock)]) == 0
    file.write_text(json.dumps(report(torch=[found("CVE-0-0")])), encoding="utf-8")
    assert audit.main([str(file), "--lock", str(lock)]) == 1


def test_an_explanation_needs_its_reason(tmp_path: Path) -> None:
    assert all(one.why and one.ids for one in read_explained(Path(audit.__file__).with_name("explained.toml")))
    file = tmp_path / "explained.toml"
    file.write_text('[[vulnerability]]\npackage = "torch"\nids = ["CVE-1"]\nwhy = ""\n', encoding="utf-8")
    with pytest.raises(ValueError, match="entry must have package, ids and why"):
        read_explained(file)


def bill() -> dict[str, object]:
    def component(name: str, version: str) -> dict[str, object]:
        return {"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name.lower()}@{version}"}

    return {"bomFormat": "CycloneDX", "components": [component("SimpleITK", "2.5.7"), component("pip", "23.0")]}


def write_bill(tmp_path: Path, *, version: str) -> list[str]:
    (tmp_path / "bom.json").write_text(json.dumps(bill()), encoding="utf-8")
    (tmp_path / "lock").write_text(f"simpleitk=={version} \\\n    --hash=sha256:{SHA256}\n", encoding="utf-8")
    (tmp_path / "debian").write_text("libc6\t2.36-9+deb12u9\tamd64\ng++\t4:12.2\tamd64\n", encoding="utf-8")
    names = ["bom.json", "out.json", "--lock", "lock", "--debian", "debian"]
    return [name if name.startswith("--") else str(tmp_path / name) for name in names]


def test_a_bill_has_the_digests_of_what_was_installed_and_debians_packages(tmp_path: Path) -> None:
    assert sbom.main(write_bill(tmp_path, version="2.5.7")) == 0
    written = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    by_name = {component["name"]: component for component in written["components"]}
    assert list(by_name) == ["SimpleITK", "pip", "libc6", "g++"]
    assert by_name["SimpleITK"]["hashes"] == [{"alg": "SHA-256", "content": SHA256}]
    assert "hashes" not in by_name["pip"]  # not of the lock
    assert by_name["libc6"]["purl"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u9?arch=amd64"
    assert by_name["g++"]["purl"] == "pkg:deb/debian/g%2B%2B@4%3A12.2?arch=amd64"
    assert sbom.complete(bill(), lock={}, debian=[]) == bill()


def test_a_bill_of_other_packages_than_the_locks_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sbom.main(write_bill(tmp_path, version="2.5.6")) == 1
    assert "packages must be those of lock, got others: simpleitk" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
    assert sbom.packages_of(bill()) == {"simpleitk": "2.5.7", "pip": "23.0"}
    assert Locked("simpleitk", "2.5.7", SHA256).is_wheel
