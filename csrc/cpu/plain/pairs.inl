// Pair counts in plain C++. Included by vectorized.inl.

constexpr int64_t kPairBlock = 512;

// Two runs of which pairs are counted, and where.
template <class Level>
struct PairOf {
  const Level *a, *b;
  int64_t* counts;
  uint32_t* table;
};

// Cells of a block of pairs are computed first, which vectorises; then counted. The tables take turns in the inner
// loop, so that increments of one cell (a rectified map's zeros) do not wait for each other.
template <class Cell, int kPairs, class Level>
void count_in_tables(const PairOf<Level>* pairs, int64_t n, int num_levels) {
  const int side = num_levels + 1;
  Cell cell[kPairs][kPairBlock];
  uint32_t* table[kPairs];
  for (int r = 0; r < kPairs; ++r) table[r] = pairs[r].table;
  for (int64_t begin = 0; begin < n; begin += kPairBlock) {
    const int64_t count = n - begin < kPairBlock ? n - begin : kPairBlock;
    for (int r = 0; r < kPairs; ++r) {
      const Level *a = pairs[r].a + begin, *b = pairs[r].b + begin;
      for (int64_t i = 0; i < count; ++i) cell[r][i] = static_cast<Cell>(a[i] * side + b[i]);
    }
    for (int64_t i = 0; i < count; ++i) {
      for (int r = 0; r < kPairs; ++r) ++table[r][cell[r][i]];
    }
  }
}

// Few pairs go straight into the counts: clearing and adding tables would cost more than counting. Pairs with a
// sentinel are counted in the first cell and taken off again.
template <int kPairs, class Level>
void count_directly(const PairOf<Level>* pairs, int64_t n, int num_levels) {
  uint16_t cell[kPairs][kPairBlock];
  const auto none = static_cast<Level>(num_levels);
  for (int64_t begin = 0; begin < n; begin += kPairBlock) {
    const int64_t count = n - begin < kPairBlock ? n - begin : kPairBlock;
    for (int r = 0; r < kPairs; ++r) {
      const Level *a = pairs[r].a + begin, *b = pairs[r].b + begin;
      uint16_t left_out = 0;
      for (int64_t i = 0; i < count; ++i) {
        const bool out = (a[i] == none) | (b[i] == none);
        cell[r][i] = static_cast<uint16_t>(out ? 0 : a[i] * num_levels + b[i]);
        left_out = static_cast<uint16_t>(left_out + out);
      }
      pairs[r].counts[0] -= left_out;
    }
    for (int64_t i = 0; i < count; ++i) {
      for (int r = 0; r < kPairs; ++r) ++pairs[r].counts[cell[r][i]];
    }
  }
}

// One counter for a site and both its neighbours at two shifts: half the increments, for tables as large as L^3.
template <int kTriples, class Level>
void count_triples(const Level* site, const Level* neighbor, int64_t n, const int64_t* shift, int num_levels,
                   uint32_t* tables) {
  const int side = num_levels + 1, table_size = side * side * side;
  uint16_t cell[kTriples][kPairBlock];
  for (int64_t begin = 0; begin < n; begin += kPairBlock) {
    const int64_t count = n - begin < kPairBlock ? n - begin : kPairBlock;
    for (int t = 0; t < kTriples; ++t) {
      const Level* a = site + begin;
      const Level *b = neighbor + begin + shift[2 * t], *c = neighbor + begin + shift[2 * t + 1];
      for (int64_t i = 0; i < count; ++i) cell[t][i] = static_cast<uint16_t>((a[i] * side + b[i]) * side + c[i]);
    }
    for (int64_t i = 0; i < count; ++i) {
      for (int t = 0; t < kTriples; ++t) ++tables[t * table_size + cell[t][i]];
    }
  }
}

template <int kPairs, class Level>
void count_pairs(const PairOf<Level>* pairs, int64_t n, int num_levels) {
  if (pairs[0].table == nullptr) return count_directly<kPairs>(pairs, n, num_levels);
  if (num_levels < 256) return count_in_tables<uint16_t, kPairs>(pairs, n, num_levels);
  count_in_tables<uint32_t, kPairs>(pairs, n, num_levels);
}

template <class Level>
void cooccurrences(const Level* site, const Level* neighbor, int64_t n, const int64_t* shift, int num_shifts,
                   int num_levels, int64_t* counts, int64_t stride, CountTables tables) {
  const int64_t side = num_levels + 1;
  uint32_t* table = tables.counters;
  for (; tables.of_three && num_shifts >= 4; shift += 4, num_shifts -= 4, table += 2 * side * side * side) {
    count_triples<2>(site, neighbor, n, shift, num_levels, table);
  }
  if (tables.of_three && num_shifts >= 2) {
    count_triples<1>(site, neighbor, n, shift, num_levels, table);
    shift += 2, num_shifts -= 2, table += side * side * side;
  }
  while (num_shifts > 0) {
    const int some = num_shifts < 4 ? num_shifts : 4;
    PairOf<Level> pairs[4];
    for (int r = 0; r < some; ++r) {
      pairs[r] = {site, neighbor + shift[r], counts + r * stride, table ? table + r * side * side : nullptr};
    }
    if (some == 4) count_pairs<4>(pairs, n, num_levels);
    if (some == 3) count_pairs<3>(pairs, n, num_levels);
    if (some == 2) count_pairs<2>(pairs, n, num_levels);
    if (some == 1) count_pairs<1>(pairs, n, num_levels);
    shift += some, num_shifts -= some, counts += some * stride, table += table ? some * side * side : 0;
  }
}

template <class Level>
void cross(const Level* const (&a)[2], const Level* const (&b)[2], int64_t n, int num_levels,
           int64_t* const (&counts)[4], CountTables tables) {
  const int64_t table_size = int64_t{num_levels + 1} * (num_levels + 1);
  PairOf<Level> pairs[4];
  for (int p = 0; p < 4; ++p) {
    pairs[p] = {a[p / 2], b[p % 2], counts[p], tables.counters ? tables.counters + p * table_size : nullptr};
  }
  count_pairs<4>(pairs, n, num_levels);
}
