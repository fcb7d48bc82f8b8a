// The same for columns of two bytes, with AVX-512 VBMI2.
//
// Included inside the target region and namespace of its level.

inline void compress_halves(const char* from, int64_t columns, const uint64_t* keep, char* to) {
  constexpr int64_t kBlock = 2048;
  alignas(64) char buffer[2 * (kBlock + 32)];
  for (int64_t begin = 0; begin < columns; begin += kBlock) {
    const int64_t end = columns - begin > kBlock ? begin + kBlock : columns;
    char* next = buffer;
    for (int64_t j = begin; j < end; j += 32) {
      const auto mask = static_cast<__mmask32>(keep[j / 64] >> j % 64);
      const __m512i v =
          columns - j >= 32 ? _mm512_loadu_si512(from + 2 * j) : _mm512_maskz_loadu_epi16(mask, from + 2 * j);
      _mm512_storeu_si512(next, _mm512_maskz_compress_epi16(mask, v));
      next += 2 * __builtin_popcount(mask);
    }
    std::memcpy(to, buffer, next - buffer);
    to += next - buffer;
  }
}
