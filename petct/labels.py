"""The classes that the networks tell apart."""

from __future__ import annotations

from enum import IntEnum


class Label(IntEnum):
    """A network's labels, in the order of its outputs; named as in nnU-Net's dataset.json, in lower case."""

    BACKGROUND = 0
    TTB = 1
    NORMAL = 2
