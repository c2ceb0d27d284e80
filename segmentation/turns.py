"""Both scans' ensembles in turns: all of PSMA before FDG, or, when time is short, the first fold of each before all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from petct.decisions import decide
from segmentation.beside_networks import AtOnce, Background, one_ahead
from segmentation.ensemble import Inputs, ScanEnsemble
from segmentation.pace import Pace


def predict_in_turn(
    scans: Sequence[ScanEnsemble], *, background: Background, pace: Pace | None
) -> Iterator[npt.NDArray[np.float32]]:
    """Each scan's probabilities, as `ScanEnsemble.finish` has them, in the order of the scans.

    Args:
        scans: The ensembles.
        background: Makes ready what the next members see, and puts away what the last one said.
        pace: Decides what is run; everything is when None.

    Raises:
        CaseError: A member's weights are not what its plans say, or its logits are not finite.
    """
    if pace is None:
        inputs = one_ahead(chain.from_iterable(scan.inputs() for scan in scans), background=background)
        for scan in scans:
            yield scan.predict(inputs, background=background)
        return
    pace.begin(scans)
    is_first_first = pace.is_hurried and not isinstance(background, AtOnce)
    if pace.is_hurried and not is_first_first:
        because = "memory is short: what the first networks see of one scan is not held while another's is used"
        decide("order of work", "all folds of a scan before the next scan's first", because=because)
    pieces = [scan.inputs(pace=pace) for scan in scans]
    inputs = one_ahead(_first_of_each(pieces) if is_first_first else chain.from_iterable(pieces), background=background)
    if is_first_first:
        for scan in scans:
            scan.begin(inputs, background=background, pace=pace)
    for scan in scans:
        if not is_first_first:
            scan.begin(inputs, background=background, pace=pace)
        yield scan.finish(inputs, background=background, pace=pace)


def _first_of_each(pieces: Sequence[Iterator[Callable[[], Inputs]]]) -> Iterator[Callable[[], Inputs]]:
    for of_scan in pieces:
        yield next(of_scan)
    for of_scan in pieces:
        yield from of_scan
