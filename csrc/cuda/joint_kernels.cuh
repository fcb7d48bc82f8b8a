// joint_counts on a GPU. Contract: core/joint.h.
//
// A block owns some channels and a chunk of sites in the order of classes. It counts into tables in shared memory, a
// row of which collects sites without a level, and adds them to the 64-bit counts when the class ends. Where memory
// allows, every thread has a column of its own in the tables of its warp, in a bank of its own: it adds without atomics
// and without conflicts. Else the block has one table a channel, and level 0, the hottest by far in rectified maps, is
// counted in a register.
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
  uint32_t table_size;  // words of all tables of a block
};

inline constexpr int kJointThreads = 256;

namespace {

// Channels of one thread at a time.
template <class A>
inline constexpr int kJointChannels = A::kAcross ? A::kCount : 1;

// Adds to the counts of class k, or to nans.
__device__ inline void add_sites(const JointParams& p, uint32_t channel, uint32_t level, uint32_t k, uint32_t number) {
  if (number == 0) return;
  const uint32_t L = p.x.num_levels;
  add_to(level == L ? p.nans + channel : p.counts + (int64_t{channel} * p.classes.count + k) * L + level, number);
}

}  // namespace

// Tables of the block: (channels, L + 1).
struct BlockTables {
  uint32_t* tables;
  uint32_t side;

  template <class A>
  __device__ void count(const JointParams& p, const float* edges, const Span& span) const {
    uint32_t zeros[kJointChannels<A>] = {};
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
      for (int v = 0; v < kJointChannels<A>; ++v) {
        if (zeros[v] != 0) atomicAdd(&tables[(k + v) * side], zeros[v]);
        zeros[v] = 0;
      }
    };
    read_levels<A>(p.x, edges, span, take, done);
    __syncthreads();
  }

  template <class A>
  __device__ void empty(const JointParams& p, const Span& span, uint32_t k) const {
    for (uint32_t i = threadIdx.x; i < span.channels * side; i += blockDim.x) {
      add_sites(p, span.channel + i / side, i % side, k, tables[i]);
      tables[i] = 0;
    }
    __syncthreads();
  }
};

// Columns of threads: (warps, channels of a thread, L + 1, lanes).
struct ThreadColumns {
  uint32_t* tables;
  uint32_t side;

  template <class A>
  __device__ uint32_t* column(uint32_t warp, uint32_t own) const {
    return tables + (warp * kJointChannels<A> + own) * side * kWarpLanes + threadIdx.x % kWarpLanes;
  }

  template <class A>
  __device__ void count(const JointParams& p, const float* edges, const Span& span) const {
    uint32_t* const mine = column<A>(threadIdx.x / kWarpLanes, 0);
    const auto take = [&](uint32_t, uint32_t, uint32_t, const uint32_t (&level)[A::kCount]) {
      for (int v = 0; v < A::kCount; ++v) ++mine[((A::kAcross ? v : 0) * side + level[v]) * kWarpLanes];
    };
    read_levels<A>(p.x, edges, span, take, [](uint32_t) {});
    __syncthreads();
  }

  // Lanes of the same channels are as many apart as there are groups of them.
  template <class A>
  __device__ void empty(const JointParams& p, const Span& span, uint32_t k) const {
    const uint32_t warps = blockDim.x / kWarpLanes, lane = threadIdx.x % kWarpLanes;
    const uint32_t groups = A::kAcross || p.x.maps.across ? groups_across<A>(span.channels) : 1;
    for (uint32_t i = threadIdx.x / kWarpLanes; i < kJointChannels<A> * side; i += warps) {
      const uint32_t own = i / side, level = i % side, in_group = lane * kJointChannels<A> + own;
      uint32_t number = 0;
      for (uint32_t warp = 0; warp < warps; ++warp) {
        uint32_t* cell = column<A>(warp, own) + level * kWarpLanes;
        number += *cell;
        *cell = 0;
      }
      for (uint32_t flip = kWarpLanes / 2; flip >= groups; flip /= 2)
        number += __shfl_xor_sync(kAllLanes, number, flip);
      if (lane < groups && in_group < span.channels) add_sites(p, span.channel + in_group, level, k, number);
    }
    __syncthreads();
  }
};

namespace {

// Shared memory: edges (channels, padded), tables.
template <class A, class Tables>
__global__ void __launch_bounds__(kJointThreads) joint_kernel(const JointParams p) {
  const uint32_t C = p.x.maps.channels, side = p.x.num_levels + 1, sites = p.x.maps.by_sites.divisor;
  auto* edges = reinterpret_cast<float*>(dynamic_shared());
  const Tables tables{reinterpret_cast<uint32_t*>(edges + p.channels_per_block * padded_edges(p.x.num_levels)), side};
  for (uint32_t i = threadIdx.x; i < p.table_size; i += blockDim.x) tables.tables[i] = 0;
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
      const Span span{channel, channels, image, static_cast<uint32_t>(from - image * sites),
                      static_cast<uint32_t>(to - image * sites)};
      tables.template count<A>(p, edges, span);
      tables.template empty<A>(p, span, k);
    }
  }
}

}  // namespace
}  // namespace ppf::cuda
