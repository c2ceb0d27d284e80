"""Python processes that are watched: what they unpickle and whom they try to reach, and nobody is reached."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

# Python runs it at the start of every process, TotalSegmentator's included, before anything else.
_WATCH = """
import json, os, pickle, sys

def note(kind, what):
    program = next((os.path.basename(word) for word in sys.orig_argv if word.endswith(".py")), "-c")
    text = json.dumps({"kind": kind, "process": program, "what": what})
    file = os.open(os.environ["WATCHED_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, (text + "\\n").encode())
    os.close(file)

def watch(event, details):
    if event == "socket.__new__" and details[1] in (2, 10):  # IPv4 and IPv6
        frame = sys._getframe(1)
        while frame.f_back and frame.f_globals["__name__"] == "socket":
            frame = frame.f_back
        note("network", f"{event} of family {details[1]} by {frame.f_globals['__name__']}.{frame.f_code.co_name}")
        raise RuntimeError("watched: a process must not use the network")
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"):
        note("network", f"{event} {details[0]}")
        raise RuntimeError("watched: a process must not use the network")
    if event == "pickle.find_class":
        note("pickle", ".".join(map(str, details[-2:])))

class Unpickler(pickle.Unpickler):
    def __init__(self, *arguments, **options):
        note("pickle", "an unpickler is made")
        super().__init__(*arguments, **options)

def loads(*arguments, _loads=pickle.loads, **options):
    note("pickle", "loads")
    return _loads(*arguments, **options)

def load(*arguments, _load=pickle.load, **options):
    note("pickle", "load")
    return _load(*arguments, **options)

sys.addaudithook(watch)
pickle.Unpickler, pickle.loads, pickle.load = Unpickler, loads, load
note("start", sys.executable)
"""


@dataclass(frozen=True)
class Note:
    """Something that a watched process did: its kind (start, network or pickle), the process's program, and what."""

    kind: str
    process: str
    what: str


class Watch:
    """The environment in which processes are watched, and what was noted of them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(_WATCH, encoding="utf-8")
        self._notes = folder / "notes.jsonl"
        path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
        self.environment = {**os.environ, "PYTHONPATH": path, "WATCHED_NOTES": str(self._notes), "OMP_NUM_THREADS": "1"}

    def notes(self, kind: str) -> list[Note]:
        """What was noted, in order."""
        if not self._notes.exists():
            return []
        notes = [Note(**json.loads(line)) for line in self._notes.read_text(encoding="utf-8").splitlines()]
        return [note for note in notes if note.kind == kind]
