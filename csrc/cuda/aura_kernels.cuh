// aura_counts on a GPU. Contract: core/aura.h.
//
// A block owns some channels, some offsets, some rows of their tables (all of each where they fit), and a chunk of the
// padded run (padding.cuh) in the order of classes. Band by band it reads the activations once, turns them into levels
// in shared memory, and counts pairs there: four sites, or two, in a machine word, and their neighbours in another at a
// shift. Tables are 32 bits wide, in shared memory, and are added to the 64-bit counts when the class ends. The first
// cell, which holds nearly all pairs of a sparse map, is counted in a register. Where nothing of this fits,
// aura_far_kernel counts pair by pair.
#pragma once

#include "classes.cuh"
#include "padding.cuh"

namespace ppf::cuda {

inline constexpr int kMaxOffsets = 64;       // of one launch
inline constexpr int kMaxAuraThreads = 512;  // of a block: what leaves each the registers that it needs

// What a kernel with parts in shared memory knows of them: bytes from the start, all multiples of 16.
struct AuraShared {
  uint32_t nans, tables, sites, neighbors, bytes;  // edges come first
};

struct AuraParams {
  LevelSource x;
  Classes classes;
  Padding padding;
  AuraShared shared;
  int64_t* counts;
  int64_t* nans;  // null when sites without a level were counted before
  int64_t chunk;  // places of a block, a multiple of 16
  uint32_t chunks;
  uint32_t channels_per_block, offsets_per_block, rows_per_block;
  uint32_t total_offsets, first_offset, num_offsets;  // of the counts; those of this launch
  bool merged;                                        // all offsets share one table
  uint32_t margin, band, tile;                        // places before a band, in it, and with those on both sides
  bool words;                                         // four sites of a row lie in one word of a tile
  bool periodic;
  int32_t shift[kMaxOffsets];
};

struct AuraFarParams {
  Maps levels;
  Classes classes;
  uint32_t num_levels;
  int64_t* counts;
  uint32_t total_offsets, first_offset, num_offsets;
  bool periodic, merged;
  int32_t d[kMaxOffsets], h[kMaxOffsets], w[kMaxOffsets];
};

namespace {

__device__ inline uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

// Levels in shared memory are bytes but for L = 256.
template <class T>
struct TileLevel {
  using Type = uint8_t;
};
template <>
struct TileLevel<uint16_t> {
  using Type = uint16_t;
};

// The channels, offsets and rows that a block counts at a time.
struct AuraShare {
  uint32_t channel, channels, offset, offsets, row, rows;
  uint32_t tables;  // of a channel: one an offset, or one for all
  uint32_t lines;   // of a table: its rows, and one more for sites without a level where all rows are there
};

// A part of the run of one class: its places first .. last-1, of which the band at .. at+length-1 is counted.
struct AuraBand {
  int64_t first, last, at;
  uint32_t length;
};

template <class Level>
struct AuraTiles {
  Level* sites;
  Level* neighbors;  // the same unless the boundary is periodic
};

// Levels of a band's sites as they come to lie in the tiles, and the count of those that are none.
template <class Level>
struct AuraWriter {
  const AuraParams& p;
  Level* tile;
  uint32_t* nans;
  uint32_t length;  // of the band

  __device__ void count_missing(uint32_t k, uint32_t place, uint32_t level) const {
    if (level == p.x.num_levels && place - p.margin < length) atomicAdd(&nans[k], 1u);
  }

  __device__ void put(uint32_t k, uint32_t place, uint32_t level) const {
    if (place >= p.tile) return;
    tile[k * p.tile + place] = static_cast<Level>(level);
    count_missing(k, place, level);
  }

  // Four neighbouring places from a multiple of four on, in one store.
  __device__ void put_word(uint32_t k, uint32_t place, const uint32_t* level) const {
    if (place >= p.tile) return;
    const uint32_t word = level[0] | level[1] << 8 | level[2] << 16 | level[3] << 24;
    *reinterpret_cast<uint32_t*>(tile + k * p.tile + place) = word;
    const bool missing = level[0] == p.x.num_levels || level[1] == p.x.num_levels || level[2] == p.x.num_levels ||
                         level[3] == p.x.num_levels;
    for (uint32_t v = 0; missing && v < 4; ++v) count_missing(k, place + v, level[v]);
  }
};

// The sentinel, in all levels of a word.
template <class Level>
__device__ uint32_t gap_word(const AuraParams& p) {
  return p.x.num_levels * (sizeof(Level) == 1 ? 0x01010101u : 0x00010001u);
}

// Reads a band, and what its offsets reach on both sides, into the tiles (free boundary).
template <class A, class Level>
__device__ void fill_free(const AuraParams& p, const float* edges, uint32_t* nans, const AuraTiles<Level>& tiles,
                          const AuraShare& share, const AuraBand& band) {
  constexpr bool kWords = A::kCount % 4 == 0 && !A::kAcross && sizeof(Level) == 1;
  const uint32_t words = share.channels * p.tile * sizeof(Level) / 4;
  for (uint32_t i = threadIdx.x; i < words; i += blockDim.x) {
    reinterpret_cast<uint32_t*>(tiles.sites)[i] = gap_word<Level>(p);
  }
  __syncthreads();
  const int64_t origin = band.at - p.margin, pitch = p.padding.by_image.divisor;
  const int64_t begin = origin > band.first ? origin : band.first;
  const int64_t end = origin + p.tile < band.last ? origin + p.tile : band.last;
  const int64_t image = begin / pitch;
  const Span span{share.channel, share.channels, image,
                  p.padding.sites_before(static_cast<uint32_t>(begin - image * pitch)),
                  p.padding.sites_before(static_cast<uint32_t>(end - image * pitch))};
  const AuraWriter<Level> writer{p, tiles.sites, nans, band.length};
  const auto take = [&](uint32_t k, uint32_t n, uint32_t site, const uint32_t (&level)[A::kCount]) {
    Walk walk(p.padding, p.x.maps, site);
    const auto image_place = static_cast<uint32_t>((image + n) * pitch - origin);  // wraps round before the tile
    if constexpr (kWords) {
      if (p.words) {
#pragma unroll
        for (int v = 0; v < A::kCount; v += 4) {
          writer.put_word(k, image_place + walk.place(), level + v);
          walk.step(4);
        }
        return;
      }
    }
    for (int v = 0; v < A::kCount; ++v) {
      writer.put(k + (A::kAcross ? v : 0), image_place + walk.place(), level[v]);
      if (!A::kAcross) walk.step();
    }
  };
  read_levels<A>(p.x, edges, span, take, [](uint32_t) {});
  __syncthreads();
}

__device__ inline int32_t wrapped(int32_t i, int32_t extent) {
  return i < 0 ? i + extent : i < extent ? i : i - extent;
}

// The same for a periodic boundary, place by place.
template <class A, class Level>
__device__ void fill_periodic(const AuraParams& p, const float* edges, uint32_t* nans, const AuraTiles<Level>& tiles,
                              const AuraShare& share, const AuraBand& band) {
  const Padding& padding = p.padding;
  const int64_t origin = band.at - p.margin;
  using One = Access<typename A::Value, 1, false>;
  for (uint32_t i = threadIdx.x; i < share.channels * p.tile; i += blockDim.x) {
    const uint32_t k = i / p.tile, place = i % p.tile;
    const int64_t at = origin + place;
    uint32_t level[1] = {p.x.num_levels};
    bool is_site = false;
    if (at >= band.first && at < band.last) {
      const int64_t image = at / padding.by_image.divisor;
      const auto in_image = static_cast<uint32_t>(at - image * padding.by_image.divisor);
      const uint32_t plane = padding.by_plane.quotient(in_image);
      const uint32_t in_plane = in_image - plane * padding.by_plane.divisor;
      const uint32_t line = padding.by_row.quotient(in_plane);
      const int32_t d = plane - padding.before_d, h = line - padding.before_h;
      const int32_t w = in_plane - line * padding.by_row.divisor - padding.before_w;
      const int32_t D = padding.D, H = padding.H, W = padding.W;
      const uint32_t site = (wrapped(d, D) * H + wrapped(h, H)) * W + wrapped(w, W);
      const auto* x = p.x.maps.template at<typename A::Value>(image, share.channel + k, site);
      levels_of<One>(load<1>(x), p.x, edges + k * padded_edges(p.x.num_levels), level);
      is_site = d >= 0 && d < D && h >= 0 && h < H && w >= 0 && w < W;
    }
    tiles.neighbors[i] = static_cast<Level>(level[0]);
    tiles.sites[i] = static_cast<Level>(is_site ? level[0] : p.x.num_levels);
    if (is_site && level[0] == p.x.num_levels && place - p.margin < band.length) atomicAdd(&nans[k], 1u);
  }
  __syncthreads();
}

// Counts the pairs of the first `length` places of a band. A warp takes one channel and offset at a time, or, where
// there are fewer of those than warps, a part of the band.
template <class A, class Level>
__device__ void count_band(const AuraParams& p, uint32_t* tables, const AuraTiles<Level>& tiles, const AuraShare& share,
                           uint32_t length) {
  constexpr uint32_t kPerWord = 4 / sizeof(Level), kBits = 8 * sizeof(Level), kMask = (1u << kBits) - 1;
  const uint32_t warps = blockDim.x / kWarpLanes, warp = threadIdx.x / kWarpLanes, lane = threadIdx.x % kWarpLanes;
  const uint32_t jobs = share.channels * share.offsets, side = p.x.num_levels + 1;
  uint32_t parts = 1;  // so many that no warp is left without work
  while (parts < warps && jobs * parts % warps != 0) ++parts;
  const uint32_t words = (length + kPerWord - 1) / kPerWord;
  for (uint32_t unit = warp; unit < jobs * parts; unit += warps) {
    const uint32_t job = unit / parts, k = job / share.offsets, r = job % share.offsets;
    uint32_t* table = tables + (k * share.tables + (p.merged ? 0 : r)) * share.lines * side;
    const auto* site_words = reinterpret_cast<const uint32_t*>(tiles.sites + k * p.tile + p.margin);
    const auto* neighbor_words = reinterpret_cast<const uint32_t*>(tiles.neighbors + k * p.tile);
    const uint32_t start = p.margin + p.shift[share.offset + r], bits = start % kPerWord * kBits;
    uint32_t firsts = 0;  // pairs in the first cell
    for (uint32_t i = unit % parts * kWarpLanes + lane; i < words; i += parts * kWarpLanes) {
      uint32_t site = site_words[i];
      const uint32_t* at = neighbor_words + start / kPerWord + i;
      const uint32_t neighbor = __funnelshift_r(at[0], at[1], bits);
      if (length - i * kPerWord < kPerWord) {  // what lies behind the band is no site of it
        const uint32_t behind = ~0u << (length - i * kPerWord) * kBits;
        site = (site & ~behind) | (gap_word<Level>(p) & behind);
      }
#pragma unroll
      for (uint32_t j = 0; j < kPerWord; ++j) {
        uint32_t cell;
        bool counts = true;
        if constexpr (kIsLevel<typename A::Value>) {
          const uint32_t row = (site >> j * kBits & kMask) - share.row;
          cell = row * side + (neighbor >> j * kBits & kMask);
          counts = row < share.rows;
        } else {  // site j * side + neighbour j, by products of bytes; sites without a level have a line of their own
          cell = __dp4a(site, side << j * kBits, __dp4a(neighbor, 1u << j * kBits, 0u));
        }
        firsts += counts && cell == 0;
        if (counts && cell != 0) atomicAdd(&table[cell], 1u);
      }
    }
    firsts = warp_sum(firsts);
    if (lane == 0 && firsts != 0) atomicAdd(&table[0], firsts);
  }
  __syncthreads();
}

// Adds the tables (channels, tables, lines, L + 1) to the counts of class k, without the sentinel's column, and clears
// them.
__device__ void empty_tables(const AuraParams& p, uint32_t* tables, uint32_t* nans, const AuraShare& share,
                             uint32_t k) {
  const uint32_t L = p.x.num_levels, side = L + 1, size = share.lines * side;
  for (uint32_t i = threadIdx.x; i < share.channels * share.tables * size; i += blockDim.x) {
    const uint32_t job = i / size, row = i % size / side, h = i % side, number = tables[i];
    tables[i] = 0;
    if (number == 0 || h == L || row == share.rows) continue;
    const int64_t c = share.channel + job / share.tables;
    const int64_t r = p.merged ? 0 : p.first_offset + share.offset + job % share.tables;
    const int64_t table = (c * p.classes.count + k) * p.total_offsets + r;
    add_to(p.counts + (table * L + share.row + row) * L + h, number);
  }
  for (uint32_t i = threadIdx.x; i < share.channels; i += blockDim.x) {
    if (p.nans != nullptr && nans[i] != 0) add_to(p.nans + share.channel + i, nans[i]);
    nans[i] = 0;
  }
  __syncthreads();
}

template <class A>
__global__ void __launch_bounds__(kMaxAuraThreads, 2) aura_kernel(const AuraParams p) {
  using Level = typename TileLevel<typename A::Value>::Type;
  char* shared = dynamic_shared();
  auto* edges = reinterpret_cast<float*>(shared);
  auto* nans = reinterpret_cast<uint32_t*>(shared + p.shared.nans);
  auto* tables = reinterpret_cast<uint32_t*>(shared + p.shared.tables);
  const AuraTiles<Level> tiles{reinterpret_cast<Level*>(shared + p.shared.sites),
                               reinterpret_cast<Level*>(shared + p.shared.neighbors)};
  for (uint32_t i = threadIdx.x; i < (p.shared.sites - p.shared.nans) / 4; i += blockDim.x) nans[i] = 0;  // and tables
  const uint32_t C = p.x.maps.channels, L = p.x.num_levels;
  const uint32_t offset_groups = (p.num_offsets + p.offsets_per_block - 1) / p.offsets_per_block;
  const uint32_t row_groups = (L + p.rows_per_block - 1) / p.rows_per_block;
  const uint32_t splits = offset_groups * row_groups;  // neighbours in the grid: they read the same memory
  const uint32_t groups = (C + p.channels_per_block - 1) / p.channels_per_block;
  for (uint32_t work = blockIdx.x; work < groups * p.chunks * splits; work += gridDim.x) {
    AuraShare share;
    share.channel = work / splits / p.chunks * p.channels_per_block;
    share.channels = least(C - share.channel, p.channels_per_block);
    share.offset = work % splits / row_groups * p.offsets_per_block;
    share.offsets = least(p.num_offsets - share.offset, p.offsets_per_block);
    share.tables = p.merged ? 1 : share.offsets;
    share.row = work % row_groups * p.rows_per_block;
    share.rows = least(L - share.row, p.rows_per_block);
    share.lines = share.rows + (kIsLevel<typename A::Value> ? 0 : 1);
    copy_edges(p.x, share.channel, share.channels, edges);
    __syncthreads();
    const int64_t begin = work / splits % p.chunks * p.chunk, end = begin + p.chunk;
    for (uint32_t k = 0; k < p.classes.runs(); ++k) {
      const int64_t first = p.classes.first(k) * p.padding.by_image.divisor;
      const int64_t last = p.classes.last(k) * p.padding.by_image.divisor;
      const int64_t from = first > begin ? first : begin, to = last < end ? last : end;
      if (from >= to) continue;
      for (int64_t at = from; at < to; at += p.band) {
        const AuraBand band{first, last, at, static_cast<uint32_t>(to - at < p.band ? to - at : p.band)};
        if (p.periodic) {
          fill_periodic<A>(p, edges, nans, tiles, share, band);
        } else {
          fill_free<A>(p, edges, nans, tiles, share, band);
        }
        count_band<A>(p, tables, tiles, share, band.length);
      }
      empty_tables(p, tables, nans, share, k);
    }
  }
}

// One thread a site, straight from levels in global memory into the counts: for offsets that no tile can hold.
template <class Level>
__global__ void aura_far_kernel(const AuraFarParams p) {
  const Maps& x = p.levels;
  const int64_t sites = x.by_sites.divisor, L = p.num_levels;
  const auto D = static_cast<int32_t>(x.by_sites.divisor / x.by_plane.divisor),
             W = static_cast<int32_t>(x.by_row.divisor);
  const auto H = static_cast<int32_t>(x.by_plane.divisor / x.by_row.divisor);
  for (uint32_t k = 0; k < p.classes.runs(); ++k) {
    const int64_t first = p.classes.first(k) * sites, number = p.classes.last(k) * sites - first;
    for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < number * x.channels;
         i += int64_t{gridDim.x} * blockDim.x) {
      const int64_t c = i / number, n = (first + i % number) / sites;
      const auto site = static_cast<uint32_t>((first + i % number) % sites);
      const int64_t g = *x.at<Level>(n, c, site);
      if (g == L) continue;
      const auto d = static_cast<int32_t>(x.by_plane.quotient(site));
      const auto h = static_cast<int32_t>(x.by_row.quotient(site - d * x.by_plane.divisor));
      const int32_t w = site - (d * H + h) * W;
      for (uint32_t r = 0; r < p.num_offsets; ++r) {
        int32_t d2 = d + p.d[r], h2 = h + p.h[r], w2 = w + p.w[r];
        if (p.periodic) d2 = wrapped(d2, D), h2 = wrapped(h2, H), w2 = wrapped(w2, W);
        if (d2 < 0 || d2 >= D || h2 < 0 || h2 >= H || w2 < 0 || w2 >= W) continue;
        const int64_t neighbor = *x.at<Level>(n, c, (d2 * H + h2) * W + w2);
        const int64_t table = (c * p.classes.count + k) * p.total_offsets + (p.merged ? 0 : p.first_offset + r);
        if (neighbor < L) add_to(p.counts + (table * L + g) * L + neighbor, 1);
      }
    }
  }
}

}  // namespace
}  // namespace ppf::cuda
