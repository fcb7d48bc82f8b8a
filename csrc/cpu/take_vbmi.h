// The same for columns of two bytes, with AVX-512 VBMI2.
//
// Included inside the target region and namespace of its level.

inline void compress_halves(const char* from, int64_t columns, const uint64_t* keep, char* to, int64_t kept) {
  for (int64_t j = 0; j < columns; j += 32) {
    const auto mask = static_cast<__mmask32>(keep[j / 64] >> j % 64);
    const auto there = columns - j >= 32 ? ~__mmask32{0} : (__mmask32{1} << (columns - j)) - 1;
    const __m512i v = _mm512_maskz_compress_epi16(mask, _mm512_maskz_loadu_epi16(there, from + 2 * j));
    const int number = __builtin_popcount(mask);
    if (kept >= 32) {
      _mm512_storeu_si512(to, v);
    } else {
      _mm512_mask_storeu_epi16(to, static_cast<__mmask32>((uint64_t{1} << number) - 1), v);
    }
    to += 2 * number;
    kept -= number;
  }
}
