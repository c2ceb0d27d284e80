"""Work beside the networks: what comes next is made ready, and what is done is put away, by one thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

import numpy as np

from petct.channels import OrganEncoding, channel_names
from petct.memory import free_bytes, is_out_of_memory
from segmentation.short_memory import Relief, Reliefs, without_frames

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class Background(Protocol):
    """Runs one piece of work after the other, in the order in which they are handed in."""

    def submit(self, work: Callable[P, T], /, *arguments: P.args, **options: P.kwargs) -> Future[T]:
        """Hand in a piece of work."""
        ...

    def make_room(self) -> Relief | None:
        """Take no memory beside the networks from now on; None if that is so already."""
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

    def make_room(self) -> Relief | None:
        """Nothing: no memory is held for later."""
        return None


class OneThread(ThreadPoolExecutor):
    """One thread. On leaving it, what has not been started is dropped."""

    def __init__(self) -> None:
        super().__init__(max_workers=1, thread_name_prefix="beside")
        self._last: Future[Any] | None = None
        self._is_at_rest = False

    @property
    def is_at_rest(self) -> bool:
        """Whether everything is done where it is handed in from now on, because memory is short."""
        return self._is_at_rest

    def submit(self, work: Callable[P, T], /, *arguments: P.args, **options: P.kwargs) -> Future[T]:
        """Hand in a piece of work; at rest, do it."""
        if self._is_at_rest:
            self.finish()
            return AtOnce().submit(work, *arguments, **options)
        submitted = super().submit(work, *arguments, **options)
        self._last = submitted
        return submitted

    def finish(self) -> None:
        """Wait until all that was handed in is done; what it raised is raised to those who ask for its result."""
        if self._last is not None:
            wait([self._last])  # pieces are done in order
            self._last = None

    def make_room(self) -> Relief | None:
        """Finish what is being done, and do no more beside the networks: to be called by who hands work in."""
        if self._is_at_rest:
            return None
        self.finish()
        self._is_at_rest = True
        return Relief("nothing is done beside the networks any more")

    def __exit__(self, *_: object) -> None:
        self.shutdown(wait=True, cancel_futures=True)


class BesideWork(Generic[T]):
    """Work that is handed in, and done again alone if it found no memory beside the networks.

    Args:
        work: The work. It is let go of when it is done; where it failed for want of memory, it must be able to go on.
        background: Does it.
        what: What it is, for the log and the error ("probabilities").
    """

    def __init__(self, work: Callable[[], T], *, background: Background, what: str) -> None:
        self._work: Callable[[], T] | None = work
        self._background = background
        self._what = what
        self._done = background.submit(self._do)

    def result(self) -> T:
        """What the work makes: to be asked for once, by who hands work in.

        Raises:
            CaseError: There is too little memory even for it alone.
        """
        first = [self._done.result]
        reliefs = Reliefs("beside the networks", on_gpu=[self._be_alone], on_host=[self._be_alone])
        return reliefs.run(lambda: first.pop()() if first else self._do(), what=self._what)

    def _do(self) -> T:
        if self._work is None:
            raise ValueError("a result must be asked for once")
        try:
            result = self._work()
        except Exception as error:
            if is_out_of_memory(error):
                without_frames(error)
            raise
        self._work = None
        return result

    def _be_alone(self) -> Relief:
        # Where another found no memory, there is nothing beside the networks any more, but there was when this failed.
        return self._background.make_room() or Relief("it is done again alone")


def one_ahead(work: Iterable[Callable[[], T]], *, background: Background) -> Iterator[T]:
    """The results of pieces of work, in order; while one is used, the next is made.

    With `AtOnce` each is made when it is asked for, because nothing could be done beside it. So it is with any other
    background once memory was short; a piece that found none left is made again then.
    """
    ahead: BesideWork[T] | None = None
    for piece in work:
        begun = _to_be_seen(piece, background=background) if _is_beside(background) else None
        if ahead is not None:
            yield ahead.result()
        ahead = begun
        if begun is None:
            yield _to_be_seen(piece, background=background).result()
    if ahead is not None:
        yield ahead.result()


def _is_beside(background: Background) -> bool:
    return isinstance(background, OneThread) and not background.is_at_rest


def _to_be_seen(piece: Callable[[], T], *, background: Background) -> BesideWork[T]:
    return BesideWork(piece, background=background, what="what the networks see")


@contextmanager
def beside_networks(*, voxels: int | None = None, is_overlapped: bool | None = None) -> Iterator[Background]:
    """A thread for what can be done while networks compute, or, where memory is short, no thread.

    Args:
        voxels: Number of voxels of the larger PET, by which it is chosen unless `is_overlapped` says it.
        is_overlapped: Whether there is a thread.

    Raises:
        ValueError: Neither is given.
    """
    if is_overlapped is None:
        if voxels is None:
            raise ValueError("voxels or is_overlapped must be given")
        # Twice over: one network's channels, and as much again while they are made.
        needed_bytes = 2 * voxels * len(channel_names(OrganEncoding.BINARY)) * np.float32().nbytes
        is_overlapped = needed_bytes <= free_bytes() // 2
        if not is_overlapped:
            log.info("memory is short: nothing is done beside the networks")
    if not is_overlapped:
        yield AtOnce()
        return
    with OneThread() as background:
        yield background
