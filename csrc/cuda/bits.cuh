// Levels as bits, for L <= 16: the sites of a map, 32 at a time, as four words, one a bit of the level. A warp makes
// them by comparison and ballot: each answer of the search for a level is one of its bits. Which of the 32 sites have a
// given level is then three logic operations, and how many of 256 pairs of sites have given levels a product of bits.
#pragma once

#include "levels.cuh"

namespace ppf::cuda {

inline constexpr uint32_t kBitLevels = 16;  // the most that four bits hold
inline constexpr uint32_t kStep = 8;        // words that a product takes at a time

using LevelBits = uint4;  // .x: bit 0, of 32 sites

namespace {

// The edges of one channel as the questions of a search for a level, those asked first in front: place 0 halves the
// levels, 1 and 2 the halves, and so on. Beyond the last edge all are +inf, which is below nothing.
__device__ inline float question(const LevelSource& x, uint32_t channel, uint32_t place) {
  const uint32_t depth = (place > 0) + (place > 2) + (place > 6);
  return padded_edge(x, channel, ((2 * (place + 1 - (1u << depth)) + 1) << (3 - depth)) - 1);
}

// The questions of one channel: all but the last ones in registers.
struct SearchTree {
  Vector<float, 4> first, second;
  const float* last;  // in shared memory, as `question` has them

  __device__ explicit SearchTree(const float* questions)
      : first(load<4>(questions)), second(load<4>(questions + 4)), last(questions + 7) {}
};

// The bits of the levels of 32 sites, one a lane, in all lanes. What is no number has level 0 here.
__device__ inline LevelBits level_bits(float x, const SearchTree& tree) {
  const float* ask = tree.first.item;
  const bool bit3 = ask[0] < x;
  const bool bit2 = (bit3 ? ask[2] : ask[1]) < x;
  const float below = bit2 ? tree.second.item[0] : ask[3];
  const float above = bit2 ? tree.second.item[2] : tree.second.item[1];
  const bool bit1 = (bit3 ? above : below) < x;
  const float* leaf = bit3 ? tree.last + 4 : tree.last;
  leaf = bit2 ? leaf + 2 : leaf;
  const bool bit0 = leaf[bit1] < x;
  return {__ballot_sync(kAllLanes, bit0), __ballot_sync(kAllLanes, bit1), __ballot_sync(kAllLanes, bit2),
          __ballot_sync(kAllLanes, bit3)};
}

// Selects sites by level: those of level `row` and of level `row` + 8 among those in `of`.
struct LevelPair {
  uint32_t not0, not1, not2;  // all bits set where the level has none

  __device__ explicit LevelPair(uint32_t row)
      : not0((row & 1) - 1), not1((row >> 1 & 1) - 1), not2((row >> 2 & 1) - 1) {}

  __device__ void select(const LevelBits& bits, uint32_t of, uint32_t& low, uint32_t& high) const {
    const uint32_t both = (bits.x ^ not0) & (bits.y ^ not1) & (bits.z ^ not2) & of;
    low = both & ~bits.w;
    high = both & bits.w;
  }
};

// Adds to sums (16, 8) how many of 256 bits two lines have in common; of `lines` (16, 256) and `columns` (8, 256). Lane
// 4 i + j holds: of lines i and i + 8 the words j and j + 4 (lines[0], [1]: word j; [2], [3]: word j + 4), of column i
// likewise, and of the sums the cells (i, 2 j), (i, 2 j + 1), (i + 8, 2 j), (i + 8, 2 j + 1).
__device__ inline void add_common_bits(int32_t (&sums)[4], const uint32_t (&lines)[4], const uint32_t (&columns)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(lines[0]), "r"(lines[1]), "r"(lines[2]), "r"(lines[3]), "r"(columns[0]), "r"(columns[1]));
#else
  const uint32_t lane = threadIdx.x % kWarpLanes, i = lane / 4, j = lane % 4;
  for (uint32_t word = 0; word < 4; ++word) {
    uint32_t of_lines[4], of_columns[2][2];
    for (int v = 0; v < 4; ++v) of_lines[v] = __shfl_sync(kAllLanes, lines[v], 4 * i + word);
    for (int c = 0; c < 2; ++c) {
      for (int v = 0; v < 2; ++v) of_columns[c][v] = __shfl_sync(kAllLanes, columns[v], 4 * (2 * j + c) + word);
    }
    for (int c = 0; c < 4; ++c) {
      const uint32_t* column = of_columns[c % 2];
      sums[c] += __popc(of_lines[c / 2] & column[0]) + __popc(of_lines[2 + c / 2] & column[1]);
    }
  }
#endif
}

}  // namespace
}  // namespace ppf::cuda
