"""A run's record in which every field says something else, for tests."""

from __future__ import annotations

from operation.machine import Machine
from operation.product import Product
from operation.run_record import (
    FORMAT,
    InputFile,
    ManifestFile,
    MaskFound,
    Options,
    Outcome,
    OutcomeKind,
    RunRecord,
    ScanInputs,
    Stage,
    WeightFile,
)
from petct.case import Tracer
from petct.decisions import Decision
from petct.manifest import Backend, Mode
from segmentation.fold_runs import Executed, FoldRun
from segmentation.organ_maps import OrganSource
from whole_case import CT_GRIDS, PET_GRIDS, THRESHOLDS_SUV


def digest(text: str) -> str:
    """Something that looks like a sha256."""
    return (text.encode().hex() * 64)[:64]


def scan_inputs(tracer: Tracer) -> ScanInputs:
    """Inputs of the tiny case, its organs given for PSMA only."""
    place = tracer.name
    files = {
        "pet": InputFile(f"{place}/PET.nii.gz", 1234, digest(f"{tracer} pet"), PET_GRIDS[tracer]),
        "ct": InputFile(f"{place}/CT.nii.gz", 5678, digest(f"{tracer} ct"), CT_GRIDS[tracer]),
        "threshold": InputFile(f"{place}/threshold.json", 21, digest(f"{tracer} threshold"), None),
    }
    if tracer is Tracer.FDG:
        return ScanInputs(THRESHOLDS_SUV[tracer], OrganSource.TOTALSEGMENTATOR, files)
    files["organs"] = InputFile(f"{place}/totseg_24.nii.gz", 91, digest(f"{tracer} organs"), CT_GRIDS[tracer])
    return ScanInputs(THRESHOLDS_SUV[tracer], OrganSource.GIVEN, files)


def run_record() -> RunRecord:
    """A run that ended with masks and gave something up."""
    return RunRecord(
        format=FORMAT,
        product=Product("psma-fdg-ttb", "0.1.0", digest("code")),
        versions={"python": "3.11.7", "torch": "2.8.0", "openvino": None},
        machine=Machine(
            system="Linux 6.1 x86_64",
            libc="glibc 2.36",
            cpu="A processor",
            cpu_flags=("avx2", "fma"),
            cores=2,
            memory_mib=16000,
            gpu=None,
            gpu_driver=None,
            cuda=None,
        ),
        environment={"OMP_NUM_THREADS": "1"},
        started_utc="2025-01-31T09:30:00.125+00:00",
        ended_utc="2025-01-31T09:31:30.250+00:00",
        options=Options(Mode.EXACT, Backend.TORCH, OrganSource.AUTO, "cpu", threads=1, time_limit_s=90.5),
        manifest=ManifestFile("tiny", "tiny.toml", digest("manifest"), 'name = "tiny"\nwarning = "für Tests"\n'),
        weights=(
            WeightFile("member psma_plain", "plans.json", digest("plans")),
            WeightFile("organs", "Dataset298/plans.json", None),
        ),
        scans={tracer: scan_inputs(tracer) for tracer in Tracer},
        decisions=(Decision("mode", "fast", "exact takes 120 s of 90.5 s", is_loss=True),),
        executed=Executed(Mode.FAST, (FoldRun("PSMA", "psma_plain", 0, mirrorings=2, windows=7, is_whole=False),)),
        stages={"read": Stage(0.25, 700.5), "network": Stage(12.5, 900.0)},
        counts={"windows": 14},
        total_s=90.125,
        peak_host_mib=900.5,
        peak_gpu_mib=None,
        outcome=Outcome(
            OutcomeKind.MASKS,
            error=None,
            masks={
                Tracer.PSMA: MaskFound(digest("psma mask"), voxels=120, volume_ml=7.2, lesions=3),
                Tracer.FDG: MaskFound(digest("fdg mask"), voxels=0, volume_ml=0.0, lesions=0),
            },
        ),
    )
