// pair_counts and pair_information on a GPU. Contract: core/pairs.h.
//
// All channels are levels already, a byte a site (levels_kernels.cuh). A block counts kSide by kSide pairs of channels:
// four sites, or two, of each channel in a machine word, every word read once for kSide pairs. Pairs of level 0, nearly
// all in rectified maps, are not counted: their number is what remains of the channel's level 0. Tables are 32 bits
// wide, in shared memory, or in global memory where one alone is too large. When all sites are counted, the tables are
// added to the counts (both ways round), or become the information, and are gone.
//
// For up to 16 levels (pairs_bits_kernel) the levels become bits (bits.cuh), and a warp counts kBitRows by kBitColumns
// pairs of channels at a time as products of bits, in registers.
#pragma once

#include "bits.cuh"

namespace ppf::cuda {

struct PairsParams {
  const void* levels;  // (C, pitch), filled up with sentinels
  int64_t pitch;
  uint32_t channels, num_levels, blocks;  // blocks: of pairs, on and above the diagonal
  uint32_t* tables;                       // one for each block of the grid, where they are not in shared memory
  int64_t* counts;
  double* information;  // one of both is null
  bool miller_madow;
  LevelBits* bits;  // (C, words), of all levels; null where they are counted as bytes
  uint32_t* valid;  // (C, words): sites with a level
  int64_t words;    // a multiple of kStep
};

inline constexpr int kPairsThreads = 256;
inline constexpr int kBitSide = 8, kBitRows = 2, kBitColumns = 4;  // channels of a block's side; of a warp
static_assert(kBitSide / kBitRows * (kBitSide / kBitColumns) == kPairsThreads / kWarpLanes);

namespace {

struct PairsBlock {
  uint32_t row, column;  // first channels
  uint32_t rows, columns;
};

// The block'th one of the upper triangle, row by row.
template <int kSide>
__device__ PairsBlock pairs_block(const PairsParams& p, uint32_t block) {
  uint32_t in_row = (p.channels + kSide - 1) / kSide, row = 0;
  for (; block >= in_row; ++row) block -= in_row--;
  const uint32_t a = row * kSide, b = (row + block) * kSide;
  const auto extent = [&](uint32_t first) { return p.channels - first < kSide ? p.channels - first : kSide; };
  return {a, b, extent(a), extent(b)};
}

template <class Level, int kSide>
__device__ void count_pairs(const PairsParams& p, const PairsBlock& block, uint32_t* tables, uint32_t* zeros) {
  constexpr uint32_t kPerWord = 4 / sizeof(Level), kBits = 8 * sizeof(Level), kMask = (1u << kBits) - 1;
  const uint32_t side = p.num_levels + 1, size = side * side;
  const auto words_of = [&](uint32_t channel) {
    return reinterpret_cast<const uint32_t*>(static_cast<const Level*>(p.levels) + channel * p.pitch);
  };
  uint32_t level0[kSide] = {};
  const int64_t words = p.pitch / kPerWord;  // the last ones are filled up with sentinels
  for (int64_t i = threadIdx.x; i < words; i += blockDim.x) {
    uint32_t column[kSide];
#pragma unroll
    for (uint32_t b = 0; b < kSide; ++b) column[b] = b < block.columns ? words_of(block.column + b)[i] : 0;
#pragma unroll
    for (uint32_t a = 0; a < kSide; ++a) {
      if (a >= block.rows) break;
      const uint32_t row = words_of(block.row + a)[i];
      for (uint32_t j = 0; j < kPerWord; ++j) level0[a] += (row >> j * kBits & kMask) == 0;
#pragma unroll
      for (uint32_t b = 0; b < kSide; ++b) {
        if ((row | column[b]) == 0 || b >= block.columns) continue;
        uint32_t* table = tables + (a * kSide + b) * size;
        for (uint32_t j = 0; j < kPerWord; ++j) {
          const uint32_t cell = (row >> j * kBits & kMask) * side + (column[b] >> j * kBits & kMask);
          if (cell != 0) atomicAdd(&table[cell], 1u);
        }
      }
    }
  }
  for (uint32_t a = 0; a < kSide; ++a) {
    const uint32_t number = warp_sum(level0[a]);
    if (threadIdx.x % kWarpLanes == 0 && number != 0) atomicAdd(&zeros[a], number);
  }
  __syncthreads();
}

// The threads that finish one table: a warp, or the block where it has one table only. Sums have a fixed order.
template <bool kWholeBlock>
struct Team {
  double* partial;

  __device__ uint32_t lane() const { return kWholeBlock ? threadIdx.x : threadIdx.x % kWarpLanes; }
  __device__ uint32_t lanes() const { return kWholeBlock ? blockDim.x : kWarpLanes; }
  __device__ uint32_t number() const { return kWholeBlock ? 0 : threadIdx.x / kWarpLanes; }
  __device__ uint32_t teams() const { return kWholeBlock ? 1 : blockDim.x / kWarpLanes; }

  __device__ double sum(double x) const { return kWholeBlock ? block_sum(x, partial) : warp_sum(x); }
};

// n log n and the number of non-empty cells, summed over a line of a table or over several.
struct Terms {
  double sum, cells;

  __device__ void take(uint64_t n) {
    if (n == 0) return;
    sum += static_cast<double>(n) * log(static_cast<double>(n));
    cells += 1;
  }
};

template <class T>
__device__ double information_of(const PairsParams& p, const T& team, const uint32_t* table, bool same) {
  const uint32_t L = p.num_levels, side = L + 1;
  Terms joint{}, rows{}, columns{};
  double total = 0;
  for (uint32_t i = team.lane(); i < L * L && !same; i += team.lanes()) joint.take(table[i / L * side + i % L]);
  for (uint32_t line = team.lane(); line < L; line += team.lanes()) {
    uint64_t row = 0, column = 0;
    for (uint32_t i = 0; i < L; ++i) {
      row += table[line * side + i];
      column += table[i * side + line];
    }
    rows.take(row);
    columns.take(column);
    total += static_cast<double>(row);
  }
  const double N = team.sum(total);
  const double row_sum = team.sum(rows.sum), column_sum = team.sum(columns.sum), joint_sum = team.sum(joint.sum);
  const double row_cells = team.sum(rows.cells), column_cells = team.sum(columns.cells);
  const double joint_cells = team.sum(joint.cells);
  if (N == 0) return 0;
  const double correction = p.miller_madow ? 1 / (2 * N) : 0;
  if (same) return log(N) - row_sum / N + (row_cells - 1) * correction;
  return log(N) - (row_sum + column_sum - joint_sum) / N + (row_cells + column_cells - joint_cells - 1) * correction;
}

// Adds a table to the counts of (a, b) and of (b, a), which no other block touches.
template <class T>
__device__ void add_counts(const PairsParams& p, const T& team, const uint32_t* table, int64_t a, int64_t b) {
  const int64_t L = p.num_levels, C = p.channels;
  for (uint32_t i = team.lane(); i < L * L; i += team.lanes()) {
    const int64_t g = i / p.num_levels, h = i % p.num_levels;
    const uint32_t number = table[g * (L + 1) + h];
    p.counts[((a * C + b) * L + g) * L + h] += number;
    if (a != b) p.counts[((b * C + a) * L + h) * L + g] += number;
  }
}

// What a full table is wanted for.
template <class T>
__device__ void finish(const PairsParams& p, const T& team, const uint32_t* table, int64_t a, int64_t b) {
  if (p.counts != nullptr) return add_counts(p, team, table, a, b);
  const double information = information_of(p, team, table, a == b);
  if (team.lane() == 0) p.information[a * p.channels + b] = p.information[b * p.channels + a] = information;
}

// The number of pairs of level 0 with each other: what is left of row 0.
template <class T>
__device__ void complete(const PairsParams& p, const T& team, uint32_t* table, uint32_t zeros) {
  double others = 0;  // exact: below 2^32
  for (uint32_t h = 1 + team.lane(); h <= p.num_levels; h += team.lanes()) others += table[h];
  others = team.sum(others);
  if (team.lane() == 0) table[0] = zeros - static_cast<uint32_t>(others);
}

// Shared memory: partial sums (a double a warp lane), zeros (kSide), tables (kSide * kSide, L + 1, L + 1) where
// kInShared.
template <class Level, int kSide, bool kInShared>
__global__ void pairs_kernel(const PairsParams p) {
  const Team<kSide == 1> team{reinterpret_cast<double*>(dynamic_shared())};
  auto* zeros = reinterpret_cast<uint32_t*>(team.partial + kWarpLanes);
  const uint32_t size = (p.num_levels + 1) * (p.num_levels + 1);
  uint32_t* tables = kInShared ? zeros + kSide : p.tables + int64_t{blockIdx.x} * size;
  for (uint32_t i = blockIdx.x; i < p.blocks; i += gridDim.x) {
    const PairsBlock block = pairs_block<kSide>(p, i);
    for (uint32_t j = threadIdx.x; j < kSide * kSide * size; j += blockDim.x) tables[j] = 0;
    for (uint32_t j = threadIdx.x; j < kSide; j += blockDim.x) zeros[j] = 0;
    __syncthreads();
    count_pairs<Level, kSide>(p, block, tables, zeros);
    for (uint32_t pair = team.number(); pair < kSide * kSide; pair += team.teams()) {
      const uint32_t row = pair / kSide, column = pair % kSide, a = block.row + row, b = block.column + column;
      if (row >= block.rows || column >= block.columns || a > b) continue;
      uint32_t* table = tables + pair * size;
      complete(p, team, table, zeros[row]);
      if constexpr (kSide == 1) {
        __syncthreads();
      } else {
        __syncwarp();
      }
      finish(p, team, table, a, b);
    }
    __syncthreads();
  }
}

// Levels of all channels as bits; a warp makes a word at a time. Beyond the last site nothing is valid.
__global__ void pairs_words_kernel(const PairsParams p) {
  const uint32_t lane = threadIdx.x % kWarpLanes;
  const int64_t step = int64_t{gridDim.x} * (blockDim.x / kWarpLanes);
  int64_t i = int64_t{blockIdx.x} * (blockDim.x / kWarpLanes) + threadIdx.x / kWarpLanes;
  for (; i < p.channels * p.words; i += step) {
    const int64_t channel = i / p.words, site = i % p.words * kWarpLanes + lane;
    uint32_t level = p.num_levels;
    if (site < p.pitch) level = static_cast<const uint8_t*>(p.levels)[channel * p.pitch + site];
    const uint32_t valid = __ballot_sync(kAllLanes, level < p.num_levels);
    LevelBits bits{};
    bits.x = __ballot_sync(kAllLanes, level & 1);
    bits.y = __ballot_sync(kAllLanes, level & 2);
    bits.z = __ballot_sync(kAllLanes, level & 4);
    bits.w = __ballot_sync(kAllLanes, level & 8);
    if (lane != 0) continue;
    p.bits[i] = bits;
    p.valid[i] = valid;
  }
}

using PairSums = int32_t[2][4];  // of a pair of channels: levels 0 to 7 of the second one, and 8 to 15

// Counts the pairs of the channels row, ... with column, ...; those beyond the last channel stand for the last.
__device__ inline void count_pairs_of_bits(const PairsParams& p, uint32_t row, uint32_t column,
                                           PairSums (&sums)[kBitRows][kBitColumns]) {
  const uint32_t lane = threadIdx.x % kWarpLanes;
  const LevelPair levels(lane / 4);
  const bool both = p.num_levels > 8;
  const auto select = [&](uint32_t channel, int64_t word, uint32_t& low, uint32_t& high) {
    const int64_t at = (channel < p.channels ? channel : p.channels - 1) * p.words + word;
    levels.select(p.bits[at], p.valid[at], low, high);
  };
  for (int64_t j = lane % 4; j < p.words; j += kStep) {
    uint32_t lines[kBitRows][4];
#pragma unroll
    for (uint32_t a = 0; a < kBitRows; ++a) {
      select(row + a, j, lines[a][0], lines[a][1]);
      select(row + a, j + 4, lines[a][2], lines[a][3]);
    }
#pragma unroll
    for (uint32_t b = 0; b < kBitColumns; ++b) {
      uint32_t low[2], high[2];
      select(column + b, j, low[0], high[0]);
      select(column + b, j + 4, low[1], high[1]);
#pragma unroll
      for (uint32_t a = 0; a < kBitRows; ++a) {
        add_common_bits(sums[a][b][0], lines[a], low);
        if (both) add_common_bits(sums[a][b][1], lines[a], high);
      }
    }
  }
}

// Shared memory: a table (L + 1, L + 1) a warp.
__global__ void __launch_bounds__(kPairsThreads, 2) pairs_bits_kernel(const PairsParams p) {
  const Team<false> team{nullptr};
  const uint32_t L = p.num_levels, side = L + 1, lane = team.lane(), warp = team.number();
  uint32_t* table = reinterpret_cast<uint32_t*>(dynamic_shared()) + warp * side * side;
  const PairsBlock block = pairs_block<kBitSide>(p, blockIdx.x);
  const uint32_t row = block.row + warp / (kBitSide / kBitColumns) * kBitRows;
  const uint32_t column = block.column + warp % (kBitSide / kBitColumns) * kBitColumns;
  PairSums sums[kBitRows][kBitColumns] = {};
  count_pairs_of_bits(p, row, column, sums);
#pragma unroll
  for (uint32_t a = 0; a < kBitRows; ++a) {
#pragma unroll
    for (uint32_t b = 0; b < kBitColumns; ++b) {
      if (row + a > column + b || column + b >= p.channels) continue;
#pragma unroll
      for (uint32_t i = 0; i < 8; ++i) {
        const uint32_t g = lane / 4 + i % 4 / 2 * 8, h = i / 4 * 8 + lane % 4 * 2 + i % 2;
        if (g < L && h < L) table[g * side + h] = static_cast<uint32_t>(sums[a][b][i / 4][i % 4]);
      }
      __syncwarp();
      finish(p, team, table, row + a, column + b);
      __syncwarp();
    }
  }
}

}  // namespace
}  // namespace ppf::cuda
