"""The laboratory's rows as a table: mean and deviation over seeds, and what each method gains over L1, seed by seed."""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

YARDSTICK = "l1"


def mean_and_deviation(values: Sequence[float]) -> str:
    """Such as 74.50 ± 0.31; without a deviation for one value."""
    text = f"{statistics.mean(values):.2f}"
    return f"{text} ± {statistics.stdev(values):.2f}" if len(values) > 1 else text


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, a part for each network and target, the best fine-tuned accuracy first."""
    cells: dict[tuple[str, float], dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[row["network"], row["remove"]][row["method"]].append(row)
    lines = []
    for (network, remove), methods in sorted(cells.items()):
        yardstick = {row["seed"]: row["tuned"] for row in methods.get(YARDSTICK, ())}
        lines += [f"**{network}, -{100 * remove:.0f} % MACs**", ""]
        lines += [
            f"| method | seeds | MACs left | one-shot | fine-tuned | against {YARDSTICK} |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for name, found in sorted(methods.items(), key=lambda item: -statistics.mean(row["tuned"] for row in item[1])):
            gains = [row["tuned"] - yardstick[row["seed"]] for row in found if row["seed"] in yardstick]
            columns = [
                name,
                str(len(found)),
                f"{100 * statistics.mean(row['macs_left'] for row in found):.1f} %",
                mean_and_deviation([row["one_shot"] for row in found]),
                mean_and_deviation([row["tuned"] for row in found]),
                mean_and_deviation(gains) if gains else "",
            ]
            lines.append("| " + " | ".join(columns) + " |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table([json.loads(line) for path in sys.argv[1:] for line in Path(path).read_text().splitlines()]))
