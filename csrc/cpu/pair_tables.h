// Tables of 32-bit pair counters, for kernels that count pairs one by one: half the memory of the counts, and in it
// only what is counted now.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace ppf::cpu {

inline constexpr int64_t kTableLimit = int64_t{1} << 31;  // pairs that they take before they must be added

class PairTables {
 public:
  // For `channels` times `tables` tables; none unless the kernels want them.
  PairTables(int64_t channels, int64_t tables, int num_levels)
      : num_levels_(num_levels),
        size_(tables * (num_levels + 1) * (num_levels + 1)),
        counters_(wants_tables(num_levels) ? channels * size_ : 0) {}

  // The channel's tables for counting `pairs` pairs, or nullptr: few pairs go straight into the counts.
  uint32_t* of(int64_t channel, int64_t pairs) {
    const bool worth = !counters_.empty() && pairs >= int64_t{num_levels_} * num_levels_;
    return worth ? counters_.data() + channel * size_ : nullptr;
  }

  // Adds a channel's tables to its counts (tables, L, L), or all to one (L, L), and clears them.
  void add_to(int64_t* counts, int64_t channel, bool merge = false) {
    uint32_t* const first = counters_.data() + channel * size_;
    const int side = num_levels_ + 1;
    for (uint32_t* table = first; table < first + size_; table += side * side) {
      for (int g = 0; g < num_levels_; ++g) {
        for (int h = 0; h < num_levels_; ++h) counts[g * num_levels_ + h] += table[g * side + h];
      }
      counts += merge ? 0 : num_levels_ * num_levels_;
    }
    std::fill_n(first, size_, 0u);
  }

 private:
  const int num_levels_;
  const int64_t size_;
  std::vector<uint32_t> counters_;
};

}  // namespace ppf::cpu
