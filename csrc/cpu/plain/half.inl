// float16 to float32 in plain C++.

inline void widen(const float16* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = to_float(x[i]);
}
