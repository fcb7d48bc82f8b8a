"""Writes the tables of docs/adapters from the committed results of the studies of large models.

PYTHONPATH=bench:bench/studies python bench/studies/large/tables.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from record import ROOT, between, caption, table

RESULTS, DOCS = ROOT / "bench" / "results", ROOT / "docs" / "adapters"


def larger_than_memory(results: dict[str, Any]) -> str:
    """What the limited process had and took."""
    limited, checked, sizes = results["limited"], results["checked"], results["sizes"]
    rows = [
        ("weights, bfloat16", f"{results['weights'] / 1e9:.2f} GB, {checked['tensors_compared']} tensors"),
        ("blocks", f"{sizes['num_hidden_layers']} of {checked['block'] / 1e6:.0f} MB; the largest tensor"
         f" {checked['largest_tensor'] / 1e6:.0f} MB"),
        ("limit of the process", f"{limited['limit'] / 1e9:.2f} GB, of which {limited['before']['data'] / 1e9:.2f} are taken by"
         " Python, torch and transformers"),
        ("all weights at once", limited["all_weights_at_once"].split(":")[0]),
        ("peak resident memory", f"{limited['peak_resident'] / 1e9:.2f} GB;"
         f" {limited['before']['resident'] / 1e9:.2f} before it began"),
        ("groups, scores, cut", ", ".join(f"{limited[stage]['cpu_seconds']} s" for stage in ("groups", "scores", "cut"))
         + f" of CPU, one thread; {results['tokens']} tokens"),
        ("weights left", f"{checked['bytes_after'] / 1e9:.2f} GB, every tensor equal to the rows and columns kept"),
    ]  # fmt: skip
    return table(("", "measured"), rows) + "\n\n" + caption(results["machine"], "Measured on")


def language_model(results: dict[str, Any]) -> str:
    """Perplexity before and after, with bounds."""
    dense, *cut = results["rows"]

    def shown(found: list[float]) -> str:
        return f"{found[0]:.2f} ({found[1]:.2f} to {found[2]:.2f})"

    rows = [("dense", f"{dense['parameters']:,}", shown(dense["perplexity"]), "")]
    rows += [(r["criterion"], f"{r['parameters']:,}", shown(r["perplexity"]), shown(r["tuned"])) for r in cut]
    head = ("criterion", "parameters", "perplexity a byte (one-sided 95 % bounds)", f"after {cut[0]['steps']} steps")
    return table(head, rows) + "\n\n" + caption(results["machine"], "Measured on")


def minilm(lines: list[dict[str, Any]]) -> str:
    """Drift and speed of each cut."""

    def shown(row: dict[str, Any], key: str) -> str:
        return f"{row[key]['spearman']:.3f}" if key in row else ""

    rows = []
    for row in lines:
        removed = ", ".join(f"{share:.0%} of {part}" for part, share in row["removed"].items())
        drift = [shown(row, key) for key in ("held_out", "everyday", "tuned_held_out", "tuned_everyday")]
        rows.append((removed, row["criterion"], f"{row['speed']:.2f}", *drift))
    head = ("removed", "criterion", "speed", "held out", "everyday", "tuned: held out", "tuned: everyday")
    return table(head, rows) + "\n\n" + caption(lines[-1]["machine"], "Measured on")


def pages() -> dict[Path, str]:
    """Each page as it is to be."""
    whole = json.loads((RESULTS / "larger-than-memory.json").read_text())
    words = json.loads((RESULTS / "language-model.json").read_text())
    lines = [json.loads(line) for line in (RESULTS / "minilm.jsonl").read_text().splitlines()]
    models, large = DOCS / "transformers-models.md", DOCS / "large-models.md"
    text = between(models.read_text(), "language-model", language_model(words))
    return {
        models: between(text, "minilm", minilm(lines)),
        large: between(large.read_text(), "larger-than-memory", larger_than_memory(whole)),
    }


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text)
