"""The scan of the image's files: it finds what it is for, and nothing in files as they should be."""

import os
from pathlib import Path

import pytest

from security.scan import scan, scan_variables

HOME = "/home/petct"
NOBODY = 54321  # owns nothing
KEY = "-----BEGIN OPENSSH " + "PRIVATE KEY-----\n" + "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAA\n"
SECRETS = {
    "private key": KEY,
    "AWS key": "aws = AKIA" + "ABCDEFGHIJKLMNOP",
    "GitHub token": "ghp_" + "a1B2" * 9,
    "PyPI token": "password = pypi-" + "AgEIcHlwaS5vcmc" + "x" * 50,
    "Slack token": "xoxb-" + "123456789012-abcdefghijkl",
    "Google key": "AIza" + "S" * 35,
    "Hugging Face token": "hf_" + "Q" * 34,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An image's files as they should be."""
    for folder in ("etc", "opt/app/petct", "home/petct", "tmp", "proc/1"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "etc" / "pip.conf").write_text("[global]\nindex-url = https://index.example:8443/simple/\n")
    (tmp_path / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
    (tmp_path / "opt" / "app" / "petct" / "README").write_text("proxies: https://user:password@proxy.example/\n")
    (tmp_path / "opt" / "app" / "link").symlink_to("petct/README")
    (tmp_path / "proc" / "1" / "environ").write_text(SECRETS["AWS key"])  # the machine's
    (tmp_path / "tmp").chmod(0o1777)
    return tmp_path


def found(root: Path, *, uid: int = NOBODY, groups: frozenset[int] = frozenset({NOBODY})) -> dict[str, str]:
    return {finding.path: finding.what for finding in scan(root, uid=uid, groups=groups, home=HOME)}


def test_nothing_is_found_where_nothing_is(root: Path) -> None:
    assert found(root) == {}


@pytest.mark.parametrize("what", SECRETS)
def test_secrets(what: str, root: Path) -> None:
    (root / "opt" / "app" / "settings.py").write_bytes(b"\xff\x00" + SECRETS[what].encode() + b"\n")
    assert found(root) == {"/opt/app/settings.py": f"holds what looks like a {what}"}


def test_keys_that_packages_test_themselves_with_are_known(root: Path) -> None:
    folder = root / "opt/venv/lib/python3.11/site-packages/future/backports/test"
    folder.mkdir(parents=True)
    (folder / "ssl_key.pem").write_text(KEY)
    assert found(root) == {}
    (folder.parent / "ssl_key.pem").write_text(KEY)
    assert list(found(root)) == ["/opt/venv/lib/python3.11/site-packages/future/backports/ssl_key.pem"]


@pytest.mark.parametrize("file", ["etc/pip.conf", "home/petct/.config/pip/pip.conf", "etc/apt/sources.list.d/a.list"])
def test_an_index_with_a_password(file: str, root: Path) -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text("[global]\nindex-url = https://reader:s3cret@index.example/simple/\n")
    assert found(root) == {f"/{file}": "holds an address with a name and a password"}


def test_where_secrets_are_kept(root: Path) -> None:
    (root / "home" / "petct" / ".netrc").write_text("machine index.example login reader password s3cret\n")
    assert found(root) == {"/home/petct/.netrc": "is where secrets are kept"}


@pytest.mark.parametrize(("mode", "shown"), [(0o4755, "-rwsr-xr-x"), (0o2755, "-rwxr-sr-x")])
def test_files_that_give_rights(mode: int, shown: str, root: Path) -> None:
    (root / "opt" / "app" / "su").write_text("")
    (root / "opt" / "app" / "su").chmod(mode)
    assert found(root) == {"/opt/app/su": f"gives its owner's rights to who runs it, mode {shown}"}


def test_what_everybody_can_change(root: Path) -> None:
    (root / "etc" / "hosts").chmod(0o666)
    (root / "opt" / "app").chmod(0o777)
    assert found(root) == {
        "/etc/hosts": "can be changed by everybody, mode -rw-rw-rw-",
        "/opt/app": "can be changed by everybody, mode drwxrwxrwx",
    }


def test_what_the_images_user_can_change(root: Path) -> None:
    (root / "home" / "petct" / ".profile").write_text("")
    own = found(root, uid=os.getuid())
    # All of it belongs to who runs this test; only the home may.
    assert {"/etc", "/etc/hosts", "/opt/app/petct/README"} <= set(own)
    assert not any(path.startswith(HOME) for path in own)
    group = frozenset({(root / "etc" / "hosts").stat().st_gid})
    assert found(root, groups=group) == {}
    (root / "etc" / "hosts").chmod(0o664)
    assert found(root, groups=group) == {"/etc/hosts": "can be changed by the image's user, mode -rw-rw-r--"}


def test_settings_of_the_image() -> None:
    good = ["PATH=/opt/venv/bin:/usr/bin", "RUN /bin/sh -c pip install --index-url https://index.example/simple/", ""]
    assert list(scan_variables(good)) == []
    (finding,) = scan_variables(["PIP_INDEX_URL=https://reader:s3cret@index.example/simple/"])
    assert (finding.path, finding.what) == (
        "image settings, PIP_INDEX_URL",
        "holds an address with a name and a password",
    )
    assert "s3cret" not in f"{finding}"
    (finding,) = scan_variables([f"RUN token={SECRETS['GitHub token']} pip install x"])
    assert finding.what == "holds what looks like a GitHub token"
