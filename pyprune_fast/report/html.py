"""The report of a comparison: one HTML file that needs nothing else, not even a network."""

from __future__ import annotations

import os
import platform
from importlib import resources
from pathlib import Path

import torch

from pyprune_fast import build_info
from pyprune_fast.prune import Comparison

from . import plots
from .table import by_target, summary, widths


def write_report(comparison: Comparison, path: str | os.PathLike[str], *, title: str = "Pruning report") -> None:
    """Write the report; the file is replaced in one step.

    Args:
        comparison: what `prune.compare` returned.
        path: of the HTML file; its folder exists.
        title: heading of the page.

    Raises:
        OSError: the file cannot be written.
        ImportError: jinja2 or matplotlib is missing; `pip install pyprune-fast[report]` brings them.
    """
    import jinja2

    template = resources.files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    main = comparison.main
    page = environment.from_string(template).render(
        title=title,
        comparison=comparison,
        main=main,
        last=main.rounds[-1],
        summary=summary(comparison),
        targets=[
            {"name": name, "widths": widths(results), "plot": plots.kept_widths(results)}
            for name, results in by_target(comparison).items()
        ],
        accuracy_plot=plots.accuracy(comparison),
        scores_plot=plots.sorted_scores(main),
        aura_plot=plots.aura_matrices(case.result for case in comparison.cases),
        provenance=_provenance(comparison),
    )
    target = Path(path)
    draft = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(page, encoding="utf-8")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def _provenance(comparison: Comparison) -> dict[str, str]:
    main = comparison.main
    return {
        **build_info(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "model": f"{type(main.model).__name__}, state sha256 {main.fingerprint}",
        "plan": ", ".join(f"{key} = {value}" for key, value in sorted(main.plan.note.items())),
        "time of the whole run": f"{comparison.seconds:.0f} s",
    }
