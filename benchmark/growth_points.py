"""The points of the growth tables: phantoms of chosen sizes, and manifests of as many members or folds as wanted."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark.cases import CLINICAL_SEED, COMMON, BenchmarkCase, CaseName, describe_case, make_case
from benchmark.growth import Point, Quantity
from benchmark.plan import Plan
from petct.case import Tracer
from petct.channels import OrganEncoding
from petct.errors import CaseError
from petct.manifest import Backend, Manifest, Member, Mode, TracerSettings, read_manifest
from segmentation.weight_files import fold_file, sha256_of
from training.phantoms.population import write_patients
from training.phantoms.scanner import PetGrid, PhantomSize
from training.weights.manifest_text import manifest_toml

DEMO = "demo"  # instead of a number of voxels

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """What all points have in common.

    Attributes:
        manifest: Whose members, thresholds and rules are run.
        case: The case of all tables but that of voxels.
        mode: The mode.
        device: `cpu` or `cuda`.
        backend: What computes the networks.
        work: Folder for cases, manifests and runs.
    """

    manifest: Manifest
    case: BenchmarkCase
    mode: Mode
    device: str
    backend: Backend
    work: Path

    def point(
        self,
        quantity: Quantity,
        label: str,
        *,
        manifest: Manifest | None = None,
        case: BenchmarkCase | None = None,
    ) -> Point:
        """A point with another manifest or case."""
        plan = Plan(
            case=case or self.case,
            manifest=manifest or self.manifest,
            modes=(self.mode,),
            has_reference=False,
            repeats=1,
            device=self.device,
            backend=self.backend,
        )
        return Point(quantity, label, plan)


def voxel_points(sizes: Sequence[str], *, setup: Setup) -> list[Point]:
    """The manifest as it is on one phantom's PETs of several sizes.

    Args:
        sizes: Millions of voxels of each PET, or `demo`.
        setup: What all points have in common.

    Raises:
        CaseError: A size is not one.
    """
    points = []
    for size in sizes:
        case = make_case(CaseName.DEMO, work=setup.work) if size == DEMO else _make_clinical(size, work=setup.work)
        label = size if size == DEMO else f"{size} M"
        points.append(setup.point(Quantity.VOXELS, label, case=case))
    return points


def grid_of_size(millions: float) -> PetGrid:
    """The field of view of the most common PET grid, in so many million voxels of the same proportions."""
    voxels = COMMON.shape_zyx[0] * COMMON.shape_zyx[1] * COMMON.shape_zyx[2]
    coarser = (voxels / (millions * 1e6)) ** (1 / 3)
    z, y, x = (max(1, round(size / coarser)) for size in COMMON.shape_zyx)
    z_mm, y_mm, x_mm = (round(spacing_mm * coarser, 4) for spacing_mm in COMMON.spacing_mm_zyx)
    return PetGrid(spacing_mm_zyx=(z_mm, y_mm, x_mm), shape_zyx=(z, y, x))


def member_points(most: int, *, setup: Setup) -> list[Point]:
    """1, 2, ... members per tracer, all the manifest's first under other names."""
    points = []
    for count in range(1, most + 1):
        chosen = {tracer: setup.manifest.tracer(tracer).members[:1] * count for tracer in Tracer}
        manifest = _derive(setup, name=f"members-{count}", members=chosen)
        points.append(setup.point(Quantity.MEMBERS, str(count), manifest=manifest))
    return points


def fold_points(most: int, *, setup: Setup) -> list[Point]:
    """The manifest's first member of each tracer with 1, 2, ... folds, all of them copies of its first."""
    points = []
    first = {tracer: setup.manifest.tracer(tracer).members[:1] for tracer in Tracer}
    for count in range(1, most + 1):
        manifest = _derive(setup, name=f"folds-{count}", members=first, folds=count)
        points.append(setup.point(Quantity.FOLDS, str(count), manifest=manifest))
    return points


def channel_points(*, setup: Setup) -> list[Point]:
    """The first member of each tracer that sees organs in each of the three ways, where the manifest has one."""
    points = []
    for encoding in OrganEncoding:
        chosen = {
            tracer: [one for one in setup.manifest.tracer(tracer).members if one.organ_encoding is encoding][:1]
            for tracer in Tracer
        }
        if not all(chosen.values()):
            log.warning("no member with organs %s in %s: no point", encoding, setup.manifest.name)
            continue
        networks = dict.fromkeys(member.architecture.value for (member,) in chosen.values())
        manifest = _derive(setup, name=f"channels-{encoding}", members=chosen)
        points.append(setup.point(Quantity.CHANNELS, f"{encoding} ({', '.join(networks)})", manifest=manifest))
    return points


def _derive(
    setup: Setup, *, name: str, members: Mapping[Tracer, Sequence[Member]], folds: int | None = None
) -> Manifest:
    """A manifest of some of the manifest's members, written with copies of their files."""
    root = setup.work / "manifests" / f"{setup.manifest.name}-{name}"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)

    def settings(tracer: Tracer) -> TracerSettings:
        copies = [
            _copy(member, folder=root / f"{tracer}_{number}", folds=folds)
            for number, member in enumerate(members[tracer])
        ]
        return replace(setup.manifest.tracer(tracer), members=tuple(copies))

    path = root / f"{name}.toml"
    manifest = replace(
        setup.manifest,
        path=path,
        name=name,
        organs=replace(setup.manifest.organs, weights=root / "organs", sha256={}),  # the case brings its organ maps
        psma=settings(Tracer.PSMA),
        fdg=settings(Tracer.FDG),
    )
    path.write_text(manifest_toml(manifest, comment="Made by the benchmark."), encoding="utf-8")
    return read_manifest(path)


def _copy(member: Member, *, folder: Path, folds: int | None) -> Member:
    """A member with its own files and name; with `folds`, that many copies of its first fold."""
    shutil.copytree(member.folder, folder)
    if folds is None:
        return replace(member, name=folder.name, folder=folder)
    first = fold_file(member.folds[0], member.checkpoint)
    sha256 = {file: digest for file, digest in member.sha256.items() if "/" not in file}
    for fold in range(folds):
        file = fold_file(fold, member.checkpoint)
        target = folder / file
        target.parent.mkdir(exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copyfile(member.folder / first, target)
        sha256[file] = sha256_of(target)
    return replace(member, name=folder.name, folder=folder, folds=tuple(range(folds)), sha256=sha256)


def _make_clinical(size: str, *, work: Path) -> BenchmarkCase:
    try:
        millions = float(size)
    except ValueError as error:
        raise CaseError("--voxels", f"must be millions of voxels or {DEMO}", size) from error
    if not 0.1 <= millions <= 200.0:
        raise CaseError("--voxels", "must be within 0.1-200 million", size)
    grid = grid_of_size(millions)
    folder = work / "cases" / f"voxels-{size}"
    patient = folder / f"train_{CLINICAL_SEED:04d}"
    if not patient.is_dir():
        log.info("phantom of %s million voxels per PET: made from seed %d", size, CLINICAL_SEED)
        grids = dict.fromkeys(Tracer, grid)
        write_patients([CLINICAL_SEED], size=PhantomSize.CLINICAL, folder=folder, processes=1, pet_grids=grids)
    return describe_case(patient, name=f"voxels-{size}")
