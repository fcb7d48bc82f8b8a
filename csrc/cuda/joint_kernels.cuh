// joint_counts on a GPU. Contract: core/joint.h.
//
// A block owns some channels and a chunk of sites in the order of classes. It counts into tables in shared memory, a
// column of which collects sites without a level, and adds them to the 64-bit counts when the class ends. Level 0, the
// hottest by far in rectified maps, is counted in a register.
#pragma once

#include "classes.cuh"
#include "levels.cuh"

namespace ppf::cuda {

struct JointParams {
  LevelSource x;
  Classes classes;
  int64_t* counts;
  int64_t* nans;
  int64_t chunk;  // sites of a block, a multiple of 16
  uint32_t chunks, channels_per_block;
};

namespace {

// Adds the tables (channels, L + 1) to the counts of class k and clears them.
__device__ void empty_tables(const JointParams& p, uint32_t* tables, uint32_t channel, uint32_t channels, uint32_t k) {
  const uint32_t L = p.x.num_levels, side = L + 1;
  for (uint32_t i = threadIdx.x; i < channels * side; i += blockDim.x) {
    const uint32_t c = channel + i / side, g = i % side;
    if (tables[i] != 0) add_to(g == L ? p.nans + c : p.counts + (int64_t{c} * p.classes.count + k) * L + g, tables[i]);
    tables[i] = 0;
  }
  __syncthreads();
}

template <class A>
__device__ void count_sites(const JointParams& p, const float* edges, uint32_t* tables, const Span& span) {
  const uint32_t side = p.x.num_levels + 1;
  constexpr int kChannels = A::kAcross ? A::kCount : 1;  // of one thread at a time
  uint32_t zeros[kChannels] = {};
  const auto take = [&](uint32_t k, uint32_t, uint32_t, const uint32_t (&level)[A::kCount]) {
    for (int v = 0; v < A::kCount; ++v) {
      const int own = A::kAcross ? v : 0;
      if (level[v] == 0) {
        ++zeros[own];
      } else {
        atomicAdd(&tables[(k + own) * side + level[v]], 1u);
      }
    }
  };
  const auto done = [&](uint32_t k) {
    for (int v = 0; v < kChannels; ++v) {
      if (zeros[v] != 0) atomicAdd(&tables[(k + v) * side], zeros[v]);
      zeros[v] = 0;
    }
  };
  read_levels<A>(p.x, edges, span, take, done);
  __syncthreads();
}

// Shared memory: edges (channels, padded), tables (channels, L + 1).
template <class A>
__global__ void joint_kernel(const JointParams p) {
  const uint32_t C = p.x.maps.channels, side = p.x.num_levels + 1, sites = p.x.maps.by_sites.divisor;
  auto* edges = reinterpret_cast<float*>(dynamic_shared());
  auto* tables = reinterpret_cast<uint32_t*>(edges + p.channels_per_block * padded_edges(p.x.num_levels));
  for (uint32_t i = threadIdx.x; i < p.channels_per_block * side; i += blockDim.x) tables[i] = 0;
  const uint32_t groups = (C + p.channels_per_block - 1) / p.channels_per_block;
  for (uint32_t work = blockIdx.x; work < groups * p.chunks; work += gridDim.x) {
    const uint32_t channel = work / p.chunks * p.channels_per_block;
    const uint32_t channels = C - channel < p.channels_per_block ? C - channel : p.channels_per_block;
    copy_edges(p.x, channel, channels, edges);
    __syncthreads();
    const int64_t begin = work % p.chunks * p.chunk, end = begin + p.chunk;
    for (uint32_t k = 0; k < p.classes.runs(); ++k) {
      const int64_t first = p.classes.first(k) * sites, last = p.classes.last(k) * sites;
      const int64_t from = first > begin ? first : begin, to = last < end ? last : end;
      if (from >= to) continue;
      const int64_t image = from / sites;
      count_sites<A>(p, edges, tables,
                     {channel, channels, image, static_cast<uint32_t>(from - image * sites),
                      static_cast<uint32_t>(to - image * sites)});
      empty_tables(p, tables, channel, channels, k);
    }
  }
}

}  // namespace
}  // namespace ppf::cuda
