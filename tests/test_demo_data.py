"""The demo's data: batches, fetching, the readers of CIFAR-10 folders, and the choice between the two demos."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from pyprune_fast.demo import cifar10, fetch, mnist
from pyprune_fast.demo.batches import Batches
from pyprune_fast.demo.choose import choose
from pyprune_fast.demo.fetch import FetchError, Pin

CONTENT = b"the genuine file"
PINS = [Pin(registry, "thing", "1.2", hashlib.sha256(CONTENT).hexdigest()) for registry in ("npm", "pypi")]


def numbered(count: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that can be told apart by their values, labelled with their number."""
    images = torch.randint(1, 256, (count, 3, 8, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(count)


def passes(batches: Batches, count: int = 2) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Whole passes over the batches, each joined into one pair."""
    return [tuple(map(torch.cat, zip(*batches, strict=True))) for _ in range(count)]


def test_batches_in_order() -> None:
    images, labels = numbered()
    batches = Batches(images, labels, batch_size=16, scale=0.5)
    assert len(batches) == 4
    assert [len(y) for _, y in batches] == [16, 16, 16, 2]
    for x, y in passes(batches):
        assert x.dtype == torch.float32
        assert torch.equal(x, images * 0.5)
        assert torch.equal(y, labels)


def test_batches_shuffle_anew_in_every_pass_and_alike_for_a_seed() -> None:
    images, labels = numbered()
    (x0, y0), (x1, y1) = passes(Batches(images, labels, batch_size=16, shuffle=True, augment=True, seed=3))
    (again0, _), (again1, _) = passes(Batches(images, labels, batch_size=16, shuffle=True, augment=True, seed=3))
    assert torch.equal(x0, again0)
    assert torch.equal(x1, again1)
    assert not torch.equal(y0, y1)
    assert torch.equal(y0.sort().values, labels)
    _, other = passes(Batches(images, labels, batch_size=16, shuffle=True, seed=4), 1)[0]
    assert not torch.equal(y0, other)


def test_abandoned_pass_does_not_change_the_next() -> None:
    left, whole = (Batches(*numbered(), batch_size=16, shuffle=True) for _ in range(2))
    next(iter(left))
    passes(whole, 1)
    assert torch.equal(passes(left, 1)[0][1], passes(whole, 1)[0][1])


def test_augmented_images_are_mirrored_and_moved_ones() -> None:
    images, labels = numbered(600)
    x, y = passes(Batches(images, labels, augment=True, shift=2), 1)[0]
    assert x.shape == images.shape
    assert x.dtype == torch.float32
    assert torch.equal(y, labels)
    padded = torch.nn.functional.pad(images.float(), (2, 2, 2, 2), mode="replicate")
    found = set()
    for image, source in zip(x, padded, strict=True):
        places = {
            (down, right, mirrored)
            for down in range(5)
            for right in range(5)
            for mirrored in (False, True)
            if torch.equal(image, torch.Tensor.flip(source[:, down : down + 8, right : right + 6], [2] * mirrored))
        }
        assert len(places) == 1
        found |= places
    assert len(found) == 50  # every movement occurs, both ways round


def test_augmentation_without_shift_only_mirrors() -> None:
    images, labels = numbered()
    x, _ = passes(Batches(images, labels, augment=True, shift=0), 1)[0]
    kept = (x == images).flatten(1).all(1)
    mirrored = (x == images.flip(3)).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    assert kept.any()
    assert mirrored.any()


def test_batches_refuse_what_they_cannot_hold() -> None:
    images, labels = numbered()
    with pytest.raises(TypeError, match=r"wanted uint8 images, int64 labels; got torch\.float32"):
        Batches(images.float(), labels)
    with pytest.raises(ValueError, match=r"labels \(N,\); got \(50, 3, 8, 6\), \(49,\)"):
        Batches(images, labels[1:])
    with pytest.raises(ValueError, match="batch_size: wanted at least 1, got 0"):
        Batches(images, labels, batch_size=0)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and an npm to be found."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda name: f"/somewhere/{name}")
    return tmp_path / "pyprune_fast"


def client(monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], object], status: int = 0, stderr: str = "") -> list[str]:
    """Puts `act`, on the folder it should download to, in place of npm and pip; returns the log of what was asked."""
    asked: list[str] = []

    def run(command: list[str], *, cwd: str, **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(" ".join(command))
        act(Path(cwd))
        return subprocess.CompletedProcess(command, status, "", stderr)

    monkeypatch.setattr("subprocess.run", run)
    return asked


@pytest.mark.parametrize("pin", PINS, ids=str)
def test_fetch_downloads_once(cache: Path, monkeypatch: pytest.MonkeyPatch, pin: Pin) -> None:
    asked = client(monkeypatch, lambda folder: (folder / "thing").write_bytes(CONTENT))
    assert fetch.fetch(pin) == fetch.fetch(pin) == cache / pin.filename
    assert (cache / pin.filename).read_bytes() == CONTENT
    assert len(asked) == 1
    assert asked[0].endswith("thing@1.2" if pin.registry == "npm" else "thing==1.2")
    assert [path.name for path in cache.iterdir()] == [pin.filename]


@pytest.mark.parametrize("pin", PINS, ids=str)
def test_fetch_refuses_another_file(cache: Path, monkeypatch: pytest.MonkeyPatch, pin: Pin) -> None:
    client(monkeypatch, lambda folder: (folder / "thing").write_bytes(b"forged"))
    with pytest.raises(FetchError) as caught:
        fetch.fetch(pin)
    forged = hashlib.sha256(b"forged").hexdigest()
    assert str(caught.value) == f"{pin.registry} package thing 1.2: wanted sha256 {pin.sha256}, got {forged}"
    assert not list(cache.iterdir())


def test_fetch_interrupted_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(folder: Path) -> None:
        (folder / "thing").write_bytes(CONTENT)
        raise KeyboardInterrupt

    client(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch(PINS[0])
    assert not list(cache.iterdir())


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("WARNING: slow\nERROR: No matching distribution\n\n", "ERROR: No matching distribution"),
        ("npm error code E404\nnpm error A complete log of this run can be found in: x\n", "npm error code E404"),
        ("", "no message"),
    ],
)
def test_fetch_repeats_the_clients_reason(cache: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, reason: str) -> None:
    client(monkeypatch, lambda folder: None, 1, stderr)
    with pytest.raises(FetchError, match=f"^npm package thing 1.2: .* failed with exit status 1: {reason}$"):
        fetch.fetch(PINS[0])
    assert not list(cache.iterdir())


def test_fetch_wants_one_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client(monkeypatch, lambda folder: None)
    with pytest.raises(FetchError, match=r"thing 1\.2: wanted one file, got \[\]"):
        fetch.fetch(PINS[0])
    assert not list(cache.iterdir())


def test_fetch_without_npm(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(FetchError, match=r"^npm package thing 1\.2: .* found no npm on PATH$"):
        fetch.fetch(PINS[0])
    assert not list(cache.iterdir())


def test_cache_defaults_to_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch.cache() == tmp_path / ".cache" / "pyprune_fast"


FILES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
RANDOM = np.random.default_rng(0)
PLANES = RANDOM.integers(0, 256, (6, 4, 3, 32, 32), dtype=np.uint8)  # four images in each of the six files
LABELS = RANDOM.integers(0, 10, (6, 4), dtype=np.uint8)


class Python2Pickler(pickle._Pickler):
    """Pickles as Python 2 did: every string is a byte string."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)

    def save_str(self, value: str) -> None:
        self.save_bytes(value.encode("latin1"))

    dispatch[bytes], dispatch[str] = save_bytes, save_str


def write_binary(folder: Path) -> None:
    for name, planes, labels in zip(FILES, PLANES, LABELS, strict=True):
        records = np.concatenate([labels[:, None], planes.reshape(4, -1)], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())


def write_pickles(folder: Path) -> None:
    for name, planes, labels in zip(FILES, PLANES, LABELS, strict=True):
        file = io.BytesIO()
        Python2Pickler(file, protocol=2).dump({"data": planes.reshape(4, -1), "labels": labels.tolist()})
        (folder / name).write_bytes(file.getvalue().replace(b"numpy._core", b"numpy.core"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the synthetic images pass for CIFAR-10."""
    images = PLANES.transpose(0, 1, 3, 4, 2)
    content = {
        "train_images": images[:5],
        "train_labels": LABELS[:5],
        "test_images": images[5],
        "test_labels": LABELS[5],
    }
    for name, array in content.items():
        monkeypatch.setitem(cifar10._SHA256, name, hashlib.sha256(array.tobytes()).hexdigest())


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(("write", "usual"), [(write_binary, "cifar-10-batches-bin"), (write_pickles, "cifar-10-batches-py")])
def test_cifar10_folder(tmp_path: Path, write: Callable[[Path], None], usual: str, inside: bool) -> None:
    place = tmp_path / usual if inside else tmp_path
    place.mkdir(exist_ok=True)
    write(place)
    data = cifar10.loaders(str(tmp_path), test_images=3, calibration_images=7)
    images, labels = next(iter(data.test))
    assert torch.equal(images, torch.from_numpy(PLANES[5, :3]).float())
    assert torch.equal(labels, torch.from_numpy(LABELS[5, :3]).long())
    images, labels = next(iter(data.calibration))
    assert torch.equal(images, torch.from_numpy(PLANES[:5].reshape(-1, 3, 32, 32)[:7]).float())
    assert torch.equal(labels, torch.from_numpy(LABELS[:5].flatten()[:7]).long())
    assert sum(len(labels) for _, labels in data.train) == 20


def test_cifar10_folder_with_other_images(tmp_path: Path) -> None:
    write_binary(tmp_path)
    with pytest.raises(ValueError, match=r"train_images: wanted sha256 47af8b.*, got [0-9a-f]{64}"):
        cifar10.loaders(str(tmp_path))


def test_cifar10_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"wanted test_batch\.bin or test_batch"):
        cifar10.loaders(str(tmp_path))


def test_cifar10_pickles_cannot_call_anything(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {tmp_path / 'called'}",)

    write_pickles(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({b"data": Payload()}))
    with pytest.raises(pickle.UnpicklingError, match=r"wanted numpy arrays only, got (posix|nt)\.system"):
        cifar10.loaders(str(tmp_path))
    assert not (tmp_path / "called").exists()


def test_choose_takes_cifar10_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("/my/images") == (cifar10, "Data: CIFAR-10 from /my/images.")
    monkeypatch.setattr(cifar10, "prepare", lambda: None)
    assert choose() == (cifar10, "Data: CIFAR-10.")


def test_choose_says_why_it_falls_back(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client(monkeypatch, lambda folder: None, 1, "offline")
    monkeypatch.setattr(mnist, "prepare", lambda: None)
    module, text = choose()
    assert module is mnist
    assert "pypi package cifar-10-model 7.4.0" in text
    assert "offline" in text
    assert "\n" not in text


def test_mnist_reads_no_folder() -> None:
    with pytest.raises(ValueError, match="folder: wanted None, got '/my/digits'"):
        mnist.loaders("/my/digits")  # type: ignore[arg-type]


@pytest.mark.network
def test_mnist_network_recognises_the_test_digits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    net, data = mnist.network(), mnist.loaders()
    with torch.inference_mode():
        right = torch.cat([net(images).argmax(1) == labels for images, labels in data.test])
    assert len(right) == 2000
    assert right.float().mean() > 0.97
    labels = torch.cat([labels for _, labels in data.calibration])
    assert labels.bincount().tolist() == [300] * 10
