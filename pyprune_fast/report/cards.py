"""The most important numbers of a report."""

from __future__ import annotations

from dataclasses import dataclass

from .contents import Report
from .table import amount, change, floor_of, held, measure_name, metric_name, metric_value, number


@dataclass(frozen=True)
class Card:
    """A number that stands out. `good` is None for one that is no judgement."""

    label: str
    value: str
    note: str = ""
    good: bool | None = None


def cards(report: Report) -> list[Card]:
    """The most important numbers."""
    found: list[Card] = []
    if (decision := report.decision) is not None:
        note = "taken back, bit for bit" if decision.rolled_back else "every floor is met" if decision.accepted else ""
        found.append(Card("The gate", "accepted" if decision.accepted else "rejected", note, decision.accepted))
    elif report.search is not None and report.binding:
        met = report.search.feasible
        found.append(
            Card("Floors", "all met" if met else "not all met", f"by the best candidate of {report.search.method}", met)
        )
    binding = next((row for row in report.measurements if row.name == report.binding), None)
    if binding is not None:
        slack = f"{number(abs(binding.slack or 0.0))} {'to spare' if binding.ok else 'short'}"
        found.append(Card("Binding floor", binding.name, f"{number(held(binding))}, {floor_of(binding)}: {slack}", binding.ok))
    if report.cases:
        case = report.cases[0]
        note = f"{metric_value(report, case.before)} dense, {metric_value(report, case.cut)} after the cut"
        found.append(Card(metric_name(report).capitalize(), metric_value(report, case.tuned), f"fine-tuned; {note}"))
    if report.measurements:
        first = report.measurements[0]
        dense = report.simulation.dense.get(first.name) if report.simulation is not None else None
        found.append(Card(first.name, number(first.value), "" if dense is None else f"{number(dense)} dense"))
    if report.dense is not None and report.pruned is not None:
        for label, now, then in (
            ("Parameters", report.pruned.parameters, report.dense.parameters),
            ("MACs", report.pruned.macs, report.dense.macs),
        ):
            found.append(Card(label, change(now, then) or amount(now), f"{amount(then)} to {amount(now)}"))
    elif report.search is not None:
        measure = measure_name(report.target.measure) if report.target is not None else "the model"
        found.append(Card("Removed", f"{report.search.reached:.1%}", f"of {measure}"))
    if report.entries:
        gone, total = (sum(map(count, report.entries)) for count in (lambda e: len(e.removed), lambda e: e.group.channels))
        cut = sum(entry.status == "cut" for entry in report.entries)
        found.append(Card("Channels cut", f"{gone:,} of {total:,}", f"in {cut} of {len(report.entries)} groups"))
    return found
