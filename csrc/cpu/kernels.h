// The inner loops, one set for each SIMD level. All sets give the same results, bit for bit.
//
// Level is uint8_t up to L = 255 and uint16_t for L = 256; the sentinel L stands for "no level".
#pragma once

#include <cstdint>

#include "../core/correction.h"
#include "../core/dtype.h"
#include "isa.h"

namespace ppf::cpu {

struct Padding;

inline constexpr int kGridCells = 128, kGridEdges = 31;

// The edges of one channel, made ready for a search: for levels_vbmi.h also a grid over them.
struct alignas(64) EdgeSearch {
  float padded[kGridEdges + 1];  // the edges, then +inf
  uint8_t below[kGridCells];     // cell -> edges in lower cells
  float scale, offset;           // value -> cell
  bool grid;                     // is there one that separates these edges?
  const float* edges;
  int num_edges;
};

// Levels of n values (the rule: core/levels.h); the sentinel for NaN. Returns the number of sentinels.
template <class T, class Level>
using ReadLevels = int64_t (*)(const T* x, int64_t n, const EdgeSearch& search, Level* out);

// out[c * pitch + i] = x[i * stride + c] as float32 (float64: rounded) for i < n, c < channels. Writes whole blocks of
// 16 sites and 4 channels.
template <class T>
using Transpose = void (*)(const T* x, int64_t n, int64_t stride, int64_t channels, float* out, int64_t pitch);

// Tables (L+1, L+1) of 32-bit counters, one a pair of runs, the last row and column without meaning. If `of_three`, a
// table (L+1, L+1, L+1) for every two shifts: site, first and second neighbour; and one (L+1, L+1) for an odd last one.
struct CountTables {
  uint32_t* counters = nullptr;
  bool of_three = false;
};

template <class Level>
struct Kernels {
  // For a search of about so many values.
  void (*prepare)(const float* edges, int num_edges, int64_t values, EdgeSearch& to);

  // counts[level] += 1 for n levels; sentinels are left out.
  void (*histogram)(const Level* levels, int64_t n, int num_levels, int64_t* counts);

  // Puts dense maps into a run; `run` points to the first one's first site. Gaps between and after them are filled.
  void (*place)(const Level* dense, int64_t maps, const Padding& padding, Level sentinel, Level* run);

  // counts[r * stride + g * L + h] += #{ i < n : site[i] = g, neighbor[i + shift[r]] = h } for num_shifts shifts.
  // A stride of 0 merges them into one table.
  // neighbor is readable from the smallest shift (which may be negative) to n + the largest, and kSlack levels further.
  // Where the kernel wants tables and they are given, those are added to instead.
  void (*cooccurrences)(const Level* site, const Level* neighbor, int64_t n, const int64_t* shift, int num_shifts,
                        int num_levels, int64_t* counts, int64_t stride, CountTables tables);

  // counts[2 p + q][g * L + h] += #{ i < n : a[p][i] = g, b[q][i] = h }. All are readable for kSlack levels further.
  void (*cross)(const Level* const (&a)[2], const Level* const (&b)[2], int64_t n, int num_levels,
                int64_t* const (&counts)[4], CountTables tables);
};

// Are pairs of L levels counted one by one? Then small tables of 32 bits, which must be cleared and added to the counts
// in the end, are faster for many pairs.
bool wants_tables(int num_levels);

inline constexpr int kTileLevels = 16;  // up to here products of tiles count pairs
inline constexpr int64_t kSlack = 128;

// Sums of |x|^p (or |x * factor|^p) of a block of rows: each row's own is written, the sums of positions are added to.
template <class T>
using NormBlock = void (*)(const T* x, const T* factor, int64_t row_stride, int64_t rows, int64_t entries,
                           double* row_sums, float* position_sums);

// A norm with masked statistics (core/masked_norm.h) over rows of `channels`; `total` is the mask's sum.
template <class T>
struct MaskedNorm {
  const T *mask, *weight, *bias;
  int64_t channels;
  double total, eps;
  bool centred;
};

template <class T>
struct MaskedNormKernels {
  void (*forward)(const MaskedNorm<T>& norm, const T* x, int64_t rows, T* y, T* mean, T* variance);

  // dweight and dbias may be nullptr, both. Sums over rows are added to; dmask's lacks its factor -1 / M.
  void (*backward)(const MaskedNorm<T>& norm, const T* grad, const T* x, int64_t rows, const T* mean, const T* variance,
                   T* dx, T* dmask, T* dweight, T* dbias);
};

// Combines low, high and nans of up to kRangeWidth columns with outer * rows rows of x.
inline constexpr int64_t kRangeWidth = 1024;
template <class T>
using RangeColumns = void (*)(const T* x, int64_t outer, int64_t outer_stride, int64_t rows, int64_t row_stride,
                              int64_t width, float* low, float* high, int64_t* nans);

// Writes the elements of a row whose bit in `keep` is set, one behind the other.
using CompressRow = void (*)(const char* row, int64_t columns, const uint64_t* keep, char* to);

// What an entropy is made of: the sum of terms (entropy_terms.h) and of n, the non-empty cells, and the bits that any
// count had set.
struct EntropySums {
  double terms = 0;
  uint64_t total = 0, used = 0, seen = 0;
};

// Adds some cells; `small` holds the terms of small counts.
using EntropySum = void (*)(const int64_t* counts, int64_t cells, const double* small, EntropySums* sums);

struct ChaoShenRow;

// Writes the factors (entropy_terms.h) of a row's counts 0..kRareCounts; 1 for 0, for kRareCounts, and for sure ones.
using UnseenFactors = void (*)(const ChaoShenRow& row, double* factors);

inline constexpr uint64_t kRareCounts = 64;

// The sum over some cells of (n log(1/r) - n log n) / (1 - (1 - q)^N), q = n r; `small` holds n log n.
using ChaoShenSum = double (*)(const int64_t* counts, int64_t cells, const double* small, const double* factors,
                               const ChaoShenRow& row);

// What the terms of James-Stein depend on: x = N p = base + slope n.
struct JamesSteinRow {
  double base, slope;
};

// The sum of x log x over the cells that are not empty.
using JamesSteinSum = double (*)(const int64_t* counts, int64_t cells, const JamesSteinRow& row);

struct EntropyKernels {
  EntropySum sum;
  UnseenFactors unseen_factors;
  ChaoShenSum chao_shen;
  JamesSteinSum james_stein;
};

// Each of these is of the active level.
template <class Level>
const Kernels<Level>& kernels();

template <class T, class Level>
ReadLevels<T, Level> read_levels();

template <class T>
Transpose<T> transpose();

template <class T>
NormBlock<T> norm_block(int power, bool with_factor);

template <class T>
MaskedNormKernels<T> masked_norm_kernels();

EntropyKernels entropy_kernels(Correction correction);

template <class T>
RangeColumns<T> range_columns();

// For elements of so many bytes; nullptr where the active level has none.
CompressRow compress_row(int64_t element_bytes);

}  // namespace ppf::cpu
