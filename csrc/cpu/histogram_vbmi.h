// Level counts with AVX-512 VPOPCNTDQ, for L <= 32: the bits of 512 levels become five or six planes, "level g" is a
// conjunction of planes, and its ones are counted.
//
// Included inside the target region and namespace of its level.

constexpr int kPlaneLevels = 32;

template <int kBits>
struct LevelPlanes {
  __m512i plane[kBits + 1];  // the last one is set for a sentinel of 2^kBits, which looks like level 0 otherwise

  explicit LevelPlanes(const uint8_t* levels, int64_t n) {
    alignas(64) uint64_t bits[kBits + 1][8];
    for (int j = 0; j < 8; ++j) {
      const int64_t left = n - 64 * j;
      const __mmask64 lanes = left >= 64 ? ~__mmask64{0} : left <= 0 ? 0 : (__mmask64{1} << left) - 1;
      const __m512i v = _mm512_mask_loadu_epi8(_mm512_set1_epi8(1 << kBits), lanes, levels + 64 * j);
      for (int b = 0; b <= kBits; ++b)
        bits[b][j] = _mm512_test_epi8_mask(v, _mm512_set1_epi8(static_cast<char>(1 << b)));
    }
    for (int b = 0; b <= kBits; ++b) plane[b] = _mm512_load_si512(bits[b]);
  }
};

template <int kBits>
void histogram_by_planes(const uint8_t* levels, int64_t n, int num_levels, int64_t* counts) {
  constexpr int kLevels = 1 << kBits, kQuarter = kLevels / 4;
  __m512i sum[kLevels] = {}, none = _mm512_setzero_si512();
  for (int64_t i = 0; i < n; i += 512) {
    const LevelPlanes<kBits> planes(levels + i, n - i);
    // Conjunctions of the two highest planes, then of the others.
    const __m512i p = planes.plane[kBits - 1], q = planes.plane[kBits - 2];
    const __m512i high[4] = {_mm512_andnot_si512(_mm512_or_si512(p, q), _mm512_set1_epi8(-1)),
                             _mm512_andnot_si512(p, q), _mm512_andnot_si512(q, p), _mm512_and_si512(p, q)};
    for (int quarter = 0; quarter < 4; ++quarter) {
      __m512i one[kQuarter];
      one[0] = high[quarter];
      for (int b = 0; b < kBits - 2; ++b) {
        for (int g = 0; g < 1 << b; ++g) {
          one[g + (1 << b)] = _mm512_and_si512(one[g], planes.plane[b]);
          one[g] = _mm512_andnot_si512(planes.plane[b], one[g]);
        }
      }
      for (int g = 0; g < kQuarter; ++g) {
        __m512i& to = sum[quarter * kQuarter + g];
        to = _mm512_add_epi64(to, _mm512_popcnt_epi64(one[g]));
      }
    }
    none = _mm512_add_epi64(none, _mm512_popcnt_epi64(planes.plane[kBits]));
  }
  for (int g = 0; g < num_levels; ++g) counts[g] += _mm512_reduce_add_epi64(sum[g]);
  counts[0] -= _mm512_reduce_add_epi64(none);
}

inline void histogram(const uint8_t* levels, int64_t n, int num_levels, int64_t* counts) {
  if (num_levels <= 16) return histogram_by_planes<4>(levels, n, num_levels, counts);
  if (num_levels <= kPlaneLevels) return histogram_by_planes<5>(levels, n, num_levels, counts);
  avx512::histogram(levels, n, num_levels, counts);
}
