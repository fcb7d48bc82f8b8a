"""Models in files: run and scored block by block, cut tensor by tensor, with one block in memory at most."""

from __future__ import annotations

import json
import weakref
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from sequence_nets import decoder

from pyprune_fast import AuraEntropy, Lattice, score_model
from pyprune_fast.graph import find_groups
from pyprune_fast.large import Stream, TensorFiles, cut_files, weightless
from pyprune_fast.prune.allocation import allocate, group_scores
from pyprune_fast.prune.norms import group_norms
from pyprune_fast.slicing import Plan, apply

IDS = torch.randint(0, 40, (6, 12), generator=torch.Generator().manual_seed(0))
LEFT = torch.ones(2, 12, dtype=torch.int64)
LEFT[0, :5] = 0
RIGHT = LEFT.flip(1)


def bert():
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return BertForSequenceClassification(BertConfig(vocab_size=40, max_position_embeddings=16, **sizes))


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_positions": 16, "n_embd": 24, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, use_cache=False, **sizes))


MODELS = {
    "llama": (partial(decoder, "Llama", 4, 2), "model.layers", LEFT),
    "tied": (partial(decoder, "Qwen2", 4, 2, tie_word_embeddings=True), "model.layers", RIGHT),
    "gemma": (partial(decoder, "Gemma2", 4, 2, sliding_window=4), "model.layers", LEFT),
    "gpt2": (gpt2, "transformer.h", RIGHT),
    "bert": (bert, "bert.encoder.layer", RIGHT),
}


def batches(mask):
    masks = (mask, torch.ones_like(mask), mask)
    return [{"input_ids": ids, "attention_mask": m} for ids, m in zip(IDS.split(2), masks, strict=True)]


@pytest.fixture(params=MODELS)
def case(request, tmp_path):
    make, blocks, mask = MODELS[request.param]
    torch.manual_seed(1)
    model = make().eval()
    saved(model, tmp_path / "whole")
    return make, blocks, batches(mask), model, TensorFiles(tmp_path / "whole")


def saved(model, folder, shards=3):
    """The model in several files, a tied tensor under its first name, as transformers does it."""
    folder.mkdir()
    state = {name: tensor for name, tensor in model.state_dict().items() if name in dict(model.named_parameters())}
    for shard in range(shards):
        part = {name: state[name].contiguous() for name in sorted(state)[shard::shards]}
        save_file(part, folder / f"model-{shard}.safetensors", {"format": "pt"})


def test_a_stream_gives_what_the_model_gives(case):
    make, blocks, inputs, model, files = case
    architecture = weightless(make)
    meta = dict(architecture.named_parameters())
    with torch.no_grad():
        for found, batch in zip(Stream(architecture, files, blocks).run(inputs), inputs, strict=True):
            assert torch.equal(found.logits, model(**batch).logits)
    assert all(parameter is meta[name] and parameter.is_meta for name, parameter in architecture.named_parameters())
    assert not any("forward" in vars(module) or module._forward_hooks for module in architecture.modules())
    assert not any(module._forward_pre_hooks for module in architecture.modules())


@pytest.mark.parametrize("spill", [False, True])
def test_a_stream_scores_what_the_model_scores(case, spill, tmp_path):
    make, blocks, inputs, model, files = case
    options = {"lattice": Lattice(), "tap": "layer", "num_levels": 4, "calibration_images": 3}
    stream = Stream(weightless(make), files, blocks, spill=tmp_path / "spill" if spill else None)
    found = stream.score(inputs, AuraEntropy(), **options)
    names = [name for name in score_model(model, inputs, AuraEntropy(), **options).layers if name.startswith(blocks)]
    wanted = score_model(model, inputs, AuraEntropy(), layers=names, **options)
    assert found.layers.keys() == wanted.layers.keys()
    assert all(torch.equal(found.layers[name], row) for name, row in wanted.layers.items())
    assert (found.images, found.criterion, found.estimators) == (6, "AuraEntropy", {})
    some = stream.score(inputs, AuraEntropy(), layers=names[-2:], **options)
    assert some.layers.keys() == set(names[-2:])
    assert all(torch.equal(row, wanted.layers[name]) for name, row in some.layers.items())
    assert not spill or not list((tmp_path / "spill").iterdir())


def test_files_are_cut_as_the_model_is(case, tmp_path):
    make, blocks, inputs, model, files = case
    architecture = weightless(make)
    groups = find_groups(architecture, {"input_ids": IDS[:1]})
    scores = group_norms(architecture, groups, weights=files)
    wanted = group_norms(model, groups)
    assert scores.keys() == wanted.keys()
    assert all(torch.equal(scores[name], row) for name, row in wanted.items())
    plan = Plan.of(architecture, groups, allocate(groups, scores, ratio=0.3))
    cut = cut_files(architecture, plan, files, tmp_path / "cut")
    apply(model, plan)
    state = dict(model.named_parameters())
    assert cut.keys() == files.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in cut.items())
    table = json.loads((tmp_path / "cut/model.safetensors.index.json").read_text())
    assert table["weight_map"].keys() == set(files)
    assert all(name in load_file(tmp_path / "cut" / file) for name, file in table["weight_map"].items())
    assert table["metadata"]["total_size"] == sum(tensor.nbytes for tensor in cut.values())
    assert Plan.load(tmp_path / "cut/plan.json") == plan
    apply(architecture, plan, undo=False)
    with torch.no_grad():
        for found, batch in zip(Stream(architecture, cut, blocks).run(inputs), inputs, strict=True):
            assert torch.equal(found.logits, model(**batch).logits)


class Counted(TensorFiles):
    """Counts how often tensors are read, and the bytes of those that are still there."""

    def __init__(self, path):
        super().__init__(path)
        self.reads, self.now, self.peak = dict.fromkeys(self, 0), 0, 0

    def read(self, name, device="cpu"):
        tensor = super().read(name, device)
        self.reads[name] += 1
        self.now += tensor.nbytes
        self.peak = max(self.peak, self.now)
        weakref.finalize(tensor.untyped_storage(), self.freed, tensor.nbytes)
        return tensor

    def freed(self, size):
        self.now -= size


def test_one_block_is_in_memory_at_a_time(tmp_path):
    make = partial(decoder, "Llama", 4, 2)
    saved(make(), tmp_path / "whole")
    files, architecture = Counted(tmp_path / "whole"), weightless(make)
    block = sum(files.bytes_of(name) for name in files if name.startswith("model.layers.0."))
    outside = files.bytes_of("model.embed_tokens.weight")
    stream = Stream(architecture, files, "model.layers")
    scores = stream.score(batches(LEFT), AuraEntropy(), lattice=Lattice())
    assert set(files.reads.values()) == {0, 1}  # those after the blocks are not read at all
    assert (files.now, files.peak) == (0, max(block, outside))
    assert len(list(stream.run(batches(LEFT)))) == 3
    assert files.now == 0
    assert files.peak == max(block, 2 * outside + files.bytes_of("model.norm.weight"))  # embedding, norm and head
    files.peak = 0
    groups = find_groups(architecture, {"input_ids": IDS[:1]})
    plan = Plan.of(architecture, groups, allocate(groups, group_scores(groups, scores.layers), ratio=0.25))
    cut_files(architecture, plan, files, tmp_path / "cut")
    group_norms(architecture, groups, weights=files)
    assert (files.now, files.peak) == (0, max(map(files.bytes_of, files)))
