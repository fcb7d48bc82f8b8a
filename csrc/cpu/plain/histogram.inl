// Level counts in plain C++. Included by vectorized.inl.

constexpr int kMaxComparedLevels = 64;

// Few levels: one pass of comparisons a level over a block in L1, summed in bytes that cannot overflow.
inline void histogram_by_comparison(const uint8_t* levels, int64_t n, int num_levels, int64_t* counts) {
  constexpr int64_t kLanes = 64, kRows = 255;
  for (int64_t begin = 0; begin < n; begin += kLanes * kRows) {
    const int64_t count = n - begin < kLanes * kRows ? n - begin : kLanes * kRows;
    const uint8_t* block = levels + begin;
    const int64_t rows = count / kLanes;
    for (int g = 0; g < num_levels; ++g) {
      const auto level = static_cast<uint8_t>(g);
      uint8_t lane[kLanes] = {};
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t i = 0; i < kLanes; ++i) lane[i] += block[row * kLanes + i] == level;
      }
      uint32_t sum = 0;
      for (int64_t i = 0; i < kLanes; ++i) sum += lane[i];
      for (int64_t i = rows * kLanes; i < count; ++i) sum += block[i] == level;
      counts[g] += sum;
    }
  }
}

template <class Level>
void histogram(const Level* levels, int64_t n, int num_levels, int64_t* counts) {
  if constexpr (sizeof(Level) == 1) {
    if (num_levels <= kMaxComparedLevels) return histogram_by_comparison(levels, n, num_levels, counts);
  }
  // Two tables take turns, so that equal neighbours do not wait for each other.
  int64_t table[2][257] = {};
  int64_t i = 0;
  for (; i + 1 < n; i += 2) {
    ++table[0][levels[i]];
    ++table[1][levels[i + 1]];
  }
  if (i < n) ++table[0][levels[i]];
  for (int g = 0; g < num_levels; ++g) counts[g] += table[0][g] + table[1][g];
}
