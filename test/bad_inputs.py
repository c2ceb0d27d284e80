"""The table of malformed, hostile and odd cases: how each is made, and what must come of it.

What must come of it is one of three: a refusal, whose last line is given here; the same masks as without the oddity; or
the same masks and a warning. Decisions that are not obvious, with their reasons:

* The registration is not read by the method, so whatever is in it changes nothing.
* In the platform's layout, which strangers fill, a link must not lead out of the input folder; the folder itself may be
  one. In the training set's layout, which a user fills on his own machine, links into an archive are everyday life.
* What lies in the place of a file and is none (folder, pipe, device, dangling link) is refused, also where the file
  could be done without.
* inputs.json says where sockets lie, and the platform's places stand in for whatever it does not say; a socket that it
  lists in two places is refused.
* A flipped direction is a direction: it is read, with a warning for a PET, and the masks are on the same flipped grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

import bad_inputs_headers
import bad_inputs_refused
import bad_inputs_taken
from bad_files import Place, Row


class Outcome(StrEnum):
    """What must come of a case."""

    REFUSED = "refused"
    TAKEN = "taken"
    WARNED = "warned"


class Layout(StrEnum):
    """Whose layout the case has."""

    PLATFORM = "platform"
    TRAINING = "training"


@dataclass(frozen=True)
class BadInput:
    """One row.

    Attributes:
        name: Unique; the layout is part of it.
        layout: Of the case that is spoilt.
        spoil: Spoils a healthy case in place.
        outcome: What must come of it.
        line: For a refusal the last line of stderr, for a warning a line of the log: a regular expression.
        is_same: Whether what is taken is voxel for voxel what it was before it was spoilt.
    """

    name: str
    layout: Layout
    spoil: Callable[[Place], None]
    outcome: Outcome
    line: str = ""
    is_same: bool = True


def table() -> list[BadInput]:
    """Every row, in both layouts where that makes sense."""
    refused, headers, taken = bad_inputs_refused, bad_inputs_headers, bad_inputs_taken
    platform, training = (Layout.PLATFORM,), (Layout.TRAINING,)
    return [
        *_rows(refused.in_both_layouts(), Layout, is_refused=True),
        *_rows(refused.on_platform(), platform, is_refused=True),
        *_rows(headers.in_both_layouts(), Layout, is_refused=True),
        *_rows(headers.on_platform(), platform, is_refused=True),
        *_rows(headers.in_training(), training, is_refused=True),
        *_rows(taken.same_in_both_layouts(), Layout),
        *_rows(taken.other_in_both_layouts(), Layout, is_same=False),
        *_rows(taken.on_platform(), platform),
        *_rows(taken.without_organs_on_platform(), platform, is_same=False),
        *_rows(taken.in_training(), training),
        *_rows(taken.without_organs_in_training(), training, is_same=False),
    ]


def _rows(
    rows: Iterable[Row], layouts: Iterable[Layout], *, is_refused: bool = False, is_same: bool = True
) -> list[BadInput]:
    table = []
    for name, spoil, line in rows:
        outcome = Outcome.REFUSED if is_refused else Outcome.WARNED if line else Outcome.TAKEN
        table += [BadInput(f"{name}, {layout}", layout, spoil, outcome, line, is_same) for layout in layouts]
    return table
