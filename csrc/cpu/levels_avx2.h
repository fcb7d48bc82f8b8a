// Levels of float32 values with AVX2: a binary search over edges that lie in registers.
//
// The edges, filled up with +inf to 15 or 31, make a complete search tree; row d of it holds 2^d edges, and idx = 2 idx
// + (edge < x) walks down. Rows of up to 8 edges are looked up by one permute. Four steps do for L <= 16, five for L
// <= 32. Beyond that the tree holds every 2^k-th edge, and k more steps gather from memory.
//
// Included inside the target region and namespace of its level.

struct EdgeTree {
  __m256 root, left, right, row2, row3, row4_low, row4_high;
  const float* edges;  // all of them, ascending
  int num_edges;
  int fine_steps;  // k
};

inline EdgeTree edge_tree(const float* edges, int num_edges) {
  EdgeTree tree{};
  tree.edges = edges;
  tree.num_edges = num_edges;
  const int depth = num_edges < 16 ? 4 : 5;
  while ((num_edges >> tree.fine_steps) >= (1 << depth)) ++tree.fine_steps;
  const auto node = [&](int row, int j) {
    const int rank = ((2 * j + 1) << (depth - 1 - row)) << tree.fine_steps;
    return rank <= num_edges ? edges[rank - 1] : __builtin_inff();
  };
  const auto eight = [&](int row, int from, int count) {
    float values[8];
    for (int j = 0; j < 8; ++j) values[j] = node(row, from + j % count);
    return _mm256_loadu_ps(values);
  };
  tree.root = _mm256_set1_ps(node(0, 0));
  tree.left = _mm256_set1_ps(node(1, 0));
  tree.right = _mm256_set1_ps(node(1, 1));
  tree.row2 = eight(2, 0, 4);
  tree.row3 = eight(3, 0, 8);
  if (depth == 5) {
    tree.row4_low = eight(4, 0, 8);
    tree.row4_high = eight(4, 8, 8);
  }
  return tree;
}

inline __m256i tree_step(__m256i idx, __m256 edge, __m256 x) {
  const __m256i above = _mm256_castps_si256(_mm256_cmp_ps(edge, x, _CMP_LT_OQ));
  return _mm256_sub_epi32(_mm256_add_epi32(idx, idx), above);
}

// Levels of 8 values, whatever a NaN gives.
template <int kSteps>
__m256i tree_levels(const EdgeTree& tree, __m256 x) {
  const __m256 first = _mm256_cmp_ps(tree.root, x, _CMP_LT_OQ);
  __m256i idx = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_castps_si256(first));
  idx = tree_step(idx, _mm256_blendv_ps(tree.left, tree.right, first), x);
  idx = tree_step(idx, _mm256_permutevar8x32_ps(tree.row2, idx), x);
  idx = tree_step(idx, _mm256_permutevar8x32_ps(tree.row3, idx), x);
  if constexpr (kSteps >= 5) {
    const __m256 high = _mm256_castsi256_ps(_mm256_slli_epi32(idx, 28));  // bit 3 of idx as the sign
    const __m256 edge = _mm256_blendv_ps(_mm256_permutevar8x32_ps(tree.row4_low, idx),
                                         _mm256_permutevar8x32_ps(tree.row4_high, idx), high);
    idx = tree_step(idx, edge, x);
  }
  if constexpr (kSteps > 5) {
    idx = _mm256_slli_epi32(idx, tree.fine_steps);
    for (int half = 1 << (tree.fine_steps - 1); half > 0; half /= 2) {
      const __m256i rank = _mm256_add_epi32(idx, _mm256_set1_epi32(half - 1));
      const __m256 real = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(tree.num_edges), rank));
      const __m256 edge = _mm256_mask_i32gather_ps(_mm256_set1_ps(__builtin_inff()), tree.edges, rank, real, 4);
      const __m256 above = _mm256_cmp_ps(edge, x, _CMP_LT_OQ);
      idx = _mm256_add_epi32(idx, _mm256_and_si256(_mm256_castps_si256(above), _mm256_set1_epi32(half)));
    }
  }
  return idx;
}

inline void store_levels(const __m256i (&level)[4], uint8_t* out) {
  const __m256i bytes =
      _mm256_packus_epi16(_mm256_packus_epi32(level[0], level[1]), _mm256_packus_epi32(level[2], level[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permutevar8x32_epi32(bytes, order));
}

inline void store_levels(const __m256i (&level)[4], uint16_t* out) {
  for (int j = 0; j < 4; j += 2) {
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(level[j], level[j + 1]), 0xd8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 8 * j), words);
  }
}

inline __m256 load_8(const float* x) { return _mm256_loadu_ps(x); }
inline __m256 load_8(const double* x) {
  return _mm256_setr_m128(_mm256_cvtpd_ps(_mm256_loadu_pd(x)), _mm256_cvtpd_ps(_mm256_loadu_pd(x + 4)));
}
inline __m256 load_8(const float16* x) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x))); }
inline __m256 load_8(const bfloat16* x) {
  const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
}

// 32 values; returns the number of NaN among them.
template <int kSteps, class T, class Level>
int levels_of_32(const T* x, const EdgeTree& tree, Level* out) {
  __m256 v[4];
  __m256i level[4];
  for (int j = 0; j < 4; ++j) v[j] = load_8(x + 8 * j);
  for (int j = 0; j < 4; ++j) level[j] = tree_levels<kSteps>(tree, v[j]);
  int nans = 0;
  const __m256 any = _mm256_or_ps(_mm256_cmp_ps(v[0], v[1], _CMP_UNORD_Q), _mm256_cmp_ps(v[2], v[3], _CMP_UNORD_Q));
  if (__builtin_expect(_mm256_movemask_ps(any) != 0, 0)) {
    const __m256i sentinel = _mm256_set1_epi32(tree.num_edges + 1);
    for (int j = 0; j < 4; ++j) {
      const __m256 nan = _mm256_cmp_ps(v[j], v[j], _CMP_UNORD_Q);
      level[j] = _mm256_blendv_epi8(level[j], sentinel, _mm256_castps_si256(nan));
      nans += __builtin_popcount(static_cast<unsigned>(_mm256_movemask_ps(nan)));
    }
  }
  store_levels(level, out);
  return nans;
}

template <int kSteps, class T, class Level>
int64_t levels_by_tree(const T* x, int64_t n, const EdgeTree& tree, Level* out) {
  constexpr int64_t kAhead = 4096, kLine = 64;  // bytes: hides the latency of memory
  int64_t nans = 0, i = 0;
  for (; i + 32 <= n; i += 32) {
    for (int64_t byte = 0; byte < 32 * int64_t{sizeof(T)}; byte += kLine) {
      _mm_prefetch(reinterpret_cast<const char*>(x + i) + kAhead + byte, _MM_HINT_T0);
    }
    nans += levels_of_32<kSteps>(x + i, tree, out + i);
  }
  if (i < n) {
    T rest[32] = {};
    Level rest_levels[32];
    __builtin_memcpy(rest, x + i, static_cast<size_t>(n - i) * sizeof(T));
    nans += levels_of_32<kSteps>(rest, tree, rest_levels);
    __builtin_memcpy(out + i, rest_levels, static_cast<size_t>(n - i) * sizeof(Level));
  }
  return nans;
}

template <class T, class Level>
int64_t read_levels(const T* x, int64_t n, const EdgeSearch& search, Level* out) {
  const EdgeTree tree = edge_tree(search.edges, search.num_edges);
  if (search.num_edges < 16) return levels_by_tree<4>(x, n, tree, out);
  if (search.num_edges < 32) return levels_by_tree<5>(x, n, tree, out);
  return levels_by_tree<6>(x, n, tree, out);
}
