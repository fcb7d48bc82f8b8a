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
int64_t levels(const float* values, int64_t n, const float* edges, int num_edges, Level* out) {
  return num_edges <= kMaxComparedEdges ? levels_by_comparison(values, n, edges, num_edges, out)
                                        : levels_by_search(values, n, edges, num_edges, out);
}

// --- histogram -------------------------------------------------------------------------------------------------------

constexpr int kMaxComparedLevels = 64;

// Few levels: one pass of comparisons a level over a block in L1, summed in bytes that cannot overflow.
inline void histogram_by_comparison(const uint8_t* levels, int64_t n, int num_levels, uint32_t* table) {
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
      table[g] += sum;
    }
  }
}

template <class Level>
void histogram(const Level* levels, int64_t n, int num_levels, uint32_t* table) {
  if constexpr (sizeof(Level) == 1) {
    if (num_levels <= kMaxComparedLevels) return histogram_by_comparison(levels, n, num_levels, table);
  }
  // Two tables take turns, so that equal neighbours do not wait for each other.
  uint32_t other[257] = {};
  int64_t i = 0;
  for (; i + 1 < n; i += 2) {
    ++table[levels[i]];
    ++other[levels[i + 1]];
  }
  if (i < n) ++table[levels[i]];
  for (int g = 0; g <= num_levels; ++g) table[g] += other[g];
}

// --- cooccurrences
// -----------------------------------------------------------------------------------------------------------

constexpr int64_t kPairBlock = 512;

// Cells of a block of pairs are computed first, which vectorises; then counted. Offsets take turns in the inner loop,
// so that increments of one cell (a rectified map's zeros) do not wait for each other.
template <int kShifts, class Level, class Cell>
void cooccurrences_of(const Level* site, const Level* neighbor, int64_t n, const int64_t* shift, int side,
                      uint32_t* tables) {
  const int64_t table_size = int64_t{side} * side;
  Cell cell[kShifts][kPairBlock];
  for (int64_t begin = 0; begin < n; begin += kPairBlock) {
    const int64_t count = n - begin < kPairBlock ? n - begin : kPairBlock;
    for (int r = 0; r < kShifts; ++r) {
      const Level* a = site + begin;
      const Level* b = neighbor + begin + shift[r];
      for (int64_t i = 0; i < count; ++i) cell[r][i] = static_cast<Cell>(a[i] * side + b[i]);
    }
    for (int64_t i = 0; i < count; ++i) {
      for (int r = 0; r < kShifts; ++r) ++tables[r * table_size + cell[r][i]];
    }
  }
}

template <class Level, class Cell>
void cooccurrences_of_any(const Level* site, const Level* neighbor, int64_t n, const int64_t* shift, int num_shifts,
                          int side, uint32_t* tables) {
  const int64_t table_size = int64_t{side} * side;
  while (num_shifts >= 4) {
    cooccurrences_of<4, Level, Cell>(site, neighbor, n, shift, side, tables);
    shift += 4, num_shifts -= 4, tables += 4 * table_size;
  }
  if (num_shifts == 3) cooccurrences_of<3, Level, Cell>(site, neighbor, n, shift, side, tables);
  if (num_shifts == 2) cooccurrences_of<2, Level, Cell>(site, neighbor, n, shift, side, tables);
  if (num_shifts == 1) cooccurrences_of<1, Level, Cell>(site, neighbor, n, shift, side, tables);
}

template <class Level>
void cooccurrences(const Level* site, const Level* neighbor, int64_t n, const int64_t* shift, int num_shifts,
                   int num_levels, uint32_t* tables) {
  const int side = num_levels + 1;
  if (side * side <= 65536) {
    cooccurrences_of_any<Level, uint16_t>(site, neighbor, n, shift, num_shifts, side, tables);
  } else {
    cooccurrences_of_any<Level, uint32_t>(site, neighbor, n, shift, num_shifts, side, tables);
  }
}

// --- widening --------------------------------------------------------------------------------------------------------

inline void strided(const float* x, int64_t n, int64_t stride, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = x[i * stride];
}

inline void from_float16(const float16* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = to_float(x[i]);
}

inline void from_bfloat16(const bfloat16* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = to_float(x[i]);
}

inline void from_float64(const double* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = to_float(x[i]);
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
