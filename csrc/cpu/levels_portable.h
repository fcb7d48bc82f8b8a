// Levels of a run of float32 values (the rule: core/levels.h), in plain C++ that a compiler can vectorise.
// A value without a level gets the sentinel L; how many there were is returned.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../core/levels.h"

namespace ppf::cpu {

// Few edges: count them one after the other over a small block of values, so that both loops stay in registers and L1.
inline constexpr int kMaxComparedEdges = 31;
inline constexpr int64_t kLevelBlock = 64;

template <class Level>
int64_t levels_by_comparison(const float* values, int64_t n, const float* edges, int num_edges, Level* out) {
  int64_t nans = 0;
  for (int64_t begin = 0; begin < n; begin += kLevelBlock) {
    const int64_t count = std::min(kLevelBlock, n - begin);
    const float* x = values + begin;
    int32_t level[kLevelBlock] = {};
    for (int e = 0; e < num_edges; ++e) {
      for (int64_t i = 0; i < count; ++i) level[i] += edges[e] < x[i];
    }
    int32_t block_nans = 0;
    for (int64_t i = 0; i < count; ++i) {
      const bool nan = has_no_level(x[i]);
      block_nans += nan;
      out[begin + i] = static_cast<Level>(nan ? num_edges + 1 : level[i]);
    }
    nans += block_nans;
  }
  return nans;
}

// Many edges: a binary search without branches.
template <class Level>
int64_t levels_by_search(const float* values, int64_t n, const float* edges, int num_edges, Level* out) {
  int64_t nans = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float x = values[i];
    const float* base = edges;
    int length = num_edges;
    while (length > 1) {
      const int half = length / 2;
      base += base[half - 1] < x ? half : 0;
      length -= half;
    }
    const bool nan = has_no_level(x);
    nans += nan;
    const auto level = (base - edges) + (*base < x);
    out[i] = static_cast<Level>(nan ? num_edges + 1 : level);
  }
  return nans;
}

template <class Level>
int64_t levels_of(const float* values, int64_t n, const float* edges, int num_edges, Level* out) {
  return num_edges <= kMaxComparedEdges ? levels_by_comparison(values, n, edges, num_edges, out)
                                        : levels_by_search(values, n, edges, num_edges, out);
}

}  // namespace ppf::cpu
