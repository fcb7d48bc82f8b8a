"""The criteria study: every criterion on two trained CIFAR-10 networks, with equal fine-tuning.

    PYTHONPATH=bench/studies OMP_NUM_THREADS=1 python bench/studies/criteria.py [--quick] [--no-run] [STUDY ...]

Runs criteria-vgg.toml and criteria-resnet20.toml, or goes on with them, and writes tables and pictures for docs/criteria.md
from all rows that are there. --quick: the toy's study, in seconds.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cifar
from record import ROOT, between, table

from pyprune_fast.study import as_markdown, compare, load_study, read, rows_of, run_study, summary
from pyprune_fast.study.plot import plot
from pyprune_fast.study.tables import Cell, Rows, Table

HERE = Path(__file__).parent
STUDIES = ("criteria-vgg", "criteria-resnet20")
BASE = "l1"  # what all others are compared with


def against(rows: Rows, base: str = BASE) -> Table:
    """Every criterion less the base, points of accuracy, paired by seed: after the cut and after the last step."""
    names = sorted({criterion for _, _, criterion in rows} - {base})
    head = ["criterion"]
    lines: list[list[Cell]] = []
    for name in names:
        line: list[Cell] = [name]
        for value, title in (("cut", "after the cut"), ("last", "fine-tuned")):
            found = [cells for cells in compare(rows, name, base, value)[1] if cells[0] != "all"]
            for target, _, mean, p, _ in found:
                line += [mean, p]
                if len(lines) == 0:
                    head += [f"{target}, {title}, less {base}", "p"]
        lines.append(line)
    return head, lines


def networks() -> str:
    """The trained networks, as the last line of each log has them."""
    lines = []
    for log in sorted(cifar.BASELINES.glob("*.jsonl")):
        last = read(log)[-1]
        lines.append([log.stem, last["epochs"], f"{100 * last['test']:.2f}", last["sha256"], last["commit"]])
    return table(["network", "epochs", "accuracy, %", "sha256 of the weights", "commit"], lines)


def show(name: str, rows: Rows, docs: Path) -> None:
    """Writes a study's tables between their markers, and draws its picture beside the page."""
    text = between(docs.read_text(), "baselines", networks())
    text = between(text, name, as_markdown(*summary(rows)))
    docs.write_text(between(text, f"{name} against {BASE}", as_markdown(*against(rows))))
    plot(rows, docs.parent / "pictures" / f"{name}.svg")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is missing, and shows what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", default=STUDIES, metavar="STUDY", help="names of files *.toml beside this one")
    parser.add_argument("--quick", action="store_true", help="the toy's study, in seconds; nothing is written into the docs")
    parser.add_argument("--no-run", action="store_true", help="only show the rows that are there")
    parser.add_argument("--folder", type=Path, default=ROOT / "bench" / "results", help="of the files of rows")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "criteria.md")
    options = parser.parse_args(arguments)
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            rows = run_study(load_study(HERE / "toy.toml"), Path(folder) / "toy.jsonl")
        print(as_markdown(*summary(rows)), as_markdown(*against(rows)), sep="\n\n")
        return
    for name in options.studies:
        study, file = load_study(HERE / f"{name}.toml"), options.folder / f"study-{name}.jsonl"
        show(name, rows_of(study, file) if options.no_run else run_study(study, file), options.docs)


if __name__ == "__main__":
    main()
