// Level pairs with AMX, for L <= 16: the table of an offset is a product of two one-hot matrices,
//
//     table[g][h] = sum over sites  [site = g] [neighbor = h]
//
// 64 sites a product. A holds one row a level and a byte a site; B, in the layout that the instruction wants, one row
// for four sites and four bytes a level. "One" is -1: a comparison's mask expands to it, and the product of two is 1. A
// sentinel equals no level, so it adds nothing. The cost does not depend on the data: a rectified map's zeros are no
// hot cell here.
//
// Included inside the target region and namespace of its level.

constexpr int kTileLevels = 16;
constexpr int kTileOffsets = 4;  // accumulators that stay in tile registers, beside one A and two B

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

struct alignas(64) TileOperands {
  int8_t a[kTileLevels][64];
  int8_t b[kTileOffsets][16][64];
};

// Row g is the level g, 64 times.
struct alignas(64) LevelRows {
  uint8_t row[kTileLevels][64];
  LevelRows() {
    for (int g = 0; g < kTileLevels; ++g) __builtin_memset(row[g], g, 64);
  }
};

template <int kRows, int kShifts>
void make_operands(const LevelRows& levels, const uint8_t* site, const uint8_t* neighbor, const int64_t* shift,
                   __mmask64 valid, TileOperands& to) {
  const __m512i sites = _mm512_loadu_si512(site);
#pragma GCC unroll 16
  for (int g = 0; g < kRows; ++g) {
    const __mmask64 one = _mm512_mask_cmpeq_epi8_mask(valid, sites, _mm512_load_si512(levels.row[g]));
    _mm512_store_si512(to.a[g], _mm512_movm_epi8(one));
  }
  // Lane h of four bytes: is it level h?
  const __m512i level =
      _mm512_set_epi32(0x0f0f0f0f, 0x0e0e0e0e, 0x0d0d0d0d, 0x0c0c0c0c, 0x0b0b0b0b, 0x0a0a0a0a, 0x09090909, 0x08080808,
                       0x07070707, 0x06060606, 0x05050505, 0x04040404, 0x03030303, 0x02020202, 0x01010101, 0x00000000);
  for (int r = 0; r < kShifts; ++r) {
    const uint8_t* four = neighbor + shift[r];
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j, four += 4) {
      int32_t word;
      __builtin_memcpy(&word, four, 4);
      _mm512_store_si512(to.b[r][j], _mm512_movm_epi8(_mm512_cmpeq_epi8_mask(_mm512_set1_epi32(word), level)));
    }
  }
}

// The compiler knows neither that a tile load reads memory nor that it must stay behind the stores before it.
inline void memory_is_read() { asm volatile("" ::: "memory"); }

template <int kShifts>
void multiply(const TileOperands& from) {
  memory_is_read();
  _tile_loadd(4, from.a, 64);
  _tile_loadd(5, from.b[0], 64);
  _tile_dpbssd(0, 4, 5);
  if constexpr (kShifts > 1) {
    _tile_loadd(6, from.b[1], 64);
    _tile_dpbssd(1, 4, 6);
  }
  if constexpr (kShifts > 2) {
    _tile_loadd(5, from.b[2], 64);
    _tile_dpbssd(2, 4, 5);
  }
  if constexpr (kShifts > 3) {
    _tile_loadd(6, from.b[3], 64);
    _tile_dpbssd(3, 4, 6);
  }
}

inline void add_tile(const uint32_t (&tile)[kTileLevels][16], int num_levels, uint32_t* table) {
  for (int g = 0; g < num_levels; ++g) {
    for (int h = 0; h < num_levels; ++h) table[g * (num_levels + 1) + h] += tile[g][h];
  }
}

template <int kRows, int kShifts>
void cooccurrences_by_tiles(const uint8_t* site, const uint8_t* neighbor, int64_t n, const int64_t* shift,
                            int num_levels, uint32_t* tables) {
  TileConfig config;
  for (int t = 0; t < 8; ++t) {
    config.row_bytes[t] = 64;
    config.rows[t] = t <= 4 ? kRows : 16;  // accumulators and A have a row a level
  }
  memory_is_read();
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  // Operands are made for one step while the tiles work on those of the step before.
  const LevelRows levels;
  TileOperands operands[2];
  const int64_t steps = (n + 63) / 64;
  for (int64_t step = 0; step < steps + 1; ++step) {
    const int64_t i = 64 * step;
    if (step < steps) {
      const __mmask64 valid = n - i >= 64 ? ~__mmask64{0} : (__mmask64{1} << (n - i)) - 1;
      make_operands<kRows, kShifts>(levels, site + i, neighbor + i, shift, valid, operands[step & 1]);
    }
    if (step >= 1) multiply<kShifts>(operands[(step - 1) & 1]);
  }
  alignas(64) uint32_t tile[kTileLevels][16];
  const int table_size = (num_levels + 1) * (num_levels + 1);
  const auto empty = [&](int r) {
    memory_is_read();
    add_tile(tile, num_levels, tables + r * table_size);
  };
  // The number of a tile register is part of the instruction: no loop here.
  _tile_stored(0, tile, 64);
  empty(0);
  if constexpr (kShifts > 1) {
    _tile_stored(1, tile, 64);
    empty(1);
  }
  if constexpr (kShifts > 2) {
    _tile_stored(2, tile, 64);
    empty(2);
  }
  if constexpr (kShifts > 3) {
    _tile_stored(3, tile, 64);
    empty(3);
  }
  _tile_release();
}

template <int kRows>
void tile_cooccurrences_of(const uint8_t* site, const uint8_t* neighbor, int64_t n, const int64_t* shift,
                           int num_shifts, int num_levels, uint32_t* tables) {
  const int64_t table_size = int64_t{num_levels + 1} * (num_levels + 1);
  for (; num_shifts >= 4; shift += 4, num_shifts -= 4, tables += 4 * table_size) {
    cooccurrences_by_tiles<kRows, 4>(site, neighbor, n, shift, num_levels, tables);
  }
  if (num_shifts == 3) cooccurrences_by_tiles<kRows, 3>(site, neighbor, n, shift, num_levels, tables);
  if (num_shifts == 2) cooccurrences_by_tiles<kRows, 2>(site, neighbor, n, shift, num_levels, tables);
  if (num_shifts == 1) cooccurrences_by_tiles<kRows, 1>(site, neighbor, n, shift, num_levels, tables);
}

inline void tile_cooccurrences(const uint8_t* site, const uint8_t* neighbor, int64_t n, const int64_t* shift,
                               int num_shifts, int num_levels, uint32_t* tables) {
  if (num_levels <= 8) {
    tile_cooccurrences_of<8>(site, neighbor, n, shift, num_shifts, num_levels, tables);
  } else {
    tile_cooccurrences_of<16>(site, neighbor, n, shift, num_shifts, num_levels, tables);
  }
}
