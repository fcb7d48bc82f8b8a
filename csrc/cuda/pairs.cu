// pair_counts and pair_information on a GPU. Contract: core/pairs.h. The kernels: levels_kernels.cuh,
// pairs_kernels.cuh.
#include "../core/pairs.h"

#include "device.h"
#include "pairs_kernels.cuh"
#include "staged.cuh"

namespace ppf::cuda {
namespace {

// Blocks of pairs on and above the diagonal.
int64_t triangle(int64_t channels, int64_t side) {
  const int64_t lines = divided_up(channels, side);
  return lines * (lines + 1) / 2;
}

// Channels on a side of a block of pairs: eight where that leaves no multiprocessor idle; 0 where not even one table
// fits shared memory.
int side_for(int64_t channels, int num_levels, const OnDeviceOf& device) {
  const int64_t table = int64_t{num_levels + 1} * (num_levels + 1) * 4;
  for (const int side : {8, 4, 1}) {
    const int64_t limit = side == 1 ? device.shared_bytes - 1024 : 80 << 10;
    if (side == 8 && triangle(channels, side) < 2 * device.multiprocessors) continue;
    if (side * side * table <= std::min<int64_t>(limit, device.shared_bytes - 1024)) return side;
  }
  return 0;
}

int64_t bits_shared(int num_levels) {
  return kPairsThreads / kWarpLanes * (num_levels + 1) * (num_levels + 1) * sizeof(uint32_t);
}

struct Plan {
  bool by_bits;
  int side;
  int64_t blocks, grid;  // of pairs; of the launch
  StagedLevels levels;
  int64_t words = 0;
  LevelBits* bits = nullptr;
  uint32_t *valid = nullptr, *tables = nullptr;

  Plan(const Lattice& x, int num_levels, const OnDeviceOf& device, Workspace& workspace)
      : by_bits(trial_kernels && num_levels <= static_cast<int>(kBitLevels) && device.compute_capability >= 8 &&
                bits_shared(num_levels) <= device.shared_bytes),
        side(by_bits ? kBitSide : side_for(x.C, num_levels, device)),
        blocks(triangle(x.C, std::max(side, 1))),
        grid(side > 0 ? blocks : std::min<int64_t>(blocks, 2 * device.multiprocessors)),
        levels(staged_levels(x, num_levels, workspace)) {
    if (by_bits) {
      words = rounded_up(divided_up(levels.pitch, kWarpLanes), kStep);
      bits = workspace.take<LevelBits>(x.C * words);
      valid = workspace.take<uint32_t>(x.C * words);
    } else if (side == 0) {
      tables = workspace.take<uint32_t>(grid * (num_levels + 1) * (num_levels + 1));
    }
  }
};

template <class Level, int kSide, bool kInShared>
void launch_pairs(const Plan& plan, const PairsParams& p, void* stream) {
  const size_t table = kInShared ? size_t{4} * (p.num_levels + 1) * (p.num_levels + 1) : 0;
  const size_t shared = kWarpLanes * sizeof(double) + kSide * sizeof(uint32_t) + kSide * kSide * table;
  launch<pairs_kernel<Level, kSide, kInShared>>({plan.grid, kPairsThreads, shared, stream}, p);
}

void count(const TensorView& x, const TensorView& edges, int64_t* counts, double* information, bool miller_madow,
           const TensorView& nans, const TensorView& memory, void* stream) {
  const Lattice lattice = lattice_of(x);
  const int num_levels = edges_per_channel(edges, lattice) + 1;
  require(lattice.N * lattice.sites() < int64_t{1} << 32, "x: wanted fewer than 2^32 sites a channel in one call");
  require_output(nans, DType::int64, lattice.C, "nans: wanted (C,) int64, contiguous, writable");
  const OnDeviceOf device(x);
  if (lattice.C == 0) return;
  Workspace workspace(memory);
  const Plan plan(lattice, num_levels, device, workspace);
  require_workspace(memory, workspace.bytes());
  const Classes all{nullptr, 1, lattice.N};
  if (x.numel() > 0) {  // else all is zero
    write_levels(reading_of(lattice, x.item_bytes), edges, all, plan.levels, nans.as<int64_t>(), device, stream);
  }
  const PairsParams p{plan.levels.data,
                      plan.levels.pitch,
                      static_cast<uint32_t>(lattice.C),
                      static_cast<uint32_t>(num_levels),
                      static_cast<uint32_t>(plan.blocks),
                      plan.tables,
                      counts,
                      information,
                      miller_madow,
                      plan.bits,
                      plan.valid,
                      plan.words};
  if (plan.by_bits) {
    const int64_t blocks = std::min<int64_t>(divided_up(lattice.C * plan.words, 8), 32 * device.multiprocessors);
    launch<pairs_words_kernel>({std::max<int64_t>(blocks, 1), kPairsThreads, 0, stream}, p);
    const auto shared = static_cast<size_t>(bits_shared(num_levels));
    return launch<pairs_bits_kernel>({plan.grid, kPairsThreads, shared, stream}, p);
  }
  if (plan.levels.item_bytes == 2) return launch_pairs<uint16_t, 1, false>(plan, p, stream);
  if (plan.side == 8) return launch_pairs<uint8_t, 8, true>(plan, p, stream);
  if (plan.side == 4) return launch_pairs<uint8_t, 4, true>(plan, p, stream);
  if (plan.side == 1) return launch_pairs<uint8_t, 1, true>(plan, p, stream);
  launch_pairs<uint8_t, 1, false>(plan, p, stream);
}

}  // namespace

int64_t pairs_workspace(const TensorView& x, const TensorView& edges) {
  const Lattice lattice = lattice_of(x);
  Workspace workspace;
  Plan(lattice, edges_per_channel(edges, lattice) + 1, OnDeviceOf(x), workspace);
  return workspace.bytes();
}

void pair_counts(const TensorView& x, const TensorView& edges, const TensorView& counts, const TensorView& nans,
                 const TensorView& workspace, void* stream) {
  require_on_cuda(x, edges, counts, nans, workspace);
  const int64_t C = lattice_of(x).C, L = edges_per_channel(edges, lattice_of(x)) + 1;
  require_output(counts, DType::int64, C * C * L * L, "counts: wanted (C, C, L, L) int64, contiguous, writable");
  count(x, edges, counts.as<int64_t>(), nullptr, false, nans, workspace, stream);
}

void pair_information(const TensorView& x, const TensorView& edges, Correction correction,
                      const TensorView& information, const TensorView& nans, const TensorView& workspace,
                      void* stream) {
  require_on_cuda(x, edges, information, nans, workspace);
  const bool miller_madow = correction == Correction::miller_madow;
  require(miller_madow || correction == Correction::plug_in, "correction: wanted plug-in or miller-madow");
  const int64_t C = lattice_of(x).C;
  require_output(information, DType::float64, C * C, "information: wanted (C, C) float64, contiguous, writable");
  count(x, edges, nullptr, information.as<double>(), miller_madow, nans, workspace, stream);
}

}  // namespace ppf::cuda
