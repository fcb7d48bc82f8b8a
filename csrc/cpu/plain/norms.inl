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

// Adds a row's terms to the sums of their positions, and returns the row's own sum. Rows that follow each other in
// memory are read as one stream: nothing is faster, but memory has to be told of it, kAhead entries in advance.
template <int kPower, bool kFactor, class T>
double norm_row(const T* __restrict x, const T* __restrict factor, int64_t entries, float* __restrict position_sums) {
  constexpr int kParts = kLanes / kWide, kAhead = (kFactor ? 4096 : 8192) / sizeof(T);
  constexpr int64_t kTerms = 128 * kLanes;  // added up in single precision
  double sum = 0;
  int64_t m = 0;
  while (m + kLanes <= entries) {
    Wide lane[kParts] = {};
    for (const int64_t end = std::min(entries, m + kTerms); m + kLanes <= end; m += kLanes) {
      __builtin_prefetch(x + m + kAhead, 0, 0);
      if constexpr (kFactor) __builtin_prefetch(factor + m + kAhead, 0, 0);
#pragma GCC unroll 4
      for (int p = 0; p < kParts; ++p) {
        const int64_t at = m + p * kWide;
        Wide terms, position;
        norm_terms<kPower, kFactor>(x + at, kFactor ? factor + at : factor, terms);
        lane[p] += terms;
        load_wide(position_sums + at, position);
        position += terms;
        __builtin_memcpy(position_sums + at, &position, sizeof position);
      }
    }
    for (int l = 0; l < kLanes; ++l) sum += lane[l / kWide][l % kWide];
  }
  for (; m < entries; ++m) {
    const float term = norm_term<kPower, kFactor>(x, factor, m);
    sum += term;
    position_sums[m] += term;
  }
  return sum;
}

template <int kPower, bool kFactor, class T>
void norms(const T* x, const T* factor, int64_t row_stride, int64_t rows, int64_t entries, double* row_sums,
           float* position_sums) {
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t at = r * row_stride;
    row_sums[r] = norm_row<kPower, kFactor>(x + at, kFactor ? factor + at : factor, entries, position_sums);
  }
}

template <class T>
NormBlock<T> norm_block(int power, bool with_factor) {
  if (power == 1) return with_factor ? norms<1, true, T> : norms<1, false, T>;
  return with_factor ? norms<2, true, T> : norms<2, false, T>;
}
