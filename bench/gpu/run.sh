#!/usr/bin/env bash
# Everything that needs a CUDA device, in one go and in under ten minutes, without a network: builds _cuda for the device that is
# there, runs the CUDA tests and the exactness matrix, compute-sanitizer's four tools, and the benchmarks with their peers.
# A stage that fails is recorded and the next one runs. Writes gpu-<device>.json, and logs, to $OUT or to bench/results.
# usage: bench/gpu/run.sh [PYTHON]   with torch for CUDA, nvcc, g++, pybind11, pytest and hypothesis; CuPy where it is there.
#        COMMIT=... names the commit where there is a copy without git.
set -uo pipefail
cd "$(dirname "$0")/../.."
python=${1:-python3}
out=${OUT:-bench/results}
logs=$out/gpu-logs
mkdir -p "$logs"
export python logs
export PYTHONPATH="$PWD:$PWD/bench${PYTHONPATH:+:$PYTHONPATH}" HYPOTHESIS_PROFILE=default PYTHONUNBUFFERED=1
: > "$logs/stages.tsv"

# stage NAME SECONDS COMMAND...
stage() {
  local name=$1 limit=$2 start=$SECONDS
  shift 2
  timeout "$limit" bash -c '"$@"' stage "$@" > "$logs/$name.log" 2>&1
  local code=$?
  printf '%s\t%s\t%s\n' "$name" "$code" "$((SECONDS - start))" | tee -a "$logs/stages.tsv"
  [ $code = 0 ] || tail -n 15 "$logs/$name.log"
}
tests() { "$python" -m pytest -q -p no:cacheprovider -o addopts= "$@"; }
sanitizer() { compute-sanitizer --tool "$1" --error-exitcode 9 "$python" bench/gpu/bench.py exact --small; }
build() {
  local arch
  arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
  # The metadata stands in the root, where PYTHONPATH finds it: nothing is installed.
  PYPRUNE_FAST_CUDA=1 PYPRUNE_FAST_CUDA_ARCHS=$arch "$python" setup.py -q egg_info build_ext --inplace
}
rates() { nvcc -std=c++20 -O3 -arch=native bench/gpu/rates.cu -o "$logs/rates" && "$logs/rates" && rm "$logs/rates"; }
# What the hardware counters say of some cases, each launched once.
counters() {
  ncu --clock-control none --kernel-name 'regex:(aura|joint|pairs|take|levels)' --csv --metrics \
dram__throughput.avg.pct_of_peak_sustained_elapsed,sm__inst_executed.avg.per_cycle_active,\
sm__warps_active.avg.pct_of_peak_sustained_active,l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum,\
l1tex__data_pipe_lsu_wavefronts.avg.pct_of_peak_sustained_elapsed,\
sm__inst_executed_pipe_alu.avg.pct_of_peak_sustained_active,sm__inst_executed_pipe_lsu.avg.pct_of_peak_sustained_active,\
smsp__inst_executed.sum,smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio,\
smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio,\
smsp__average_warps_issue_stalled_short_scoreboard_per_issue_active.ratio,\
smsp__average_warps_issue_stalled_mio_throttle_per_issue_active.ratio,\
smsp__average_warps_issue_stalled_lg_throttle_per_issue_active.ratio,\
launch__registers_per_thread,gpu__time_duration.sum \
    "$python" bench/gpu/bench.py once
}

export -f tests sanitizer build rates counters

stage build 200 build
# Correctness, side by side; then times, each alone.
stage tests 150 tests tests/test_cuda.py &
stage exact 150 "$python" bench/gpu/bench.py exact &
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck synccheck initcheck; do stage "$tool" 150 sanitizer "$tool" & done
fi
wait
stage rates 60 rates
stage kernels 90 "$python" bench/gpu/bench.py kernels "$logs/kernels.json"
stage peers 60 "$python" bench/gpu/bench.py peers "$logs/peers.json"
stage network 40 "$python" bench/gpu/bench.py network "$logs/network.json"
if command -v ncu > /dev/null; then stage counters 90 counters; fi
"$python" bench/gpu/bench.py report "$logs" "$out"
# Whoever calls learns whether all went well.
! awk -F '\t' '$2 != 0' "$logs/stages.tsv" | grep -q .
