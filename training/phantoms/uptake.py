"""Physiological uptake in SUV, tissue by tissue and tracer by tracer, different in every patient."""

import numpy as np

from petct.case import Tracer
from petct.organs import Organ, labels_of, totalsegmentator_labels
from training.phantoms.shapes import Canvas
from training.phantoms.tissues import LUNGS, Tissue, tissue_number

Range = tuple[float, float]
PAIRED_VESSELS = ("subclavian_artery", "common_carotid_artery", "iliac_artery", "iliac_vena")
BLOOD = (
    "heart", "aorta", "pulmonary_vein", "superior_vena_cava", "inferior_vena_cava", "portal_vein_and_splenic_vein",
    "brachiocephalic_trunk", "brachiocephalic_vein_left", "brachiocephalic_vein_right", "atrial_appendage_left",
    *(f"{vessel}_{side}" for vessel in PAIRED_VESSELS for side in ("left", "right")),
)  # fmt: skip

# SUV ranges between patients, after the normal distributions reported for [68Ga]Ga-PSMA-11 and [18F]FDG.
GENERAL: dict[Tracer, dict[str, Range]] = {
    Tracer.PSMA: {"soft": (0.4, 0.8), "marrow": (0.4, 1.0), "blood": (1.0, 1.5), "lung": (0.25, 0.5)},
    Tracer.FDG: {"soft": (0.5, 0.9), "marrow": (1.2, 2.0), "blood": (1.3, 1.8), "lung": (0.3, 0.6)},
}
ORGANS: dict[Tracer, dict[str, Range]] = {
    Tracer.PSMA: {
        "kidney": (20, 60), "kidney_pelvis": (15, 50), "parotid_gland": (10, 25), "submandibular_gland": (10, 25),
        "lacrimal_gland": (6, 14), "liver": (4, 8), "spleen": (4, 12), "jejunum": (5, 13), "duodenum": (6, 15),
        "small_bowel": (1.2, 3.5), "colon": (0.9, 2.2), "stomach": (1.0, 2.2), "pancreas": (1.2, 2.2),
        "gallbladder": (1.5, 12), "adrenal_gland": (1.4, 2.6),
        "urinary_bladder": (10, 60), "ureter": (8, 30), "prostate": (1.4, 2.4),
        "thyroid_gland": (0.9, 1.6), "brain": (0.05, 0.15), "white_matter": (0.05, 0.1), "tonsil": (1.5, 3.5),
        "vocal_cord": (0.8, 1.5), "myocardium": (1.2, 1.8),
    },
    Tracer.FDG: {
        "brain": (8, 14), "white_matter": (4, 6), "myocardium": (1.5, 12), "liver": (1.8, 3.0), "spleen": (1.4, 2.2),
        "kidney": (2.4, 3.4), "kidney_pelvis": (5, 20), "urinary_bladder": (10, 40), "ureter": (3, 14),
        "jejunum": (1.3, 2.6), "small_bowel": (1.2, 2.6), "duodenum": (1.4, 2.4), "colon": (1.2, 3.2),
        "stomach": (1.3, 3.0), "pancreas": (1.2, 1.8), "gallbladder": (0.6, 1.2), "adrenal_gland": (1.2, 2.0),
        "prostate": (1.2, 2.2),
        "thyroid_gland": (1.0, 2.2), "parotid_gland": (1.2, 2.6), "submandibular_gland": (1.4, 2.8),
        "lacrimal_gland": (0.8, 1.6), "tonsil": (2.0, 5.0), "vocal_cord": (1.6, 4.0), "spinal_cord": (1.2, 2.0),
    },
}  # fmt: skip
NO_UPTAKE = ("airway", "trachea", "colon_gas", "stomach_gas")
FAT_SUV = 0.25
# Share by which a tissue's uptake varies from place to place (log scale); the liver's decides the FDG threshold.
EVEN_TEXTURE = 0.05
PATCHY_TEXTURE = {"jejunum": 0.3, "small_bowel": 0.4, "colon": 0.45, "duodenum": 0.2, "stomach": 0.25, "ureter": 0.5}


def physiological_suv(rng: np.random.Generator, canvas: Canvas, *, tracer: Tracer) -> np.ndarray:
    """Activity of a patient without disease, float32 SUV (z, y, x) on the canvas, before any blurring."""
    level, texture = _tables(rng, tracer)
    # Another part of the same random field, so that texture and surfaces of organs are not the same waves.
    field = np.roll(canvas.roughness, [int(n) for n in rng.integers(20, 60, 3)], axis=(0, 1, 2))
    suv: np.ndarray = level[canvas.tissue]
    suv *= np.exp(texture[canvas.tissue] * field)
    return suv


def _tables(rng: np.random.Generator, tracer: Tracer) -> tuple[np.ndarray, np.ndarray]:
    general = {name: _draw(rng, limits) for name, limits in GENERAL[tracer].items()}
    organs = {name: _draw(rng, limits) for name, limits in ORGANS[tracer].items()}
    level = np.full(256, general["soft"], dtype=np.float32)
    level[0] = 0.0
    level[[Tissue.FAT, Tissue.VISCERAL_FAT]] = FAT_SUV
    level[[*labels_of(Organ.BONE), Tissue.LIMB_BONE]] = general["marrow"]
    level[[tissue_number(name) for name in BLOOD]] = general["blood"]
    level[[tissue_number(name) for name in LUNGS]] = general["lung"]
    texture = np.full(256, EVEN_TEXTURE, dtype=np.float32)
    for number, name in all_tissues().items():
        for key in (name, name.removesuffix("_left").removesuffix("_right")):
            if key in organs:
                level[number] = organs[key]
            texture[number] = PATCHY_TEXTURE.get(key, texture[number])
    level[[tissue_number(name) for name in NO_UPTAKE]] = 0.05
    return level, texture


def all_tissues() -> dict[int, str]:
    """Number to name of every tissue that a canvas can hold."""
    return {**totalsegmentator_labels(), **{int(tissue): tissue.name.lower() for tissue in Tissue}}


def _draw(rng: np.random.Generator, limits: Range) -> float:
    low, high = np.log(limits)
    return float(np.exp(rng.uniform(low, high)))
