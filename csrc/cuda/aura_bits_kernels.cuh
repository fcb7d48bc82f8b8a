// aura_counts on a GPU for up to 16 levels and a free boundary. Contract: core/aura.h.
//
// A warp owns one channel and some images. It reads a few maps at a time into its part of shared memory, as the bits of
// their levels (bits.cuh), sites in order, each map from a whole word on: so every offset is one shift of all bits, and
// a word for each 32 sites says which of them have a neighbour there. Pairs are counted 256 at a time as a product of
// bits, in registers, and are added to the 64-bit counts when the class ends.
//
// Where neighbouring channels lie together (channels_last), the warps of a block read for each other: a lane takes one
// site of all the block's channels.
#pragma once

#include "bits.cuh"
#include "classes.cuh"

namespace ppf::cuda {

inline constexpr int kMostTables = 4;   // offsets with tables of their own that a launch counts
inline constexpr int kMostShifts = 64;  // offsets of a launch

// Of a block's shared memory: where its parts begin, in bytes. The words of a stage (StageWord) come first; from
// `questions` on every warp has a part.
struct AuraBitsShared {
  uint32_t within, trouble, questions, maps, valid, bits, bytes;
};

struct AuraBitsParams {
  LevelSource x;
  Classes classes;
  AuraBitsShared shared;
  int64_t* counts;
  int64_t* nans;                                      // null when sites without a level were counted before
  int64_t images;                                     // of a chunk
  uint32_t units;                                     // of work: channels, or groups of them, times chunks
  uint32_t map_words;                                 // of a map
  uint32_t maps, words;                               // of a stage, its words a multiple of kStep
  int32_t site_step;                                  // elements from one site of a map to the next
  uint32_t before, room;                              // words before a stage's own, and with those and what is behind
  uint32_t total_offsets, first_offset, num_offsets;  // of the counts; those of this launch
  bool merged;                                        // all offsets share one table
  int32_t d[kMostShifts], h[kMostShifts], w[kMostShifts];
  int32_t shift[kMostShifts];  // in sites
};

namespace {

// Where 32 sites of a stage lie.
struct alignas(16) StageWord {
  int32_t offset;  // of the first one in its map, in elements
  uint32_t left;   // sites of the map from there on
  uint32_t map;
};

// What a warp knows of the block's memory.
template <class T>
struct WarpBits {
  const StageWord* words;
  const uint32_t* within;  // (offsets, words): sites that have a neighbour
  float* questions;        // of its channel
  const T** maps;          // of its channel
  LevelBits* bits;         // from the stage's first word on
  uint32_t* valid;         // sites with a level; written only where some have none
  int32_t lane_offset;     // of the lane's site in its word, in elements

  __device__ WarpBits(const AuraBitsParams& p, uint32_t warp) {
    char* shared = dynamic_shared();
    words = reinterpret_cast<const StageWord*>(shared);
    within = reinterpret_cast<const uint32_t*>(shared + p.shared.within);
    questions = reinterpret_cast<float*>(shared + p.shared.questions) + warp * kBitLevels;
    maps = reinterpret_cast<const T**>(shared + p.shared.maps) + warp * kWarpLanes;
    bits = reinterpret_cast<LevelBits*>(shared + p.shared.bits) + warp * p.room + p.before;
    valid = reinterpret_cast<uint32_t*>(shared + p.shared.valid) + warp * p.room + p.before;
    lane_offset = static_cast<int32_t>(threadIdx.x % kWarpLanes) * p.site_step;
  }

  // Finds the maps of a stage. Where it is not full the last one fills it up.
  __device__ void find_maps(const AuraBitsParams& p, int64_t image, uint32_t channel, uint32_t number) const {
    const uint32_t lane = threadIdx.x % kWarpLanes;
    if (lane < p.maps) maps[lane] = p.x.maps.template at<T>(image + (lane < number ? lane : number - 1), channel, 0);
    __syncwarp();
  }

  // The lane's site of a word; 0 where the map has none.
  __device__ float value(uint32_t word) const {
    const StageWord at = words[word];
    T x{};
    if (threadIdx.x % kWarpLanes < at.left) x = in_global(maps[at.map])[at.offset + lane_offset];
    return widened(x);
  }
};

// The words of a stage, and which of its sites have a neighbour at each offset.
__device__ inline void write_stage(const AuraBitsParams& p) {
  const Maps& x = p.x.maps;
  auto* words = reinterpret_cast<StageWord*>(dynamic_shared());
  auto* within = reinterpret_cast<uint32_t*>(dynamic_shared() + p.shared.within);
  const auto D = static_cast<int32_t>(x.by_sites.divisor / x.by_plane.divisor);
  const auto H = static_cast<int32_t>(x.by_plane.divisor / x.by_row.divisor);
  const auto W = static_cast<int32_t>(x.by_row.divisor);
  const uint32_t lane = threadIdx.x % kWarpLanes;
  for (uint32_t j = threadIdx.x / kWarpLanes; j < p.words; j += blockDim.x / kWarpLanes) {
    const uint32_t map = j / p.map_words, first = j % p.map_words * kWarpLanes, site = first + lane;
    if (lane == 0) {
      words[j].offset = static_cast<int32_t>(first) * p.site_step;
      words[j].left = map < p.maps ? x.by_sites.divisor - first : 0;
      words[j].map = map;
    }
    const uint32_t plane = x.by_plane.quotient(site), in_plane = site - plane * x.by_plane.divisor;
    const uint32_t row = x.by_row.quotient(in_plane), in_row = in_plane - row * x.by_row.divisor;
    for (uint32_t r = 0; r < p.num_offsets; ++r) {
      const int32_t d = plane + p.d[r], h = row + p.h[r], w = in_row + p.w[r];
      const bool has = site < x.by_sites.divisor && d >= 0 && d < D && h >= 0 && h < H && w >= 0 && w < W;
      const uint32_t sites = __ballot_sync(kAllLanes, has);
      if (lane == 0) within[r * p.words + j] = sites;
    }
  }
}

// Reads a stage of one channel. Says whether all sites have a level (infinite ones may be doubted).
template <class T>
__device__ bool fill_along(const WarpBits<T>& own, uint32_t words) {
  const SearchTree tree(own.questions);
  float doubt = 0;  // becomes NaN, and stays it
  for (uint32_t j = 0; j < words; j += kStep) {
    float value[kStep];
#pragma unroll
    for (uint32_t v = 0; v < kStep; ++v) value[v] = own.value(j + v);  // all under way before the first is needed
#pragma unroll
    for (uint32_t v = 0; v < kStep; ++v) {
      doubt = fmaf(value[v], 0.0f, doubt);
      const LevelBits bits = level_bits(value[v], tree);
      if (threadIdx.x % kWarpLanes == 0) own.bits[j + v] = bits;
    }
  }
  return __ballot_sync(kAllLanes, doubt != doubt) == 0;
}

// Which sites of a stage have a level; counts the others.
template <class T>
__device__ void write_valid(const AuraBitsParams& p, const WarpBits<T>& own, uint32_t channel, uint32_t words) {
  uint32_t missing = 0;
  for (uint32_t j = 0; j < words; ++j) {
    const float x = own.value(j);
    const uint32_t nans = __ballot_sync(kAllLanes, x != x);
    missing += __popc(nans);
    if (threadIdx.x % kWarpLanes == 0) own.valid[j] = ~nans;
  }
  if (threadIdx.x % kWarpLanes == 0 && p.nans != nullptr && missing != 0) add_to(p.nans + channel, missing);
}

// Counts the pairs of a stage. Lane 4 i + j of the warp selects the sites of level i, and of level i + 8, in the words
// j and j + 4 of eight: see add_common_bits.
template <bool kAllValid, int kTables, class T>
__device__ void count_stage(const AuraBitsParams& p, const WarpBits<T>& own, uint32_t words,
                            int32_t (&sums)[kTables][2][4]) {
  const uint32_t lane = threadIdx.x % kWarpLanes;
  const LevelPair levels(lane / 4);
  const bool both = p.x.num_levels > 8;
  const auto count = [&](uint32_t j, const uint32_t (&lines)[4], uint32_t r, int32_t (&table)[2][4]) {
    uint32_t low[2], high[2];
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
      const uint32_t word = j + 4 * half, bits = p.shift[r] & 31;
      const int32_t at = static_cast<int32_t>(word) + (p.shift[r] >> 5);
      const LevelBits first = own.bits[at], second = own.bits[at + 1];
      uint32_t of = own.within[r * p.words + word];
      if constexpr (!kAllValid) of &= __funnelshift_r(own.valid[at], own.valid[at + 1], bits);
      const LevelBits neighbor{__funnelshift_r(first.x, second.x, bits), __funnelshift_r(first.y, second.y, bits),
                               __funnelshift_r(first.z, second.z, bits), __funnelshift_r(first.w, second.w, bits)};
      levels.select(neighbor, of, low[half], high[half]);
    }
    add_common_bits(table[0], lines, low);
    if (both) add_common_bits(table[1], lines, high);
  };
  for (uint32_t j = lane % 4; j < words + lane % 4; j += kStep) {
    uint32_t lines[4];
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
      const uint32_t word = j + 4 * half;
      uint32_t of = word < words ? ~0u : 0u;
      if constexpr (!kAllValid) of &= own.valid[word];
      levels.select(own.bits[word], of, lines[2 * half], lines[2 * half + 1]);
    }
    if (p.merged) {
      for (uint32_t r = 0; r < p.num_offsets; ++r) count(j, lines, r, sums[0]);
    } else {
#pragma unroll
      for (uint32_t r = 0; r < kTables; ++r) {
        if (r < p.num_offsets) count(j, lines, r, sums[r]);
      }
    }
  }
}

// Adds a warp's sums to the counts of class k, and clears them.
template <int kTables>
__device__ void empty_sums(const AuraBitsParams& p, uint32_t channel, uint32_t k, int32_t (&sums)[kTables][2][4]) {
  const uint32_t lane = threadIdx.x % kWarpLanes, L = p.x.num_levels;
#pragma unroll
  for (uint32_t r = 0; r < kTables; ++r) {
    const int64_t table = (int64_t{channel} * p.classes.count + k) * p.total_offsets + p.first_offset + r;
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) {
      const uint32_t row = lane / 4 + i % 4 / 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      const auto number = static_cast<uint32_t>(sums[r][i / 4][i % 4]);
      if (number != 0 && row < L && column < L) add_to(p.counts + (table * L + row) * L + column, number);
      sums[r][i / 4][i % 4] = 0;
    }
  }
}

template <class T, int kTables>
__device__ void count_stage(const AuraBitsParams& p, const WarpBits<T>& own, uint32_t words, bool all_valid,
                            int32_t (&sums)[kTables][2][4]) {
  if (all_valid) {
    count_stage<true>(p, own, words, sums);
  } else {
    count_stage<false>(p, own, words, sums);
  }
}

// Calls stage(image, maps) for the stages of a chunk of images, and end(k) after those of class k.
template <class Stage, class End>
__device__ void for_stages(const AuraBitsParams& p, uint32_t chunk, Stage&& stage, End&& end) {
  const int64_t begin = chunk * p.images, behind = begin + p.images;
  for (uint32_t k = 0; k < p.classes.runs(); ++k) {
    const int64_t first = p.classes.first(k), last = p.classes.last(k);
    const int64_t from = first > begin ? first : begin, to = last < behind ? last : behind;
    if (from >= to) continue;
    for (int64_t image = from; image < to; image += p.maps) {
      stage(image, to - image < p.maps ? static_cast<uint32_t>(to - image) : p.maps);
    }
    end(k);
  }
}

// One warp, one channel.
template <class T, int kTables>
__global__ void __launch_bounds__(256, kTables > 2 ? 2 : 3) aura_bits_kernel(const AuraBitsParams p) {
  write_stage(p);
  __syncthreads();
  const uint32_t warp = threadIdx.x / kWarpLanes, lane = threadIdx.x % kWarpLanes;
  const uint32_t unit = blockIdx.x * (blockDim.x / kWarpLanes) + warp, channel = unit % p.x.maps.channels;
  if (unit >= p.units) return;
  const WarpBits<T> own(p, warp);
  if (lane < kBitLevels) own.questions[lane] = question(p.x, channel, lane);
  int32_t sums[kTables][2][4] = {};
  const auto stage = [&](int64_t image, uint32_t maps) {
    const uint32_t words = maps * p.map_words;
    own.find_maps(p, image, channel, maps);
    const bool all_valid = fill_along(own, words);
    if (!all_valid) write_valid(p, own, channel, words);
    __syncwarp();
    count_stage(p, own, words, all_valid, sums);
    __syncwarp();
  };
  for_stages(p, unit / p.x.maps.channels, stage, [&](uint32_t k) { empty_sums(p, channel, k, sums); });
}

// One block, as many channels as it has warps: those whose elements fill 32 bytes.
template <class T, int kTables>
__global__ void __launch_bounds__(sizeof(T) == 2 ? 512 : 256, 1) aura_bits_across_kernel(const AuraBitsParams p) {
  constexpr uint32_t kWide = 16 / sizeof(T), kChannels = 2 * kWide;
  auto* trouble = reinterpret_cast<uint32_t*>(dynamic_shared() + p.shared.trouble);
  write_stage(p);
  const uint32_t warp = threadIdx.x / kWarpLanes, lane = threadIdx.x % kWarpLanes;
  const uint32_t C = p.x.maps.channels, groups = (C + kChannels - 1) / kChannels;
  const uint32_t first = blockIdx.x % groups * kChannels, channel = first + warp;
  const WarpBits<T> own(p, warp), all(p, 0);
  if (lane < kBitLevels) own.questions[lane] = question(p.x, channel < C ? channel : first, lane);
  int32_t sums[kTables][2][4] = {};
  const auto stage = [&](int64_t image, uint32_t maps) {
    const uint32_t words = maps * p.map_words;
    if (threadIdx.x == 0) *trouble = 0;
    __syncthreads();
    float doubt = 0;
    for (uint32_t j = warp; j < words; j += kChannels) {
      const StageWord at = own.words[j];
      const uint32_t site = j % p.map_words * kWarpLanes + lane;
      Vector<T, kWide> value[2] = {};
      for (uint32_t v = 0; v < 2 && lane < at.left; ++v) {
        if (first + v * kWide >= C) break;
        value[v] = load<kWide>(p.x.maps.template at<T>(image + at.map, first + v * kWide, site));
      }
#pragma unroll
      for (uint32_t c = 0; c < kChannels; ++c) {
        const float x = widened(value[c / kWide].item[c % kWide]);
        doubt = fmaf(x, 0.0f, doubt);
        const LevelBits bits = level_bits(x, SearchTree(all.questions + c * kBitLevels));
        if (lane == 0) all.bits[c * p.room + j] = bits;
      }
    }
    if (doubt != doubt) atomicAdd(trouble, 1u);
    __syncthreads();
    const bool all_valid = *trouble == 0;
    if (channel < C) {
      if (!all_valid) {
        own.find_maps(p, image, channel, maps);
        write_valid(p, own, channel, words);
        __syncwarp();
      }
      count_stage(p, own, words, all_valid, sums);
    }
    __syncthreads();
  };
  for_stages(p, blockIdx.x / groups, stage, [&](uint32_t k) {
    if (channel < C) empty_sums(p, channel, k, sums);
  });
}

}  // namespace
}  // namespace ppf::cuda
