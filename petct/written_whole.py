"""Writing a file so that its name never holds half of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a hidden sibling to write to, which takes the file's place when the block ends without an exception.

    Otherwise the sibling is removed, and a file that was there stays as it was. The sibling ends as the file does,
    because ITK and matplotlib choose the format by the end of the name.

    Args:
        path: The file; its folder must be there when the block begins to write.

    Yields:
        `.partial.<name>` beside the file; the block must write it, and close it.

    Raises:
        OSError: The sibling cannot take the file's place, or the block has not written it.
    """
    partial = path.with_name(f".partial.{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):  # the first error is the one to tell; in a folder that is none, nothing is left
            partial.unlink(missing_ok=True)
        raise
