"""Metrics of language models: how well they foretell the next token of a text.

Letters: N sequences, T tokens, V words of the vocabulary; y_i the loss of sequence i, summed over its x_i tokens, in nats.
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pyprune_fast._checks import describe
from pyprune_fast.inputs import mask_of
from pyprune_fast.observe import eval_mode

from .estimate import Mean
from .metric import Metric, Run
from .reading import Batches, Settings, call, first_tensor, inputs_of, named


def perplexity(batches: Batches, **settings: Unpack[Settings]) -> Metric:
    """Perplexity of a causal language model: exp(sum y / sum x), each token foretold from those before it in its sequence.

    Less is better, so that a floor is a ceiling. Padding is neither foretold nor foretold from the last token before it: a
    token counts where it and its predecessor are no padding.

    Args:
        batches: token numbers (N, T), or mappings with "input_ids" and, where there is padding, "attention_mask"; can be read
            again and again. The model gives logits (N, T, V), or an object with `.logits`.
        settings: name, floor, tolerance, confidence; see Metric.

    Returns:
        A metric in [1, inf). Bounds: Student's t for r = sum y / sum x over sequences, which are taken as independent, by the
        residuals (y_i - r x_i) / mean x of a ratio (Cochran, Sampling Techniques, 1977, chapter 6), carried over by exp. The
        surrogate is the same formula on one batch.

    Raises:
        ValueError: while measuring: logits of another shape, or no token to foretell.

    Example:
        >>> class Even(nn.Module):
        ...     def forward(self, input_ids):
        ...         return torch.zeros(*input_ids.shape, 50)
        >>> metric = perplexity([torch.randint(0, 50, (4, 9))], floor=60)
        >>> metric.measured(Even()).reason
        'perplexity: 50 <= 60, by 10'
    """

    def measure(model: nn.Module) -> Mean:
        found = []
        with eval_mode(model):
            for inputs in inputs_of("perplexity", batches):
                losses, tokens = _losses(call(model, inputs), inputs)
                found.append(torch.stack([losses, tokens]).double().cpu())
        losses, tokens = torch.cat(found, 1)
        losses, tokens = losses[tokens > 0], tokens[tokens > 0]
        if not len(tokens):
            raise ValueError("perplexity: batches: wanted sequences of two tokens or more, got none")
        ratio = losses.sum() / tokens.sum()
        return Mean.of(ratio + (losses - ratio * tokens) / tokens.mean(), "exponential")

    def surrogate(run: Run, batch: Any) -> Tensor:
        inputs = next(inputs_of("perplexity", [batch]))
        losses, tokens = _losses(run(inputs), inputs)
        return (losses.sum() / tokens.sum()).exp()

    return Metric(measure=measure, surrogate=surrogate, direction="min", **named("perplexity", settings))


def _losses(output: Any, inputs: Any) -> tuple[Tensor, Tensor]:
    """Of each sequence the sum of -log p over its tokens foretold, float32, and their number."""
    logits = getattr(output, "logits", output)
    ids = first_tensor(inputs if isinstance(inputs, Tensor) else inputs["input_ids"])
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != ids.shape:
        raise ValueError(f"perplexity: model: wanted logits (N, T, V) for {tuple(ids.shape)} tokens, got {describe(logits)}")
    ids = ids.to(logits.device)
    losses = cross_entropy(logits[:, :-1].transpose(1, 2).float(), ids[:, 1:], reduction="none")
    mask = mask_of(inputs)
    counted = torch.ones_like(ids) if mask is None else (mask != 0).to(ids)
    counted = counted[:, 1:] * counted[:, :-1]
    return (losses * counted).sum(1), counted.sum(1).to(losses)
