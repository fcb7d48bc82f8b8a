// Channels that lie together (channels_last) brought apart, in plain C++: 16 sites at a time.
//
// Included inside the namespace of its level.

inline void transpose_16(const float* x, int64_t stride, int64_t channels, float* out, int64_t pitch) {
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t i = 0; i < 16; ++i) out[c * pitch + i] = x[i * stride + c];
  }
}
