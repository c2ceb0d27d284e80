"""The refusals that a user sees."""

from __future__ import annotations

import reprlib

_LONGEST_LINE = 2000  # the platform drops lines beyond 64 KiB
_LONGEST_VALUE = 200
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def one_line(text: str) -> str:
    r"""Any text as one printable line of bounded length, which can be written as UTF-8 whatever a file is called.

    Line breaks and other white space become blanks; bytes of a file name that are not UTF-8, control and invisible
    characters are escaped (`\udcff`, `\x1b`).
    """
    line = " ".join(text.split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}..."


def shown(value: object) -> str:
    """A value out of somebody's JSON for an error, short however long or deep it is."""
    text = one_line(_SHORT.repr(value))
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


class CaseError(ValueError):
    """Something given to the program breaks a rule.

    The message is one line, *where: rule, got value unit*: the platform shows a user only the last line of stderr.

    Args:
        where: The file, socket or scan, as the user knows it (`psma-pet-suv-threshold.json`, `fdg organs`).
        rule: What must hold (`SUV threshold must be > 0`).
        got: The value that broke it, with its unit; left out when the rule says it all (`file is missing`).
    """

    def __init__(self, where: str, rule: str, got: str | None = None) -> None:
        self.where = where
        self.rule = rule
        self.got = got
        message = f"{where}: {rule}" if got is None else f"{where}: {rule}, got {got}"
        super().__init__(one_line(message))

    def __reduce__(self) -> tuple[type[CaseError], tuple[str, str, str | None]]:
        """Pickle what it was made of; without this, a worker's refusal never arrives and the caller waits for ever."""
        return CaseError, (self.where, self.rule, self.got)
