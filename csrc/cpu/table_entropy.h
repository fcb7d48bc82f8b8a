// The entropy of a table of counts that comes piece by piece: once, or twice where terms depend on the whole table.
// Contract: core/correction.h.
#pragma once

#include <algorithm>

#include "entropy_terms.h"
#include "kernels.h"

namespace ppf::cpu {

inline constexpr int64_t kPiece = 1024;  // cells; sums are taken piece by piece

// How a correction is computed at the active SIMD level.
class EntropyRule {
 public:
  explicit EntropyRule(Correction correction) : correction_(correction), kernels_(entropy_kernels(correction)) {}

  bool two_passes() const { return correction_ == Correction::chao_shen || correction_ == Correction::james_stein; }

 private:
  friend class TableEntropy;

  static const double* small_of(Correction correction) {
    if (correction == Correction::grassberger) return small_entropy_terms<Correction::grassberger>();
    if (correction == Correction::jackknife) return small_entropy_terms<Correction::jackknife>();
    return small_entropy_terms<Correction::plug_in>();
  }

  Correction correction_;
  EntropyKernels kernels_;
  const double* small_ = small_of(correction_);
};

class TableEntropy {
 public:
  // First pass: `cells` is at most kPiece.
  void add(const EntropyRule& rule, const int64_t* counts, int64_t cells) {
    rule.kernels_.sum(counts, cells, rule.small_, &sums_);
  }

  // Between the passes: for a table of so many cells.
  void prepare(const EntropyRule& rule, int64_t cells) {
    check();
    if (sums_.used < 2) return;
    const double N = total(), M = static_cast<double>(cells);
    if (rule.correction_ == Correction::chao_shen) {
      const double cover = (N - std::min(sums_.terms, N - 1)) / N, rate = cover / N;
      chao_shen_ = {N, rate, -log_of(rate), static_cast<uint64_t>(kSure / cover) + 1};
      rule.kernels_.unseen_factors(chao_shen_, factors_);
    } else {
      const double squares = sums_.terms / (N * N), variance = std::max(1 - squares, 0.0);
      const double spread = (N - 1) * (squares - 1 / M);
      const double lambda = variance < spread ? variance / spread : 1;
      james_stein_ = {lambda * N / M, 1 - lambda};
    }
  }

  // Second pass: the same pieces.
  void weigh(const EntropyRule& rule, const int64_t* counts, int64_t cells) {
    if (sums_.used < 2) return;
    weighed_ += rule.correction_ == Correction::chao_shen
                    ? rule.kernels_.chao_shen(counts, cells, rule.small_, factors_, chao_shen_)
                    : rule.kernels_.james_stein(counts, cells, james_stein_);
  }

  double total() const { return exact_double(sums_.total); }

  double value(const EntropyRule& rule, int64_t cells) const {
    check();
    if (sums_.used < 2) return 0;
    const double N = total(), mean = sums_.terms / N;
    switch (rule.correction_) {
      case Correction::plug_in:
      case Correction::grassberger:
        return std::max(log_of(N) - mean, 0.0);
      case Correction::miller_madow:
        return std::max(log_of(N) - mean, 0.0) + static_cast<double>(sums_.used - 1) / (2 * N);
      case Correction::jackknife:
        return std::max(jackknife_d(sums_.total) - mean, 0.0);
      case Correction::chao_shen:
        return chao_shen_.rate * weighed_;
      case Correction::james_stein: {
        const double empty = exact_double(static_cast<uint64_t>(cells) - sums_.used), base = james_stein_.base;
        return std::max(log_of(N) - (weighed_ + empty * (base * log_of(base))) / N, 0.0);
      }
    }
    return 0;
  }

 private:
  static constexpr double kSure = 40;  // exp(-40) is lost beside 1

  void check() const { require((sums_.seen | sums_.total) < kCountLimit, "counts: wanted n >= 0 and sums below 2^52"); }

  EntropySums sums_;
  double weighed_ = 0;
  ChaoShenRow chao_shen_;
  double factors_[kRareCounts + 1];
  JamesSteinRow james_stein_;
};

// Of a table that lies in one piece of memory.
inline double entropy_of(const EntropyRule& rule, const int64_t* counts, int64_t cells) {
  TableEntropy table;
  for (int64_t i = 0; i < cells; i += kPiece) table.add(rule, counts + i, std::min(kPiece, cells - i));
  if (rule.two_passes()) {
    table.prepare(rule, cells);
    for (int64_t i = 0; i < cells; i += kPiece) table.weigh(rule, counts + i, std::min(kPiece, cells - i));
  }
  return table.value(rule, cells);
}

}  // namespace ppf::cpu
