// Ranges of columns in plain C++. Included by vectorized.inl.

// Values as keys that order as they do.
template <class T>
struct RangeKey {
  using Key = float;
  using Count = uint32_t;
  static constexpr float kLowest = -__builtin_inff(), kHighest = __builtin_inff();
  static Key of(T x) { return to_float(x); }
  static bool is_nan(Key k) { return k != k; }
  static Key lower(Key k, Key low) { return k < low ? k : low; }  // NaN is neither lower nor higher
  static Key higher(Key k, Key high) { return k > high ? k : high; }
  static float value(Key k) { return k + 0.0f; }  // -0 becomes +0
};

// 16-bit floats stay 16 bits wide: their bits order as integers once those of negative ones are turned over. NaN lie
// beyond the infinities.
template <class T, int16_t kInfinity>
struct RangeKey16 {
  using Key = int16_t;
  using Count = uint16_t;
  static constexpr Key kLowest = ~kInfinity, kHighest = kInfinity;
  static Key turned(Key bits) { return static_cast<Key>(bits ^ ((bits >> 15) & 0x7fff)); }
  static Key of(T x) { return turned(static_cast<Key>(x.bits)); }
  static bool is_nan(Key k) { return (k > kHighest) | (k < kLowest); }
  static Key lower(Key k, Key low) {
    k = k < kLowest ? kHighest : k;
    return k < low ? k : low;
  }
  static Key higher(Key k, Key high) {
    k = k > kHighest ? kLowest : k;
    return k > high ? k : high;
  }
  static float value(Key k) { return to_float(T{static_cast<uint16_t>(turned(k))}) + 0.0f; }
};
template <>
struct RangeKey<float16> : RangeKey16<float16, 0x7c00> {};
template <>
struct RangeKey<bfloat16> : RangeKey16<bfloat16, 0x7f80> {};

template <int kRows, class T, class Key, class Count>
inline void range_rows(const T* __restrict x, int64_t row_stride, int64_t width, Key* __restrict low,
                       Key* __restrict high, Count* __restrict nans) {
  using Keys = RangeKey<T>;
  for (int64_t i = 0; i < width; ++i) {
    Key l = low[i], h = high[i];
    Count missing = nans[i];
    for (int r = 0; r < kRows; ++r) {
      const Key k = Keys::of(x[r * row_stride + i]);
      l = Keys::lower(k, l);
      h = Keys::higher(k, h);
      missing = static_cast<Count>(missing + Keys::is_nan(k));
    }
    low[i] = l, high[i] = h, nans[i] = missing;
  }
}

template <class T>
void range_columns(const T* x, int64_t outer, int64_t outer_stride, int64_t rows, int64_t row_stride, int64_t width,
                   float* low, float* high, int64_t* nans) {
  using Keys = RangeKey<T>;
  constexpr int64_t kMostRows = 65535;  // that a 16-bit counter counts
  typename Keys::Key lows[kRangeWidth], highs[kRangeWidth];
  typename Keys::Count missing[kRangeWidth];
  for (int64_t i = 0; i < width; ++i) lows[i] = Keys::kHighest, highs[i] = Keys::kLowest, missing[i] = 0;
  int64_t counted = 0;
  const auto flush = [&] {
    for (int64_t i = 0; i < width; ++i) nans[i] += missing[i], missing[i] = 0;
    counted = 0;
  };
  for (int64_t o = 0; o < outer; ++o) {
    const T* from = x + o * outer_stride;
    for (int64_t row = 0; row < rows;) {
      const int64_t end = row + (rows - row < kMostRows - counted ? rows - row : kMostRows - counted);
      counted += end - row;
      for (; row + 4 <= end; row += 4) range_rows<4>(from + row * row_stride, row_stride, width, lows, highs, missing);
      for (; row < end; ++row) range_rows<1>(from + row * row_stride, row_stride, width, lows, highs, missing);
      if (counted == kMostRows) flush();
    }
  }
  flush();
  for (int64_t i = 0; i < width; ++i) {
    const float l = Keys::value(lows[i]), h = Keys::value(highs[i]);
    low[i] = l < low[i] ? l : low[i];
    high[i] = h > high[i] ? h : high[i];
  }
}
