// Sums over the cells of a table in plain C++. Included by vectorized.inl.

constexpr int kEntropyLanes = 8;

// Calls add(n, any) for groups of cells that are not all empty, the last one filled up with 0, with the bits that any
// of them has. An empty group, and most cells of a large table are empty, costs its reading.
template <class Add>
inline void for_each_group(const int64_t* counts, int64_t cells, Add&& add) {
  const auto if_any = [&](const int64_t* n) {
    uint64_t any = 0;
    for (int l = 0; l < kEntropyLanes; ++l) any |= static_cast<uint64_t>(n[l]);
    if (any != 0) add(n, any);
  };
  int64_t i = 0;
  for (; i + kEntropyLanes <= cells; i += kEntropyLanes) if_any(counts + i);
  if (i < cells) {
    int64_t rest[kEntropyLanes] = {};
    for (int l = 0; i < cells; ++i, ++l) rest[l] = counts[i];
    if_any(rest);
  }
}

inline double sum_of(const double* lanes) {
  double sum = 0;
  for (int l = 0; l < kEntropyLanes; ++l) sum += lanes[l];
  return sum;
}

// Terms of a group with a count that is not small. Inlined it makes lookups of small ones slow: they become gathers.
template <Correction kCorrection>
[[gnu::noinline]] void add_large(const int64_t* n, const double* small, double* terms) {
  double large[kEntropyLanes];
  for (int l = 0; l < kEntropyLanes; ++l) large[l] = entropy_term<kCorrection>(static_cast<uint64_t>(n[l]));
  // Grassberger's series is one of large counts, the jackknife's d has no value for 0.
  if constexpr (kCorrection == Correction::grassberger || kCorrection == Correction::jackknife) {
    for (int l = 0; l < kEntropyLanes; ++l) {
      const auto count = static_cast<uint64_t>(n[l]);
      large[l] = count < kSmallCounts ? small[count] : large[l];
    }
  }
  for (int l = 0; l < kEntropyLanes; ++l) terms[l] += large[l];
}

template <Correction kCorrection>
inline void entropy_sum(const int64_t* counts, int64_t cells, const double* small, EntropySums* sums) {
  constexpr bool kByTable = kCorrection != Correction::chao_shen && kCorrection != Correction::james_stein;
  double terms[kEntropyLanes] = {};
  uint64_t total[kEntropyLanes] = {}, used[kEntropyLanes] = {}, seen = 0;
  for_each_group(counts, cells, [&](const int64_t* n, uint64_t any) {
    seen |= any;
    if constexpr (!kByTable) {
      for (int l = 0; l < kEntropyLanes; ++l) terms[l] += entropy_term<kCorrection>(static_cast<uint64_t>(n[l]));
    } else if (any < kSmallCounts) {
      for (int l = 0; l < kEntropyLanes; ++l) terms[l] += small[n[l]];
    } else {
      add_large<kCorrection>(n, small, terms);
    }
    for (int l = 0; l < kEntropyLanes; ++l) total[l] += static_cast<uint64_t>(n[l]);
    for (int l = 0; l < kEntropyLanes; ++l) used[l] += n[l] != 0;
  });
  for (int l = 0; l < kEntropyLanes; ++l) {
    sums->total += total[l];
    sums->used += used[l];
  }
  sums->terms += sum_of(terms);
  sums->seen |= seen;
}

inline void unseen_factors(const ChaoShenRow& row, double* factors) {
  const uint64_t end = row.sure < kRareCounts ? row.sure : kRareCounts;
  for (uint64_t n = 0; n <= kRareCounts; ++n) factors[n] = 1;
  for (uint64_t n = 1; n < end; ++n) factors[n] = unseen_factor(n, row);
}

inline double chao_shen_sum(const int64_t* counts, int64_t cells, const double* small, const double* factors,
                            const ChaoShenRow& row) {
  double sum[kEntropyLanes] = {};
  for_each_group(counts, cells, [&](const int64_t* n, uint64_t any) {
    double terms[kEntropyLanes] = {};
    if (any < kSmallCounts) {
      for (int l = 0; l < kEntropyLanes; ++l) terms[l] = small[n[l]];
    } else {
      add_large<Correction::plug_in>(n, small, terms);
    }
    for (int l = 0; l < kEntropyLanes; ++l) {
      const auto count = static_cast<uint64_t>(n[l]);
      const double factor = factors[count < kRareCounts ? count : kRareCounts];
      terms[l] = (exact_double(count) * row.log_inverse - terms[l]) * factor;
    }
    if (row.sure > kRareCounts) {  // nearly all that was seen was seen once
      for (int l = 0; l < kEntropyLanes; ++l) {
        const auto count = static_cast<uint64_t>(n[l]);
        if (count >= kRareCounts && count < row.sure) terms[l] *= unseen_factor(count, row);
      }
    }
    for (int l = 0; l < kEntropyLanes; ++l) sum[l] += terms[l];
  });
  return sum_of(sum);
}

inline double james_stein_sum(const int64_t* counts, int64_t cells, const JamesSteinRow& row) {
  double sum[kEntropyLanes] = {};
  for_each_group(counts, cells, [&](const int64_t* n, uint64_t) {
    for (int l = 0; l < kEntropyLanes; ++l) {
      const double x = row.base + row.slope * exact_double(static_cast<uint64_t>(n[l]));
      sum[l] += only_if(n[l] != 0, x * log_of(x));
    }
  });
  return sum_of(sum);
}

inline EntropyKernels entropy_kernels(Correction correction) {
  const EntropySum plug_in = entropy_sum<Correction::plug_in>;
  const EntropySum sums[] = {plug_in,  // Miller-Madow's too
                             plug_in,
                             entropy_sum<Correction::grassberger>,
                             entropy_sum<Correction::chao_shen>,
                             entropy_sum<Correction::james_stein>,
                             entropy_sum<Correction::jackknife>};
  return {sums[static_cast<int>(correction)], unseen_factors, chao_shen_sum, james_stein_sum};
}
