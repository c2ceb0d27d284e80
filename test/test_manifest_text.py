import math
from dataclasses import replace
from pathlib import Path

import pytest

from petct.case import Tracer
from petct.channels import OrganEncoding
from petct.manifest import (
    Architecture,
    Backend,
    Checkpoint,
    Manifest,
    Member,
    Mode,
    OrganSettings,
    OrganTask,
    TracerSettings,
    read_manifest,
)
from petct.organs import Organ
from training.weights.manifest_text import manifest_toml

RESOURCES = Path(__file__).resolve().parent.parent / "resources"
ODD_TEXT = 'a "quoted" \\ β, 患者\tand\nnext = "line" # no comment'


@pytest.fixture
def odd(tmp_path: Path) -> Manifest:
    """A manifest with digests, an empty list, texts that need escapes, and no two values alike."""
    member = Member(
        name=ODD_TEXT,
        folder=tmp_path / "weights of mine" / 'é"1"',
        architecture=Architecture.RESENC_L,
        dataset_id=922,
        folds=(4, 0),
        checkpoint=Checkpoint.BEST,
        organ_encoding=OrganEncoding.SOFT_DISTANCE,
        weight=1.0 / 3.0,
        sha256={"plans.json": "0" * 64, "fold_4/checkpoint best.safetensors": "abcdef01" * 8},
    )
    psma = TracerSettings(
        members=(member, replace(member, name="β", weight=1e-7, sha256={})),
        ttb_probability=0.1,
        normal_probability=1.0,
        regrow_radius_mm=0.0,
        protected_organs=frozenset(),
        refinement=None,
    )
    return Manifest(
        path=tmp_path / "odd.toml",
        name='the "odd" one',
        warning=ODD_TEXT,
        mode=Mode.FAST,
        backend=Backend.OPENVINO,
        mirroring=False,
        tile_step=0.7,
        organs=OrganSettings(OrganTask.FASTEST, tmp_path / "organs", 12.5, {'a "b".pth': "12345678" * 8}),
        psma=psma,
        fdg=replace(psma, members=(member,), protected_organs=frozenset(Organ), regrow_radius_mm=math.pi),
    )


def written(manifest: Manifest, *, comment: str = "A test.") -> Manifest:
    manifest.path.write_text(manifest_toml(manifest, comment=comment), encoding="utf-8")
    return read_manifest(manifest.path)


@pytest.mark.parametrize("name", sorted(path.name for path in RESOURCES.glob("*.toml")))
def test_a_shipped_manifest_survives(tmp_path: Path, name: str) -> None:
    shipped = read_manifest(RESOURCES / name)
    path = tmp_path / name
    path.write_text(manifest_toml(shipped, comment="A copy."), encoding="utf-8")
    # Folders are relative to the file; from elsewhere the same text means other folders.
    assert moved(read_manifest(path), root=RESOURCES) == shipped


def moved(manifest: Manifest, *, root: Path) -> Manifest:
    """The manifest as it would have been read from another folder."""
    here = manifest.path.parent

    def tracer(settings: TracerSettings) -> TracerSettings:
        members = (replace(member, folder=root / member.folder.relative_to(here)) for member in settings.members)
        return replace(settings, members=tuple(members))

    organs = replace(manifest.organs, weights=root / manifest.organs.weights.relative_to(here))
    path = root / manifest.path.name
    return replace(manifest, path=path, organs=organs, psma=tracer(manifest.psma), fdg=tracer(manifest.fdg))


def test_every_value_survives(odd: Manifest) -> None:
    assert written(odd) == odd


def test_what_is_read_back_is_written_alike(odd: Manifest) -> None:
    assert manifest_toml(written(odd), comment="A test.") == odd.path.read_text(encoding="utf-8")


def test_the_order_of_members_and_folds_survives(odd: Manifest) -> None:
    turned = replace(odd, psma=replace(odd.psma, members=odd.psma.members[::-1]))
    assert written(turned) == turned != odd
    assert [member.folds for member in written(turned).psma.members] == [(4, 0), (4, 0)]


def test_a_refinement_survives_with_its_last_digit(odd: Manifest) -> None:
    refinement = read_manifest(RESOURCES / "paper.toml").fdg.refinement
    assert refinement is not None
    exact = replace(refinement, intercept=-5.405800000000001, keep_unlabelled=False)
    manifest = replace(odd, fdg=replace(odd.fdg, refinement=exact))
    assert written(manifest).tracer(Tracer.FDG).refinement == exact


def test_a_path_from_the_working_folder_will_do(odd: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative = replace(odd, path=Path("odd.toml"))
    assert written(relative) == relative


def test_a_comment_of_several_lines_heads_the_file(odd: Manifest) -> None:
    assert written(odd, comment="One.\nname = 2") == odd
    assert odd.path.read_text(encoding="utf-8").startswith('# One.\n# name = 2\n\nname = "the \\"odd\\" one"\n')
