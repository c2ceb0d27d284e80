"""What must not be in an image: secrets, files that give rights, files that the image's user could change.

Runs inside the image (`security/scan_image.sh`), so it needs nothing but Python.
"""

from __future__ import annotations

import argparse
import os
import pwd
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_ELSEWHERE = ("proc", "sys", "dev")  # the machine's, not the image's
_MOST_BYTES = 4 << 20  # what is larger is data
# Keys and tokens by the forms that their issuers give them, so that random bytes are not taken for one.
_SECRETS = {
    "private key": re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s+[A-Za-z0-9+/]{32}"),
    "AWS key": re.compile(rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "GitHub token": re.compile(rb"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,})\b"),
    "PyPI token": re.compile(rb"\bpypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{40,}"),
    "Slack token": re.compile(rb"\bxox[abprs]-[0-9]{8,}-[A-Za-z0-9-]{10,}"),
    "Google key": re.compile(rb"\bAIza[0-9A-Za-z_-]{35}\b"),
    "Hugging Face token": re.compile(rb"\bhf_[A-Za-z0-9]{34}\b"),
}
# Who has a name and a password before the host; looked for where settings are, because documentation is full of them.
_CREDENTIALS = re.compile(rb"\b[a-z][a-z0-9+]*://[^/\s:@\"']+:[^/\s@\"']+@")
_SETTINGS = re.compile(
    r"(?:^|/)(?:pip\.conf|\.?pypirc|\.netrc|_netrc|\.npmrc|uv\.toml|\.git-credentials|\.gitconfig|config\.json|"
    r"environment|\.bash_history|\.python_history|\.env|direct_url\.json|sources\.list(?:\.d/[^/]+)?|auth\.conf)$"
)
_SECRET_FILES = re.compile(
    r"(?:^|/)(?:\.netrc|_netrc|\.git-credentials|\.pypirc|id_(?:rsa|dsa|ecdsa|ed25519)|.*\.p12)$"
)
# Keys that packages ship to test themselves with, the same for everybody.
_EXAMPLES = ("/site-packages/future/backports/test/", "/libgnutls.so.")


@dataclass(frozen=True)
class Finding:
    """Something that must not be in an image.

    Attributes:
        path: Where.
        what: What.
    """

    path: str
    what: str


def scan(root: Path, *, uid: int, groups: frozenset[int], home: str) -> Iterator[Finding]:
    """Everything below a root that must not be in an image.

    Args:
        root: The root of its files.
        uid: The image's user.
        groups: The groups of that user.
        home: That user's home, which may be the user's own.
    """
    for folder, names, files in os.walk(root):
        here = os.path.relpath(folder, root)
        if here == ".":
            names[:] = [name for name in names if name not in _ELSEWHERE]
        for name in (*names, *files):
            path = os.path.join(folder, name)
            shown = "/" + os.path.relpath(path, root)
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                continue
            yield from _of_rights(shown, status, uid=uid, groups=groups, home=home)
            if stat.S_ISREG(status.st_mode):
                yield from _of_secrets(path, shown, size=status.st_size)


def scan_variables(variables: Sequence[str]) -> Iterator[Finding]:
    """Secrets in the settings of an image: its environment, and the commands that made it."""
    for line in variables:
        name = line.partition("=")[0].split()[0] if line.strip() else line
        for what in _secrets_in(line.encode("utf-8", errors="replace"), is_settings=True):
            yield Finding(f"image settings, {name[:60]}", what)


def _of_rights(shown: str, status: os.stat_result, *, uid: int, groups: frozenset[int], home: str) -> Iterator[Finding]:
    mode = status.st_mode
    if stat.S_ISLNK(mode):
        return
    if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
        yield Finding(shown, f"gives its owner's rights to who runs it, mode {stat.filemode(mode)}")
    if mode & stat.S_IWOTH:
        if not (stat.S_ISDIR(mode) and mode & stat.S_ISVTX):  # a folder for everybody's own files, as /tmp is
            yield Finding(shown, f"can be changed by everybody, mode {stat.filemode(mode)}")
        return
    is_own = status.st_uid == uid  # an owner may always change the mode
    is_groups = bool(status.st_gid in groups and mode & stat.S_IWGRP)
    if (is_own or is_groups) and not (shown == home or shown.startswith(f"{home}/")):
        yield Finding(shown, f"can be changed by the image's user, mode {stat.filemode(mode)}")


def _of_secrets(path: str, shown: str, *, size: int) -> Iterator[Finding]:
    if _SECRET_FILES.search(shown):
        yield Finding(shown, "is where secrets are kept")
    if size > _MOST_BYTES or any(example in shown for example in _EXAMPLES):
        return
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        yield Finding(shown, f"cannot be read, {error.strerror}")
        return
    for what in _secrets_in(content, is_settings=bool(_SETTINGS.search(shown))):
        yield Finding(shown, what)


def _secrets_in(content: bytes, *, is_settings: bool) -> Iterator[str]:
    for what, pattern in _SECRETS.items():
        if pattern.search(content):
            yield f"holds what looks like a {what}"
    if is_settings and _CREDENTIALS.search(content):
        yield "holds an address with a name and a password"


def main(arguments: Sequence[str] | None = None) -> int:
    """Scan the image that this runs in."""
    parser = argparse.ArgumentParser(prog="security/scan_image.sh", description=main.__doc__)
    parser.add_argument("--user", required=True, help="the image's user")
    options = parser.parse_args(arguments)
    entry = pwd.getpwnam(options.user)
    groups = frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid))
    findings = [*scan_variables(sys.stdin.read().splitlines())]
    findings += scan(Path("/"), uid=entry.pw_uid, groups=groups, home=entry.pw_dir)
    for finding in findings:
        sys.stdout.write(f"{ascii(finding.path)[1:-1]}: {finding.what}\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
