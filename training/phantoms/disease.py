"""Metastatic disease, and uptake that only looks like it: where, how large, how hot, and on which tracer."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy import ndimage

from petct.case import Tracer
from petct.organs import Organ, labels_of
from training.phantoms.painter import Build
from training.phantoms.shapes import Box, Canvas, ellipsoid_mask
from training.phantoms.sites import BONE_WEIGHTS, FALSE_UPTAKE, NODE_CHAINS, Site
from training.phantoms.tissues import LUNGS, tissue_number, tissue_set

BONE_SPILL_MM = 3.0


@dataclass(frozen=True)
class Lesion:
    """One focus placed in a patient.

    Attributes:
        site: where it lies.
        tracers: on which tracers it takes up activity.
        volume_ml: its volume as painted, before the scanner.
        is_disease: False for inflammation and other harmless uptake.
        centre_mm_xyz: its middle in the patient's own coordinates.
    """

    site: str
    tracers: frozenset[Tracer]
    volume_ml: float
    is_disease: bool
    centre_mm_xyz: tuple[float, float, float]


class Phenotype(StrEnum):
    """How the disease of one patient shares itself out between the tracers."""

    CONCORDANT = "concordant"
    PSMA_DOMINANT = "psma_dominant"
    DEDIFFERENTIATED = "dedifferentiated"


# Chance of a lesion to be seen on both tracers, on PSMA only, on FDG only.
TRACER_SHARES = {
    Phenotype.CONCORDANT: (0.86, 0.10, 0.04),
    Phenotype.PSMA_DOMINANT: (0.48, 0.50, 0.02),
    Phenotype.DEDIFFERENTIATED: (0.56, 0.10, 0.34),
}
PHENOTYPE_SHARES = (0.60, 0.20, 0.20)
TRACER_CHOICES = (frozenset(Tracer), frozenset({Tracer.PSMA}), frozenset({Tracer.FDG}))


@dataclass(frozen=True)
class Spread:
    """Everything placed in one patient.

    Attributes:
        lesions: what was placed, disease first.
        disease_suv: per tracer, float32 (z, y, x) activity of disease, 0 elsewhere.
        is_lesion: uint8 (z, y, x): 0 none, 1 dense bone, 2 thinned bone, 3 soft tissue, for the CT.
    """

    lesions: tuple[Lesion, ...]
    disease_suv: dict[Tracer, np.ndarray]
    is_lesion: np.ndarray


def spread_disease(
    rng: np.random.Generator, canvas: Canvas, *, build: Build, normal_suv: dict[Tracer, np.ndarray]
) -> Spread:
    """Place disease and harmless foci; `normal_suv` changes in place: less where disease is, more for harmless foci."""
    phenotype = list(Phenotype)[int(rng.choice(3, p=PHENOTYPE_SHARES))]
    disease = {tracer: np.zeros_like(normal_suv[tracer]) for tracer in Tracer}
    look = np.zeros_like(canvas.tissue)
    lesions: list[Lesion] = []
    sites = _draw_sites(rng)
    mean_psma, mean_fdg = rng.normal(np.log(15.0), 0.3), rng.normal(np.log(8.0), 0.2)
    for order, site in enumerate(sites):
        tracers = TRACER_CHOICES[int(rng.choice(3, p=TRACER_SHARES[phenotype]))]
        is_first = order == 0
        if is_first:
            # The first lesion is large and hot on both, so that no patient is without disease on either scan.
            tracers = TRACER_CHOICES[0]
        radius = float(np.clip(rng.lognormal(np.log(10.5), 0.36), 11.0 if is_first else 4.5, 22.0))
        box, mask, centre = _shape(rng, canvas, build=build, site=site, radius_mm=radius)
        if not mask.any():
            continue
        z = rng.normal()
        hot = {
            Tracer.PSMA: float(np.clip(np.exp(mean_psma + 0.45 * z), 8.0 if is_first else 5.0, 50.0)),
            Tracer.FDG: float(
                np.clip(np.exp(mean_fdg + 0.25 * z + 0.2 * rng.normal()), 6.5 if is_first else 4.0, 20.0)
            ),
        }
        for tracer in tracers:
            texture = np.exp(0.12 * canvas.roughness[box][mask])
            disease[tracer][box][mask] = hot[tracer] * texture
            normal_suv[tracer][box][mask] *= 0.3
        look[box][mask] = _look(rng, site)
        lesions.append(_record(site, tracers, canvas, mask, centre, is_disease=True))
    lesions += add_false_uptake(rng, canvas, build=build, normal_suv=normal_suv, disease_suv=disease)
    return Spread(tuple(lesions), disease, look)


def add_false_uptake(
    rng: np.random.Generator,
    canvas: Canvas,
    *,
    build: Build,
    normal_suv: dict[Tracer, np.ndarray],
    disease_suv: dict[Tracer, np.ndarray],
) -> list[Lesion]:
    """Inflammation on FDG, ganglia and faint rib foci on PSMA: added to the normal activity, outside of disease."""
    found: list[Lesion] = []
    for kind in FALSE_UPTAKE:
        if rng.random() >= kind.chance:
            continue
        level = rng.uniform(*kind.suv)
        for place in kind.places:
            middle = build.point(np.asarray(place) + rng.normal(0, kind.shift_mm, 3))
            radii = np.asarray(kind.radii_mm) * build.mean_scale * rng.uniform(0.8, 1.2)
            box, mask = ellipsoid_mask(canvas, middle, radii_mm_xyz=radii, roughness=0.12)
            if kind.tissues:
                mask &= tissue_set(*kind.tissues)[canvas.tissue[box]]
            mask &= (canvas.tissue[box] > 0) & (disease_suv[kind.tracer][box] == 0)
            if not mask.any():
                continue
            view = normal_suv[kind.tracer][box]
            view[mask] = np.maximum(view[mask], level)
            found.append(_record(kind.name, frozenset({kind.tracer}), canvas, mask, middle, is_disease=False))
    return found


def _draw_sites(rng: np.random.Generator) -> list[Site]:
    draw = rng.random()
    if draw < 0.05:
        count = 1
    elif draw < 0.15:
        count = int(rng.integers(50, 75))
    else:
        count = int(np.exp(rng.uniform(np.log(4), np.log(46))))
    shares = rng.dirichlet([5.0, 2.6, 0.6, 0.5, 0.35])
    return [list(Site)[int(i)] for i in rng.choice(len(Site), size=count, p=shares)]


def _shape(
    rng: np.random.Generator, canvas: Canvas, *, build: Build, site: Site, radius_mm: float
) -> tuple[Box, np.ndarray, np.ndarray]:
    bones = np.zeros(256, dtype=bool)
    bones[list(labels_of(Organ.BONE))] = True
    if site is Site.BONE:
        names = list(BONE_WEIGHTS)
        weights = np.array(list(BONE_WEIGHTS.values()))
        centre = _point_in(rng, canvas, name=names[int(rng.choice(len(names), p=weights / weights.sum()))])
        radius_mm *= 1.35  # most of a bone lesion's ellipsoid lies outside of the bone that holds it
    elif site is Site.NODE:
        chain = NODE_CHAINS[int(rng.choice(len(NODE_CHAINS), p=[c.weight for c in NODE_CHAINS]))]
        part = int(rng.integers(len(chain.points) - 1))
        along = rng.random()
        place = np.asarray(chain.points[part]) * (1 - along) + np.asarray(chain.points[part + 1]) * along
        centre = build.point(place + rng.normal(0, chain.shift_mm, 3))
    else:
        organ = {Site.PROSTATE: "prostate", Site.LIVER: "liver", Site.LUNG: LUNGS[int(rng.integers(len(LUNGS)))]}[site]
        centre = _point_in(rng, canvas, name=organ)
    radii = radius_mm * np.exp(rng.normal(0, 0.18, 3))
    basis, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    box, mask = ellipsoid_mask(canvas, centre, radii_mm_xyz=radii, rotation=basis, roughness=0.14)
    tissue = canvas.tissue[box]
    if site is Site.BONE:
        inside = bones[tissue]
        mask &= ndimage.distance_transform_edt(~inside, sampling=canvas.spacing_mm) <= BONE_SPILL_MM
    elif site is Site.PROSTATE:
        mask &= tissue_set("prostate", "visceral_fat", "muscle")[tissue]
    elif site is Site.LIVER:
        mask &= tissue_set("liver")[tissue]
    else:
        mask &= tissue_set("fat", "muscle", "visceral_fat", "small_bowel", "jejunum", "esophagus", *LUNGS)[tissue]
    return box, mask, centre


def _point_in(rng: np.random.Generator, canvas: Canvas, *, name: str) -> np.ndarray:
    voxels = np.flatnonzero(canvas.tissue == tissue_number(name))
    index = np.unravel_index(int(voxels[int(rng.integers(voxels.size))]), canvas.tissue.shape)
    return canvas.point_mm_xyz(np.asarray(index))


def _look(rng: np.random.Generator, site: Site) -> int:
    if site is not Site.BONE:
        return 3
    return 1 if rng.random() < 0.75 else 2


def _record(
    site: str, tracers: frozenset[Tracer], canvas: Canvas, mask: np.ndarray, centre: np.ndarray, *, is_disease: bool
) -> Lesion:
    volume_ml = float(mask.sum()) * canvas.spacing_mm**3 / 1000.0
    middle = (float(centre[0]), float(centre[1]), float(centre[2]))
    return Lesion(str(site), tracers, volume_ml, is_disease, middle)
