// Channels that lie together (channels_last) brought apart, with AVX-512: 16 sites of 16 channels at a time. Four sites
// share a register from the start, so that two rounds of shuffles do.
//
// Included inside the target region and namespace of its level.

inline __m512 four_rows(const float* x, int64_t stride) {
  const __m512 first = _mm512_castps128_ps512(_mm_loadu_ps(x));
  const __m512 second = _mm512_insertf32x4(first, _mm_loadu_ps(x + 4 * stride), 1);
  const __m512 third = _mm512_insertf32x4(second, _mm_loadu_ps(x + 8 * stride), 2);
  return _mm512_insertf32x4(third, _mm_loadu_ps(x + 12 * stride), 3);
}

inline void transpose_16(const float* x, int64_t stride, int64_t channels, float* out, int64_t pitch) {
  for (int64_t c = 0; c < channels; c += 4) {
    const float* from = x + c;
    const __m512 r0 = four_rows(from, stride), r1 = four_rows(from + stride, stride);
    const __m512 r2 = four_rows(from + 2 * stride, stride), r3 = four_rows(from + 3 * stride, stride);
    const __m512d low01 = _mm512_castps_pd(_mm512_unpacklo_ps(r0, r1)),
                  high01 = _mm512_castps_pd(_mm512_unpackhi_ps(r0, r1));
    const __m512d low23 = _mm512_castps_pd(_mm512_unpacklo_ps(r2, r3)),
                  high23 = _mm512_castps_pd(_mm512_unpackhi_ps(r2, r3));
    float* to = out + c * pitch;
    _mm512_storeu_ps(to, _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23)));
    _mm512_storeu_ps(to + pitch, _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23)));
    _mm512_storeu_ps(to + 2 * pitch, _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23)));
    _mm512_storeu_ps(to + 3 * pitch, _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23)));
  }
}
