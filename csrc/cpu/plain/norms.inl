// Sums of powers in plain C++. Included by vectorized.inl.

template <int kPower, bool kFactor, class T>
inline float norm_term(const T* x, const T* factor, int64_t i) {
  float value = to_float(x[i]);
  if constexpr (kFactor) value *= to_float(factor[i]);
  return kPower == 1 ? __builtin_fabsf(value) : value * value;
}

// Adds the terms of up to kSide rows to the sums of their positions, and leaves each row's own sum.
template <int kSide, int kPower, bool kFactor, class T>
void norm_rows(const T* __restrict x, const T* __restrict factor, int64_t row_stride, int64_t entries,
               double* __restrict row_sums, float* __restrict position_sums) {
  constexpr int kLanes = 16;
  float lane[kSide][kLanes] = {};
  int64_t m = 0;
  for (; m + kLanes <= entries; m += kLanes) {
    float sum[kLanes] = {};
    for (int r = 0; r < kSide; ++r) {
      for (int l = 0; l < kLanes; ++l) {
        const float term =
            norm_term<kPower, kFactor>(x + r * row_stride, factor + (kFactor ? r * row_stride : 0), m + l);
        lane[r][l] += term;
        sum[l] += term;
      }
    }
    for (int l = 0; l < kLanes; ++l) position_sums[m + l] += sum[l];
  }
  for (int r = 0; r < kSide; ++r) {
    double row = 0;
    for (int l = 0; l < kLanes; ++l) row += lane[r][l];
    for (int64_t i = m; i < entries; ++i) {
      const float term = norm_term<kPower, kFactor>(x + r * row_stride, factor + (kFactor ? r * row_stride : 0), i);
      row += term;
      position_sums[i] += term;
    }
    row_sums[r] = row;
  }
}

template <int kPower, bool kFactor, class T>
void norms(const T* x, const T* factor, int64_t row_stride, int64_t rows, int64_t entries, double* row_sums,
           float* position_sums) {
  constexpr int kSide = 4;
  int64_t r = 0;
  for (; r + kSide <= rows; r += kSide) {
    const int64_t at = r * row_stride;
    norm_rows<kSide, kPower, kFactor>(x + at, kFactor ? factor + at : factor, row_stride, entries, row_sums + r,
                                      position_sums);
  }
  for (; r < rows; ++r) {
    const int64_t at = r * row_stride;
    norm_rows<1, kPower, kFactor>(x + at, kFactor ? factor + at : factor, row_stride, entries, row_sums + r,
                                  position_sums);
  }
}

template <class T>
NormBlock<T> norm_block(int power, bool with_factor) {
  if (power == 1) return with_factor ? norms<1, true, T> : norms<1, false, T>;
  return with_factor ? norms<2, true, T> : norms<2, false, T>;
}
