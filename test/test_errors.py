import pickle

import pytest

from petct.errors import CaseError


@pytest.mark.parametrize("got", ["-1.0 SUV", None])
def test_a_refusal_crosses_processes_whole(got: str | None) -> None:
    error = CaseError("fdg\norgans", "must be > 0", got)
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert (type(copy), copy.where, copy.rule, copy.got) == (CaseError, "fdg\norgans", "must be > 0", got)
