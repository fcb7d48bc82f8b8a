// joint_counts on a GPU. Contract: core/joint.h. The kernel: joint_kernels.cuh.
#include "../core/joint.h"

#include "device.h"
#include "joint_kernels.cuh"
#include "reading.cuh"

namespace ppf::cuda {
namespace {

constexpr int64_t kMostColumns = 72 << 10;  // bytes of a block's tables: three blocks share a multiprocessor

}  // namespace

int64_t joint_counts_workspace(const std::optional<TensorView>& labels, const TensorView& counts) {
  Workspace workspace;
  ClassOrder(labels, labels ? labels->numel() : 0, counts.shape[1], workspace);
  return workspace.bytes();
}

void joint_counts(const TensorView& x, const TensorView& edges, const std::optional<TensorView>& labels,
                  const TensorView& counts, const TensorView& nans, const TensorView& memory, void* stream) {
  require_on_cuda(x, edges, labels.value_or(TensorView{}), counts, nans, memory);
  const Lattice lattice = lattice_of(x);
  const int num_levels = edges_per_channel(edges, lattice) + 1;
  require(counts.ndim == 3, "counts: wanted (C, K, L) int64, contiguous, writable");
  const int64_t K = counts.shape[1];
  require_output(counts, DType::int64, lattice.C * K * num_levels,
                 "counts: wanted (C, K, L) int64, contiguous, writable");
  require_output(nans, DType::int64, lattice.C, "nans: wanted (C,) int64, contiguous, writable");
  if (x.numel() == 0) return;
  Workspace workspace(memory);
  const ClassOrder order(labels, lattice.N, K, workspace);
  require_workspace(memory, workspace.bytes());

  const OnDeviceOf device(x);
  order.run(stream);
  Reading reading = reading_of(lattice, x.item_bytes);
  reading.maps.order = order.order();
  const int64_t per_block = reading.channels_per_block, groups = divided_up(lattice.C, per_block);
  const Chunks chunks(lattice.N * lattice.sites(), 64 * num_levels, groups, device);
  const JointParams params{{reading.maps, edges.as<const float>(), static_cast<uint32_t>(num_levels)},
                           order.classes(),
                           counts.as<int64_t>(),
                           nans.as<int64_t>(),
                           chunks.size,
                           static_cast<uint32_t>(chunks.count),
                           static_cast<uint32_t>(per_block),
                           0};
  with_access(reading, [&](auto access) {
    using A = decltype(access);
    const auto count = [&]<class Tables>(int64_t tables) {
      JointParams p = params;
      p.table_size = static_cast<uint32_t>(tables * (num_levels + 1));
      const size_t shared = edges_bytes(per_block, num_levels) + p.table_size * sizeof(uint32_t);
      launch<joint_kernel<A, Tables>>({groups * chunks.count, kJointThreads, shared, stream}, p);
    };
    const int64_t columns = kJointThreads * kJointChannels<A>, bytes = columns * (num_levels + 1) * sizeof(uint32_t);
    if (trial_kernels && bytes <= std::min<int64_t>(kMostColumns, device.shared_bytes / 2)) {
      count.template operator()<ThreadColumns>(columns);
    } else {
      count.template operator()<BlockTables>(per_block);
    }
  });
}

}  // namespace ppf::cuda
