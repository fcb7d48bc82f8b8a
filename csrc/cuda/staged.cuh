// Levels of a whole lattice in the workspace, for kernels that read them several times. The kernel: levels_kernels.cuh.
#pragma once

#include "levels_kernels.cuh"
#include "reading.cuh"

namespace ppf::cuda {

struct StagedLevels {
  void* data;
  int64_t pitch;  // from one channel to the next
  int item_bytes;
};

inline StagedLevels staged_levels(const Lattice& x, int num_levels, Workspace& workspace) {
  const int64_t pitch = rounded_up(x.N * x.sites(), 16);
  const int item_bytes = num_levels == kMaxLevels ? 2 : 1;  // a byte holds a level and the sentinel up to L = 255
  return {workspace.take<char>(x.C * pitch * item_bytes), pitch, item_bytes};
}

inline void write_levels(const Reading& reading, const TensorView& edges, const Classes& classes,
                         const StagedLevels& levels, int64_t* nans, const OnDeviceOf& device, void* stream) {
  const auto num_levels = static_cast<uint32_t>(edges.shape[1] + 1);
  const int64_t groups = divided_up(reading.maps.channels, reading.channels_per_block);
  const int64_t total = classes.images * reading.maps.by_sites.divisor;
  const Chunks chunks(total, 4096, groups, device);
  const LevelsParams params{{reading.maps, edges.as<const float>(), num_levels},
                            classes,
                            levels.data,
                            levels.pitch,
                            nans,
                            chunks.size,
                            static_cast<uint32_t>(chunks.count),
                            static_cast<uint32_t>(reading.channels_per_block)};
  with_access(reading, [&](auto access) {
    launch<levels_kernel<decltype(access)>>(
        {groups * chunks.count, 256, edges_bytes(reading.channels_per_block, num_levels), stream}, params);
  });
}

}  // namespace ppf::cuda
