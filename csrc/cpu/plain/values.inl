// Values of other types, and channels that lie together, in plain C++. Included by vectorized.inl.

template <class T>
inline void widen(const T* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = to_float(x[i]);
}

inline void widen(const float16* x, int64_t n, float* out) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
  }
#endif
  for (; i < n; ++i) out[i] = to_float(x[i]);
}

// What a search over float32 finds in values of any type.
template <auto kSearch, class T, class Level>
int64_t levels_by(const T* x, int64_t n, const EdgeSearch& edges, Level* out) {
  float values[2 * kLevelBlock];
  int64_t nans = 0;
  for (int64_t begin = 0; begin < n; begin += 2 * kLevelBlock) {
    const int64_t count = n - begin < 2 * kLevelBlock ? n - begin : 2 * kLevelBlock;
    widen(x + begin, count, values);
    nans += kSearch(values, count, edges.edges, edges.num_edges, out + begin);
  }
  return nans;
}

template <auto kSearch, class Level>
int64_t levels_by(const float* x, int64_t n, const EdgeSearch& edges, Level* out) {
  return kSearch(x, n, edges.edges, edges.num_edges, out);
}

constexpr int64_t kTransposeChannels = 32;
constexpr int64_t kSitesAhead = 32;  // their distance is too long for the machine to guess

template <class T>
void transpose(const T* x, int64_t n, int64_t stride, int64_t channels, float* out, int64_t pitch) {
  float tile[16 * kTransposeChannels] = {};
  for (int64_t i = 0; i < n; i += 16) {
    const int64_t rows = n - i < 16 ? n - i : 16;
    for (int64_t r = 0; r < rows; ++r) __builtin_prefetch(x + (i + kSitesAhead + r) * stride);
    for (int64_t r = 0; r < rows; ++r) widen(x + (i + r) * stride, channels, tile + r * kTransposeChannels);
    transpose_16(tile, kTransposeChannels, channels, out + i, pitch);
  }
}

inline void transpose(const float* x, int64_t n, int64_t stride, int64_t channels, float* out, int64_t pitch) {
  const int64_t whole = channels % 4 == 0 ? n / 16 * 16 : 0;
  for (int64_t i = 0; i < whole; i += 16) {
    for (int64_t r = i + kSitesAhead; r < i + kSitesAhead + 16; ++r) __builtin_prefetch(x + r * stride);
    transpose_16(x + i * stride, stride, channels, out + i, pitch);
  }
  if (whole < n) transpose<float>(x + whole * stride, n - whole, stride, channels, out + whole, pitch);
}
