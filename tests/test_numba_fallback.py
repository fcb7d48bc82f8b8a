"""Which of compiled, numba's and plain torch's CPU ops is used, how the package says so, and numba's in other processes."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from strategies import threads
from torch import Tensor
from torch.utils.data import DataLoader

from pyprune_fast import Levels, _native
from pyprune_fast.jit import kernels, numba_cpu

ROOT = Path(__file__).parents[1]

# --- processes -----------------------------------------------------------------------------------------------------------

BATCH = torch.randn(4, 20, 30, 31, generator=torch.Generator().manual_seed(1))
LEVELS = Levels.uniform(-2, 2, 16, channels=20)


def aura_of_batch() -> Tensor:
    """On two threads."""
    counts, nans = torch.zeros(20, 1, 2, 16, 16, dtype=torch.int64), torch.zeros(20, dtype=torch.int64)
    numba_cpu.aura_counts(BATCH, LEVELS.edges, [(0, 0, 1), (0, 1, 0)], False, None, counts, nans, 2)
    return counts


class CountedInWorker:
    def __len__(self) -> int:
        return 2

    def __getitem__(self, i: int) -> Tensor:
        return aura_of_batch()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_worker_counts() -> None:
    """The parent has used its threads before; a worker must neither hang nor miscount, nor the parent after it."""
    with threads(2):
        wanted = aura_of_batch()
        context = multiprocessing.get_context("fork")
        loader = DataLoader(CountedInWorker(), batch_size=None, num_workers=1, multiprocessing_context=context, timeout=60)
        assert [counts.tolist() for counts in loader] == [wanted.tolist()] * 2
        assert torch.equal(aura_of_batch(), wanted)


def test_an_error_in_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> None:
        raise OSError("out of luck")

    monkeypatch.setattr(kernels, "aura_counts", fails)
    with pytest.raises(OSError, match="out of luck"):
        aura_of_batch()


def test_without_a_place_for_compiled_code() -> None:
    code = "from pyprune_fast.jit import kernels; import numpy; print(kernels._key(numpy.int32(-(2**31) + 4)))"
    nowhere = {**os.environ, "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"}
    nowhere.pop("NUMBA_CACHE_DIR", None)
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=nowhere, capture_output=True, text=True)
    assert result.stdout == "-4\n", result.stderr


# --- which one is used ---------------------------------------------------------------------------------------------------

RUN = """
import sys, warnings
import torch
from torch import nn

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in sys.argv[2:]:
            raise ModuleNotFoundError(f"No module named '{name}'")

sys.meta_path.insert(0, Missing())
import pyprune_fast as p
print("numba" in sys.modules)
torch.manual_seed(0)
torch.set_num_threads(1)
x, levels = torch.randn(3, 4, 9, 8), p.Levels.uniform(-1, 1, 5, channels=4)
model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 5 * 4, 2))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    build = p.build_info()
    found, labels = p.LevelCalibration(5, spacing="uniform").update(x).compute(), torch.tensor([0, 1, 1])
    estimators = [p.AuraInformation(found, num_classes=2), p.AuraInformation(found, num_classes=2, merge_offsets=True),
                  p.AuraEntropy(found), p.AuraEntropy(found, relative=False)]
    results = [found.edges, *(estimator.update(x, labels).compute() for estimator in estimators),
               p.ops.aura_counts(x, levels), p.ops.joint_counts(x, levels), p.ops.pair_counts(x, levels),
               p.ops.pair_information(x, levels), p.ops.take(x, torch.tensor([2, 0])), *p.ops.norms(x, 2),
               *p.score_model(model, [(x, labels)] * 2).layers.values()]
print(build["cpu"], "isa" in build, sep="|")
print(*(f"{w.category.__name__}: {w.message}" for w in said if "pyprune_fast" in str(w.message)), sep="|")
torch.save(results, sys.argv[1])
"""


def run(path: Path, *missing: str) -> tuple[list[str], list[Tensor]]:
    """What a process prints where some modules are missing, and what its ops return."""
    command = [sys.executable, "-c", RUN, str(path), *missing]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines(), torch.load(path)


def test_what_is_missing_is_made_up_for_and_named_once(tmp_path: Path) -> None:
    built, wanted = run(tmp_path / "built")
    assert built == ["False", "built|True", ""]

    absent = (
        "compiled module missing: pyprune_fast._cpu could not be loaded: No module named 'pyprune_fast._cpu'. To mend it: pip "
    )
    by_numba, results = run(tmp_path / "numba", "pyprune_fast._cpu")
    assert by_numba[0] == "False"  # numba is imported by the first op
    assert by_numba[1].startswith(f"numba ({absent}")
    assert by_numba[1].endswith("|False")
    assert by_numba[2].startswith(f"RuntimeWarning: pyprune_fast: CPU ops run slower than they could, by numba ({absent}")
    assert "|" not in by_numba[2]  # one warning
    agree(results, wanted)

    by_torch, results = run(tmp_path / "torch", "pyprune_fast._cpu", "numba")
    text = f"plain torch (numba missing: No module named 'numba'. To mend it: pip install numba; {absent}"
    assert by_torch[1].startswith(text)
    assert by_torch[2].startswith(f"RuntimeWarning: pyprune_fast: CPU ops run slower than they could, by {text}")
    assert "|" not in by_torch[2]
    agree(results, wanted)


def agree(results: list[Tensor], wanted: list[Tensor]) -> None:
    """Integers are equal, sums and entropies equal up to rounding."""
    for a, b in zip(results, wanted, strict=True):
        assert torch.equal(a, b) if not a.is_floating_point() else torch.allclose(a, b, rtol=1e-6, atol=1e-12)


def test_an_unknown_function_is_an_attribute_error() -> None:
    missing = _native._Missing("_cpu", ImportError("gone"))
    fallback = _native._Fallback(missing)
    with pytest.raises(AttributeError, match="no attribute 'set_isa'"):
        fallback.set_isa("avx2")
    with pytest.warns(
        RuntimeWarning, match=r"by numba \(compiled module missing: pyprune_fast\._cpu could not be loaded: gone\."
    ):
        assert fallback.take is numba_cpu.take
    assert fallback.norms is numba_cpu.norms  # and no second warning, which would be an error here


def test_build_without_the_compiled_module(tmp_path: Path) -> None:
    env = {**os.environ, "PYPRUNE_FAST_CPU": "0", "PYPRUNE_FAST_CUDA": "0"}
    command = [sys.executable, "setup.py", "-q", "build", "--build-base", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
    assert list(tmp_path.rglob("pyprune_fast/jit/kernels.py"))
    assert not list(tmp_path.rglob("*.so"))
