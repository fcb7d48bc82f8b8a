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
    const int64_t L = num_levels_, side = side_, next = merge ? 0 : L * L;  // counts may not be taken for members
    int64_t left = tables_;
    for (; of_three && left >= 2; left -= 2, counts += 2 * next, table += side * side * side) {
      add_both(table, counts, counts + next, L);
    }
    for (; left > 0; --left, counts += next, table += side * side) {
      for (int64_t g = 0; g < L; ++g) {
        for (int64_t h = 0; h < L; ++h) counts[g * L + h] += table[g * side + h];
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
  static void add_both(const uint32_t* row, int64_t* first, int64_t* second, int64_t L) {
    for (int64_t g = 0; g < L; ++g) {
      for (int64_t b = 0; b <= L; ++b, row += L + 1) {
        int64_t sum = 0;
        for (int64_t c = 0; c <= L; ++c) sum += row[c];
        if (b < L) first[g * L + b] += sum;
        for (int64_t c = 0; c < L; ++c) second[g * L + c] += row[c];
      }
    }
  }

  const int64_t num_levels_, side_, tables_, size_;
  std::vector<uint32_t> counters_;
};

}  // namespace ppf::cpu
