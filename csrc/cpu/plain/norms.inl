// Sums of powers in plain C++. Included by vectorized.inl.

// Vectors are asked for by name: left to itself the compiler vectorises over the rows, at a third of the speed. Sums
// have kLanes lanes at every level, in one register or in several (each holds kWide, said in kernels.cpp): all round
// alike.
constexpr int kLanes = 16;
typedef float Wide __attribute__((vector_size(kWide * sizeof(float))));
typedef int32_t WideBits __attribute__((vector_size(kWide * sizeof(float))));

inline void load_wide(const float* x, Wide& to) { __builtin_memcpy(&to, x, sizeof to); }

template <class T>
inline void load_wide(const T* x, Wide& to) {
  float values[kWide];
  widen(x, kWide, values);
  load_wide(values, to);
}

// The next kWide terms.
template <int kPower, bool kFactor, class T>
inline void norm_terms(const T* x, const T* factor, Wide& terms) {
  load_wide(x, terms);
  if constexpr (kFactor) {
    Wide by;
    load_wide(factor, by);
    terms *= by;
  }
  if constexpr (kPower == 1) {
    terms = (Wide)((WideBits)terms & 0x7fffffff);
  } else {
    terms *= terms;
  }
}

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
  constexpr int kParts = kLanes / kWide;
  Wide lane[kSide][kParts] = {};
  int64_t m = 0;
  for (; m + kLanes <= entries; m += kLanes) {
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) {
      Wide position, sum = {};
#pragma GCC unroll 4
      for (int r = 0; r < kSide; ++r) {
        const int64_t at = r * row_stride + m + p * kWide;
        // Rows that follow are too far for the machine to guess; with a factor it waits for memory in any case.
        if constexpr (!kFactor) __builtin_prefetch(x + at + kSide * row_stride);
        Wide terms;
        norm_terms<kPower, kFactor>(x + at, kFactor ? factor + at : factor, terms);
        lane[r][p] += terms;
        sum += terms;
      }
      load_wide(position_sums + m + p * kWide, position);
      position += sum;
      __builtin_memcpy(position_sums + m + p * kWide, &position, sizeof position);
    }
  }
  for (int r = 0; r < kSide; ++r) {
    double row = 0;
    for (int l = 0; l < kLanes; ++l) row += lane[r][l / kWide][l % kWide];
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
