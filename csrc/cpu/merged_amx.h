// All offsets into one table with AMX: B's rows of all neighbours of a site are summed first, and one product does.
// They are one-hot here, so that sums fit a byte.
//
// The ring holds running sums of rows, modulo 256. Shifts that follow each other (a row of a Moore neighbourhood) are
// one difference of two of them, however many they are: so a radius costs hardly more than its number of rows. The sum
// of up to 255 shifts fits a byte, hence the modulus does not show.
//
// Included inside the target region and namespace of its level.

constexpr int kMergedShifts = 255;

// Shifts begin .. end-1.
struct ShiftRun {
  int64_t begin, end;
};

// The shifts, sorted, as runs; equal shifts begin runs of their own. Returns the number of runs.
inline int runs_of(const int64_t* shift, int num_shifts, ShiftRun* runs) {
  int64_t sorted[kMergedShifts];
  for (int r = 0; r < num_shifts; ++r) {
    int at = r;
    for (; at > 0 && sorted[at - 1] > shift[r]; --at) sorted[at] = sorted[at - 1];
    sorted[at] = shift[r];
  }
  int num_runs = 0;
  for (int r = 0; r < num_shifts; ++r) {
    if (num_runs > 0 && runs[num_runs - 1].end == sorted[r]) {
      ++runs[num_runs - 1].end;
    } else {
      runs[num_runs++] = {sorted[r], sorted[r] + 1};
    }
  }
  return num_runs;
}

inline __m512i row_of(const OperandRow* row) { return _mm512_load_si512(row->byte); }

template <int kRows>
void merged_by_tiles(const uint8_t* site, const uint8_t* neighbor, int64_t n, const ShiftRun* runs, int num_runs,
                     int64_t low, int64_t reach, int num_levels, int64_t* counts) {
  const int64_t Q = (n + 63) / 64 * 16, steps = Q / 16;
  Ring ring(low, reach);
  OperandRow a[kOperands][kTileLevels], b[kOperands][16];
  const LevelRows levels;
  __m512i sum = _mm512_setzero_si512();
  const auto make_block = [&](int64_t u) {
    alignas(64) uint8_t sites[64];
    _mm512_store_si512(sites, rows_of(neighbor + low + 16 * u, Q));
    memory_is_read();
    for (int j = 0; j < 16; ++j) {
      int32_t four;
      __builtin_memcpy(&four, sites + 4 * j, 4);
      // [site = h]: 1 - (site ^ h), but not below 0
      const __m512i differs = _mm512_xor_si512(_mm512_set1_epi32(four), column_of_lane());
      sum = _mm512_add_epi8(sum, _mm512_subs_epu8(_mm512_set1_epi8(1), differs));
      _mm512_store_si512(ring.block(u)[j].byte, sum);
    }
    ring.finish_block(u);
  };
  const auto add_neighbors = [&](int64_t step, OperandRow* to) {
    __m512i total[16] = {};
    for (int k = 0; k < num_runs; ++k) {
      const OperandRow *last = ring.rows(step, runs[k].end - 1), *before = ring.rows(step, runs[k].begin - 1);
      for (int j = 0; j < 16; ++j) {
        total[j] = _mm512_add_epi8(total[j], _mm512_sub_epi8(row_of(last + j), row_of(before + j)));
      }
    }
    for (int j = 0; j < 16; ++j) _mm512_store_si512(to[j].byte, total[j]);
  };
  start_tiles(kRows);
  for (int64_t u = 0; u < ring.ahead; ++u) make_block(u);
  for (int64_t step = 0; step < steps + kLate; ++step) {
    if (step < steps) {
      make_block(step + ring.ahead);
      make_a<kRows>(levels, sites_of(site, Q, 16 * step, n), num_levels, a[step % kOperands]);
      add_neighbors(step, b[step % kOperands]);
    }
    if (step < kLate) continue;
    const OperandRow* const only[4] = {b[(step - kLate) % kOperands]};
    multiply<1>(a[(step - kLate) % kOperands], only);
  }
  finish_tiles<kRows, 1, true>(num_levels, &counts);
}

// False for shifts that are better taken one by one: so few that a product each costs less than sums, or beyond a ring.
inline bool tile_merged(const uint8_t* site, const uint8_t* neighbor, int64_t n, const int64_t* shift, int num_shifts,
                        int num_levels, int64_t* counts) {
  if (num_shifts <= 4 || num_shifts > kMergedShifts) return false;
  ShiftRun runs[kMergedShifts];
  const int num_runs = runs_of(shift, num_shifts, runs);
  const int64_t low = runs[0].begin - 1, reach = runs[num_runs - 1].end - 1 - low;
  if (reach > kRingReach) return false;
  const int64_t most = kTileSites * 16 / num_shifts / 2;  // products are up to 15 times the number of shifts
  for (int64_t begin = 0; begin < n; begin += most) {
    const auto kernel = num_levels <= 8 ? merged_by_tiles<8> : merged_by_tiles<16>;
    kernel(site + begin, neighbor + begin, n - begin < most ? n - begin : most, runs, num_runs, low, reach, num_levels,
           counts);
  }
  return true;
}
