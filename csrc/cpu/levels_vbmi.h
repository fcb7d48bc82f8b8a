// Levels with AVX-512 VBMI: a guess that one comparison makes exact.
//
// A value's cell is its place in a grid over the edges, computed with one fma and clamped. The computation never
// decreases as the value grows, so edges in lower cells lie below it and edges in higher cells do not; only those in
// its own cell must be compared. With L <= 32 and one edge a cell at most, all tables lie in registers. Edges that no
// grid separates (duplicates, very uneven ones) are searched as without VBMI.
//
// Included inside the target region and namespace of its level.

struct Grid {
  __m512 scale, offset, top;
  explicit Grid(const EdgeSearch& search)
      : scale(_mm512_set1_ps(search.scale)),
        offset(_mm512_set1_ps(search.offset)),
        top(_mm512_set1_ps(kFirstCell + kGridCells - 1)) {}

  // The cell, in the lowest bits: adding 2^23 leaves a whole number there.
  static constexpr float kFirstCell = 8388608.0f;
  __m512i cell(__m512 x) const {
    const __m512 at = _mm512_max_ps(_mm512_fmadd_ps(x, scale, offset), _mm512_set1_ps(kFirstCell));
    return _mm512_castps_si512(_mm512_min_ps(at, top));
  }
};

constexpr int64_t kWorthAGrid = 2048;  // values

constexpr uint8_t kByteNumbers[64] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                      16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
                                      32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47,
                                      48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};

inline void prepare(const float* edges, int num_edges, int64_t values, EdgeSearch& to) {
  to.edges = edges;
  to.num_edges = num_edges;
  to.grid = false;
  if (num_edges > kGridEdges || values < kWorthAGrid) return;
  for (int e = 0; e < kGridEdges + 1; ++e) to.padded[e] = e < num_edges ? edges[e] : __builtin_inff();
  to.scale = (kGridCells - 2) / (edges[num_edges - 1] - edges[0]);
  to.offset = Grid::kFirstCell - edges[0] * to.scale;
  if (!(to.scale > 0 && to.scale < 1e30f && to.offset > -1e30f && to.offset < 1e30f)) return;
  const Grid grid(to);
  int32_t cell[kGridEdges + 1];
  for (int e = 0; e < num_edges; e += 16) {
    const __m512i at = grid.cell(_mm512_load_ps(to.padded + e));
    _mm512_storeu_si512(cell + e, _mm512_and_si512(at, _mm512_set1_epi32(kGridCells - 1)));
  }
  for (int e = 1; e < num_edges; ++e) {
    if (cell[e] == cell[e - 1]) return;
  }
  // Every edge is below all cells after its own.
  __m512i index = _mm512_loadu_si512(kByteNumbers), below[2] = {};
  for (int half = 0; half < 2; ++half, index = _mm512_add_epi8(index, _mm512_set1_epi8(64))) {
    for (int e = 0; e < num_edges; ++e) {
      const __mmask64 after = _mm512_cmpgt_epi8_mask(index, _mm512_set1_epi8(static_cast<char>(cell[e])));
      below[half] = _mm512_mask_add_epi8(below[half], after, below[half], _mm512_set1_epi8(1));
    }
    _mm512_store_si512(to.below + 64 * half, below[half]);
  }
  to.grid = true;
}

// Levels of 64 values at a time, all lookups in registers; byte j of lane i belongs to v[j][i] until the end.
template <bool kMoreThan16>
struct Guess {
  Grid grid;
  __m512i below[2];
  __m512 edges[2];

  explicit Guess(const EdgeSearch& search)
      : grid(search),
        below{_mm512_load_si512(search.below), _mm512_load_si512(search.below + 64)},
        edges{_mm512_load_ps(search.padded), _mm512_load_ps(search.padded + 16)} {}

  __m512i operator()(const __m512 (&v)[4]) const {
    const __m512i first = _mm512_and_si512(grid.cell(v[0]), _mm512_set1_epi32(0xff));
    const __m512i second = _mm512_slli_epi32(grid.cell(v[1]), 8), third = _mm512_slli_epi32(grid.cell(v[2]), 16);
    const __m512i cells =
        _mm512_or_si512(_mm512_or_si512(first, second), _mm512_or_si512(third, _mm512_slli_epi32(grid.cell(v[3]), 24)));
    const __m512i guess = _mm512_permutex2var_epi8(below[0], cells, below[1]);
    __m512i level = guess;
    for (int j = 0; j < 4; ++j) {
      const __m512i at = _mm512_srli_epi32(guess, static_cast<unsigned>(8 * j));
      const __m512 edge =
          kMoreThan16 ? _mm512_permutex2var_ps(edges[0], at, edges[1]) : _mm512_permutexvar_ps(at, edges[0]);
      const __mmask16 above = _mm512_cmp_ps_mask(edge, v[j], _CMP_LT_OQ);
      level = _mm512_mask_add_epi32(level, above, level, _mm512_set1_epi32(1 << (8 * j)));
    }
    return _mm512_permutexvar_epi8(in_order(), level);
  }

  // Byte 16 j + i of the result is byte j of lane i.
  static __m512i in_order() {
    const __m512i lane = _mm512_set_epi32(60, 56, 52, 48, 44, 40, 36, 32, 28, 24, 20, 16, 12, 8, 4, 0);
    const __m512i two = _mm512_add_epi32(lane, _mm512_set1_epi32(1));
    const __m512i three = _mm512_add_epi32(lane, _mm512_set1_epi32(2));
    const __m512i four = _mm512_add_epi32(lane, _mm512_set1_epi32(3));
    const __m256i low = _mm256_setr_m128i(_mm512_cvtepi32_epi8(lane), _mm512_cvtepi32_epi8(two));
    const __m256i high = _mm256_setr_m128i(_mm512_cvtepi32_epi8(three), _mm512_cvtepi32_epi8(four));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
};

template <class T, class Level>
int64_t read_levels(const T* x, int64_t n, const EdgeSearch& search, Level* out) {
  if constexpr (sizeof(Level) == 1) {
    if (search.grid && search.num_edges < 16) {
      return levels_by_64(x, n, search.num_edges, Guess<false>(search), out);
    }
    if (search.grid) return levels_by_64(x, n, search.num_edges, Guess<true>(search), out);
  }
  return avx512::read_levels(x, n, search, out);
}
