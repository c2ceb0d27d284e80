"""Work beside the networks: what comes next is made ready, and what is done is put away, by one thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, Protocol, TypeVar

import numpy as np

from petct.channels import OrganEncoding, channel_names
from petct.memory import free_bytes

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class Background(Protocol):
    """Runs one piece of work after the other, in the order in which they are handed in."""

    def submit(self, work: Callable[P, T], /, *arguments: P.args, **options: P.kwargs) -> Future[T]:
        """Hand in a piece of work."""
        ...


class AtOnce:
    """Does the work while it is handed in: the order is the same, and nothing is held for later."""

    def submit(self, work: Callable[P, T], /, *arguments: P.args, **options: P.kwargs) -> Future[T]:
        """Do a piece of work; what it raises is raised when its result is asked for."""
        done: Future[T] = Future()
        try:
            done.set_result(work(*arguments, **options))
        except BaseException as error:
            if not isinstance(error, Exception):
                raise
            done.set_exception(error)
        return done


class OneThread(ThreadPoolExecutor):
    """One thread. On leaving it, what has not been started is dropped."""

    def __init__(self) -> None:
        super().__init__(max_workers=1, thread_name_prefix="beside")

    def __exit__(self, *_: object) -> None:
        self.shutdown(wait=True, cancel_futures=True)


def one_ahead(work: Iterable[Callable[[], T]], *, background: Background) -> Iterator[T]:
    """The results of pieces of work, in order; while one is used, the next is made.

    With `AtOnce` each is made when it is asked for, because nothing could be done beside it.
    """
    if isinstance(background, AtOnce):
        for piece in work:
            yield piece()
        return
    ahead: Future[T] | None = None
    for piece in work:
        begun = background.submit(piece)
        if ahead is not None:
            yield ahead.result()
        ahead = begun
    if ahead is not None:
        yield ahead.result()


@contextmanager
def beside_networks(*, voxels: int) -> Iterator[Background]:
    """A thread for what can be done while networks compute, or, where memory is short, no thread.

    Args:
        voxels: Number of voxels of the larger PET.
    """
    # Twice over: one network's channels, and as much again while they are made.
    needed_bytes = 2 * voxels * len(channel_names(OrganEncoding.BINARY)) * np.float32().nbytes
    if needed_bytes > free_bytes() // 2:
        log.info("memory is short: nothing is done beside the networks")
        yield AtOnce()
        return
    with OneThread() as background:
        yield background
