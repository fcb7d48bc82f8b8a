"""Transformers, recurrent networks and an autoencoder, narrow: the same operations and connections, few channels.

Those of Hugging Face's transformers are theirs, made from a configuration: nothing is downloaded.
"""

from __future__ import annotations

import os

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

os.environ["HF_HUB_OFFLINE"] = "1"


class FusedAttention(nn.Module):
    """Queries, keys and values from one layer, their axis split by the head count that the module remembers (timm)."""

    def __init__(self, width, heads):
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.scale = self.head_dim**-0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        attention = (q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((attention @ v).transpose(1, 2).flatten(2))


class SeparateAttention(nn.Module):
    """Three layers; as many heads as there are channels for."""

    def __init__(self, width, heads):
        super().__init__()
        self.head_dim = width // heads
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        q, k, v = (layer(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 1e-5))

    def forward(self, x):
        return x * self.gamma


class ViTBlock(nn.Module):
    def __init__(self, width, heads, attention):
        super().__init__()
        self.norm1, self.attn, self.ls1 = nn.LayerNorm(width, 1e-6), attention(width, heads), LayerScale(width)
        self.norm2, self.ls2 = nn.LayerNorm(width, 1e-6), LayerScale(width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.fc2(nn.functional.gelu(self.fc1(self.norm2(x)))))


class ViT(nn.Module):
    """Patches by a convolution, a class token, position embeddings, pre-norm blocks with layer scale."""

    def __init__(self, attention, width=24, heads=4, depth=2):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 5, width) * 0.02)
        self.blocks = nn.Sequential(*(ViTBlock(width, heads, attention) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width, 1e-6), nn.Linear(width, 10)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


class Recurrent(nn.Module):
    """Tokens, a recurrent network, the last step's state, a classifier."""

    def __init__(self, kind, **options):
        super().__init__()
        self.embed, self.rnn = nn.Embedding(20, 8), kind(8, 12, batch_first=True, **options)
        self.head = nn.Sequential(nn.Linear(24 if options.get("bidirectional") else 12, 10), nn.ReLU(), nn.Linear(10, 3))

    def forward(self, tokens):
        return self.head(self.rnn(self.embed(tokens))[0][:, -1])


class TorchAttention(nn.Module):
    """torch's MultiheadAttention in a pre-norm residual block."""

    def __init__(self, width=16):
        super().__init__()
        self.embed, self.norm1, self.norm2 = nn.Linear(6, width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.up, self.down, self.head = nn.Linear(width, 20), nn.Linear(20, width), nn.Linear(width, 3)

    def forward(self, x):
        x = self.embed(x)
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return self.head((x + self.down(torch.relu(self.up(self.norm2(x))))).mean(1))


class TorchEncoder(nn.Module):
    """torch's TransformerEncoder, which runs as one fused operation in eval mode."""

    def __init__(self, width=16):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 20, batch_first=True)
        self.embed, self.encoder = nn.Embedding(20, width), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 3)

    def forward(self, tokens):
        return self.head(self.encoder(self.embed(tokens)).mean(1))


class TiedLanguage(nn.Module):
    """Embedding, gated residual layers with RMSNorm, and an output layer that shares the embedding's tensor."""

    def __init__(self, width=16, hidden=24, depth=2):
        super().__init__()
        self.embed, self.norm = nn.Embedding(20, width), nn.RMSNorm(width)
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(depth))
        self.gate = nn.ModuleList(nn.Linear(width, hidden, bias=False) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(width, hidden, bias=False) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(hidden, width, bias=False) for _ in range(depth))
        self.lm_head = nn.Linear(width, 20, bias=False)
        self.lm_head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        for norm, gate, up, down in zip(self.norms, self.gate, self.up, self.down, strict=True):
            y = norm(x)
            x = x + down(nn.functional.silu(gate(y)) * up(y))
        return self.lm_head(self.norm(x))


class Autoencoder(nn.Module):
    """784-256-128-32-128-256-784, ReLU and a sigmoid at the end."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 32))
        self.decoder = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 784))

    def forward(self, x):
        return torch.sigmoid(self.decoder(self.encoder(x)))


def bert():
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    return BertForSequenceClassification(BertConfig(**sizes, max_position_embeddings=16, num_labels=3))


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": 40, "n_positions": 16, "n_embd": 24, "n_layer": 2, "n_head": 4}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, use_cache=False))


def decoder(family, heads, kv_heads, **options):
    """A causal language model of a family that shares keys and values among query heads."""
    import transformers

    sizes = {"vocab_size": 40, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 6}
    sizes |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "max_position_embeddings": 16}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = getattr(transformers, f"{family}Config")(**sizes, **tokens, use_cache=False, **options)
    return getattr(transformers, f"{family}ForCausalLM")(config)


class T5(nn.Module):
    """T5's encoder, whose first layer makes a bias for each head that all layers add, and a classifier."""

    def __init__(self):
        super().__init__()
        from transformers import T5Config, T5EncoderModel

        sizes = {"vocab_size": 40, "d_model": 24, "d_kv": 6, "d_ff": 32, "num_layers": 2, "num_heads": 4}
        config = T5Config(**sizes, feed_forward_proj="gated-gelu", relative_attention_num_buckets=8)
        self.encoder, self.head = T5EncoderModel(config), nn.Linear(24, 3)

    def forward(self, tokens):
        return self.head(self.encoder(tokens).last_hidden_state.mean(1))
