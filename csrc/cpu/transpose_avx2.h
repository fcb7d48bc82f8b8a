// Channels that lie together (channels_last) brought apart, with AVX2: 16 sites of 16 channels as two halves. Two sites
// share a register from the start, so that two rounds of shuffles do.
//
// Included inside the target region and namespace of its level.

inline __m256 two_rows(const float* x, int64_t stride) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(x)), _mm_loadu_ps(x + 4 * stride), 1);
}

inline void transpose_16(const float* x, int64_t stride, int64_t channels, float* out, int64_t pitch) {
  for (int64_t c = 0; c < channels; c += 4) {
    for (int half = 0; half < 2; ++half) {
      const float* from = x + 8 * half * stride + c;
      const __m256 r0 = two_rows(from, stride), r1 = two_rows(from + stride, stride);
      const __m256 r2 = two_rows(from + 2 * stride, stride), r3 = two_rows(from + 3 * stride, stride);
      const __m256d low01 = _mm256_castps_pd(_mm256_unpacklo_ps(r0, r1)),
                    high01 = _mm256_castps_pd(_mm256_unpackhi_ps(r0, r1));
      const __m256d low23 = _mm256_castps_pd(_mm256_unpacklo_ps(r2, r3)),
                    high23 = _mm256_castps_pd(_mm256_unpackhi_ps(r2, r3));
      float* to = out + c * pitch + 8 * half;
      _mm256_storeu_ps(to, _mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23)));
      _mm256_storeu_ps(to + pitch, _mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23)));
      _mm256_storeu_ps(to + 2 * pitch, _mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23)));
      _mm256_storeu_ps(to + 3 * pitch, _mm256_castpd_ps(_mm256_unpackhi_pd(high01, high23)));
    }
  }
}
