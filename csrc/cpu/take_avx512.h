// Kept columns of a row with AVX-512: registers of columns are compressed to those whose bit is set. They are put
// together in a buffer in the first-level cache, since stores overlap. Only the last register is read under a mask:
// masked reads that come from memory take twice as long.
//
// Included inside the target region and namespace of its level.

inline void compress_words(const char* from, int64_t columns, const uint64_t* keep, char* to) {
  constexpr int64_t kBlock = 1024;  // columns, whole words of `keep`
  alignas(64) char buffer[4 * (kBlock + 16)];
  for (int64_t begin = 0; begin < columns; begin += kBlock) {
    const int64_t end = columns - begin > kBlock ? begin + kBlock : columns;
    char* next = buffer;
    for (int64_t j = begin; j < end; j += 16) {
      const auto mask = static_cast<__mmask16>(keep[j / 64] >> j % 64);  // no bit is set behind the last column
      const __m512i v =
          columns - j >= 16 ? _mm512_loadu_si512(from + 4 * j) : _mm512_maskz_loadu_epi32(mask, from + 4 * j);
      _mm512_storeu_si512(next, _mm512_maskz_compress_epi32(mask, v));
      next += 4 * __builtin_popcount(mask);
    }
    std::memcpy(to, buffer, next - buffer);
    to += next - buffer;
  }
}
