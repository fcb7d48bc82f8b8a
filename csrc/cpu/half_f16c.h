// float16 to float32 with F16C, which every machine with AVX2 has.
//
// Included inside the target region and namespace of its level.

inline void widen(const float16* x, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
  }
  for (; i < n; ++i) out[i] = to_float(x[i]);
}
