import json

import pytest

from petct.errors import CaseError
from petct.manifest import Mode
from segmentation.fold_runs import Executed, FoldRun, read_executed

EXECUTED = Executed(
    Mode.BALANCED,
    (
        FoldRun("PSMA", "plain_801", 0, mirrorings=8, windows=27, is_whole=True),
        FoldRun("FDG", "resenc_m_902", 4, 2, 5, is_whole=False, windows_unmirrored=3, is_by_uptake=True),
        FoldRun("PSMA", "plain_801", 2, mirrorings=1, windows=0, is_whole=False, is_by_uptake=True),
    ),
)


def test_what_is_written_is_read() -> None:
    assert read_executed(json.loads(json.dumps(EXECUTED.as_json()))) == EXECUTED
    assert read_executed(Executed(Mode.EXACT, ()).as_json()) == Executed(Mode.EXACT, ())
    assert EXECUTED.of("FDG") == EXECUTED.fold_runs[1:2]
    assert EXECUTED.of("PSMA") == (EXECUTED.fold_runs[0], EXECUTED.fold_runs[2])


def test_in_words() -> None:
    assert [str(run) for run in EXECUTED.fold_runs[:2]] == [
        "PSMA plain_801 fold 0: 27 windows with 8 mirrorings",
        "FDG resenc_m_902 fold 4: 5 windows with 2 mirrorings and 3 without, those with the highest uptake",
    ]


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"mode": "slow"}, "^fold runs mode: must be one of exact, balanced, fast, got slow$"),
        ({"mode": None}, "^fold runs mode: must be a text, got None$"),
        ({"fold_runs": {}}, "^fold runs: fold_runs must be a list, got dict$"),
        ({"fold_runs": [3]}, "^fold runs 0: must be a JSON object, got int$"),
        ({"note": 1}, "^fold runs: key is not known, got note$"),
    ],
)
def test_what_is_not_a_record_is_refused(changes: dict[str, object], rule: str) -> None:
    with pytest.raises(CaseError, match=rule):
        read_executed(EXECUTED.as_json() | changes)
    with pytest.raises(CaseError, match="^run.json executed: must be a JSON object, got list$"):
        read_executed([EXECUTED.as_json()], where="run.json executed")


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"tracer": "psma"}, "tracer must be PSMA or FDG, got psma"),
        ({"fold": -1}, "fold: must be >= 0, got -1"),
        ({"fold": True}, "fold: must be a whole number, got True"),
        ({"mirrorings": 0}, "mirrorings must be >= 1, got 0"),
        ({"windows": 2.5}, "windows: must be a whole number, got 2.5"),
        ({"is_whole": 1}, "is_whole: must be true or false, got 1"),
        ({"seconds": 3}, "key is not known, got seconds"),
    ],
)
def test_a_fold_that_is_not_one_is_refused(changes: dict[str, object], rule: str) -> None:
    content = EXECUTED.as_json()
    content["fold_runs"][1] |= changes
    with pytest.raises(CaseError, match=rule) as refusal:
        read_executed(content)
    assert str(refusal.value).startswith("fold runs 1")


def test_a_key_that_is_missing_is_refused() -> None:
    content = EXECUTED.as_json()
    del content["fold_runs"][0]["windows"]
    with pytest.raises(CaseError, match="^fold runs 0: key windows is missing$"):
        read_executed(content)
