// Values of other types, and channels that lie together, in plain C++. Included by vectorized.inl.

// float16 has a function of its own, included before: half_f16c.h or plain/half.inl.
template <class T>
inline void widen(const T* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = to_float(x[i]);
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
