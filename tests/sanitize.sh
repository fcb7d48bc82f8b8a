#!/usr/bin/env bash
# Builds _cpu with AddressSanitizer and UndefinedBehaviorSanitizer into a folder of its own and runs the kernel tests on it;
# tests/test_isa.py takes it through every SIMD level.
# usage: tests/sanitize.sh PYTHON
set -euo pipefail
python=$(realpath -s "$1")
root=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp -r "$root/csrc" "$root/pyprune_fast" "$root/tests" "$root/setup.py" "$root/pyproject.toml" "$root/README.md" "$root/LICENSE" "$folder"
rm -f "$folder"/pyprune_fast/*.so
cd "$folder"
PYPRUNE_FAST_CUDA=0 CFLAGS="-g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all" \
  LDFLAGS="-fsanitize=address,undefined" "$python" setup.py --quiet build_ext --inplace
# Leaks are not looked for: CPython and torch keep memory for good. The order of libraries matters to ASan.
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so)" \
  ASAN_OPTIONS=detect_leaks=0 PYTHONPATH="$folder" HYPOTHESIS_PROFILE=sanitize \
  "$python" -m pytest -q -p no:cacheprovider tests/test_aura.py tests/test_joint.py tests/test_take.py tests/test_pairs.py tests/test_norms.py \
  tests/test_entropy.py tests/test_corrections.py tests/test_extremes.py tests/test_isa.py tests/test_binding.py tests/test_binding_devices.py \
  -k "not compile and not opcheck"
