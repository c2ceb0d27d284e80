"""The manifest: what it says is what is run, and whatever it leaves out or gets wrong is refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from petct.case import Tracer
from petct.channels import OrganEncoding
from petct.errors import CaseError
from petct.manifest import Architecture, Backend, Mode, OrganTask, read_manifest
from petct.organs import Organ

DIGEST = "0123456789abcdef" * 4

MANIFEST = (Path(__file__).parent / "manifest.toml").read_text(encoding="utf-8")


def _write(folder, text=MANIFEST):
    path = folder / "m.toml"
    path.write_text(text, encoding="utf-8")
    return path


def _changed(old, new):
    assert MANIFEST.count(old) >= 1
    return MANIFEST.replace(old, new, 1)


def test_everything_that_is_written_is_read(tmp_path):
    manifest = read_manifest(_write(tmp_path))
    assert (manifest.name, manifest.warning) == ("test", "not for patients")
    assert (manifest.mode, manifest.backend) == (Mode.BALANCED, Backend.AUTO)
    assert (manifest.mirroring, manifest.tile_step) == (True, 0.5)
    assert manifest.path == tmp_path / "m.toml"
    assert manifest.organs.task is OrganTask.FAST
    assert manifest.organs.weights == tmp_path / "organs/weights"
    assert (manifest.organs.timeout_s, manifest.organs.sha256) == (600.0, {})
    assert manifest.tracer(Tracer.PSMA) is manifest.psma
    assert manifest.tracer(Tracer.FDG) is manifest.fdg

    assert (manifest.psma.ttb_probability, manifest.psma.normal_probability) == (0.5, 0.4)
    assert manifest.psma.regrow_radius_mm == 7.0
    assert manifest.psma.protected_organs == {Organ.SPLEEN, Organ.URINARY_BLADDER}
    assert manifest.psma.refinement is None
    (one,) = manifest.psma.members
    assert (one.name, one.folder) == ("one", tmp_path / "models/one")
    assert (one.architecture, one.dataset_id, one.folds) == (Architecture.RESENC_L, 801, (0, 3))
    assert (one.checkpoint, one.organ_encoding, one.weight) == ("best", OrganEncoding.SOFT_DISTANCE, 2.0)
    assert one.sha256 == {"plans.json": DIGEST}

    assert (manifest.fdg.ttb_probability, manifest.fdg.normal_probability) == (0.25, 0.75)
    assert (manifest.fdg.regrow_radius_mm, manifest.fdg.protected_organs) == (0.0, frozenset())
    assert [member.name for member in manifest.fdg.members] == ["two", "three"]
    assert manifest.fdg.members[1].folder == Path("/elsewhere/three")
    refinement = manifest.fdg.refinement
    assert (refinement.psma_present, refinement.log_volume) == (3.3451, 0.6980)
    assert (refinement.suv_max, refinement.intercept) == (0.8363, -5.4058)
    assert (refinement.keep_probability, refinement.keep_above_ml, refinement.keep_unlabelled) == (0.5, 7.0, True)


def test_without_its_table_the_refinement_is_off(tmp_path):
    manifest = read_manifest(_write(tmp_path, MANIFEST[: MANIFEST.index("[fdg.refinement]")]))
    assert manifest.fdg.refinement is None


def test_a_link_s_folders_are_beside_what_it_points_to(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "link.toml").symlink_to(_write(tmp_path / "model"))
    assert read_manifest(tmp_path / "link.toml").psma.members[0].folder == tmp_path / "model/models/one"


def _keys():
    """Every key of the manifest, with the table that it is in."""
    where = ""
    for line in MANIFEST.splitlines():
        if line.startswith("["):
            where = line.strip("[]")
        elif " = " in line:
            yield pytest.param(where, line.split(" = ")[0], id=f"{where} {line.split(' = ')[0]}")


def _in_table(where, key):
    """Position of a key's line in a table."""
    start = 0 if not where else MANIFEST.index(f"[{where}]")
    match = re.compile(rf"^{key} = .*\n", re.MULTILINE).search(MANIFEST, start)
    return match.span()


@pytest.mark.parametrize(("where", "key"), list(_keys()))
def test_no_key_may_be_left_out(tmp_path, where, key):
    start, end = _in_table(where, key)
    place = "".join(rf" \[{part}( 1)?\]" for part in where.split(".") if part)
    with pytest.raises(CaseError, match=rf"^m\.toml{place}: key {key} is missing$"):
        read_manifest(_write(tmp_path, MANIFEST[:start] + MANIFEST[end:]))


@pytest.mark.parametrize(("where", "key"), list(_keys()))
def test_no_key_may_be_of_another_kind(tmp_path, where, key):
    start, end = _in_table(where, key)
    place = "".join(rf" \[{part}( 1)?\]" for part in where.split(".") if part)
    with pytest.raises(CaseError, match=rf"^m\.toml{place} {key}: must be [^\n]+, got 1979-05-27$"):
        read_manifest(_write(tmp_path, f"{MANIFEST[:start]}{key} = 1979-05-27\n{MANIFEST[end:]}"))


@pytest.mark.parametrize("where", ["", "organs", "psma", "psma.members", "fdg", "fdg.members", "fdg.refinement"])
def test_no_key_may_be_unknown(tmp_path, where):
    start = 0 if not where else MANIFEST.index("\n", MANIFEST.index(f"[{where}]"))
    place = "".join(rf" \[{part}( 1)?\]" for part in where.split(".") if part)
    with pytest.raises(CaseError, match=rf"^m\.toml{place}: key is not known, got treshold$"):
        read_manifest(_write(tmp_path, f"{MANIFEST[:start]}\ntreshold = 1{MANIFEST[start:]}"))


def test_psma_has_no_refinement(tmp_path):
    text = MANIFEST.replace("[fdg.refinement]", "[psma.refinement]")
    with pytest.raises(CaseError, match=r"^m\.toml \[psma\]: key is not known, got refinement$"):
        read_manifest(_write(tmp_path, text))


@pytest.mark.parametrize("table", ["organs", "psma", "fdg"])
def test_a_table_must_be_there(tmp_path, table):
    with pytest.raises(CaseError, match=rf"^m\.toml: key {table} is missing$"):
        read_manifest(_write(tmp_path, re.sub(rf"\[+{table}\b", lambda m: m[0].replace(table, "other"), MANIFEST)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tile_step = 0.5", "tile_step = 0", r"^m\.toml tile_step: must be > 0, got 0\.0$"),
        ("tile_step = 0.5", "tile_step = 1.01", r"^m\.toml tile_step: must be <= 1, got 1\.01$"),
        ("tile_step = 0.5", "tile_step = nan", r"^m\.toml tile_step: must be finite, got nan$"),
        ("tile_step = 0.5", "tile_step = true", r"^m\.toml tile_step: must be a number, got True$"),
        (
            'mode = "balanced"',
            'mode = "quick"',
            r"^m\.toml mode: must be one of exact, balanced, fast, got quick$",
        ),
        (
            'backend = "auto"',
            'backend = "gpu"',
            r"^m\.toml backend: must be one of auto, torch, openvino, got gpu$",
        ),
        ("mirroring = true", "mirroring = 1", r"^m\.toml mirroring: must be true or false, got 1$"),
        (
            'task = "fast"',
            'task = "quick"',
            r"^m\.toml \[organs\] task: must be one of total, fast, fastest, got quick$",
        ),
        ("timeout_s = 600", "timeout_s = 0", r"^m\.toml \[organs\] timeout_s: must be > 0, got 0\.0$"),
        ("timeout_s = 600", "timeout_s = inf", r"^m\.toml \[organs\] timeout_s: must be finite, got inf$"),
        ("ttb_probability = 0.5", "ttb_probability = 0", r"^m\.toml \[psma\] ttb_probability: must be > 0, got 0\.0$"),
        (
            "ttb_probability = 0.5",
            "ttb_probability = 1.5",
            r"^m\.toml \[psma\] ttb_probability: must be <= 1, got 1\.5$",
        ),
        (
            "normal_probability = 0.75",
            "normal_probability = -1",
            r"^m\.toml \[fdg\] normal_probability: must be > 0, got",
        ),
        (
            "regrow_radius_mm = 7.0",
            "regrow_radius_mm = -0.1",
            r"^m\.toml \[psma\] regrow_radius_mm: must be >= 0, got -0\.1$",
        ),
        (
            '"spleen", ',
            '"milt", ',
            r"^m\.toml \[psma\] protected_organs: must name organs out of spleen, kidney, .*, got milt$",
        ),
        (
            '"spleen", ',
            "7, ",
            r"^m\.toml \[psma\] protected_organs: must name organs out of spleen, kidney, .*, got 7$",
        ),
        (
            '"spleen", ',
            '["spleen"], ',
            r"^m\.toml \[psma\] protected_organs: must name organs out of .*, got \['spleen'\]$",
        ),
        (
            '"resenc_l"',
            '"resenc_xl"',
            r"^m\.toml \[psma\] \[members 1\] architecture: must be one of plain, resenc_m, resenc_l, ",
        ),
        ("dataset_id = 801", "dataset_id = -1", r"^m\.toml \[psma\] \[members 1\] dataset_id: must be >= 0, got -1$"),
        ("dataset_id = 801", "dataset_id = 801.0", r"^m\.toml .* dataset_id: must be a whole number, got 801\.0$"),
        (
            "folds = [0, 3]",
            "folds = []",
            r"^m\.toml .* folds: must be a list of whole numbers >= 0, at least one, got \[\]$",
        ),
        (
            "folds = [0, 3]",
            "folds = [0, -3]",
            r"^m\.toml .* folds: must be a list of whole numbers >= 0, at least one, got",
        ),
        (
            "folds = [0, 3]",
            "folds = [true]",
            r"^m\.toml .* folds: must be a list of whole numbers >= 0, at least one, got",
        ),
        (
            "folds = [0, 3]",
            'folds = ["all"]',
            r"^m\.toml .* folds: must be a list of whole numbers >= 0, at least one, got",
        ),
        ("folds = [0, 3]", "folds = [3, 3]", r"^m\.toml .* folds: must not repeat a number, got \[3, 3\]$"),
        ('"best"', '"latest"', r"^m\.toml .* checkpoint: must be one of final, best, got latest$"),
        (
            '"soft_distance"',
            '"soft"',
            r"^m\.toml .* organ_encoding: must be one of none, binary, soft_distance, got soft$",
        ),
        ("weight = 2", "weight = 0", r"^m\.toml \[psma\] \[members 1\] weight: must be > 0, got 0\.0$"),
        ("weight = 2", "weight = -1", r"^m\.toml \[psma\] \[members 1\] weight: must be > 0, got -1\.0$"),
        (DIGEST, DIGEST[1:], r"^m\.toml .* sha256\.plans\.json: must be a sha256 of 64 lower-case hex digits, got 1"),
        (
            DIGEST,
            DIGEST.upper(),
            r"^m\.toml .* sha256\.plans\.json: must be a sha256 of 64 lower-case hex digits, got 0",
        ),
        (f'"{DIGEST}"', "7", r"^m\.toml .* sha256\.plans\.json: must be a sha256 of 64 lower-case hex digits, got 7$"),
        (
            "keep_probability = 0.5",
            "keep_probability = 2",
            r"^m\.toml \[fdg\] \[refinement\] keep_probability: must be <= 1, ",
        ),
        (
            "keep_above_ml = 7.0",
            "keep_above_ml = 0",
            r"^m\.toml \[fdg\] \[refinement\] keep_above_ml: must be > 0, got 0\.0$",
        ),
        (
            "intercept = -5.4058",
            "intercept = nan",
            r"^m\.toml \[fdg\] \[refinement\] intercept: must be finite, got nan$",
        ),
        ('name = "test"', "name = test", r"^m\.toml: manifest must be TOML in UTF-8, got Invalid value \(at line 3"),
    ],
)
def test_a_value_out_of_bounds_is_refused(tmp_path, old, new, message):
    with pytest.raises(CaseError, match=message):
        read_manifest(_write(tmp_path, _changed(old, new)))


@pytest.mark.parametrize("members", ["[]", "[1]", '["one"]', '"one"', "{}"])
def test_members_are_tables_and_at_least_one(tmp_path, members):
    start, end = MANIFEST.index("[[psma.members]]"), MANIFEST.index("[fdg]")
    text = MANIFEST[:start] + f"members = {members}\n" + MANIFEST[end:]
    with pytest.raises(CaseError, match=r"^m\.toml \[psma\] members: must be a list of tables"):
        read_manifest(_write(tmp_path, text))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CaseError, match=r"^gone\.toml: manifest file is missing, got .*gone\.toml$"):
        read_manifest(tmp_path / "gone.toml")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "m.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CaseError, match=r"^m\.toml: manifest must be TOML in UTF-8, got "):
        read_manifest(tmp_path / "m.toml")
