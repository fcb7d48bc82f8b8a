"""The oracle of cut models, proven on small networks that are cut here by hand."""

from __future__ import annotations

import pytest
import torch
from masked import masked_outputs, outputs
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


def lively(model):
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_()
    return model.eval()


def cut(model, x, removed, **attributes):
    """The outputs after every removed position was cut out by indexing, and attributes were set."""
    for name, dim, indices in removed:
        owner, _, kind = name.rpartition(".")
        module = model.get_submodule(owner)
        tensor = getattr(module, kind)
        kept = [i for i in range(tensor.shape[dim]) if i not in indices]
        setattr(module, kind, nn.Parameter(tensor.data.index_select(dim, torch.tensor(kept))))
    for name, value in attributes.items():
        owner, _, kind = name.replace("__", ".").rpartition(".")
        setattr(model.get_submodule(owner), kind, value)
    return outputs(model, x)


def axes(names, indices):
    return [(name, dim, indices) for name, dim in names]


HIDDEN = [("0.weight", 0), ("0.bias", 0)]
AFFINE = [("1.weight", 0), ("1.bias", 0)]


def chain(*between, width=6):
    return nn.Sequential(nn.Linear(4, 6), *between, nn.Linear(width, 3))


class HubRMSNorm(nn.Module):
    """As transformers writes it."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(width)), 1e-6

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


class Doubled(nn.LayerNorm):
    """A subclass with a forward method of its own, as timm's norms over images are."""

    def forward(self, x):
        return 2 * super().forward(x)


CHAINS = {
    "sigmoid": ((nn.Sigmoid(),), [*HIDDEN, ("2.weight", 1)], [1, 4], {}, {}),
    "layer norm": (
        (nn.LayerNorm(6), nn.Sigmoid()),
        [*HIDDEN, *AFFINE, ("3.weight", 1)],
        [0, 5],
        {"1__normalized_shape": (4,)},
        {},
    ),
    "own forward": (
        (Doubled(6),),
        [*HIDDEN, *AFFINE, ("2.weight", 1)],
        [0, 5],
        {"1__normalized_shape": (4,)},
        {},
    ),
    "rms norm": ((nn.RMSNorm(6),), [*HIDDEN, AFFINE[0], ("2.weight", 1)], [2], {"1__normalized_shape": (5,)}, {}),
    "hub's rms norm": ((HubRMSNorm(6),), [*HIDDEN, AFFINE[0], ("2.weight", 1)], [2, 3], {}, {}),
    "group norm": ((nn.GroupNorm(2, 6),), [*HIDDEN, *AFFINE, ("2.weight", 1)], [0, 4], {"1__num_channels": 4}, {}),
    "whole groups": ((nn.GroupNorm(3, 6),), [*HIDDEN, *AFFINE, ("2.weight", 1)], [2, 3], {"1__num_groups": 2}, {}),
    "softmax": ((nn.Softmax(1),), [*HIDDEN, ("2.weight", 1)], [3, 4], {}, {"1": [3, 4]}),
    "bare layer norm": (
        (nn.LayerNorm(6, elementwise_affine=False),),
        [*HIDDEN, ("2.weight", 1)],
        [3, 4],
        {"1__normalized_shape": (4,)},
        {"1": [3, 4]},
    ),
}


@pytest.mark.parametrize("case", CHAINS)
def test_chains(case):
    between, names, indices, attributes, bare = CHAINS[case]
    model, x = lively(chain(*between)), torch.randn(5, 4)
    removed = axes(names, indices)
    dense, masked = outputs(model, x), masked_outputs(model, x, removed, bare)
    assert torch.equal(outputs(model, x)[0], dense[0])
    assert (masked[0] - dense[0]).abs().max() > 0.01
    torch.testing.assert_close(cut(model, x, removed, **attributes), masked, rtol=0, atol=2e-6)


def test_norms_over_maps_and_channels_in_front():
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.GroupNorm(3, 6), nn.Softplus(), nn.Conv2d(6, 2, 3))
    lively(model)
    removed = axes([("0.weight", 0), ("0.bias", 0), ("1.weight", 0), ("1.bias", 0), ("3.weight", 1)], [1, 2, 4])
    x = torch.randn(2, 2, 7, 7)
    masked = masked_outputs(model, x, removed)
    torch.testing.assert_close(cut(model, x, removed, **{"1__num_channels": 3}), masked, rtol=0, atol=1e-5)


class Attention(nn.Module):
    def __init__(self, heads, kv_heads, width=3):
        super().__init__()
        self.width, self.q = width, nn.Linear(4, heads * width)
        self.k, self.v, self.o = nn.Linear(4, kv_heads * width), nn.Linear(4, kv_heads * width), nn.Linear(heads * width, 2)

    def forward(self, x):
        q, k, v = (layer(x).unflatten(-1, (-1, self.width)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.o(scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2))


def test_heads_that_share_a_key():
    model, x = lively(Attention(4, 2)), torch.randn(2, 5, 4)
    shared = axes([("k.weight", 0), ("k.bias", 0), ("v.weight", 0), ("v.bias", 0)], range(3))
    removed = shared + axes([("q.weight", 0), ("q.bias", 0), ("o.weight", 1)], range(6))
    masked = masked_outputs(model, x, removed)
    torch.testing.assert_close(cut(model, x, removed), masked, rtol=0, atol=1e-5)


def test_a_fused_encoder_layer():
    layer, x = lively(nn.TransformerEncoderLayer(8, 2, 6, batch_first=True)), torch.randn(2, 5, 8)
    removed = axes([("linear1.weight", 0), ("linear1.bias", 0), ("linear2.weight", 1)], [0, 3])
    masked = masked_outputs(layer, x, removed)
    torch.testing.assert_close(cut(layer, x, removed), masked, rtol=0, atol=1e-5)
    assert torch.backends.mha.get_fastpath_enabled()
    # Norms count, though the fused operation would not call them; a model whose width shrinks is no longer comparable whole.
    narrow = masked_outputs(layer, x, [("norm2.weight", 0, [0]), ("norm2.bias", 0, [0])])[0]
    assert not narrow[..., 0].any()


def test_recurrence():
    class Last(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.rnn, self.head = kind(4, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x):
            return self.head(self.rnn(x)[0])

    for kind, gates in ((nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)):
        model, x = lively(Last(kind)), torch.randn(2, 6, 4)
        rows = [5 * gate + i for gate in range(gates) for i in (1, 2)]
        removed = axes([(f"rnn.{name}_l0", 0) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")], rows)
        removed += axes([("rnn.weight_hh_l0", 1), ("head.weight", 1)], [1, 2])
        masked = masked_outputs(model, x, removed)
        weights = dict(model.rnn.named_parameters())
        small = kind(4, 3, batch_first=True)
        for name, parameter in small.named_parameters():
            kept = [i for i in range(5 * gates) if i not in rows]
            weight = weights[name].data[kept]
            parameter.data = weight[:, [0, 3, 4]] if "weight_hh" in name else weight
        model.rnn = small
        torch.testing.assert_close(cut(model, x, removed[-1:]), masked, rtol=0, atol=1e-5)


def test_a_wrong_position_shows():
    model, x = lively(chain(nn.ReLU())), torch.randn(5, 4)
    wrong = [*axes(HIDDEN, [1]), ("2.weight", 1, [2])]
    masked = masked_outputs(model, x, wrong)
    assert (cut(model, x, wrong)[0] - masked[0]).abs().max() > 0.01
