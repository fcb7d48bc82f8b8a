// The level search in plain C++ (the rule: core/levels.h). For the portable level alone: the others have a search of
// their own.

constexpr int64_t kLevelBlock = 256;
constexpr int kMaxComparedEdges = 31;

// Few edges: count them one after the other over a small block of values.
template <class Level>
int64_t levels_by_comparison(const float* values, int64_t n, const float* edges, int num_edges, Level* out) {
  int64_t nans = 0;
  for (int64_t begin = 0; begin < n; begin += kLevelBlock) {
    const int64_t count = n - begin < kLevelBlock ? n - begin : kLevelBlock;
    const float* x = values + begin;
    int32_t level[kLevelBlock];
    for (int64_t i = 0; i < count; ++i) level[i] = x[i] != x[i] ? num_edges + 1 : 0;
    for (int64_t i = 0; i < count; ++i) nans += level[i] != 0;
    for (int e = 0; e < num_edges; ++e) {
      const float edge = edges[e];
      for (int64_t i = 0; i < count; ++i) level[i] += edge < x[i];
    }
    for (int64_t i = 0; i < count; ++i) out[begin + i] = static_cast<Level>(level[i]);
  }
  return nans;
}

// Many edges: a binary search without branches, several values side by side.
template <class Level>
int64_t levels_by_search(const float* values, int64_t n, const float* edges, int num_edges, Level* out) {
  int64_t nans = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float x = values[i];
    int base = 0;
    for (int length = num_edges; length > 1;) {
      const int half = length / 2;
      base += edges[base + half - 1] < x ? half : 0;
      length -= half;
    }
    const bool nan = x != x;
    nans += nan;
    out[i] = static_cast<Level>(nan ? num_edges + 1 : base + (edges[base] < x));
  }
  return nans;
}

template <class Level>
int64_t search_levels(const float* values, int64_t n, const float* edges, int num_edges, Level* out) {
  return num_edges <= kMaxComparedEdges ? levels_by_comparison(values, n, edges, num_edges, out)
                                        : levels_by_search(values, n, edges, num_edges, out);
}

template <class T, class Level>
int64_t read_levels(const T* x, int64_t n, const EdgeSearch& search, Level* out) {
  if constexpr (requires { static_cast<const float*>(x); }) {
    return search_levels(x, n, search.edges, search.num_edges, out);
  } else {
    float values[2 * kLevelBlock];
    int64_t nans = 0;
    for (int64_t begin = 0; begin < n; begin += 2 * kLevelBlock) {
      const int64_t count = n - begin < 2 * kLevelBlock ? n - begin : 2 * kLevelBlock;
      widen(x + begin, count, values);
      nans += search_levels(values, count, search.edges, search.num_edges, out + begin);
    }
    return nans;
  }
}
