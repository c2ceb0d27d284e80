"""Where prostate cancer spreads to, and where PET shows uptake that is not cancer (standard man's mm)."""

from dataclasses import dataclass
from enum import StrEnum

from petct.case import Tracer
from training.phantoms.painter import Point
from training.phantoms.tissues import LUNGS


class Site(StrEnum):
    """Where a lesion lies; the order is that of the shares in `disease`."""

    BONE = "bone"
    NODE = "lymph node"
    PROSTATE = "prostate"
    LIVER = "liver"
    LUNG = "lung"


BONE_WEIGHTS: dict[str, float] = {
    **{f"vertebrae_L{n}": 3.0 for n in range(1, 6)},
    **{f"vertebrae_T{n}": 1.8 for n in range(1, 13)},
    **{f"vertebrae_C{n}": 0.35 for n in range(2, 8)},
    **{f"rib_{side}_{n}": 0.55 for side in ("left", "right") for n in range(1, 12)},
    **{f"{bone}_{side}": 4.0 for bone in ("hip", "femur") for side in ("left", "right")},
    **{f"{bone}_{side}": 1.3 for bone in ("humerus", "scapula") for side in ("left", "right")},
    **{f"clavicula_{side}": 0.6 for side in ("left", "right")},
    "sacrum": 4.0,
    "vertebrae_S1": 2.0,
    "sternum": 2.0,
    "skull": 0.8,
}


@dataclass(frozen=True)
class NodeChain:
    """A chain of lymph nodes along a polyline; `weight` is its share of all nodal lesions."""

    name: str
    points: tuple[Point, ...]
    shift_mm: float
    weight: float


NODE_CHAINS = (
    NodeChain("left pelvic", ((34, 0, 318), (62, -6, 280), (78, -44, 226)), 6.0, 0.22),
    NodeChain("right pelvic", ((-34, 0, 318), (-62, -6, 280), (-78, -44, 226)), 6.0, 0.22),
    NodeChain("retroperitoneal", ((6, -14, 345), (18, -4, 400), (20, -2, 470), (16, 6, 510)), 8.0, 0.30),
    NodeChain("mediastinal", ((-14, -4, 690), (14, 0, 690), (-16, -18, 730)), 8.0, 0.16),
    NodeChain("left supraclavicular", ((44, -22, 796), (58, -14, 806)), 6.0, 0.10),
)


@dataclass(frozen=True)
class FalseUptake:
    """Harmless uptake: on one tracer, at mirrored or single places, sometimes only inside certain tissues."""

    name: str
    tracer: Tracer
    chance: float
    suv: tuple[float, float]
    places: tuple[Point, ...]
    radii_mm: Point
    shift_mm: float = 4.0
    tissues: tuple[str, ...] = ()


_SOFT = ("fat", "muscle", "visceral_fat")
FALSE_UPTAKE = (
    FalseUptake(
        "hilar nodes", Tracer.FDG, 0.22, (3.5, 6.0), ((-40, 6, 668), (42, 6, 664)), (8, 9, 10), 3.0, (*LUNGS, *_SOFT)
    ),
    FalseUptake(
        "shoulder joints", Tracer.FDG, 0.25, (2.5, 4.5), ((-150, 12, 796), (150, 12, 796)), (20, 17, 8), 3.0, _SOFT
    ),
    FalseUptake("hip joints", Tracer.FDG, 0.20, (2.5, 4.5), ((-128, 2, 236), (128, 2, 236)), (9, 22, 20), 3.0, _SOFT),
    FalseUptake("caecum", Tracer.FDG, 0.30, (3.5, 8.0), ((-88, -8, 330),), (26, 26, 34), 4.0, ("colon",)),
    FalseUptake("sigmoid", Tracer.FDG, 0.30, (3.5, 7.0), ((46, 10, 294),), (40, 24, 20), 6.0, ("colon",)),
    FalseUptake(
        "small bowel", Tracer.FDG, 0.30, (3.0, 5.5), ((10, -40, 380),), (50, 40, 40), 20.0, ("small_bowel", "jejunum")
    ),
    FalseUptake("jaw", Tracer.FDG, 0.20, (3.5, 7.0), ((30, -70, 872),), (7, 8, 6)),
    FalseUptake("injection vein", Tracer.FDG, 0.10, (4.0, 12.0), ((-200, -6, 380),), (5, 5, 40), 3.0),
    FalseUptake(
        "coeliac ganglia", Tracer.PSMA, 0.60, (2.5, 4.5), ((-18, 8, 512), (18, 8, 510)), (5, 8, 8), 2.0, (*_SOFT,)
    ),
    FalseUptake("rib focus", Tracer.PSMA, 0.40, (2.5, 5.0), ((-128, 0, 590),), (8, 8, 8), 8.0),
    FalseUptake("sacral ganglia", Tracer.PSMA, 0.30, (2.2, 3.6), ((-24, 66, 255), (24, 66, 255)), (5, 5, 5), 2.0),
)
