// The inner loops, one set for each SIMD level. All sets give the same results, bit for bit.
//
// Level is uint8_t up to L = 255 and uint16_t for L = 256; the sentinel L stands for "no level".
#pragma once

#include <cstdint>

#include "../core/dtype.h"
#include "isa.h"

namespace ppf::cpu {

template <class Level>
struct Kernels {
  // Levels of n values (the rule: core/levels.h); the sentinel for NaN. Returns the number of sentinels.
  int64_t (*levels)(const float* x, int64_t n, const float* edges, int num_edges, Level* out);

  // table[level] += 1 for n levels; L + 1 counters.
  void (*histogram)(const Level* levels, int64_t n, int num_levels, uint32_t* table);

  // tables[r][site[i] * side + neighbor[i + shift[r]]] += 1 for i < n, side = L + 1, for num_shifts tables.
  // neighbor is readable from the smallest shift (which may be negative) to n + the largest, and 64 levels further.
  // Cells that hold a sentinel may be left out: nobody reads them.
  void (*cooccurrences)(const Level* site, const Level* neighbor, int64_t n, const int64_t* shift, int num_shifts,
                        int num_levels, uint32_t* tables);
};

// Bringing values together as float32, which is exact (float64: rounding). Strides are 1 but for `strided`.
struct Widening {
  void (*strided)(const float* x, int64_t n, int64_t stride, float* out);
  void (*from_float16)(const float16* x, int64_t n, float* out);
  void (*from_bfloat16)(const bfloat16* x, int64_t n, float* out);
  void (*from_float64)(const double* x, int64_t n, float* out);
};

// Sums of |x|^p (or |x * factor|^p) of a block of rows: each row's own is written, the sums of positions are added to.
template <class T>
using NormBlock = void (*)(const T* x, const T* factor, int64_t row_stride, int64_t rows, int64_t entries,
                           double* row_sums, float* position_sums);

// Each of these is of the active level.
template <class Level>
const Kernels<Level>& kernels();

const Widening& widening();

template <class T>
NormBlock<T> norm_block(int power, bool with_factor);

}  // namespace ppf::cpu
