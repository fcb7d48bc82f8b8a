"""Tokens as lattices: lines, patches, padding; heads, key-value groups and neurons scored by their channels."""

from __future__ import annotations

import pytest
import torch
from oracle import aura_counts as oracle_aura
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pyprune_fast import (
    AuraEntropy,
    AuraInformation,
    ChannelInformation,
    Lattice,
    Levels,
    observe,
    score_model,
    score_random,
    score_weights,
)
from pyprune_fast.baselines import score_fisher
from pyprune_fast.graph import find_groups
from pyprune_fast.prune.allocation import allocate, group_scores
from pyprune_fast.slicing import Plan, apply
from pyprune_fast.tokens import runs_of

LEVELS = Levels.uniform(-1, 1, 4, channels=3)


def seen(x, observer, *, lattice=None, mask=None, labels=None):
    """What an observer of a linear layer counts of the tokens x."""

    class Given(nn.Linear):
        def forward(self, x):
            return x

    model = nn.Sequential(Given(3, 3))
    with observe(model, {"0": observer}, labels=labels, lattice=lattice) as observation:
        observation.mask = mask
        model(x)
    return observer.counts


@pytest.fixture
def x():
    return torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(0))


def test_a_line_is_counted_as_its_transposed_copy(x):
    wanted = oracle_aura(x.transpose(1, 2).contiguous(), LEVELS.edges, [(1,)])
    assert torch.equal(seen(x, AuraEntropy(LEVELS)), wanted)


def test_patches_after_a_class_token(x):
    wanted = AuraEntropy(LEVELS).update(x[:, 1:].transpose(1, 2).reshape(4, 3, 2, 3)).counts
    assert torch.equal(seen(x, AuraEntropy(LEVELS), lattice=Lattice((2, 3), skip=1)), wanted)
    x[:, 0] = torch.nan
    assert torch.equal(seen(x, AuraEntropy(LEVELS), lattice=Lattice((2, 3), skip=1)), wanted)


@pytest.mark.parametrize("lattice", [None, Lattice((2, 3), skip=1)])
def test_tokens_are_read_in_place(x, lattice):
    class Copies(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for out in (result,) if isinstance(result, torch.Tensor) else ():
                if out.is_floating_point() and out._base is None and out.untyped_storage().data_ptr() != x.data_ptr():
                    Copies.largest = max(Copies.largest, out.numel())
            return result

    with Copies():
        seen(x, AuraEntropy(LEVELS), lattice=lattice)
    assert Copies.largest < x.numel()
    with Copies():  # and it would have been seen
        x.transpose(1, 2).contiguous()
    assert Copies.largest == x.numel()


MASKS = {
    "right": [[1] * 7, [1] * 4 + [0] * 3, [1] * 4 + [0] * 3, [1] + [0] * 6],
    "left": [[0] * 3 + [1] * 4, [0] * 5 + [1] * 2, [1] * 7, [1] * 7],
    "holes": [[1, 1, 0, 1, 1, 1, 0], [0] * 7, [1, 0, 1, 0, 1, 0, 1], [0, 1, 1, 1, 1, 1, 0]],
}


@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize("kind", [AuraEntropy, AuraInformation, ChannelInformation])
@pytest.mark.parametrize("name", MASKS)
def test_padding_is_not_counted(x, name, kind, skip):
    mask, labels = torch.tensor(MASKS[name]), torch.tensor([0, 1, 1, 0])
    counted = mask.clone()
    counted[:, :skip] = 0
    wanted = kind(LEVELS, num_classes=2)
    wanted.update(torch.zeros(0, 3, 7), labels[:0])
    for row in range(4):
        edges = torch.nn.functional.pad(counted[row], (1, 1)).diff()
        for start, end in zip((edges == 1).nonzero(), (edges == -1).nonzero(), strict=True):
            if end - start > 1 or not wanted.needs_pairs:
                wanted.update(x[row : row + 1, start:end].transpose(1, 2), labels[row : row + 1])
    x[mask == 0] = torch.nan
    assert torch.equal(
        seen(x, kind(LEVELS, num_classes=2), mask=mask, labels=labels, lattice=Lattice(skip=skip)), wanted.counts
    )


def test_neighbouring_sequences_of_one_length_are_counted_together():
    assert runs_of(torch.ones(2, 3)) is None
    assert runs_of(torch.zeros(0, 3)) is None
    assert runs_of(torch.tensor(MASKS["right"])) == [
        (slice(0, 1), slice(0, 7)), (slice(1, 3), slice(0, 4)), (slice(3, 4), slice(0, 1)),
    ]  # fmt: skip
    assert runs_of(torch.tensor(MASKS["holes"]))[:2] == [(slice(0, 1), slice(0, 2)), (slice(0, 1), slice(3, 6))]


@pytest.mark.parametrize(
    ("lattice", "mask", "text"),
    [
        (Lattice((2, 3)), None, r"^layer 0: wanted 0 \+ 2 \* 3 tokens \(lattice\), got 7: "),
        (Lattice(skip=7), None, r"^layer 0: wanted more than the 7 tokens that the lattice skips, got \(4, 7, 3\)"),
        (Lattice((7,)), torch.tensor(MASKS["left"]), r"^layer 0: wanted no padding on a lattice of shape \(7,\), got a mask"),
        (None, torch.ones(4, 6), r"^layer 0: wanted \(4, 6\) tokens as in the mask, got \(4, 7, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(x, lattice, mask, text):
    with pytest.raises(ValueError, match=text):
        seen(x, AuraEntropy(LEVELS), lattice=lattice, mask=mask)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (((0, 3),), ValueError, "^Lattice: shape: wanted at least 1, got 0$"),
        (((),), ValueError, "^Lattice: shape: wanted a tuple of one to three extents or None, got tuple"),
        ((14,), ValueError, "^Lattice: shape: wanted a tuple of one to three extents or None, got int 14$"),
        ((None, -1), ValueError, "^Lattice: skip: wanted at least 0, got -1$"),
        ((None, 1.0), TypeError, "^Lattice: skip: wanted an int, got float 1.0$"),
    ],
)
def test_lattices_that_are_none(arguments, error, text):
    with pytest.raises(error, match=text):
        Lattice(*arguments)


class Tagger(nn.Module):
    """Numbers that are small integers, so that no batch changes how they are rounded."""

    def __init__(self):
        super().__init__()
        self.embed, self.up, self.down = nn.Embedding(11, 4), nn.Linear(4, 6), nn.Linear(6, 2)
        generator = torch.Generator().manual_seed(1)
        for parameter in self.parameters():
            parameter.data = torch.randint(-3, 4, parameter.shape, generator=generator).float()

    def forward(self, input_ids, attention_mask=None):
        return self.down(torch.relu(self.up(self.embed(input_ids))))


@pytest.mark.parametrize("options", [{}, {"confidence": 0.5, "remove": 0.5}], ids=["all", "anytime"])
def test_scores_of_a_padded_batch_are_those_of_its_sequences(options):
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(2, 9, (40,), generator=generator)
    sequences = [torch.randint(0, 11, (int(n),), generator=generator) for n in lengths]
    ids = nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=10)
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    batches = [{"input_ids": i, "attention_mask": m} for i, m in zip(ids.split(5), mask.split(5), strict=True)]
    given = {"criterion": AuraEntropy(), "lattice": Lattice(), "num_levels": 8}
    padded = score_model(Tagger(), batches, **given, **options)
    assert padded.layers.keys() == {"up", "down"}
    alone = {layer: estimator.with_levels(estimator.levels) for layer, estimator in padded.estimators.items()}
    with torch.no_grad(), observe(model := Tagger(), alone):
        for sequence in sequences:
            model(sequence[None])
    for layer, scores in padded.layers.items():
        assert torch.equal(scores, alone[layer].compute())
        assert torch.equal(padded.estimators[layer].counts, alone[layer].counts)
    assert padded.images == 40


def llama(layers=2):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 8, "num_key_value_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, num_hidden_layers=layers, use_cache=False, **sizes)).eval()


def test_key_value_groups_and_neurons_are_scored_by_their_channels():
    model, ids = llama(), torch.randint(0, 64, (4, 16), generator=torch.Generator().manual_seed(3))
    scores = score_model(model, [{"input_ids": ids}], AuraEntropy(), lattice=Lattice(), tap="layer").layers
    groups = find_groups(model, {"input_ids": ids[:1]}, proof="shapes")
    of_groups = group_scores(groups, scores)
    q, k, v = (scores[f"model.layers.1.self_attn.{name}_proj"].view(4, -1).mean(1) for name in "qkv")  # 4 groups of 2 heads
    assert torch.allclose(of_groups["model.layers.1.self_attn.q_proj"], (q + k + v) / 3)
    gate, up = (scores[f"model.layers.1.mlp.{name}_proj"] for name in ("gate", "up"))
    assert torch.equal(of_groups["model.layers.1.mlp.gate_proj"], (gate + up) / 2)
    width = [scores[f"model.layers.{i}.{name}"] for i in (0, 1) for name in ("self_attn.o_proj", "mlp.down_proj")]
    assert torch.allclose(of_groups["model.embed_tokens"], torch.stack(width).mean(0))
    removed = allocate(groups, of_groups, ratio=0.25)
    assert {name: len(channels) for name, channels in removed.items()} == {
        "model.embed_tokens": 8,
        **{f"model.layers.{i}.self_attn.q_proj": 1 for i in (0, 1)},
        **{f"model.layers.{i}.mlp.gate_proj": 12 for i in (0, 1)},
    }
    apply(model, Plan.of(model, groups, removed))
    assert model(ids).logits.shape == (4, 16, 64)
    attention = model.model.layers[0].self_attn
    assert (attention.q_proj.weight.shape, attention.k_proj.weight.shape) == ((24, 24), (12, 24))


def test_the_transposed_layers_of_gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "use_cache": False}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=1, n_head=4, **tokens)).eval()
    ids = torch.randint(0, 64, (4, 16), generator=torch.Generator().manual_seed(3))
    scores = score_model(model, [{"input_ids": ids}], AuraEntropy(), lattice=Lattice(), tap="layer").layers
    assert {name.removeprefix("transformer.h.0."): len(row) for name, row in scores.items()} == {
        "attn.c_attn": 96, "attn.c_proj": 32, "mlp.c_fc": 128, "mlp.c_proj": 32, "lm_head": 64,
    }  # fmt: skip
    of_groups = group_scores(find_groups(model, {"input_ids": ids[:1]}, proof="shapes"), scores)
    heads = next(row for name, row in of_groups.items() if "c_attn" in name)
    assert torch.allclose(heads, scores["transformer.h.0.attn.c_attn"].view(3, 4, 8).mean((0, 2)))
    assert torch.equal(of_groups["transformer.h.0.mlp.c_fc"], scores["transformer.h.0.mlp.c_fc"])


def test_classes_in_chunks_of_padded_sequences():
    generator = torch.Generator().manual_seed(4)
    ids, lengths = torch.randint(0, 11, (24, 6), generator=generator), torch.randint(2, 7, (24,), generator=generator)
    mask, labels = torch.arange(6) < lengths[:, None], torch.arange(24) % 3
    parts = zip(ids.split(8), mask.split(8), labels.split(8), strict=True)
    batches = [({"input_ids": i, "attention_mask": m}, k) for i, m, k in parts]
    given = {"criterion": AuraInformation(num_classes=3), "lattice": Lattice(), "num_levels": 4}
    whole, chunks = (score_model(Tagger(), batches, class_chunk=chunk, **given).layers for chunk in (None, 2))
    assert all(torch.allclose(chunks[layer], scores) for layer, scores in whole.items())


def test_transposed_layers_are_scored_as_linear_ones():
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    transposed = nn.Sequential(Conv1D(5, 3), nn.ReLU(), nn.Flatten(), Conv1D(2, 20))
    plain = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Flatten(), nn.Linear(20, 2))
    plain.load_state_dict({name: x.t() if x.ndim == 2 else x for name, x in transposed.state_dict().items()})
    batches = [(torch.randn(6, 4, 3), torch.arange(6) % 2)]
    for score in (score_weights, score_random, lambda model: score_fisher(model, batches)):
        one, other = score(transposed).layers, score(plain).layers
        assert one.keys() == other.keys()
        assert all(torch.allclose(one[name], row) for name, row in other.items())
