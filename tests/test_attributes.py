"""The widths that modules write down follow a cut, and the cut model computes what it did without the channels that went."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
import transformers
from test_cut import snapshot
from torch import Tensor, nn

from pyprune_fast.slicing import Group, Member, Plan, apply, register_widths


def rows(name: str, *offsets: int, block: int = 1, step: int | None = None) -> list[Member]:
    return [Member(name, 0, offset, step or block, block) for offset in offsets or (0,)]


def columns(name: str, block: int = 1, dim: int = 1) -> Member:
    return Member(name, dim, 0, block, block)


def planned(model: nn.Module, channels: int, members: Iterable[Member], remove: Iterable[int]) -> Plan:
    return Plan.of(model, [Group("g", channels, (), tuple(members))], {"g": remove})


def silenced(model: nn.Module, reads: Iterable[Member], plan: Plan) -> None:
    """Zeros where the model reads what goes."""
    with torch.no_grad():
        for member in reads:
            model.get_parameter(member.tensor).index_fill_(member.dim, member.positions(plan.remove["g"]), 0)


def check(model: nn.Module, x: Any, plan: Plan, reads: Iterable[Member], wanted: dict[str, dict[str, Any]]) -> None:
    silenced(model, reads, plan)
    before = snapshot(model)
    with torch.no_grad():
        dense = first(model(*x))
        cut = apply(model, plan)
        assert torch.allclose(first(model(*x)), dense, atol=1e-6)
    for name, widths in wanted.items():
        module = model.get_submodule(name)
        assert {key: getattr(module, key) for key in widths} == widths
    cut.undo()
    assert snapshot(model)[1] == before[1]
    with torch.no_grad():
        assert torch.equal(first(model(*x)), dense)


def first(out: Any) -> Tensor:
    while isinstance(out, tuple):
        out = out[0]
    return out


class Recurrent(nn.Module):
    def __init__(self, kind: Any, **options: Any):
        super().__init__()
        self.rnn, self.out = kind(5, 6, batch_first=True, **options), nn.Linear(options.get("proj_size") or 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0])


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
@pytest.mark.parametrize("layers", [1, 2])
def test_recurrent(kind: Any, gates: int, layers: int) -> None:
    """All layers keep one hidden size, so the same units go in each."""
    torch.manual_seed(0)
    model = Recurrent(kind, num_layers=layers)
    offsets = tuple(6 * g for g in range(gates))
    writes, reads = [], [columns("out.weight")]
    for layer in range(layers):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            writes += rows(f"rnn.{name}_l{layer}", *offsets)
        reads.append(columns(f"rnn.weight_hh_l{layer}"))
        reads += [columns(f"rnn.weight_ih_l{layer}")] if layer else []
    plan = planned(model, 6, writes + reads, [1, 4, 5])
    check(model, [torch.randn(2, 7, 5)], plan, reads, {"rnn": {"hidden_size": 3, "input_size": 5}, "out": {"in_features": 3}})
    only_first = [m for m in writes + reads if m.tensor.endswith("l0")]
    if layers == 2:
        with pytest.raises(ValueError, match=r"apply: module 'rnn': wanted one hidden size for all layers and directions, got"):
            apply(model, planned(model, 6, only_first, [1]))


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_projected_lstm_and_cells() -> None:
    torch.manual_seed(0)
    model = Recurrent(nn.LSTM, proj_size=4)
    reads = [columns("out.weight"), columns("rnn.weight_hh_l0")]
    plan = planned(model, 4, [*rows("rnn.weight_hr_l0"), *reads], [2])
    check(model, [torch.randn(2, 7, 5)], plan, reads, {"rnn": {"hidden_size": 6, "proj_size": 3}})
    cell = nn.Sequential(nn.GRUCell(5, 6), nn.Linear(6, 2))
    writes = [m for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh") for m in rows(f"0.{name}", 0, 6, 12)]
    reads = [columns("0.weight_hh"), columns("1.weight")]
    plan = planned(cell, 6, [*writes, *reads], [0, 5])
    check(cell, [torch.randn(2, 5)], plan, reads, {"0": {"hidden_size": 4, "input_size": 5}})


def test_bilinear_bag_and_norms() -> None:
    torch.manual_seed(0)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.norm, self.map = nn.EmbeddingBag(9, 6), nn.InstanceNorm1d(6, affine=True), nn.Bilinear(6, 4, 5)
            self.rms, self.head = nn.RMSNorm(5), nn.Linear(5, 2)

        def forward(self, i: Tensor, x: Tensor) -> Tensor:
            return self.head(self.map(self.norm(self.bag(i)[:, :, None].repeat(1, 1, 3) * torch.arange(3.0))[..., 2], x))

    model = Both()
    reads = [columns("map.weight")]
    members = [columns("bag.weight"), *rows("norm.weight"), *rows("norm.bias"), *reads]
    wanted = {"bag": {"embedding_dim": 4}, "norm": {"num_features": 4}, "map": {"in1_features": 4, "in2_features": 4}}
    inputs = [torch.randint(0, 9, (2, 3)), torch.randn(2, 4)]
    check(model, inputs, planned(model, 6, members, [0, 3]), reads, wanted)
    reads = [columns("head.weight")]
    plan = planned(model, 5, [*rows("map.weight"), *rows("map.bias"), *rows("rms.weight"), *reads], [4])
    check(model, inputs, plan, reads, {"map": {"out_features": 4}, "rms": {"normalized_shape": (4,)}})


# --- attention ---------------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Grouped queries, written down as transformers does it."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.num_key_value_heads, self.num_key_value_groups, self.head_dim = 6, 3, 2, 4
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(8, 24), nn.Linear(8, 12), nn.Linear(8, 12)
        self.o_proj = nn.Linear(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        k, v = (t.repeat_interleave(self.num_key_value_groups, 1) for t in (k, v))
        assert q.shape[1] == self.num_heads
        return self.o_proj(nn.functional.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(1, 2).flatten(2))


def test_grouped_queries_lose_a_group() -> None:
    torch.manual_seed(0)
    model = Attention()
    writes = [m for p in "qkv" for name in ("weight", "bias") for m in rows(f"{p}_proj.{name}", block=8 if p == "q" else 4)]
    reads = [columns("o_proj.weight", 8)]
    wanted = {"": {"num_heads": 4, "num_key_value_heads": 2, "num_key_value_groups": 2, "head_dim": 4}}
    check(model, [torch.randn(2, 5, 8)], planned(model, 3, writes + reads, [1]), reads, wanted)


def test_grouped_queries_lose_query_heads_or_parts_of_heads() -> None:
    torch.manual_seed(0)
    model = Attention()
    reads = [Member("o_proj.weight", 1, 0, 8, 4)]  # the first query head of each key head
    writes = [Member(f"q_proj.{name}", 0, 0, 8, 4) for name in ("weight", "bias")]
    with pytest.raises(ValueError, match=r"apply: module '': wanted a multiple of its 3 key heads as query heads, got 5"):
        apply(model, planned(model, 3, writes + reads, [1]))
    writes = [Member(f"{p}_proj.{name}", 0, 4 * h, 1, 1) for p in "qk" for h in range(6 if p == "q" else 3)
              for name in ("weight", "bias")]  # fmt: skip
    plan = planned(model, 4, writes, [1, 2])
    apply(model, plan)  # of queries and keys alone, as a wider head of values allows
    assert (model.num_heads, model.num_key_value_heads, model.head_dim) == (6, 3, 2)
    with pytest.raises(ValueError, match=r"apply: module '': wanted heads of one width, got \[1, 2\] of 2 positions kept"):
        apply(model, planned(model, 2, [Member("q_proj.weight", 0, 0, 1, 1), Member("q_proj.bias", 0, 0, 1, 1)], [1]))


def test_fused_projection() -> None:
    torch.manual_seed(0)

    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_heads, self.head_dim, self.attn_dim = 4, 3, 12
            self.qkv, self.proj = nn.Linear(6, 36), nn.Linear(12, 6)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).movedim(2, 0).transpose(2, 3)
            return self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(*x.shape[:2], -1))

    model = Fused()
    writes = [m for name in ("weight", "bias") for m in rows(f"qkv.{name}", 0, 12, 24, block=3)]
    reads = [columns("proj.weight", 3)]
    wanted = {"": {"num_heads": 2, "head_dim": 3, "attn_dim": 6}, "qkv": {"out_features": 18}, "proj": {"in_features": 6}}
    check(model, [torch.randn(2, 5, 6)], planned(model, 4, writes + reads, [0, 2]), reads, wanted)


def test_multihead_attention() -> None:
    """Its inner and outer widths are one: a head goes with as many of its inputs and outputs."""
    torch.manual_seed(0)

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.mha, self.out = nn.Linear(5, 8), nn.MultiheadAttention(8, 4, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.inner(x)
            return self.out(self.mha(y, y, y, need_weights=False)[0])

    model = Wrapped()
    heads = [m for name in ("weight", "bias") for m in rows(f"mha.in_proj_{name}", 0, 8, 16, block=2)]
    reads = [columns("mha.in_proj_weight", 2), columns("mha.out_proj.weight", 2), columns("out.weight", 2)]
    writes = [
        m for name in ("inner.weight", "inner.bias", "mha.out_proj.weight", "mha.out_proj.bias") for m in rows(name, block=2)
    ]
    widths = {"embed_dim": 4, "kdim": 4, "vdim": 4, "num_heads": 2, "head_dim": 2}
    plan = planned(model, 4, heads + writes + reads, [0, 3])
    check(model, [torch.randn(2, 6, 5)], plan, reads, {"mha": widths, "mha.out_proj": {"in_features": 4}})
    with pytest.raises(ValueError, match=r"apply: module 'mha': wanted heads \* head width = its outer width of 8, got 3 \* 2"):
        apply(model, planned(model, 4, [*heads, reads[1]], [1]))


# --- modules that others wrote -----------------------------------------------------------------------------------------------


def test_registered_widths() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.scale, self.width = nn.Linear(3, 6), nn.Parameter(torch.rand(6)), 6

        def forward(self, x: Tensor) -> Tensor:
            return (self.up(x) * self.scale).reshape(-1, self.width)

    class Narrow(Gated):
        pass

    seen = []
    register_widths(Gated, lambda module, shapes: seen.append(dict(shapes)) or {"width": shapes["up.weight"][0]})
    model = nn.Sequential(Narrow(), nn.Linear(6, 2))
    members = [*rows("0.up.weight"), *rows("0.up.bias"), *rows("0.scale")]
    check(model, [torch.randn(2, 3)], planned(model, 6, [*members, columns("1.weight")], [5]), [columns("1.weight")],
          {"0": {"width": 5}})  # fmt: skip
    assert seen == [{"up.weight": (5, 3), "up.bias": (5,), "scale": (5,)}]

    def refuse(module: nn.Module, shapes: Any) -> dict[str, Any]:
        raise ValueError("wanted an even width, got 5")

    register_widths(Narrow, refuse)
    with pytest.raises(ValueError, match="^apply: module '0': wanted an even width, got 5"):
        apply(model, planned(model, 6, [*members, columns("1.weight")], [5]))
    assert model[0].width == model[0].up.out_features == 6
    with pytest.raises(TypeError, match="register_widths: kind: wanted a class of modules, got 3"):
        register_widths(3, refuse)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert", "vit"])
def test_transformers(kind: str) -> None:
    """Whole heads out of the attentions of transformers."""
    torch.manual_seed(0)
    size = {"num_hidden_layers": 1, "num_attention_heads": 4, "hidden_size": 16, "intermediate_size": 20}
    ids = torch.randint(0, 32, (2, 5))
    if kind == "llama":
        config = transformers.LlamaConfig(vocab_size=32, num_key_value_heads=2, **size)
        model, at = transformers.LlamaModel(config).eval(), "layers.0.self_attn"
        writes = [m for p in "qkv" for m in rows(f"{at}.{p}_proj.weight", block=8 if p == "q" else 4)]
        reads, heads = [columns(f"{at}.o_proj.weight", 8)], 2
        wanted: dict[str, dict[str, Any]] = {at: {"num_key_value_groups": 2, "head_dim": 4}}
    elif kind == "gpt2":
        model = transformers.GPT2Model(
            transformers.GPT2Config(n_layer=1, n_head=4, n_embd=16, vocab_size=32, n_positions=8)
        ).eval()
        at, heads = "h.0.attn", 4
        writes = [Member(f"{at}.c_attn.weight", 1, 16 * i, 4, 4) for i in range(3)] + rows(
            f"{at}.c_attn.bias", 0, 16, 32, block=4
        )
        reads = [columns(f"{at}.c_proj.weight", 4, dim=0)]
        wanted = {at: {"num_heads": 3, "split_size": 12, "head_dim": 4}, f"{at}.c_attn": {"nf": 36, "nx": 16}}
    elif kind == "bert":
        model, heads = transformers.BertModel(transformers.BertConfig(vocab_size=32, **size)).eval(), 4
        at = "encoder.layer.0.attention.self"
        writes = [m for p in ("query", "key", "value") for n in ("weight", "bias") for m in rows(f"{at}.{p}.{n}", block=4)]
        reads = [columns("encoder.layer.0.attention.output.dense.weight", 4)]
        wanted = {at: {"num_attention_heads": 3, "attention_head_size": 4, "all_head_size": 12}}
    else:
        config = transformers.ViTConfig(image_size=8, patch_size=4, **size)
        model, heads = transformers.ViTModel(config, add_pooling_layer=False).eval(), 4
        (at,) = [name for name, module in model.named_modules() if "q_proj" in module._modules]
        (out,) = [f"{at}.{name}" for name in model.get_submodule(at)._modules if name.startswith("o")]
        writes = [m for p in "qkv" for n in ("weight", "bias") for m in rows(f"{at}.{p}_proj.{n}", block=4)]
        reads, wanted = [columns(f"{out}.weight", 4)], {at: {"num_attention_heads": 3, "head_dim": 4}}
        ids = torch.randn(2, 3, 8, 8)
    plan = planned(model, heads, writes + reads, [1])
    silenced(model, reads, plan)
    with torch.no_grad():
        dense = model(ids).last_hidden_state
        cut = apply(model, plan)
        assert torch.allclose(model(ids).last_hidden_state, dense, atol=1e-5)
    for name, widths in wanted.items():
        assert {key: getattr(model.get_submodule(name), key) for key in widths} == widths
    cut.undo()
