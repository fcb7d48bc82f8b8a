"""The architectures that groups and cuts have to get right: one function for each, with random weights and an input.

``ALL[name]()`` returns (model, inputs), freshly made, in eval mode; ``inputs`` is one tensor. The same call gives the same
numbers. Weights are lively: no scale near zero, no statistics at rest, or a zero would hide a mistake.
"""

from __future__ import annotations

from functools import partial

import torch
from sequence_nets import (
    T5,
    Autoencoder,
    FusedAttention,
    Recurrent,
    SeparateAttention,
    TiedLanguage,
    TorchAttention,
    TorchEncoder,
    ViT,
    bert,
    decoder,
    gpt2,
)
from told import TOLD
from torch import Tensor, nn
from unusual_nets import Competing, ConvNeXt, Diffusion, Gated, Shuffle, SpatialAttention, Swin, googlenet
from vision_nets import (
    VGG,
    BasicBlock,
    Bottleneck,
    CifarResNet,
    DenseNet,
    ResNet,
    Style,
    Super,
    UNet,
    efficientnet_b0,
    mobilenet_v2,
    mobilenet_v3,
    volumes,
    waves,
)


def image(size, channels=3):
    return lambda: torch.randn(2, channels, size, size)


def tokens(vocabulary, count=6):
    return lambda: torch.randint(3, vocabulary, (2, count))


NETS = {
    "vgg16": (VGG, image(32)),
    "resnet18": (lambda: ResNet(BasicBlock, (2, 2, 2, 2), 4), image(32)),
    "resnet50": (lambda: ResNet(Bottleneck, (3, 4, 6, 3), 4), image(64)),
    "resnext": (lambda: ResNet(Bottleneck, (2, 2), 8, groups=4), image(16)),
    "resnet56": (CifarResNet, image(8)),
    "mobilenet_v2": (mobilenet_v2, image(32)),
    "mobilenet_v3": (mobilenet_v3, image(32)),
    "efficientnet_b0": (efficientnet_b0, image(32)),
    "densenet": (DenseNet, image(32)),
    "unet": (UNet, image(8)),
    "unet_groupnorm": (lambda: UNet(lambda width: nn.GroupNorm(4, width)), image(8)),
    "style": (Style, image(8)),
    "style_plain": (lambda: Style(affine=False), image(8)),
    "srresnet": (Super, image(6)),
    "conv1d": (waves, lambda: torch.randn(2, 2, 96)),
    "c3d": (volumes, lambda: torch.randn(2, 1, 4, 8, 8)),
    "vit": (lambda: ViT(FusedAttention), image(8)),
    "vit_separate": (lambda: ViT(SeparateAttention), image(8)),
    "mha": (TorchAttention, lambda: torch.randn(2, 5, 6)),
    "transformer_encoder": (TorchEncoder, tokens(20)),
    "lstm": (lambda: Recurrent(nn.LSTM, num_layers=2), tokens(20)),
    "lstm_bidirectional": (lambda: Recurrent(nn.LSTM, bidirectional=True), tokens(20)),
    "gru": (lambda: Recurrent(nn.GRU, num_layers=2), tokens(20)),
    "tied": (TiedLanguage, tokens(20)),
    "autoencoder": (Autoencoder, lambda: torch.rand(2, 784)),
    "told": (TOLD, lambda: torch.randn(3, 5)),
    "bert": (bert, tokens(40)),
    "gpt2": (gpt2, tokens(40)),
    "llama_4_2": (partial(decoder, "Llama", 4, 2), tokens(40)),
    "llama_4_2_eager": (partial(decoder, "Llama", 4, 2, attn_implementation="eager"), tokens(40)),
    "llama_8_2": (partial(decoder, "Llama", 8, 2, tie_word_embeddings=True), tokens(40)),
    "llama_8_8": (partial(decoder, "Llama", 8, 8), tokens(40)),
    "qwen3_4_2": (partial(decoder, "Qwen3", 4, 2), tokens(40)),
    "qwen3_8_8": (partial(decoder, "Qwen3", 8, 8), tokens(40)),
    "gemma2": (partial(decoder, "Gemma2", 4, 2), tokens(40)),
    "phi3": (partial(decoder, "Phi3", 4, 2), tokens(40)),
    "gpt_neox": (partial(decoder, "GPTNeoX", 4, 4), tokens(40)),
    "t5": (T5, tokens(40)),
    "convnext": (ConvNeXt, image(16)),
    "shufflenet": (Shuffle, image(8)),
    "googlenet": (googlenet, image(8)),
    "swin": (Swin, image(8)),
    "dit": (Diffusion, image(8)),
    "gated": (Gated, lambda: torch.randn(4, 6)),
    "spatial_attention": (SpatialAttention, image(8)),
    "competing": (Competing, lambda: torch.randn(4, 4)),
}


def build(name: str) -> tuple[nn.Module, Tensor]:
    """Makes a network of the table in eval mode with lively weights, and its input."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        make, draw = NETS[name]
        model, inputs = make(), draw()
        enliven(model)
        settle(model, inputs)
        return model.eval(), inputs


ALL = {name: partial(build, name) for name in NETS}


@torch.no_grad()
def enliven(model: nn.Module) -> None:
    """Draws every parameter anew: matrices by their fan-in, scales around 1, biases around 0."""
    for name, parameter in model.named_parameters():
        owner, _, kind = name.rpartition(".")
        if parameter.ndim > 1:
            summed = "weight" in kind and not isinstance(model.get_submodule(owner), nn.Embedding)
            parameter.normal_(0, parameter[0].numel() ** -0.5 if summed else 0.3)
        elif "bias" in kind:
            parameter.uniform_(-0.1, 0.5)
        else:
            parameter.uniform_(0.5, 1)


@torch.no_grad()
def settle(model: nn.Module, inputs: Tensor) -> None:
    """Gives every BatchNorm the statistics of some other inputs, so that activations keep their size."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the mean over all batches
    model.train(bool(norms))
    for _ in range(4 if norms else 0):
        model(torch.randn(32, *inputs.shape[1:]))
    for norm in norms:
        norm.momentum = 0.1
