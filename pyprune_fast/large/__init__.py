"""Models that are larger than memory: scored block by block, cut tensor by tensor, from safetensors files to others.

model  = weightless(make_model)                       parameters without numbers
files  = TensorFiles("checkpoint/")                   its tensors, read when they are asked for
groups = find_groups(model, example)
scores = Stream(model, files, "model.layers").score(batches, AuraEntropy(), lattice=Lattice())
plan   = Plan.of(model, groups, allocate(groups, group_scores(groups, scores.layers), ratio=0.25))
cut_files(model, plan, files, "pruned/")
"""

from .depth import block_influence, drop_blocks
from .files import TensorFiles, cut_files
from .stream import Stream, weightless

__all__ = ["Stream", "TensorFiles", "block_influence", "cut_files", "drop_blocks", "weightless"]
