"""The studies of language models run: in small, and with an untrained encoder in the place of the one that is fetched."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import language_model
import minilm as study
import pytest
import torch
from torch import Tensor

from pyprune_fast.demo import minilm


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_perplexity_before_and_after(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["study", "--quick", "--json", str(tmp_path / "out.json")])
    language_model.main()
    results = json.loads((tmp_path / "out.json").read_text())
    dense, *cut = results["rows"]
    assert [row["criterion"] for row in cut] == list(language_model.CRITERIA)
    assert dense["perplexity"][0] < 0.8 * dense["untrained"][0]  # it has learned something
    for row in cut:
        assert row["parameters"] < dense["parameters"]
        assert row["perplexity"][1] < row["perplexity"][0] < row["perplexity"][2]


class Words:
    """Numbers for words, in the place of a tokenizer that would have to be fetched."""

    def __init__(self, longest: int) -> None:
        self.longest = longest

    def __call__(self, sentences: Any) -> dict[str, Tensor]:
        """A number for each word, by its length."""
        rows = [torch.tensor([1 + len(word) for word in sentence.split()][: self.longest]) for sentence in sentences]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def untrained() -> minilm.Encoder:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return minilm.Encoder(BertModel(BertConfig(vocab_size=80, **sizes))).eval()


def test_encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(minilm, "Tokens", Words)
    monkeypatch.setattr(minilm, "network", untrained)
    path = tmp_path / "rows.jsonl"
    monkeypatch.setattr(sys, "argv", ["study", "--quick", "--json", str(path)])
    study.main()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["criterion"] for row in rows] == list(study.CRITERIA)
    before = sum(p.numel() for p in untrained().parameters())
    for row in rows:
        assert row["parameters"] < before
        assert -1 <= row["held_out"]["spearman"] <= 1
    study.main()  # what is there is not computed again
    assert len(path.read_text().splitlines()) == len(rows)


def test_drift_of_the_same_is_none() -> None:
    x = torch.nn.functional.normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    assert study.drift(x, x) == {"spearman": 1.0, "difference": 0.0}
    assert study.drift(x, x[torch.arange(8, -1, -1)])["spearman"] < 0.9
