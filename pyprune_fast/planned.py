"""`pyprune-fast dry-run`: the table of what many ranks would hold, move and spend, from a model's configuration alone."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .dryrun import Cluster, as_rows, dry_run
from .estimators import ESTIMATORS
from .large import weightless
from .prune.spec import function_named
from .tokens import Lattice


def add_dry_run(commands: Any) -> None:
    """Adds the command to the parser's commands."""
    parser = commands.add_parser(
        "dry-run",
        help="what scoring would take on many ranks, from a model's configuration",
        description="Memory, bytes moved and time of each rank. No weights are made. Bytes are exact; times rest on the"
        " assumptions below, which are no measurements: see pyprune_fast/dryrun.py for the formulas.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.set_defaults(run=run)
    what = parser.add_argument_group("what")
    made = what.add_mutually_exclusive_group(required=True)
    made.add_argument("--model", metavar="MODULE:FACTORY", help="factory() gives the model")
    made.add_argument("--config", type=Path, metavar="FILE", help="config.json of a causal language model of transformers")
    given = what.add_mutually_exclusive_group(required=True)
    given.add_argument("--tokens", type=int, metavar="T", help="sequences of T tokens; their layers are scored as lines")
    given.add_argument("--shape", metavar="CxHxW", help="shape of one input, such as 3x224x224")
    what.add_argument("--criterion", choices=tuple(ESTIMATORS), default="entropy", help="what is counted")
    what.add_argument("--classes", type=int, default=None, metavar="K", help="for criteria that need labels")
    what.add_argument("--levels", type=int, default=None, metavar="L", help="default 16, or 8 for maps of 4 sites or fewer")
    what.add_argument("--images", type=int, default=4096, metavar="N", help="images or sequences of the pass")
    what.add_argument("--batch", type=int, default=8, metavar="N", help="images of a batch")
    how = parser.add_argument_group("on what")
    how.add_argument("--ranks", default="8,64,512", metavar="LIST", help="numbers of ranks")
    how.add_argument("--sharding", choices=("replicated", "fsdp", "tensor"), default="replicated", help="of the weights")
    how.add_argument("--tensor", type=int, default=8, metavar="T", help="ranks that share a copy, with --sharding tensor")
    how.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="bfloat16", help="of the weights")
    assumed = parser.add_argument_group("assumptions about each rank")
    for name, unit in (("flops", "floating point operations"), ("counting", "bytes counted"), ("copying", "bytes copied")):
        assumed.add_argument(f"--{name}", type=float, default=getattr(Cluster, name), help=f"{unit} a second")
    assumed.add_argument("--node", type=int, default=Cluster.node, metavar="RANKS", help="ranks in a node")
    for name in ("inside", "between"):
        assumed.add_argument(
            f"--{name}", type=float, nargs=2, default=getattr(Cluster, name), metavar=("SECONDS", "BYTES"),
            help=f"latency and bytes a second, {name} nodes" if name == "between" else "latency and bytes a second in a node",
        )  # fmt: skip


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Prints the table."""
    from .report import as_text

    try:
        ranks = [int(W) for W in options.ranks.split(",")]
        shape = None if options.shape is None else tuple(int(extent) for extent in options.shape.split("x"))
    except ValueError:
        parser.error(f"--ranks, --shape: wanted whole numbers, got {options.ranks}, {options.shape}")
    dtype: torch.dtype = getattr(torch, options.dtype)
    model = weightless(lambda: _model(options)).to(dtype)
    with torch.device("meta"):
        example: Any = torch.zeros(1, *(shape or ()), dtype=dtype)
        if shape is None:
            example = {"input_ids": torch.zeros(1, options.tokens, dtype=torch.int64)}
    cluster = Cluster(**{field.name: _plain(getattr(options, field.name)) for field in fields(Cluster)})
    criterion = ESTIMATORS[options.criterion]()
    criterion.num_classes = options.classes
    shares = dry_run(
        model,
        example,
        criterion,
        ranks=ranks,
        images=options.images,
        batch=options.batch,
        sharding=options.sharding,
        tensor=options.tensor,
        lattice=Lattice() if shape is None else None,
        num_levels=options.levels,
        cluster=cluster,
    )
    size = f"{sum(p.numel() for p in model.parameters()):,} parameters in {options.dtype}, {options.sharding}"
    assumed = ", ".join(f"{name} {value}" for name, value in vars(cluster).items())
    print(f"{size}; {options.images:,} images, {options.batch} a batch.")
    print(f"Bytes are exact; times are not measured, they assume {assumed}.\n")
    print(as_text(*as_rows(shares)))
    return 0


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _model(options: argparse.Namespace) -> nn.Module:
    if options.config is None:
        made = function_named(options.model)()
    else:
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(options.config, local_files_only=True)
        config.use_cache = False
        made = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    if not isinstance(made, nn.Module):
        raise TypeError(f"--model: wanted a factory of a module, got {type(made).__name__}")
    return made
