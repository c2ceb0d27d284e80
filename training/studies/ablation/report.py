"""The page of an ablation and its figures as files."""

from __future__ import annotations

from pathlib import Path

from petct.case import Tracer
from petct.errors import CaseError
from petct.written_whole import written_whole
from training.studies.ablation.effects import Findings, find_effects
from training.studies.ablation.figure import draw_effects
from training.studies.ablation.page import page_text
from training.studies.ablation.study import Measured
from training.studies.ablation.variants import Study


def write_report(measured: Measured, *, study: Study, setup: str, command: str, page: Path) -> list[Path]:
    """Write a Markdown page, and a figure per tracer in a folder of the page's name beside it.

    Args:
        measured: At least one patient's rows.
        study: What was measured.
        setup: Manifests and organ maps, in a sentence or two.
        command: The command line, for who wants to do it again.
        page: The page; it replaces one that is there, and so do the figures.

    Returns:
        The page and the figures.

    Raises:
        CaseError: A file cannot be written.
    """
    findings = Findings(measured.rows)
    effects = find_effects(findings, study=study)
    figures = [
        draw_effects(effects, study=study, tracer=tracer, file=page.with_suffix("") / f"{tracer.value}.png")
        for tracer in Tracer
    ]
    text = page_text(
        measured,
        study=study,
        findings=findings,
        effects=effects,
        setup=setup,
        command=command,
        figures=[figure.relative_to(page.parent).as_posix() for figure in figures],
    )
    try:
        with written_whole(page) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CaseError(str(page), "page must be writable", error.strerror) from error
    return [page, *figures]
