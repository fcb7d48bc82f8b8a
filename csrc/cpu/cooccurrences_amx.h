// Pairs at neighbouring sites with AMX: one run, several shifts. tiles_amx.h has the method.
//
// The run is read as four streams, Q apart: row t holds sites t, t+Q, t+2Q and t+3Q. So a shift of the run is a shift
// of whole rows: B's rows are made once, kept in a ring, and every offset loads its tile from there, aligned.
//
// Included inside the target region and namespace of its level.

inline __mmask16 first_lanes(int64_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffff : (1 << (n < 0 ? 0 : n)) - 1);
}

constexpr int64_t kRingBlocks = 32;  // of 16 rows: 32 KB
constexpr int64_t kRingReach = 16 * (kRingBlocks - 1 - kLate);

// The last rows of B, for shifts low .. low + reach: a step needs `ahead` blocks beside its own, and is kLate late.
struct Ring {
  alignas(4096)
      OperandRow row[16 * kRingBlocks + 16];  // the first block again at the end, for tiles that begin in the last one
  int64_t low, ahead, blocks;

  Ring(int64_t lowest, int64_t reach) : low(lowest), ahead((reach + 15) / 16), blocks(16) {
    while (blocks < ahead + 1 + kLate) blocks *= 2;
  }
  OperandRow* block(int64_t u) { return row + 16 * (u & (blocks - 1)); }
  void finish_block(int64_t u) {
    if ((u & (blocks - 1)) == 0) __builtin_memcpy(row + 16 * blocks, row, 16 * sizeof(OperandRow));
  }
  // 16 rows, of a step shifted.
  const OperandRow* rows(int64_t step, int64_t shift) const {
    return row + ((16 * step + shift - low) & (16 * blocks - 1));
  }
};

// Rows of four streams as 16 dwords.
inline __m512i interleaved(const __m128i (&stream)[4]) {
  const __m512i low =
      _mm512_or_si512(_mm512_cvtepu8_epi32(stream[0]), _mm512_slli_epi32(_mm512_cvtepu8_epi32(stream[1]), 8));
  const __m512i third = _mm512_slli_epi32(_mm512_cvtepu8_epi32(stream[2]), 16);
  return _mm512_or_si512(_mm512_or_si512(low, third), _mm512_slli_epi32(_mm512_cvtepu8_epi32(stream[3]), 24));
}

inline __m512i rows_of(const uint8_t* levels, int64_t Q) {
  __m128i stream[4];
  for (int b = 0; b < 4; ++b) stream[b] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(levels + b * Q));
  return interleaved(stream);
}

// The same for sites, of which only the first n belong to the run: the others become no level.
inline __m512i sites_of(const uint8_t* levels, int64_t Q, int64_t at, int64_t n) {
  if (3 * Q + at + 16 <= n) return rows_of(levels + at, Q);
  __m128i stream[4];
  for (int b = 0; b < 4; ++b) {
    stream[b] = _mm_mask_loadu_epi8(_mm_set1_epi8(-1), first_lanes(n - b * Q - at), levels + b * Q + at);
  }
  return interleaved(stream);
}

template <int kShifts>
void multiply(const OperandRow* a, const OperandRow* const (&b)[4]) {
  memory_is_read();
  _tile_loadd(4, a, 64);
  _tile_loadd(6, b[0], 64);
  _tile_dpbuud(0, 4, 6);
  if constexpr (kShifts > 1) {
    _tile_loadd(7, b[1], 64);
    _tile_dpbuud(1, 4, 7);
  }
  if constexpr (kShifts > 2) {
    _tile_loadd(6, b[2], 64);
    _tile_dpbuud(2, 4, 6);
  }
  if constexpr (kShifts > 3) {
    _tile_loadd(7, b[3], 64);
    _tile_dpbuud(3, 4, 7);
  }
}

// Shifts lie in low .. low + kRingReach.
template <int kRows, int kShifts>
void cooccurrences_by_tiles(const uint8_t* site, const uint8_t* neighbor, int64_t n, const int64_t* shift, int64_t low,
                            int64_t reach, int num_levels, int64_t* counts, int64_t stride) {
  const int64_t Q = (n + 63) / 64 * 16, steps = Q / 16;
  Ring ring(low, reach);
  alignas(4096) OperandRow a[kOperands][kTileLevels];
  const LevelRows levels;
  const auto make_block = [&](int64_t u) {
    make_b(rows_of(neighbor + low + 16 * u, Q), num_levels, ring.block(u));
    ring.finish_block(u);
  };
  start_tiles(kRows);
  for (int64_t u = 0; u < ring.ahead; ++u) make_block(u);
  for (int64_t step = 0; step < steps + kLate; ++step) {
    if (step < steps) {
      make_block(step + ring.ahead);
      make_a<kRows>(levels, sites_of(site, Q, 16 * step, n), num_levels, a[(step + ring.ahead) % kOperands]);
    }
    if (step < kLate) continue;
    const OperandRow* b[4] = {};
    for (int r = 0; r < kShifts; ++r) b[r] = ring.rows(step - kLate, shift[r]);
    multiply<kShifts>(a[(step - kLate + ring.ahead) % kOperands], b);
  }
  int64_t* tables[4] = {};
  for (int r = 0; r < kShifts; ++r) tables[r] = counts + r * stride;
  finish_tiles<kRows, kShifts>(num_levels, tables);
}

template <int kRows>
void cooccurrences_of_levels(const uint8_t* site, const uint8_t* neighbor, int64_t n, const int64_t* shift,
                             int num_shifts, int num_levels, int64_t* counts, int64_t stride) {
  while (num_shifts > 0) {
    // As many shifts as the accumulators and the ring take.
    int64_t low = shift[0], high = shift[0];
    int some = 1;
    for (; some < 4 && some < num_shifts; ++some) {
      const int64_t next = shift[some];
      if ((next > high ? next : high) - (next < low ? next : low) > kRingReach) break;
      low = next < low ? next : low;
      high = next > high ? next : high;
    }
    constexpr decltype(&cooccurrences_by_tiles<kRows, 1>) kernel[] = {
        cooccurrences_by_tiles<kRows, 1>, cooccurrences_by_tiles<kRows, 2>, cooccurrences_by_tiles<kRows, 3>,
        cooccurrences_by_tiles<kRows, 4>};
    kernel[some - 1](site, neighbor, n, shift, low, high - low, num_levels, counts, stride);
    shift += some, num_shifts -= some, counts += some * stride;
  }
}

inline void tile_cooccurrences(const uint8_t* site, const uint8_t* neighbor, int64_t n, const int64_t* shift,
                               int num_shifts, int num_levels, int64_t* counts, int64_t stride) {
  for (int64_t begin = 0; begin < n; begin += kTileSites) {
    const int64_t some = n - begin < kTileSites ? n - begin : kTileSites;
    const auto kernel = num_levels <= 8 ? cooccurrences_of_levels<8> : cooccurrences_of_levels<16>;
    kernel(site + begin, neighbor + begin, some, shift, num_shifts, num_levels, counts, stride);
  }
}
