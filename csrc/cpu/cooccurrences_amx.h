// Level pairs with AMX, for L <= 16: the table of an offset is a product of two one-hot matrices,
//
//     counts[g][h] = sum over sites  [site = g] [neighbor = h]
//
// 64 sites a product. A holds one row a level and a byte a site; B, in the layout that the instruction wants, one row
// for four sites and four bytes a level. A sentinel equals no level, so it adds nothing. The cost does not depend on
// the data: a rectified map's zeros are no hot cell here.
//
// Making the operands is what costs, so A holds min(site, g) in place of [site = g]: one instruction a row, not two,
// and differences of the product's rows are the same counts.
//
// Included inside the target region and namespace of its level.

constexpr int64_t kTileSites = int64_t{1} << 26;  // that the 32-bit sums of up to 15 take

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// The compiler knows neither that a tile load reads memory nor that it must stay behind the stores before it.
inline void memory_is_read() { asm volatile("" ::: "memory"); }

// Tiles 0-3 gather counts, 4 and 5 hold A (a row a level), 6 and 7 B.
inline void start_tiles(int levels) {
  TileConfig config;
  for (int t = 0; t < 8; ++t) {
    config.row_bytes[t] = 64;
    config.rows[t] = static_cast<uint8_t>(t < 6 ? levels : 16);
  }
  memory_is_read();
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// Row g of a tile is T[g] = sum of min(site, g), row 0 the number of sites: so D[g] = T[g] - T[g-1] is the number of
// sites of level g or more (D[0] = T[0], T[0] taken for 0 then), and counts[g] = D[g] - D[g+1].
template <int kRows>
void add_tile(const int32_t (&tile)[kTileLevels][16], int num_levels, int64_t* counts) {
  memory_is_read();
  const auto low = static_cast<__mmask8>(num_levels >= 8 ? 0xff : (1 << num_levels) - 1);
  const auto high = static_cast<__mmask8>(num_levels >= 8 ? (1 << (num_levels - 8)) - 1 : 0);
  __m512i above[kRows + 1];  // D
  __m512i before = _mm512_setzero_si512();
  above[0] = _mm512_load_si512(tile[0]);
  for (int g = 1; g < kRows; ++g) {
    const __m512i row = _mm512_load_si512(tile[g]);
    above[g] = _mm512_sub_epi32(row, before);
    before = row;
  }
  above[kRows] = _mm512_setzero_si512();
  for (int g = 0; g < num_levels; ++g, counts += num_levels) {
    const __m512i row = _mm512_sub_epi32(above[g], above[g + 1]);
    const __m512i first = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(row));
    const __m512i second = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(row, 1));
    _mm512_mask_storeu_epi64(counts, low, _mm512_add_epi64(_mm512_maskz_loadu_epi64(low, counts), first));
    _mm512_mask_storeu_epi64(counts + 8, high, _mm512_add_epi64(_mm512_maskz_loadu_epi64(high, counts + 8), second));
  }
}

// Adds the first kTiles tiles to as many tables. The number of a tile is part of the instruction: no loop here.
template <int kRows, int kTiles>
void finish_tiles(int num_levels, int64_t* const* counts) {
  alignas(64) int32_t tile[kTileLevels][16];
  _tile_stored(0, tile, 64);
  add_tile<kRows>(tile, num_levels, counts[0]);
  if constexpr (kTiles > 1) {
    _tile_stored(1, tile, 64);
    add_tile<kRows>(tile, num_levels, counts[1]);
  }
  if constexpr (kTiles > 2) {
    _tile_stored(2, tile, 64);
    add_tile<kRows>(tile, num_levels, counts[2]);
  }
  if constexpr (kTiles > 3) {
    _tile_stored(3, tile, 64);
    add_tile<kRows>(tile, num_levels, counts[3]);
  }
  _tile_release();
}

// --- operands --------------------------------------------------------------------------------------------------------

struct alignas(64) OneHotRow {
  int8_t byte[64];
};

// Byte g everywhere: left alone, gcc makes each anew from a general register, on a busy port.
struct LevelRows {
  __m512i row[kTileLevels];
  LevelRows() {
    for (int g = 0; g < kTileLevels; ++g) {
      row[g] = _mm512_set1_epi8(static_cast<char>(g));
      asm("" : "+v"(row[g]));
    }
  }
};

// Row g is min(site, g); row 0 tells which sites have a level.
template <int kRows>
void make_a(const LevelRows& level, __m512i sites, int num_levels, OneHotRow* a) {
  const __mmask64 valid = _mm512_cmplt_epu8_mask(sites, _mm512_set1_epi8(static_cast<char>(num_levels)));
  const __m512i q = _mm512_maskz_mov_epi8(valid, sites);
  _mm512_store_si512(a[0].byte, _mm512_maskz_mov_epi8(valid, level.row[1]));
#pragma GCC unroll 16
  for (int g = 1; g < kRows; ++g) _mm512_store_si512(a[g].byte, _mm512_min_epu8(q, level.row[g]));
}

// Row j holds sites 4j .. 4j+3 of 64.
inline void make_b(const uint8_t* sites, OneHotRow* b) {
  memory_is_read();  // a broadcast from memory is free; gcc would rather shuffle the register that was stored there
  const __m512i one = _mm512_set1_epi8(1);
  // Lane h of four bytes: is it level h?
  const __m512i level =
      _mm512_set_epi32(0x0f0f0f0f, 0x0e0e0e0e, 0x0d0d0d0d, 0x0c0c0c0c, 0x0b0b0b0b, 0x0a0a0a0a, 0x09090909, 0x08080808,
                       0x07070707, 0x06060606, 0x05050505, 0x04040404, 0x03030303, 0x02020202, 0x01010101, 0x00000000);
#pragma GCC unroll 16
  for (int j = 0; j < 16; ++j) {
    int32_t four;
    __builtin_memcpy(&four, sites + 4 * j, 4);
    _mm512_store_si512(b[j].byte, _mm512_subs_epu8(one, _mm512_xor_si512(_mm512_set1_epi32(four), level)));
  }
}

// --- cooccurrences: one run, several shifts --------------------------------------------------------------------------
//
// The run is read as four streams, Q apart: row t holds sites t, t+Q, t+2Q and t+3Q. So a shift of the run is a shift
// of whole rows: B's rows are made once, kept in a ring, and every offset loads its tile from there, aligned.

inline __mmask16 first_lanes(int64_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffff : (1 << (n < 0 ? 0 : n)) - 1);
}

constexpr int64_t kRingBlocks = 32;  // of 16 rows: 32 KB
constexpr int64_t kRingReach = 16 * (kRingBlocks - 2);

struct Ring {
  OneHotRow row[16 * kRingBlocks + 16];  // the first block again at the end, for tiles that begin in the last one
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
void multiply(const OneHotRow* a, const OneHotRow* const (&b)[4]) {
  memory_is_read();
  _tile_loadd(4, a, 64);
  _tile_loadd(6, b[0], 64);
  _tile_dpbssd(0, 4, 6);
  if constexpr (kShifts > 1) {
    _tile_loadd(7, b[1], 64);
    _tile_dpbssd(1, 4, 7);
  }
  if constexpr (kShifts > 2) {
    _tile_loadd(6, b[2], 64);
    _tile_dpbssd(2, 4, 6);
  }
  if constexpr (kShifts > 3) {
    _tile_loadd(7, b[3], 64);
    _tile_dpbssd(3, 4, 7);
  }
}

// Shifts lie in low .. low + kRingReach.
template <int kRows, int kShifts>
void cooccurrences_by_tiles(const uint8_t* site, const uint8_t* neighbor, int64_t n, const int64_t* shift, int64_t low,
                            int64_t reach, int num_levels, int64_t* counts, int64_t stride) {
  const int64_t Q = (n + 63) / 64 * 16, steps = Q / 16;
  const int64_t blocks = (reach + 15) / 16;  // that a step needs beside its own
  int64_t ring_blocks = 16;                  // at least: the first block's copy is made once a round
  while (ring_blocks < blocks + 2) ring_blocks *= 2;
  Ring ring;
  OneHotRow a[2][kTileLevels];
  const LevelRows levels;
  const auto make_block = [&](int64_t u) {
    alignas(64) uint8_t sites[64];
    _mm512_store_si512(sites, rows_of(neighbor + low + 16 * u, Q));
    const int64_t slot = u & (ring_blocks - 1);
    make_b(sites, ring.row + 16 * slot);
    if (slot == 0) __builtin_memcpy(ring.row + 16 * ring_blocks, ring.row, 16 * sizeof(OneHotRow));
  };
  start_tiles(kRows);
  for (int64_t u = 0; u < blocks; ++u) make_block(u);
  // Operands are made for one step while the tiles work on those of the step before.
  for (int64_t step = 0; step < steps + 1; ++step) {
    if (step < steps) {
      make_block(step + blocks);
      make_a<kRows>(levels, sites_of(site, Q, 16 * step, n), num_levels, a[step & 1]);
    }
    if (step == 0) continue;
    const OneHotRow* b[4] = {};
    for (int r = 0; r < kShifts; ++r) b[r] = ring.row + ((16 * (step - 1) + shift[r] - low) & (16 * ring_blocks - 1));
    multiply<kShifts>(a[(step - 1) & 1], b);
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

// --- cross: two channels with two ------------------------------------------------------------------------------------

template <int kRows>
void cross_by_tiles(const uint8_t* const (&a)[2], const uint8_t* const (&b)[2], int64_t n, int num_levels,
                    int64_t* const (&counts)[4]) {
  const LevelRows levels;
  OneHotRow operand[2][4][kTileLevels];
  start_tiles(kRows);
  const int64_t steps = (n + 63) / 64;
  for (int64_t step = 0; step < steps + 1; ++step) {
    if (step < steps) {
      const int64_t i = 64 * step;
      const __mmask64 valid = n - i >= 64 ? ~__mmask64{0} : (__mmask64{1} << (n - i)) - 1;
      auto& to = operand[step & 1];
      for (int k = 0; k < 2; ++k) {
        make_a<kRows>(levels, _mm512_mask_loadu_epi8(_mm512_set1_epi8(-1), valid, a[k] + i), num_levels, to[k]);
        make_b(b[k] + i, to[2 + k]);
      }
    }
    if (step == 0) continue;
    const auto& from = operand[(step - 1) & 1];
    memory_is_read();
    _tile_loadd(4, from[0], 64);
    _tile_loadd(6, from[2], 64);
    _tile_dpbssd(0, 4, 6);
    _tile_loadd(7, from[3], 64);
    _tile_dpbssd(1, 4, 7);
    _tile_loadd(5, from[1], 64);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  finish_tiles<kRows, 4>(num_levels, counts);
}

inline void tile_cross(const uint8_t* const (&a)[2], const uint8_t* const (&b)[2], int64_t n, int num_levels,
                       int64_t* const (&counts)[4]) {
  for (int64_t begin = 0; begin < n; begin += kTileSites) {
    const int64_t some = n - begin < kTileSites ? n - begin : kTileSites;
    const uint8_t *rows[2] = {a[0] + begin, a[1] + begin}, *columns[2] = {b[0] + begin, b[1] + begin};
    const auto kernel = num_levels <= 8 ? cross_by_tiles<8> : cross_by_tiles<16>;
    kernel(rows, columns, some, num_levels, counts);
  }
}
