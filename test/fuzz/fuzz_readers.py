"""Fuzz the readers of headers and JSON with atheris: a checked scan or a one-line refusal, and nothing else.

    python test/fuzz/fuzz_readers.py mha|nii|niigz|inputs|threshold CORPUS_DIR [libFuzzer's options]

README.md beside this file says how to install atheris and what a whole run is.
"""

from __future__ import annotations

import gzip
import logging
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import atheris

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent)]

with atheris.instrument_imports(include=["petct"]):
    import petct.sockets  # noqa: F401 - everything that reads, instrumented before the others import it

from fuzz.mutations import compress, mutate_bytes, mutate_json, mutate_metaimage, mutate_nifti  # noqa: E402
from fuzz.readers import read_inputs, read_pet, read_threshold, refusal_of, seeds  # noqa: E402

Mutate = Callable[[bytes, Random], bytes]
# What is read, from which file, and how it is changed.
log = logging.getLogger("fuzz")
TARGETS: dict[str, tuple[Callable[[Path], None], str, Mutate]] = {
    "mha": (read_pet, "a.mha", mutate_metaimage),
    "nii": (read_pet, "a.nii", mutate_nifti),
    "niigz": (read_pet, "a.nii.gz", lambda content, random: compress(mutate_nifti(_plain(content), random))),
    "inputs": (read_inputs, "input/inputs.json", mutate_json),
    "threshold": (read_threshold, "threshold.json", mutate_json),
}
OWN_MUTATIONS = 0.7  # the others are libFuzzer's, which learns from the code that they reach
FROM_THE_BEGINNING = 0.5  # what has been changed many times is refused at once, and reaches nothing new


def _plain(content: bytes) -> bytes:
    try:
        return gzip.decompress(content)[:65536]
    except (OSError, EOFError, zlib.error):
        return content


def main() -> None:
    """The command line; ends with libFuzzer's exit code."""
    if len(sys.argv) < 3 or sys.argv[1] not in TARGETS:
        sys.exit(__doc__)
    target = sys.argv.pop(1)
    read, name, mutate = TARGETS[target]
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("petct").setLevel(logging.CRITICAL)  # its warnings are as many as the inputs
    counts = {"taken": 0, "refused": 0}
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
        folder = Path(place)
        corpus = Path(sys.argv[1])
        corpus.mkdir(parents=True, exist_ok=True)
        pristine = seeds(target, folder)
        for number, content in enumerate(pristine):
            (corpus / f"seed-{number}").write_bytes(content)

        def test_one_input(content: bytes) -> None:
            (folder / name).write_bytes(content)
            refusal = refusal_of(lambda: read(folder / name))
            counts["taken" if refusal is None else "refused"] += 1
            if sum(counts.values()) % 10_000 == 0:
                log.info("%s: %s", target, counts)

        def mutate_one(content: bytes, most_bytes: int, seed: int) -> bytes:
            random = Random(seed)
            if random.random() > OWN_MUTATIONS:
                return bytes(atheris.Mutate(content, most_bytes))
            if random.random() < FROM_THE_BEGINNING:
                content = random.choice(pristine)
            for _ in range(random.choice((1, 1, 2, 5))):
                content = mutate(content, random) if random.random() < 0.95 else mutate_bytes(content, random)
            return content[:most_bytes]

        atheris.Setup(sys.argv, test_one_input, custom_mutator=mutate_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
