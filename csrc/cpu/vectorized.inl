// The inner loops in plain C++ that a compiler vectorises. Included once for every SIMD level, inside that level's
// namespace and target region: no header may be included here, and no library function called that could be shared
// between levels.

// --- levels ----------------------------------------------------------------------------------------------------------

constexpr int64_t kLevelBlock = 256;
constexpr int kMaxComparedEdges = 31;

// Few edges: count them one after the other over a small block of values.
template <class Level>
int64_t levels_by_comparison(const float* values, int64_t n, const float* edges, int num_edges, Level* out) {
  int64_t nans = 0;
  for (int64_t begin = 0; begin < n; begin += kLevelBlock) {
    const int64_t count = n - begin < kLevelBlock ? n - begin : kLevelBlock;
    const float* x = values + begin;
    int32_t level[kLevelBlock];
    for (int64_t i = 0; i < count; ++i) level[i] = x[i] != x[i] ? num_edges + 1 : 0;
    for (int64_t i = 0; i < count; ++i) nans += level[i] != 0;
    for (int e = 0; e < num_edges; ++e) {
      const float edge = edges[e];
      for (int64_t i = 0; i < count; ++i) level[i] += edge < x[i];
    }
    for (int64_t i = 0; i < count; ++i) out[begin + i] = static_cast<Level>(level[i]);
  }
  return nans;
}

// Many edges: a binary search without branches, several values side by side.
template <class Level>
int64_t levels_by_search(const float* values, int64_t n, const float* edges, int num_edges, Level* out) {
  int64_t nans = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float x = values[i];
    int base = 0;
    for (int length = num_edges; length > 1;) {
      const int half = length / 2;
      base += edges[base + half - 1] < x ? half : 0;
      length -= half;
    }
    const bool nan = x != x;
    nans += nan;
    out[i] = static_cast<Level>(nan ? num_edges + 1 : base + (edges[base] < x));
  }
  return nans;
}

template <class Level>
int64_t search_levels(const float* values, int64_t n, const float* edges, int num_edges, Level* out) {
  return num_edges <= kMaxComparedEdges ? levels_by_comparison(values, n, edges, num_edges, out)
                                        : levels_by_search(values, n, edges, num_edges, out);
}

// --- values of other types
// --------------------------------------------------------------------------------------------

template <class T>
inline void widen(const T* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = to_float(x[i]);
}

inline void widen(const float16* x, int64_t n, float* out) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
  }
#endif
  for (; i < n; ++i) out[i] = to_float(x[i]);
}

// What a search over float32 finds in values of any type.
template <auto kSearch, class T, class Level>
int64_t levels_by(const T* x, int64_t n, const EdgeSearch& edges, Level* out) {
  float values[2 * kLevelBlock];
  int64_t nans = 0;
  for (int64_t begin = 0; begin < n; begin += 2 * kLevelBlock) {
    const int64_t count = n - begin < 2 * kLevelBlock ? n - begin : 2 * kLevelBlock;
    widen(x + begin, count, values);
    nans += kSearch(values, count, edges.edges, edges.num_edges, out + begin);
  }
  return nans;
}

template <auto kSearch, class Level>
int64_t levels_by(const float* x, int64_t n, const EdgeSearch& edges, Level* out) {
  return kSearch(x, n, edges.edges, edges.num_edges, out);
}

constexpr int64_t kTransposeChannels = 32;
constexpr int64_t kSitesAhead = 32;  // their distance is too long for the machine to guess

template <class T>
void transpose(const T* x, int64_t n, int64_t stride, int64_t channels, float* out, int64_t pitch) {
  float tile[16 * kTransposeChannels] = {};
  for (int64_t i = 0; i < n; i += 16) {
    const int64_t rows = n - i < 16 ? n - i : 16;
    for (int64_t r = 0; r < rows; ++r) __builtin_prefetch(x + (i + kSitesAhead + r) * stride);
    for (int64_t r = 0; r < rows; ++r) widen(x + (i + r) * stride, channels, tile + r * kTransposeChannels);
    transpose_16(tile, kTransposeChannels, channels, out + i, pitch);
  }
}

inline void transpose(const float* x, int64_t n, int64_t stride, int64_t channels, float* out, int64_t pitch) {
  const int64_t whole = channels % 4 == 0 ? n / 16 * 16 : 0;
  for (int64_t i = 0; i < whole; i += 16) {
    for (int64_t r = i + kSitesAhead; r < i + kSitesAhead + 16; ++r) __builtin_prefetch(x + r * stride);
    transpose_16(x + i * stride, stride, channels, out + i, pitch);
  }
  if (whole < n) transpose<float>(x + whole * stride, n - whole, stride, channels, out + whole, pitch);
}

// --- histogram -------------------------------------------------------------------------------------------------------

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

// --- cooccurrences, cross --------------------------------------------------------------------------------------------

constexpr int64_t kPairBlock = 512;
// Two runs of which pairs are counted, and where.
template <class Level>
struct PairOf {
  const Level *a, *b;
  int64_t* counts;
  uint32_t* table;
};

// Cells of a block of pairs are computed first, which vectorises; then counted. The tables take turns in the inner
// loop, so that increments of one cell (a rectified map's zeros) do not wait for each other.
template <class Cell, int kPairs, class Level>
void count_in_tables(const PairOf<Level>* pairs, int64_t n, int num_levels) {
  const int side = num_levels + 1;
  Cell cell[kPairs][kPairBlock];
  uint32_t* table[kPairs];
  for (int r = 0; r < kPairs; ++r) table[r] = pairs[r].table;
  for (int64_t begin = 0; begin < n; begin += kPairBlock) {
    const int64_t count = n - begin < kPairBlock ? n - begin : kPairBlock;
    for (int r = 0; r < kPairs; ++r) {
      const Level *a = pairs[r].a + begin, *b = pairs[r].b + begin;
      for (int64_t i = 0; i < count; ++i) cell[r][i] = static_cast<Cell>(a[i] * side + b[i]);
    }
    for (int64_t i = 0; i < count; ++i) {
      for (int r = 0; r < kPairs; ++r) ++table[r][cell[r][i]];
    }
  }
}

// Few pairs go straight into the counts: clearing and adding tables would cost more than counting. Pairs with a
// sentinel are counted in the first cell and taken off again.
template <int kPairs, class Level>
void count_directly(const PairOf<Level>* pairs, int64_t n, int num_levels) {
  uint16_t cell[kPairs][kPairBlock];
  const auto none = static_cast<Level>(num_levels);
  for (int64_t begin = 0; begin < n; begin += kPairBlock) {
    const int64_t count = n - begin < kPairBlock ? n - begin : kPairBlock;
    for (int r = 0; r < kPairs; ++r) {
      const Level *a = pairs[r].a + begin, *b = pairs[r].b + begin;
      uint16_t left_out = 0;
      for (int64_t i = 0; i < count; ++i) {
        const bool out = (a[i] == none) | (b[i] == none);
        cell[r][i] = static_cast<uint16_t>(out ? 0 : a[i] * num_levels + b[i]);
        left_out = static_cast<uint16_t>(left_out + out);
      }
      pairs[r].counts[0] -= left_out;
    }
    for (int64_t i = 0; i < count; ++i) {
      for (int r = 0; r < kPairs; ++r) ++pairs[r].counts[cell[r][i]];
    }
  }
}

template <int kPairs, class Level>
void count_pairs(const PairOf<Level>* pairs, int64_t n, int num_levels) {
  if (pairs[0].table == nullptr) return count_directly<kPairs>(pairs, n, num_levels);
  if (num_levels < 256) return count_in_tables<uint16_t, kPairs>(pairs, n, num_levels);
  count_in_tables<uint32_t, kPairs>(pairs, n, num_levels);
}

template <class Level>
void cooccurrences(const Level* site, const Level* neighbor, int64_t n, const int64_t* shift, int num_shifts,
                   int num_levels, int64_t* counts, int64_t stride, uint32_t* tables) {
  const int64_t table_size = int64_t{num_levels + 1} * (num_levels + 1);
  while (num_shifts > 0) {
    const int some = num_shifts < 4 ? num_shifts : 4;
    PairOf<Level> pairs[4];
    for (int r = 0; r < some; ++r) {
      pairs[r] = {site, neighbor + shift[r], counts + r * stride, tables ? tables + r * table_size : nullptr};
    }
    if (some == 4) count_pairs<4>(pairs, n, num_levels);
    if (some == 3) count_pairs<3>(pairs, n, num_levels);
    if (some == 2) count_pairs<2>(pairs, n, num_levels);
    if (some == 1) count_pairs<1>(pairs, n, num_levels);
    shift += some, num_shifts -= some, counts += some * stride, tables += tables ? some * table_size : 0;
  }
}

template <class Level>
void cross(const Level* const (&a)[2], const Level* const (&b)[2], int64_t n, int num_levels,
           int64_t* const (&counts)[4], uint32_t* tables) {
  const int64_t table_size = int64_t{num_levels + 1} * (num_levels + 1);
  PairOf<Level> pairs[4];
  for (int p = 0; p < 4; ++p) {
    pairs[p] = {a[p / 2], b[p % 2], counts[p], tables ? tables + p * table_size : nullptr};
  }
  count_pairs<4>(pairs, n, num_levels);
}

// --- norms -----------------------------------------------------------------------------------------------------------

template <int kPower, bool kFactor, class T>
inline float norm_term(const T* x, const T* factor, int64_t i) {
  float value = to_float(x[i]);
  if constexpr (kFactor) value *= to_float(factor[i]);
  return kPower == 1 ? __builtin_fabsf(value) : value * value;
}

// Adds the terms of up to kSide rows to the sums of their positions, and leaves each row's own sum.
template <int kSide, int kPower, bool kFactor, class T>
void norm_rows(const T* __restrict x, const T* __restrict factor, int64_t row_stride, int64_t entries,
               double* __restrict row_sums, float* __restrict position_sums) {
  constexpr int kLanes = 16;
  float lane[kSide][kLanes] = {};
  int64_t m = 0;
  for (; m + kLanes <= entries; m += kLanes) {
    float sum[kLanes] = {};
    for (int r = 0; r < kSide; ++r) {
      for (int l = 0; l < kLanes; ++l) {
        const float term =
            norm_term<kPower, kFactor>(x + r * row_stride, factor + (kFactor ? r * row_stride : 0), m + l);
        lane[r][l] += term;
        sum[l] += term;
      }
    }
    for (int l = 0; l < kLanes; ++l) position_sums[m + l] += sum[l];
  }
  for (int r = 0; r < kSide; ++r) {
    double row = 0;
    for (int l = 0; l < kLanes; ++l) row += lane[r][l];
    for (int64_t i = m; i < entries; ++i) {
      const float term = norm_term<kPower, kFactor>(x + r * row_stride, factor + (kFactor ? r * row_stride : 0), i);
      row += term;
      position_sums[i] += term;
    }
    row_sums[r] = row;
  }
}

template <int kPower, bool kFactor, class T>
void norms(const T* x, const T* factor, int64_t row_stride, int64_t rows, int64_t entries, double* row_sums,
           float* position_sums) {
  constexpr int kSide = 4;
  int64_t r = 0;
  for (; r + kSide <= rows; r += kSide) {
    const int64_t at = r * row_stride;
    norm_rows<kSide, kPower, kFactor>(x + at, kFactor ? factor + at : factor, row_stride, entries, row_sums + r,
                                      position_sums);
  }
  for (; r < rows; ++r) {
    const int64_t at = r * row_stride;
    norm_rows<1, kPower, kFactor>(x + at, kFactor ? factor + at : factor, row_stride, entries, row_sums + r,
                                  position_sums);
  }
}

template <class T>
NormBlock<T> norm_block(int power, bool with_factor) {
  if (power == 1) return with_factor ? norms<1, true, T> : norms<1, false, T>;
  return with_factor ? norms<2, true, T> : norms<2, false, T>;
}
