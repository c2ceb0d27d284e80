"""How long a run took, as JSON for those who measure."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from operation.setting import Setting
from petct.memory import peak_bytes
from petct.stages import counts, seconds_since_start, stage_seconds
from petct.written_whole import written_whole
from segmentation.networks import choose_backend


def write_timings(path: Path, *, setting: Setting) -> None:
    """Write as JSON how long each stage took and how much memory the run held at most."""
    has_gpu = setting.device.type == "cuda"
    content = {
        "mode": setting.manifest.mode,
        "backend": choose_backend(setting.manifest.backend, device=setting.device),
        "device": str(setting.device),
        "threads": torch.get_num_threads(),
        "total_s": seconds_since_start(),
        "stages_s": stage_seconds(),
        "windows": counts().get("windows", 0),
        "peak_host_mib": peak_bytes() / 2**20,
        "peak_gpu_mib": torch.cuda.max_memory_reserved() / 2**20 if has_gpu else None,
    }
    with written_whole(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
