"""Reports: one plain data structure, three writers, nothing from elsewhere, nothing without data."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import nn

from pyprune_fast import AuraInformation, report, score_model, score_weights
from pyprune_fast.demo import toy
from pyprune_fast.graph import find_groups
from pyprune_fast.prune import (
    Metric,
    Problem,
    Pruner,
    Target,
    compare,
    gate,
    rollout,
    running_costs,
    searches,
    simulate,
    stages_by_share,
)
from pyprune_fast.report import Report, as_html, as_markdown, collect
from pyprune_fast.report.sections import sections
from pyprune_fast.slicing import apply

HOSTILE = 'x<script>alert(1)</script>"$a_1$|*b*-->'
EVERY = ["metrics", "sensitivity", "comparison", "pareto", "groups", "whatif", "graph", "importance", "filters", "running",
         "search", "stages", "provenance"]  # fmt: skip


class Page(HTMLParser):
    """What a browser would load, what stands in the page, and whether all tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.loads += [found[name] or "" for name in ("src", "srcset", "data", "poster", "action") if name in found]
        self.links += [found[name] or "" for name in ("href", "xlink:href") if name in found]
        self.ids += [found["id"] or ""] if "id" in found else []
        if tag == "img" or (tag == "svg"):
            self.images.append(found)
        if tag not in ("meta", "img", "br", "link", "input", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)


def network(name: str = "first") -> nn.Module:
    """A network with maps, whose first layer has this name."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.ModuleDict({name: nn.Conv2d(1, 6, 3)})
            self.middle, self.head = nn.Conv2d(6, 6, 3), nn.Linear(96, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.middle(self.body[name](x).relu()).relu().flatten(1))

    return Net().eval()


class Task:
    """A network, a problem with two floors, what searches found, and all that is measured beside them."""

    def __init__(self, name: str = "first") -> None:
        self.model, self.data = network(name), toy.data()
        self.x = self.data.calibration[0][0]
        components = {"features": ["body"], "rest": ["middle", "head"]}
        self.groups = find_groups(self.model, self.x[:1], components=components, protect={"middle": f"certified {name}"})
        self.scores = score_model(self.model, self.data.calibration, AuraInformation())
        layers = score_weights(self.model).layers
        importance = {group.name: layers[group.layers[0]] for group in self.groups if not group.fixed}
        dense = self.model(self.x).detach()
        self.metrics = [
            Metric("error", lambda model: float((model(self.x) - dense).square().mean().detach()), direction="min"),
            Metric("parameters", lambda model: sum(p.numel() for p in model.parameters()), direction="min", floor=500),
            Metric("first width", lambda model: model.body[name].out_channels, floor=3, tolerance=0.5),
        ]
        self.problem = Problem(self.model, self.groups, importance, self.x[:1], metrics=self.metrics,
                               target=Target("parameters", 0.25), tolerance=0.1,
                               bounds={group.name: 0.9 for group in self.groups})  # fmt: skip
        self.found = searches.grid(self.problem, levels=(0, 0.2, 0.4, 0.5, 0.7))
        self.other = searches.uniform(self.problem)
        self.simulation = simulate(self.model, self.groups, importance, self.metrics, ratios=(0.3, 0.6))
        self.filters = report.filters(self.model, self.scores, self.x)

    def report(self, **more: object) -> Report:
        return collect(self.found, self.other, problem=self.problem, groups=self.groups, simulation=self.simulation,
                       filters=self.filters, **{"date": "2026-01-01", "note": {"seed": 0}, **more})  # fmt: skip


@pytest.fixture(scope="module")
def task() -> Task:
    return Task()


@pytest.fixture(scope="module")
def compared() -> Report:
    comparison = compare(toy.model(), toy.data(), criteria=("l1", "random"), targets=[Target("macs", 0.4), Target("macs", 0.6)],
                         steps=2, latency_seconds=0.01)  # fmt: skip
    return collect(comparison, date="2026-01-01")


@pytest.fixture(scope="module")
def full(task: Task, compared: Report) -> Report:
    """Every section there is."""
    stages = stages_by_share(task.found.plan, lambda model: find_groups(model, task.x[:1]), 2)
    done = rollout(task.model, stages, task.metrics)
    done.undo()
    running = running_costs({"dense": task.model}, task.x[:1], seconds=0.001)
    found = task.report(verdict=done, running=running)
    return replace(found, cases=compared.cases, metric="accuracy", undone=1.0)


@pytest.fixture(scope="module")
def page(full: Report) -> str:
    return as_html(full)


def names(found: Report) -> list[str]:
    return [section.name for section in sections(found)]


def test_every_section_is_there_where_it_has_data(full: Report, page: str) -> None:
    assert names(full) == EVERY
    for name in EVERY:
        assert f'<section id="{name}"' in page
        assert f'href="#{name}"' in page


def test_json_is_the_report(full: Report, page: str, compared: Report) -> None:
    for found in (full, compared):
        again = Report.from_json(found.to_json())
        assert again == found
        assert again.to_json() == found.to_json()
        assert as_markdown(again) == as_markdown(found)
    assert as_html(Report.from_json(full.to_json())) == page


def test_the_same_input_gives_the_same_bytes_but_for_the_date(task: Task) -> None:
    first, second = task.report(), task.report(date="2027-12-31")
    for form in (as_html, as_markdown, Report.to_json):
        assert form(first).replace("2026-01-01", "2027-12-31") == form(second) != form(first)


@pytest.mark.parametrize("kind", ["full", "compared"])
def test_the_page_loads_nothing_and_is_well_formed(kind: str, page: str, compared: Report) -> None:
    text = page if kind == "full" else as_html(compared)
    found = Page(text)
    assert found.open == []
    assert all(load.startswith("data:image/png;base64,") for load in found.loads)
    assert found.links
    assert all(link.startswith("#") and link[1:] in found.ids for link in found.links)
    assert len(found.ids) == len(set(found.ids))
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(found.tags)
    assert "@import" not in text
    assert all(url.startswith("#") for url in re.findall(r"url\(\s*['\"]?([^)]*)\)", text))
    assert all(image.get("alt") or image.get("aria-label") for image in found.images)
    assert found.tags.count("svg") >= 5


def test_colours_follow_the_page(page: str) -> None:
    assert "@media (prefers-color-scheme: dark)" in page
    figures = "".join(re.findall(r"<svg.*?</svg>", page, re.S))
    assert "var(--c0)" in figures
    assert "currentColor" in figures
    assert not re.search(r"(fill|stroke): ?#(0072b2|d55e00|010203|000000|ffffff)", figures)


def test_hostile_names_stay_text() -> None:
    found = Task(HOSTILE.replace(".", "")).report(title=HOSTILE, note={HOSTILE: HOSTILE}, date=HOSTILE)
    page = Page(as_html(found))
    assert "script" not in page.tags
    assert page.open == []
    markdown = as_markdown(found)
    assert "<script" not in markdown
    head, rule = next(
        (a, b) for a, b in zip(markdown.splitlines(), markdown.splitlines()[1:], strict=False) if b.startswith("| ---")
    )
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(re.findall(r"(?<!\\)\|", head)) == len(re.findall(r"(?<!\\)\|", rule))
    assert any("script" in row for row in rows)
    assert Report.from_json(found.to_json()) == found


def test_what_has_no_data_is_left_out(task: Task) -> None:
    assert sections(Report("empty")) == []
    assert "<section" not in as_html(Report("empty"))
    bare = collect(task.found)
    assert names(bare) == ["metrics", "sensitivity", "groups", "graph", "search", "provenance"]
    assert not any(table.rows == [] for section in sections(bare) for table in section.tables)
    result = Pruner(toy.model(), toy.data(), criterion="l1", target=Target("macs", 0.4), steps=0).run()
    assert names(collect(result)) == ["comparison", "groups", "graph", "importance", "provenance"]


def test_a_binding_floor_is_named_with_its_reason(task: Task) -> None:
    metrics = [task.metrics[0], replace(task.metrics[1], floor=10), task.metrics[2]]
    verdict = gate(apply(task.model, task.found.plan), metrics)
    found = task.report(verdict=verdict)
    assert found.decision is not None
    assert not found.decision.accepted
    assert found.binding == "parameters"
    for text in (as_html(found), as_markdown(found)):
        assert "The floor that binds is that of parameters." in text
        assert "rejected" in text
        assert "taken back, bit for bit" in text
    rows = next(s for s in sections(found) if s.name == "metrics").tables[0].rows
    assert [row[0] for row in rows if "misses, binds" in row] == ["parameters"]


def test_every_group_has_a_fate_and_a_reason(task: Task) -> None:
    entries = {entry.group.name: entry for entry in task.report().entries}
    assert [entry.group.name for entry in task.report().entries] == [group.name for group in task.groups]
    assert entries["middle"].status == "protected"
    assert entries["middle"].reason == "certified first"
    assert entries["head"].status == "fixed"
    cut = entries["body.first"]
    assert cut.status == "cut"
    assert cut.coefficient == pytest.approx(task.found.coefficients["body.first"])
    assert cut.removed == task.found.plan.remove["body.first"]
    assert cut.lost == pytest.approx(sum(cut.importance[i] for i in cut.removed) / sum(cut.importance))


def test_channels_of_all_rounds_are_counted_in_the_dense_model() -> None:
    model = toy.model()
    kept = model[0].weight.detach().clone()
    result = Pruner(model, toy.data(), criterion="l1", target=Target("macs", 0.6), rounds=2, steps=0).run()
    entry = next(entry for entry in collect(result).entries if entry.group.name == "0")
    assert len(entry.removed) == result.widths()["0"][0] - result.widths()["0"][1]
    left = [i for i in range(8) if i not in entry.removed]
    assert torch.equal(model[0].weight, kept[left])


def test_costs_are_counted_and_the_pareto_front_is_marked(compared: Report, task: Task) -> None:
    assert compared.pareto is not None
    assert len(compared.pareto.points) == 4
    best = max(compared.pareto.points, key=lambda point: (point.value, point.reached))
    assert best.front
    found = task.report()
    assert found.dense is not None
    assert found.pruned is not None
    removed = 1 - found.pruned.parameters / found.dense.parameters
    assert removed == pytest.approx(task.found.candidate.sparsity)
    assert found.pareto is not None
    assert [point.name for point in found.pareto.points] == ["grid", "uniform"]


def test_a_model_that_is_cut_already_is_refused(task: Task) -> None:
    cut = apply(task.model, task.found.plan)
    try:
        with pytest.raises(ValueError, match="wanted"):
            task.report()
    finally:
        cut.undo()


def test_filters_are_those_of_highest_and_lowest_score(task: Task) -> None:
    for view in task.filters.layers:
        values = task.scores.layers[view.layer]
        assert (view.most.channel, view.least.channel) == (int(values.argmax()), int(values.argmin()))
        counts = task.scores.estimators[view.layer].counts[view.most.channel].sum((0, 1))
        assert torch.equal(torch.tensor(view.most.counts), counts + counts.T)
    by_weights = report.filters(task.model, score_weights(task.model), task.x, layers=["middle"])
    sites = torch.tensor(by_weights.layers[0].most.counts).sum()
    assert sites == 2 * len(task.x) * 2 * 4 * 3  # both ways, two offsets, 4 by 3 pairs of a 4 by 4 map
    assert (task.filters.unit, by_weights.unit) == ("nats", "")


def test_filters_refuse_what_has_no_maps_and_name_it(task: Task) -> None:
    with pytest.raises(ValueError, match=r"maps of one or two axes, got \['head'\]"):
        report.filters(task.model, score_weights(task.model), task.x, layers=["head"])
    with pytest.raises(ValueError, match="wanted names among"):
        report.filters(task.model, task.scores, task.x, layers=["nowhere"])
    with pytest.raises(TypeError, match="images: wanted a batch"):
        report.filters(task.model, task.scores, task.x[:0])
    plain = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    empty = report.filters(plain, score_weights(plain), torch.rand(5, 4))
    assert empty.layers == ()
    assert collect(task.found, filters=empty).filters is None


def test_files_are_written_all_or_none(task: Task, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"files that end in \.html, \.json, \.md, got"):
        report.write(task.report(), tmp_path / "a.md", tmp_path / "a.pdf")
    assert list(tmp_path.iterdir()) == []
    report.write(task.report(), *(tmp_path / f"a.{form}" for form in ("html", "md", "json")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.json", "a.md"]
    assert Report.from_json((tmp_path / "a.json").read_text()) == task.report()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no", "wanted JSON"),
        ("[]", "wanted format"),
        ('{"format": "pyprune_fast.report", "version": 0}', "version 1"),
        ('{"format": "pyprune_fast.report", "version": 1, "title": 3}', "mangled"),
        ('{"format": "pyprune_fast.report", "version": 1, "title": "", "magic": 1}', "mangled"),
        ('{"format": "pyprune_fast.report", "version": 1, "title": "", "entries": [{}]}', "mangled"),
        ('{"format": "pyprune_fast.report", "version": 1, "title": "", "undone": "much"}', "mangled"),
    ],
)
def test_mangled_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Report.from_json(text)


def test_subjects_are_checked() -> None:
    with pytest.raises(TypeError, match="subjects: wanted"):
        collect()
    with pytest.raises(TypeError, match="subjects: wanted"):
        collect(nn.Linear(1, 1))  # type: ignore[arg-type]


def test_numbers_that_are_not_finite_survive(task: Task) -> None:
    row = replace(task.report().measurements[0], value=float("inf"), floor=1.0, slack=float("-inf"), ok=False)
    found = replace(task.report(), measurements=(row,), binding=row.name)
    assert json.loads(found.to_json())["measurements"][0]["value"] == "inf"
    assert Report.from_json(found.to_json()) == found
    assert "inf" in as_html(found)
