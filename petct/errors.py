"""The refusals that a user sees."""

from __future__ import annotations


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
        super().__init__(" ".join(message.split()))

    def __reduce__(self) -> tuple[type[CaseError], tuple[str, str, str | None]]:
        """Pickle what it was made of; without this, a worker's refusal never arrives and the caller waits for ever."""
        return CaseError, (self.where, self.rule, self.got)
