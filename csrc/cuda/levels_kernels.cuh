// The levels of all activations, written channel by channel, images in the order of their classes: for kernels that
// read them several times. Sites without a level get the sentinel L and are added to nans; so does what is left of a
// channel's pitch.
#pragma once

#include "classes.cuh"
#include "levels.cuh"

namespace ppf::cuda {

struct LevelsParams {
  LevelSource x;
  Classes classes;
  void* levels;   // (C, pitch) uint8, or uint16 for L = 256
  int64_t pitch;  // levels from one channel to the next, a multiple of 16
  int64_t* nans;
  int64_t chunk;  // sites of a block, a multiple of 16
  uint32_t chunks, channels_per_block;
};

namespace {

template <class A, class Level>
__device__ void write_levels(const LevelsParams& p, const float* edges, const Span& span) {
  constexpr int kChannels = A::kAcross ? A::kCount : 1;
  uint32_t missing[kChannels] = {};
  const uint32_t sites = p.x.maps.by_sites.divisor;
  auto* out = static_cast<Level*>(p.levels) + span.channel * p.pitch;
  const auto take = [&](uint32_t k, uint32_t image, uint32_t site, const uint32_t (&level)[A::kCount]) {
    Level* to = out + k * p.pitch + (span.image + image) * sites + site;
    for (int v = 0; v < A::kCount; ++v) {
      missing[A::kAcross ? v : 0] += level[v] == p.x.num_levels;
      to[A::kAcross ? v * p.pitch : v] = static_cast<Level>(level[v]);
    }
  };
  const auto done = [&](uint32_t k) {
    for (int v = 0; v < kChannels; ++v) {
      if (missing[v] != 0) add_to(p.nans + span.channel + k + v, missing[v]);
      missing[v] = 0;
    }
  };
  read_levels<A>(p.x, edges, span, take, done);
}

template <class Level>
__device__ void fill_up(const LevelsParams& p, const Span& span, int64_t total) {
  auto* out = static_cast<Level*>(p.levels) + span.channel * p.pitch;
  const auto rest = static_cast<uint32_t>(p.pitch - total);
  for (uint32_t i = threadIdx.x; i < span.channels * rest; i += blockDim.x) {
    out[i / rest * p.pitch + total + i % rest] = static_cast<Level>(p.x.num_levels);
  }
}

template <class A, class Level>
__device__ void write_chunk(const LevelsParams& p, const float* edges, const Span& span, bool last, int64_t total) {
  write_levels<A, Level>(p, edges, span);
  if (last) fill_up<Level>(p, span, total);
}

// Shared memory: edges (channels, padded).
template <class A>
__global__ void levels_kernel(const LevelsParams p) {
  const uint32_t C = p.x.maps.channels, sites = p.x.maps.by_sites.divisor;
  auto* edges = reinterpret_cast<float*>(dynamic_shared());
  const int64_t total = p.classes.last(p.classes.runs() - 1) * sites;
  const uint32_t groups = (C + p.channels_per_block - 1) / p.channels_per_block;
  for (uint32_t work = blockIdx.x; work < groups * p.chunks; work += gridDim.x) {
    const uint32_t channel = work / p.chunks * p.channels_per_block;
    const uint32_t channels = C - channel < p.channels_per_block ? C - channel : p.channels_per_block;
    __syncthreads();
    copy_edges(p.x, channel, channels, edges);
    __syncthreads();
    const int64_t begin = work % p.chunks * p.chunk, end = total < begin + p.chunk ? total : begin + p.chunk;
    if (begin >= end) continue;
    const int64_t image = begin / sites;
    const Span span{channel, channels, image, static_cast<uint32_t>(begin - image * sites),
                    static_cast<uint32_t>(end - image * sites)};
    if (p.x.num_levels == 256) {
      write_chunk<A, uint16_t>(p, edges, span, end == total, total);
    } else {
      write_chunk<A, uint8_t>(p, edges, span, end == total, total);
    }
  }
}

}  // namespace
}  // namespace ppf::cuda
