// Level pairs with AMX, for L <= 16: a table of pairs is a product of two one-hot matrices,
//
//     counts[g][h] = sum over sites  [a = g] [b = h]
//
// 64 sites a product. A holds one row a level and a byte a site; B, in the layout that the instruction wants, one row
// for four sites and four bytes a level. A sentinel adds nothing. The cost does not depend on the data: a rectified
// map's zeros are no hot cell here.
//
// Making the operands is what costs, and [a = g] takes two instructions a row. So A holds min(a, g), and B holds
// max(b + 1 - h, 0): one instruction each, and differences of the product's rows and columns are the same counts.
//
// Included inside the target region and namespace of its level.

constexpr int64_t kTileSites = int64_t{1} << 23;  // products are up to 240, sums have 32 bits

constexpr int kLate = 2;      // steps: tiles wait for operands that are still on their way to memory
constexpr int kOperands = 4;  // of as many steps, a power of two

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

// Lane h of the result is lane h + 1, the last one 0.
inline __m512i next_lane(__m512i x) { return _mm512_alignr_epi32(_mm512_setzero_si512(), x, 1); }

// Row g of a tile is T[g] = sum of min(a, g) f(b), row 0 the sum of f(b) alone, f whatever B holds. So D[g] = T[g] -
// T[g-1] is the sum of f(b) over sites of level g or more (D[0] = T[0], which then counts as 0), and D[g] - D[g+1] the
// one over sites of level g. If f is max(b + 1 - h, 0) its second difference along h is [b = h].
template <int kRows, bool kOneHotB>
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
    __m512i row = _mm512_sub_epi32(above[g], above[g + 1]);
    if constexpr (!kOneHotB) {
      const __m512i once = _mm512_sub_epi32(row, next_lane(row));
      row = _mm512_sub_epi32(once, next_lane(once));
    }
    const __m512i first = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(row));
    const __m512i second = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(row, 1));
    _mm512_mask_storeu_epi64(counts, low, _mm512_add_epi64(_mm512_maskz_loadu_epi64(low, counts), first));
    _mm512_mask_storeu_epi64(counts + 8, high, _mm512_add_epi64(_mm512_maskz_loadu_epi64(high, counts + 8), second));
  }
}

// Adds the first kTiles tiles to as many tables. The number of a tile is part of the instruction: no loop here.
template <int kRows, int kTiles, bool kOneHotB = false>
void finish_tiles(int num_levels, int64_t* const* counts) {
  alignas(64) int32_t tile[kTileLevels][16];
  _tile_stored(0, tile, 64);
  add_tile<kRows, kOneHotB>(tile, num_levels, counts[0]);
  if constexpr (kTiles > 1) {
    _tile_stored(1, tile, 64);
    add_tile<kRows, kOneHotB>(tile, num_levels, counts[1]);
  }
  if constexpr (kTiles > 2) {
    _tile_stored(2, tile, 64);
    add_tile<kRows, kOneHotB>(tile, num_levels, counts[2]);
  }
  if constexpr (kTiles > 3) {
    _tile_stored(3, tile, 64);
    add_tile<kRows, kOneHotB>(tile, num_levels, counts[3]);
  }
  _tile_release();
}

// --- operands --------------------------------------------------------------------------------------------------------

struct alignas(64) OperandRow {
  uint8_t byte[64];
};

// Byte g everywhere, in registers: left alone, gcc makes each anew from a general register, on a busy port.
struct LevelRows {
  __m512i row[kTileLevels];
  LevelRows() {
#pragma GCC unroll 16
    for (int g = 0; g < kTileLevels; ++g) {
      row[g] = _mm512_set1_epi8(static_cast<char>(g));
      asm("" : "+v"(row[g]));
    }
  }
};

inline __mmask64 with_level(__m512i sites, int num_levels) {
  return _mm512_cmplt_epu8_mask(sites, _mm512_set1_epi8(static_cast<char>(num_levels)));
}

// Row g is min(site, g); row 0 tells which sites have a level.
template <int kRows>
void make_a(const LevelRows& level, __m512i sites, int num_levels, OperandRow* a) {
  const __mmask64 valid = with_level(sites, num_levels);
  const __m512i q = _mm512_maskz_mov_epi8(valid, sites);
  _mm512_store_si512(a[0].byte, _mm512_maskz_mov_epi8(valid, level.row[1]));
#pragma GCC unroll 16
  for (int g = 1; g < kRows; ++g) _mm512_store_si512(a[g].byte, _mm512_min_epu8(q, level.row[g]));
}

// Lane h of four bytes.
inline __m512i column_of_lane() {
  return _mm512_set_epi32(0x0f0f0f0f, 0x0e0e0e0e, 0x0d0d0d0d, 0x0c0c0c0c, 0x0b0b0b0b, 0x0a0a0a0a, 0x09090909,
                          0x08080808, 0x07070707, 0x06060606, 0x05050505, 0x04040404, 0x03030303, 0x02020202,
                          0x01010101, 0x00000000);
}

// Row j is of sites 4j .. 4j+3 of 64: max(site + 1 - h, 0), and 0 without a level.
inline void make_b(__m512i sites, int num_levels, OperandRow* b) {
  alignas(64) uint8_t above[64];
  const __m512i one = _mm512_set1_epi8(1);
  _mm512_store_si512(above, _mm512_maskz_add_epi8(with_level(sites, num_levels), sites, one));
  memory_is_read();  // a broadcast from memory is free; gcc would rather shuffle the register that was stored there
#pragma GCC unroll 16
  for (int j = 0; j < 16; ++j) {
    int32_t four;
    __builtin_memcpy(&four, above + 4 * j, 4);
    _mm512_store_si512(b[j].byte, _mm512_subs_epu8(_mm512_set1_epi32(four), column_of_lane()));
  }
}
