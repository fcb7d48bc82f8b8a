// aura_counts on the CPU. Contract: core/aura.h.
// A task owns some channels, reads their planes class by class, counts into 32-bit tables of its own and adds those to
// the 64-bit counts when the class ends.
#include "../core/aura.h"

#include "aura_portable.h"
#include "parallel.h"
#include "planes.h"

namespace ppf::cpu {
namespace {

constexpr int64_t kTableLimit = int64_t{1} << 31;  // sites that 32-bit counters take before they must be emptied

struct Job {
  const Lattice x;
  const float* edges;
  const int num_levels;
  const std::span<const Offset> offsets;
  const bool periodic;
  const ClassOrder& order;
  int64_t* counts;
  int64_t* nans;
};

// Adds the tables of one channel to its counts (R, L, L), without the sentinel's row and column, and clears them.
void empty_tables(uint32_t* tables, int64_t num_offsets, int num_levels, int64_t* counts) {
  const int side = num_levels + 1;
  for (int64_t r = 0; r < num_offsets; ++r) {
    for (int g = 0; g < num_levels; ++g) {
      const uint32_t* row = tables + (r * side + g) * side;
      for (int h = 0; h < num_levels; ++h) *counts++ += row[h];
    }
  }
  std::fill_n(tables, num_offsets * side * side, 0u);
}

template <class Level, class T>
void count_channels(const Job& job, int64_t c, int64_t channels) {
  const Lattice& x = job.x;
  const int side = job.num_levels + 1;
  const int64_t R = std::ssize(job.offsets), K = job.order.num_classes();
  const int64_t table_size = int64_t{side} * side, cells = int64_t{job.num_levels} * job.num_levels;
  std::vector<Level> levels(channels * x.sites());
  std::vector<uint32_t> tables(channels * R * table_size, 0u);
  LevelReader<T, Level> reader(x, job.edges, job.num_levels - 1);
  for (int64_t k = 0; k < K; ++k) {
    const auto empty = [&] {
      for (int64_t i = 0; i < channels; ++i) {
        empty_tables(tables.data() + i * R * table_size, R, job.num_levels, job.counts + ((c + i) * K + k) * R * cells);
      }
    };
    int64_t counted = 0;
    for (const int64_t* n = job.order.begin(k); n != job.order.end(k); ++n) {
      if (counted + x.sites() > kTableLimit) {
        empty();
        counted = 0;
      }
      counted += x.sites();
      reader.read(*n, c, channels, levels.data(), job.nans + c);
      for (int64_t i = 0; i < channels; ++i) {
        for (int64_t r = 0; r < R; ++r) {
          count_plane(levels.data() + i * x.sites(), x.D, x.H, x.W, job.offsets[r], job.periodic, side,
                      tables.data() + (i * R + r) * table_size);
        }
      }
    }
    if (counted > 0) empty();
  }
}

}  // namespace

void aura_counts(const TensorView& x, const TensorView& edges, std::span<const Offset> offsets, bool periodic,
                 const std::optional<TensorView>& labels, const TensorView& counts, const TensorView& nans,
                 int threads) {
  require_on_cpu(x, edges, counts, nans, labels.value_or(TensorView{}));
  const Lattice lattice = lattice_of(x);
  const int num_levels = edges_per_channel(edges, lattice.C) + 1;
  require(counts.ndim == 5, "counts: wanted (C, K, R, L, L) int64, contiguous, writable");
  const int64_t K = counts.shape[1], R = std::ssize(offsets);
  require_output(counts, DType::int64, lattice.C * K * R * num_levels * num_levels,
                 "counts: wanted (C, K, R, L, L) int64, contiguous, writable");
  require_output(nans, DType::int64, lattice.C, "nans: wanted (C,) int64, contiguous, writable");
  if (lattice.sites() == 0) return;
  const ClassOrder order(labels, lattice.N, K);
  const Job job{lattice, edges.as<const float>(), num_levels,        offsets, periodic,
                order,   counts.as<int64_t>(),    nans.as<int64_t>()};
  const int64_t block = channels_per_task(lattice);
  with_level_and_float(num_levels, lattice.dtype, [&](auto level, auto value) {
    parallel_for((lattice.C + block - 1) / block, threads, [&](int64_t task) {
      const int64_t c = task * block;
      count_channels<decltype(level), decltype(value)>(job, c, std::min(block, lattice.C - c));
    });
  });
}

}  // namespace ppf::cpu
