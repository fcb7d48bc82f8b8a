// Kept columns of a row with AVX-512: registers of columns are compressed to those whose bit is set.
//
// Included inside the target region and namespace of its level.

inline void compress_words(const char* from, int64_t columns, const uint64_t* keep, char* to, int64_t kept) {
  for (int64_t j = 0; j < columns; j += 16) {
    const auto mask = static_cast<__mmask16>(keep[j / 64] >> j % 64);  // no bit is set behind the last column
    const auto there = static_cast<__mmask16>(columns - j >= 16 ? 0xffff : (1 << (columns - j)) - 1);
    const __m512i v = _mm512_maskz_compress_epi32(mask, _mm512_maskz_loadu_epi32(there, from + 4 * j));
    const int number = __builtin_popcount(mask);
    if (kept >= 16) {  // what is written too much is written over
      _mm512_storeu_si512(to, v);
    } else {
      _mm512_mask_storeu_epi32(to, static_cast<__mmask16>((1 << number) - 1), v);
    }
    to += 4 * number;
    kept -= number;
  }
}
