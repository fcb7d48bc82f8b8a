// take on a GPU. Contract: core/take.h.
//
// Many tensors are cut by one launch: a table of descriptors comes with the launch, and each block copies one tile of
// one tensor's output. A thread copies words of 16, 8, 4, 2 or 1 bytes, the widest that the tensor's runs of memory
// allow; neighbouring threads write neighbouring words.
#pragma once

#include "device.cuh"

namespace ppf::cuda {

inline constexpr int kTakeThreads = 256, kTakeWords = 4;  // words a thread copies
inline constexpr int kTakeTile = kTakeThreads * kTakeWords;
inline constexpr int kTakeAxes = 6;  // those behind rows and columns

// One tensor. All strides and lengths are in words.
struct Cut {
  const char* from;
  char* to;
  const int64_t* rows;     // null: all of them
  const int64_t* columns;  // null: all of them
  int64_t row_stride, column_stride;
  int64_t stride[kTakeAxes];
  uint32_t words;        // of the output
  uint32_t first_block;  // of the grid
  uint32_t word_bytes, axes;
  Divider by_row, by_column;     // words of out[i] and of out[i, j]
  Divider by_extent[kTakeAxes];  // of the axes behind
};

template <int kCuts>
struct TakeParams {
  uint32_t count;
  Cut cuts[kCuts];
};

namespace {

// Where a word of the output comes from.
__device__ inline int64_t source_of(const Cut& cut, uint32_t word) {
  const uint32_t i = cut.by_row.quotient(word), in_row = word - i * cut.by_row.divisor;
  const uint32_t j = cut.by_column.quotient(in_row);
  uint32_t rest = in_row - j * cut.by_column.divisor;
  int64_t at = (cut.rows != nullptr ? cut.rows[i] : i) * cut.row_stride +
               (cut.columns != nullptr ? cut.columns[j] : j) * cut.column_stride;
  for (uint32_t axis = cut.axes; axis-- > 0;) {  // the innermost one varies fastest
    const uint32_t outer = cut.by_extent[axis].quotient(rest);
    at += (rest - outer * cut.by_extent[axis].divisor) * cut.stride[axis];
    rest = outer;
  }
  return at;
}

template <class Word>
__device__ void take_tile(const Cut& cut, uint32_t tile) {
  Word word[kTakeWords];
  const uint32_t first = tile * kTakeTile + threadIdx.x;
#pragma unroll
  for (int v = 0; v < kTakeWords; ++v) {  // all reads are under way before the first write
    const uint32_t i = first + v * kTakeThreads;
    if (i < cut.words) word[v] = reinterpret_cast<const Word*>(cut.from)[source_of(cut, i)];
  }
#pragma unroll
  for (int v = 0; v < kTakeWords; ++v) {
    const uint32_t i = first + v * kTakeThreads;
    if (i < cut.words) reinterpret_cast<Word*>(cut.to)[i] = word[v];
  }
}

template <int kCuts>
__global__ void __launch_bounds__(kTakeThreads) take_kernel(const TakeParams<kCuts> p) {
  uint32_t low = 0, high = p.count;  // the last cut that starts at or before this block
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    (p.cuts[middle].first_block <= blockIdx.x ? low : high) = middle;
  }
  const Cut& cut = p.cuts[low];
  const uint32_t tile = blockIdx.x - cut.first_block;
  switch (cut.word_bytes) {
    case 16:
      return take_tile<uint4>(cut, tile);
    case 8:
      return take_tile<uint64_t>(cut, tile);
    case 4:
      return take_tile<uint32_t>(cut, tile);
    case 2:
      return take_tile<uint16_t>(cut, tile);
    default:
      return take_tile<uint8_t>(cut, tile);
  }
}

}  // namespace
}  // namespace ppf::cuda
