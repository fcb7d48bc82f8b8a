"""A checkpoint in one or several safetensors files: its tensors one at a time, and the cut of all of them into new files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pyprune_fast._checks import describe
from pyprune_fast.slicing import Plan
from pyprune_fast.slicing.files import DTYPES, writing
from pyprune_fast.slicing.kept import cut_shape, kept_axes, take_axes
from pyprune_fast.slicing.places import check_extents, held_tensors, shared_names

INDEX = "model.safetensors.index.json"  # what transformers calls the table of which file holds which tensor


class TensorFiles(Mapping[str, Tensor]):
    """The tensors of safetensors files by name: each is read when it is asked for, and nothing of it is kept here.

    While a tensor is read, its file is mapped into memory; it is closed before the tensor is returned. So a limit of address
    space must leave room for the largest file, a limit of memory only for what the caller holds.

    Args:
        path: a file, or a folder with files `*.safetensors`, no name in two of them.

    Raises:
        FileNotFoundError: there is no such file, or no such file in the folder.
        ValueError: a file that is no safetensors file, or a name in two files.

    Example:
        >>> from safetensors.torch import save_file
        >>> path = getfixture("tmp_path") / "model.safetensors"
        >>> save_file({"weight": torch.ones(2, 3)}, path)
        >>> files = TensorFiles(path)
        >>> files.shapes, files["weight"].sum()
        ({'weight': (2, 3)}, tensor(6.))
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import safetensors

        self.path = Path(path)
        self.paths = sorted(self.path.glob("*.safetensors")) if self.path.is_dir() else [self.path]
        if not self.paths or not self.paths[0].exists():
            raise FileNotFoundError(f"TensorFiles: path: wanted safetensors files, got none at {os.fspath(path)}")
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self.places: dict[str, Path] = {}
        for file in self.paths:
            try:
                opened = safetensors.safe_open(os.fspath(file), framework="pt")
            except safetensors.SafetensorError as error:
                raise ValueError(f"TensorFiles: {file}: wanted a safetensors file, got {error}") from error
            with opened as tensors:
                for name in tensors.keys():  # noqa: SIM118 (no mapping)
                    if name in self.places:
                        raise ValueError(
                            f"TensorFiles: tensor {name!r}: wanted it once, got it in {self.places[name]} and {file}"
                        )
                    part = tensors.get_slice(name)
                    self.shapes[name], self.dtypes[name] = tuple(part.get_shape()), DTYPES[part.get_dtype()]
                    self.places[name] = file

    def __getitem__(self, name: str) -> Tensor:
        return self.read(name)

    def __contains__(self, name: object) -> bool:
        return name in self.places  # Mapping's own would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def read(self, name: str, device: torch.device | str = "cpu") -> Tensor:
        """A tensor of its own memory, on a device; KeyError for a name that no file holds."""
        import safetensors

        with safetensors.safe_open(os.fspath(self.places[name]), framework="pt") as tensors:
            return tensors.get_tensor(name).to(device, copy=True)  # type: ignore[no-any-return]

    def bytes_of(self, name: str) -> int:
        """How many bytes a tensor takes."""
        return self.dtypes[name].itemsize * torch.Size(self.shapes[name]).numel()


@torch.no_grad()
def cut_files(model: nn.Module, plan: Plan, source: TensorFiles, target: str | os.PathLike[str]) -> TensorFiles:
    """Carries out a plan on a checkpoint: each tensor is read, gathered over all its axes at once, and written.

    In memory are one tensor and its cut at a time. The target gets files of the same names, a table of which file holds which
    tensor as transformers reads it (for several files), and the plan as plan.json. The model is not changed; to use the cut
    weights, carry the plan out on it too: `apply(model, plan, undo=False)`.

    Args:
        model: the uncut model, on any device, meta included: it tells which tensors are tied.
        plan: what to remove.
        source: the model's tensors; a tied one under any one of its names. Tensors that the plan does not touch are copied.
        target: a folder, made if missing; not that of the source. Each file is replaced in one step.

    Returns:
        The new files.

    Raises:
        TypeError: ``plan`` is no Plan.
        ValueError: a plan for another model, a tensor of the plan that the files do not hold or hold in another shape, or the
            source's own folder as the target. Nothing is written then.

    Example:
        >>> from safetensors.torch import save_file
        >>> from pyprune_fast.graph import find_groups
        >>> folder = getfixture("tmp_path")
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> save_file(model.state_dict(), folder / "model.safetensors")
        >>> plan = Plan.of(model, find_groups(model, torch.zeros(1, 3)), {"0": [1]})
        >>> cut_files(model, plan, TensorFiles(folder), folder / "cut").shapes["2.weight"]
        (2, 3)
    """
    folder = Path(target)
    tensors, _ = held_tensors(model)
    check_extents("cut_files", model, tensors, plan)
    if not isinstance(source, TensorFiles):
        raise TypeError(f"cut_files: source: wanted TensorFiles, got {describe(source)}")
    if folder.resolve() == source.places[next(iter(source))].parent.resolve():
        raise ValueError(f"cut_files: target: wanted another folder than the source's, got {os.fspath(target)}")
    names = shared_names(tensors)
    axes_of = {}
    for key, axes in kept_axes(plan, {name: id(tensors[name]) for name in plan.extents}).items():
        held = next((name for name in names[key] if name in source), names[key][0])
        if (wanted := tuple(tensors[held].shape)) != (got := source.shapes.get(held)):
            raise ValueError(f"cut_files: source: wanted a tensor {held!r} of shape {wanted}, got {got or 'none'}")
        axes_of[held] = axes
    layout = {name: (source.dtypes[name], cut_shape(source.shapes[name], axes_of.get(name, {}))) for name in source}
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.paths:
        own = {name: shape for name, shape in layout.items() if source.places[name] == path}
        with writing(folder / path.name, own, {"format": "pt"}) as file:
            for name in own:
                tensor = source[name]
                file.write(name, take_axes([(tensor, axes_of[name])])[0] if name in axes_of else tensor)
                del tensor  # before the next one is read
    cut = TensorFiles(folder / source.paths[0].name if len(source.paths) == 1 else folder)
    if len(source.paths) > 1:
        places = {name: path.name for name, path in sorted(cut.places.items())}
        table = {"metadata": {"total_size": sum(map(cut.bytes_of, cut))}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    plan.save(folder / "plan.json")
    return cut
