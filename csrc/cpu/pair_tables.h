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
  // For `tables` tables of each channel and classes of up to `most` pairs; none unless the kernels want them.
  PairTables(int64_t channels, int64_t tables, int num_levels, int64_t most)
      : num_levels_(num_levels), side_(num_levels + 1), tables_(tables), size_(size(worth_three(most))) {
    if (wants_tables(num_levels)) counters_.assign(channels * size_, 0u);
  }

  // The channel's tables for counting `pairs` pairs of each. Few go straight into the counts: clearing and adding
  // tables would cost more than counting.
  CountTables of(int64_t channel, int64_t pairs) {
    if (counters_.empty() || pairs < num_levels_ * num_levels_) return {};
    return {counters_.data() + channel * size_, worth_three(pairs)};
  }

  // Adds a channel's tables to its counts (tables, L, L), or all to one (L, L), and clears them.
  void add_to(int64_t* counts, int64_t channel, bool of_three, bool merge = false) {
    uint32_t* table = counters_.data() + channel * size_;
    const int64_t next = merge ? 0 : num_levels_ * num_levels_;
    int64_t left = tables_;
    for (; of_three && left >= 2; left -= 2, counts += 2 * next, table += side_ * side_ * side_) {
      add_both(table, counts, counts + next);
    }
    for (; left > 0; --left, counts += next, table += side_ * side_) {
      for (int64_t g = 0; g < num_levels_; ++g) {
        for (int64_t h = 0; h < num_levels_; ++h) counts[g * num_levels_ + h] += table[g * side_ + h];
      }
    }
    std::fill_n(counters_.data() + channel * size_, size_, 0u);
  }

 private:
  static constexpr int kLevelsOfThree = 16;    // beyond that a table leaves the first-level cache
  static constexpr int64_t kPairsPerCell = 4;  // that make up for clearing and adding it

  bool worth_three(int64_t pairs) const {
    return tables_ >= 2 && num_levels_ <= kLevelsOfThree && pairs >= kPairsPerCell * side_ * side_ * side_;
  }

  int64_t size(bool of_three) const {
    return of_three ? tables_ / 2 * side_ * side_ * side_ + tables_ % 2 * side_ * side_ : tables_ * side_ * side_;
  }

  // The pairs of a site with its first and with its second neighbour, whatever the other one is.
  void add_both(const uint32_t* table, int64_t* first, int64_t* second) const {
    for (int64_t g = 0; g < num_levels_; ++g) {
      for (int64_t b = 0; b < side_; ++b) {
        const uint32_t* row = table + (g * side_ + b) * side_;
        int64_t sum = 0;
        for (int64_t c = 0; c < side_; ++c) sum += row[c];
        if (b < num_levels_) first[g * num_levels_ + b] += sum;
        for (int64_t c = 0; c < num_levels_; ++c) second[g * num_levels_ + c] += row[c];
      }
    }
  }

  const int64_t num_levels_, side_, tables_, size_;
  std::vector<uint32_t> counters_;
};

}  // namespace ppf::cpu
