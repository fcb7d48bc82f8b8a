// Sums of n log n in plain C++. Included by vectorized.inl.

// Cells go in groups. An empty one, and most cells of a large table are empty, costs its reading. A count's term does
// not depend on its group: the table was made by the same arithmetic.
inline void entropy_sum(const int64_t* counts, int64_t cells, const double* small, EntropySums* sums) {
  constexpr int64_t kLanes = 8;
  double terms[kLanes] = {};
  uint64_t total[kLanes] = {}, used[kLanes] = {}, seen = 0;
  const auto add = [&](const int64_t* n) {
    uint64_t any = 0;
    for (int l = 0; l < kLanes; ++l) any |= static_cast<uint64_t>(n[l]);
    if (any == 0) return;
    seen |= any;
    if (any < kSmallCounts) {
      for (int l = 0; l < kLanes; ++l) terms[l] += small[n[l]];
    } else {
      for (int l = 0; l < kLanes; ++l) terms[l] += entropy_term(static_cast<uint64_t>(n[l]));
    }
    for (int l = 0; l < kLanes; ++l) total[l] += static_cast<uint64_t>(n[l]);
    for (int l = 0; l < kLanes; ++l) used[l] += n[l] != 0;
  };
  int64_t i = 0;
  for (; i + kLanes <= cells; i += kLanes) add(counts + i);
  if (i < cells) {
    int64_t rest[kLanes] = {};
    for (int l = 0; i < cells; ++i, ++l) rest[l] = counts[i];
    add(rest);
  }
  double sum = 0;
  for (int l = 0; l < kLanes; ++l) {
    sum += terms[l];
    sums->total += total[l];
    sums->used += used[l];
  }
  sums->terms += sum;
  sums->seen |= seen;
}
