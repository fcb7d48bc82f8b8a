// Levels of float32 values with AVX-512: a binary search over edges that lie in registers.
//
// The edges, filled up with +inf to 31, stand in the order of a complete search tree (node i has children 2i and 2i+1),
// so that a step is one permute, one comparison and idx = 2 idx + (edge < x). Four steps do for L <= 16, five for L
// <= 32. Beyond that the tree holds every 2^k-th edge, and k more steps gather from memory.
//
// Included inside the target region and namespace of its level.

struct EdgeTree {
  __m512 low, high;    // nodes 1..15, 16..31
  const float* edges;  // all of them, ascending
  int num_edges;
  int fine_steps;  // k
};

// Node i of a tree of `depth` levels is edge number tree_rank(i), counted from 0.
inline __m512i tree_rank(__m512i node, int depth) {
  // A node at level d (its leading one) has rank (2 (i - 2^d) + 1) 2^(depth-1-d) - 1.
  const __m512i d = _mm512_sub_epi32(_mm512_set1_epi32(31), _mm512_lzcnt_epi32(node));
  const __m512i within = _mm512_sub_epi32(node, _mm512_sllv_epi32(_mm512_set1_epi32(1), d));
  const __m512i odd = _mm512_add_epi32(_mm512_add_epi32(within, within), _mm512_set1_epi32(1));
  const __m512i shift = _mm512_sub_epi32(_mm512_set1_epi32(depth - 1), d);
  return _mm512_sub_epi32(_mm512_sllv_epi32(odd, shift), _mm512_set1_epi32(1));
}

inline __m512 gather_edges(const float* edges, int num_edges, __m512i rank) {
  const __mmask16 real = _mm512_cmplt_epu32_mask(rank, _mm512_set1_epi32(num_edges));
  return _mm512_mask_i32gather_ps(_mm512_set1_ps(__builtin_inff()), real, rank, edges, 4);
}

inline EdgeTree edge_tree(const float* edges, int num_edges) {
  const __m512i nodes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 1);
  EdgeTree tree{};
  tree.edges = edges;
  tree.num_edges = num_edges;
  if (num_edges < 16) {
    tree.low = gather_edges(edges, num_edges, tree_rank(nodes, 4));
    return tree;
  }
  while ((num_edges >> tree.fine_steps) > 31) ++tree.fine_steps;
  const auto coarse = [&](__m512i node) {
    const __m512i rank = _mm512_add_epi32(tree_rank(node, 5), _mm512_set1_epi32(1));
    const __m512i fine = _mm512_slli_epi32(rank, static_cast<unsigned>(tree.fine_steps));
    return gather_edges(edges, num_edges, _mm512_sub_epi32(fine, _mm512_set1_epi32(1)));
  };
  tree.low = coarse(nodes);
  const __m512i sixteen = _mm512_set1_epi32(16);
  tree.high = coarse(_mm512_add_epi32(sixteen, _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)));
  return tree;
}

inline __m512i tree_step(__m512i node, __m512 edge, __m512 x) {
  const __mmask16 above = _mm512_cmp_ps_mask(edge, x, _CMP_LT_OQ);
  const __m512i left = _mm512_add_epi32(node, node);
  return _mm512_mask_add_epi32(left, above, left, _mm512_set1_epi32(1));
}

// Levels of 16 values, whatever a NaN gives; in the lowest 4, 5 or more bits with junk above them for kSteps 4 and 5.
template <int kSteps>
__m512i tree_levels(const EdgeTree& tree, __m512 x) {
  const __m512 root = _mm512_broadcastss_ps(_mm_permute_ps(_mm512_castps512_ps128(tree.low), 1));
  __m512i node = tree_step(_mm512_set1_epi32(1), root, x);
  node = tree_step(node, _mm512_permutexvar_ps(node, tree.low), x);
  node = tree_step(node, _mm512_permutexvar_ps(node, tree.low), x);
  node = tree_step(node, _mm512_permutexvar_ps(node, tree.low), x);
  if constexpr (kSteps >= 5) node = tree_step(node, _mm512_permutexvar_ps(node, tree.high), x);
  if constexpr (kSteps > 5) {
    __m512i level =
        _mm512_slli_epi32(_mm512_and_si512(node, _mm512_set1_epi32(31)), static_cast<unsigned>(tree.fine_steps));
    for (int half = 1 << (tree.fine_steps - 1); half > 0; half /= 2) {
      const __m512 edge =
          gather_edges(tree.edges, tree.num_edges, _mm512_add_epi32(level, _mm512_set1_epi32(half - 1)));
      const __mmask16 above = _mm512_cmp_ps_mask(edge, x, _CMP_LT_OQ);
      level = _mm512_mask_add_epi32(level, above, level, _mm512_set1_epi32(half));
    }
    return level;
  }
  return node;
}

// 4 x 16 numbers below 256 as 64 bytes in order.
inline __m512i packed_bytes(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i bytes = _mm512_packus_epi16(_mm512_packus_epi32(a, b), _mm512_packus_epi32(c, d));
  const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  return _mm512_permutexvar_epi32(order, bytes);
}

template <int kSteps>
struct TreeSearch {
  EdgeTree tree;
  __m512i operator()(const __m512 (&v)[4]) const {
    const __m512i bytes = packed_bytes(tree_levels<kSteps>(tree, v[0]), tree_levels<kSteps>(tree, v[1]),
                                       tree_levels<kSteps>(tree, v[2]), tree_levels<kSteps>(tree, v[3]));
    if constexpr (kSteps > 5) return bytes;
    return _mm512_and_si512(bytes, _mm512_set1_epi8((1 << kSteps) - 1));  // junk above them
  }
};

template <class T>
int64_t read_levels(const T* x, int64_t n, const EdgeSearch& edges, uint8_t* out) {
  const EdgeTree tree = edge_tree(edges.edges, edges.num_edges);
  if (edges.num_edges < 16) return levels_by_64(x, n, edges.num_edges, TreeSearch<4>{tree}, out);
  if (edges.num_edges < 32) return levels_by_64(x, n, edges.num_edges, TreeSearch<5>{tree}, out);
  return levels_by_64(x, n, edges.num_edges, TreeSearch<6>{tree}, out);
}

template <class T>
int64_t read_levels(const T* x, int64_t n, const EdgeSearch& edges, uint16_t* out) {
  const EdgeTree tree = edge_tree(edges.edges, edges.num_edges);
  int64_t nans = 0;
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = first_lanes(n - i);
    const __m512 v = load_16(x + i, lanes);
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i level = _mm512_mask_mov_epi32(tree_levels<6>(tree, v), nan, _mm512_set1_epi32(edges.num_edges + 1));
    nans += __builtin_popcount(nan);
    _mm512_mask_cvtepi32_storeu_epi16(out + i, lanes, level);
  }
  return nans;
}
