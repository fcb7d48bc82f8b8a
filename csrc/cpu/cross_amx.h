// Pairs of channels with AMX: two channels with two, so that an operand serves two products. tiles_amx.h has the
// method.
//
// Included inside the target region and namespace of its level.

template <int kRows>
void cross_by_tiles(const uint8_t* const (&a)[2], const uint8_t* const (&b)[2], int64_t n, int num_levels,
                    int64_t* const (&counts)[4]) {
  const LevelRows levels;
  OperandRow operand[kOperands][4][kTileLevels];
  start_tiles(kRows);
  const int64_t steps = (n + 63) / 64;
  for (int64_t step = 0; step < steps + kLate; ++step) {
    if (step < steps) {
      const int64_t i = 64 * step;
      const __mmask64 valid = n - i >= 64 ? ~__mmask64{0} : (__mmask64{1} << (n - i)) - 1;
      auto& to = operand[step % kOperands];
      for (int k = 0; k < 2; ++k) {
        make_a<kRows>(levels, _mm512_mask_loadu_epi8(_mm512_set1_epi8(-1), valid, a[k] + i), num_levels, to[k]);
        make_b(_mm512_loadu_si512(b[k] + i), num_levels, to[2 + k]);
      }
    }
    if (step < kLate) continue;
    const auto& from = operand[(step - kLate) % kOperands];
    memory_is_read();
    _tile_loadd(4, from[0], 64);
    _tile_loadd(6, from[2], 64);
    _tile_dpbuud(0, 4, 6);
    _tile_loadd(7, from[3], 64);
    _tile_dpbuud(1, 4, 7);
    _tile_loadd(5, from[1], 64);
    _tile_dpbuud(2, 5, 6);
    _tile_dpbuud(3, 5, 7);
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
