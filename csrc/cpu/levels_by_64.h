// Values of any type read 64 at a time with AVX-512, and a search over them. For the levels avx512 and vbmi, each in
// its own target region: a call from one to the other could not be inlined.
//
// Included inside the target region and namespace of its level.

inline __mmask16 first_lanes(int64_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffff : (1 << (n < 0 ? 0 : n)) - 1);
}

inline __m512 load_16(const float* x, __mmask16 lanes) { return _mm512_maskz_loadu_ps(lanes, x); }
inline __m512 load_16(const double* x, __mmask16 lanes) {
  const __m256 low = _mm512_cvtpd_ps(_mm512_maskz_loadu_pd(static_cast<__mmask8>(lanes), x));
  const __m256 high = _mm512_cvtpd_ps(_mm512_maskz_loadu_pd(static_cast<__mmask8>(lanes >> 8), x + 8));
  return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}
inline __m512 load_16(const float16* x, __mmask16 lanes) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, x)); }
inline __m512 load_16(const bfloat16* x, __mmask16 lanes) {
  const __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, x));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

// Which of 64 values are NaN.
inline __mmask64 nans_of(const __m512 (&v)[4]) {
  const __mmask16 first = _mm512_cmp_ps_mask(v[0], v[1], _CMP_UNORD_Q);
  const __mmask16 second = _mm512_cmp_ps_mask(v[2], v[3], _CMP_UNORD_Q);
  if (__builtin_expect((first | second) == 0, 1)) return 0;
  __mmask64 nan = 0;
  for (int j = 0; j < 4; ++j) {
    nan |= static_cast<__mmask64>(_mm512_cmp_ps_mask(v[j], v[j], _CMP_UNORD_Q)) << (16 * j);
  }
  return nan;
}

// Calls step(i, lanes) for 64 values at a time, and reads memory ahead.
template <class T, class Step>
void for_each_64(const T* x, int64_t n, Step&& step) {
  constexpr int64_t kAhead = 4096, kLine = 64;  // bytes: hides the latency of memory (measured: 0.70 to 0.50 ns a site)
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    for (int64_t line = 0; line < int64_t{sizeof(T)}; ++line) {
      _mm_prefetch(reinterpret_cast<const char*>(x + i) + kAhead + line * kLine, _MM_HINT_T0);
    }
    step(i, ~__mmask64{0});
  }
  if (i < n) step(i, (__mmask64{1} << (n - i)) - 1);
}

// search(v) gives the levels of 64 numbers as bytes.
template <class Search, class T>
int64_t levels_by_64(const T* x, int64_t n, int num_edges, const Search& search, uint8_t* out) {
  const __m512i sentinel = _mm512_set1_epi8(static_cast<char>(num_edges + 1));
  int64_t nans = 0;
  for_each_64(x, n, [&](int64_t i, __mmask64 lanes) __attribute__((always_inline)) {
    __m512 v[4];
    for (int j = 0; j < 4; ++j) v[j] = load_16(x + i + 16 * j, static_cast<__mmask16>(lanes >> (16 * j)));
    const __mmask64 nan = nans_of(v);
    nans += __builtin_popcountll(nan);
    _mm512_mask_storeu_epi8(out + i, lanes, _mm512_mask_mov_epi8(search(v), nan, sentinel));
  });
  return nans;
}
