"""Loading the models before the first case: whatever is wrong with them is said before `/health` says yes."""

from __future__ import annotations

import logging
import time

from operation.setting import Setting
from petct.case import Tracer
from segmentation.networks import choose_backend, open_folds
from segmentation.organ_maps import OrganSource
from segmentation.packed_model import read_packed_model
from segmentation.short_memory import release_unused
from segmentation.totalsegmentator import check_organ_weights, check_pinned
from segmentation.weight_files import check_member_files

log = logging.getLogger(__name__)


def load_models(setting: Setting) -> None:
    """Check the digests of all weights, and open every network once as a case does.

    After it the libraries are imported, the weights lie in the machine's file cache, and networks are converted for the
    CPU if they had not been. Organ weights that the manifest does not mention are not wanted as long as cases may bring
    organ maps. A case opens its networks one after the other, so that memory need hold no more than one.

    Raises:
        CaseError: A file is missing or not the manifest's, or its weights are not those of the network.
    """
    started_s = time.monotonic()
    manifest = setting.manifest
    if setting.organ_source is OrganSource.AUTO and not manifest.organs.sha256:
        log.warning("the manifest has no organ weights: cases that bring no organ maps are refused")
    elif setting.organ_source is not OrganSource.GIVEN:
        check_organ_weights(manifest.organs, where="organs")
        check_pinned(manifest.organs, where="organs")
    members = [member for tracer in Tracer for member in manifest.tracer(tracer).members]
    for member in members:
        check_member_files(member)
    backend = choose_backend(manifest.backend, device=setting.device)
    folds = 0
    for member in members:
        for _ in open_folds(read_packed_model(member), mode=manifest.mode, backend=backend, device=setting.device):
            folds += 1
    release_unused()
    log.info("%d networks of %d members load, %.1f s", folds, len(members), time.monotonic() - started_s)
