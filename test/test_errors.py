import pickle

import pytest

from petct.errors import CaseError, one_line, shown


@pytest.mark.parametrize("got", ["-1.0 SUV", None])
def test_a_refusal_crosses_processes_whole(got: str | None) -> None:
    error = CaseError("fdg\norgans", "must be > 0", got)
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert (type(copy), copy.where, copy.rule, copy.got) == (CaseError, "fdg\norgans", "must be > 0", got)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("two\nlines \t and\rblanks", "two lines and blanks"),
        ("bytes \udcff\udc80 of a name", r"bytes \udcff\udc80 of a name"),
        ("\x1b[2J clears\x07", r"\x1b[2J clears\x07"),
        ("\u202ereversed \u00e9\u4e2d", "\\u202ereversed \u00e9\u4e2d"),
        ("", ""),
        ("a" * 2001, "a" * 2000 + "..."),
    ],
)
def test_any_text_becomes_one_line_that_can_be_written(text: str, line: str) -> None:
    assert one_line(text) == line
    assert str(CaseError("where", text or "rule")) == one_line(f"where: {text or 'rule'}")


def test_a_value_is_shown_briefly_however_long_or_deep_it_is() -> None:
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    assert shown(deep).startswith("[[[")
    assert shown({"a": "b" * 10**6}).startswith("{'a': 'bbb")
    for value in (deep, {"a": "b" * 10**6}, list(range(10**6)), {str(n): "c" * 99 for n in range(99)}, 10**3000):
        assert len(shown(value)) <= 203
    assert shown(3.5) == "3.5"
