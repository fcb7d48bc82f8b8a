// n log n, the term of an entropy, without branches and in plain arithmetic: a loop over it vectorises, and its bits
// depend on n alone, neither on the SIMD level nor on a machine's libm.
//
//     n = 2^k m,  sqrt(1/2) <= m < sqrt(2),  s = (m - 1) / (m + 1)
//     log n = k log 2 + 2 (s + s^3/3 + s^5/5 + ... + s^19/19)          |s| < 0.172: the rest is below 2^-56
//
// Error: within 1.5 units in the last place.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace ppf::cpu {

inline constexpr uint64_t kCountLimit = uint64_t{1} << 52;  // counts are below

// float64 from an integer below 2^52; AVX2 has no instruction for it.
[[gnu::always_inline]] inline double exact_double(uint64_t n) {
  constexpr double kTwo52 = 0x1p52;
  return std::bit_cast<double>(n | std::bit_cast<uint64_t>(kTwo52)) - kTwo52;
}

// log n for 1 <= n < 2^52; something finite for n = 0.
[[gnu::always_inline]] inline double log_of(uint64_t n) {
  constexpr uint64_t kRootOfHalf = 0x3fe6a09e667f3bcd;  // the bits of sqrt(1/2)
  const uint64_t bits = std::bit_cast<uint64_t>(exact_double(n));
  const uint64_t k = (bits - kRootOfHalf) >> 52;
  const double m = std::bit_cast<double>(bits - (k << 52));
  const double s = (m - 1) / (m + 1), z = s * s;
  double series = 1.0 / 19;
  series = series * z + 1.0 / 17;
  series = series * z + 1.0 / 15;
  series = series * z + 1.0 / 13;
  series = series * z + 1.0 / 11;
  series = series * z + 1.0 / 9;
  series = series * z + 1.0 / 7;
  series = series * z + 1.0 / 5;
  series = series * z + 1.0 / 3;
  return exact_double(k) * 0x1.62e42fefa39efp-1 + 2 * (s + s * (z * series));
}

[[gnu::always_inline]] inline double entropy_term(uint64_t n) { return exact_double(n) * log_of(n); }

// n log n of small counts, which most are.
inline constexpr uint64_t kSmallCounts = 4096;

inline const double* small_entropy_terms() {
  static const auto table = [] {
    std::array<double, kSmallCounts> terms;
    for (uint64_t n = 0; n < kSmallCounts; ++n) terms[n] = entropy_term(n);
    return terms;
  }();
  return table.data();
}

// n log n of any count.
class EntropyTerms {
 public:
  double operator()(uint64_t n) const { return n < kSmallCounts ? small_[n] : entropy_term(n); }

 private:
  const double* small_ = small_entropy_terms();
};

}  // namespace ppf::cpu
