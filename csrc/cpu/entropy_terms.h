// The terms of entropies, without branches and in plain arithmetic: a loop over them vectorises, and their bits depend
// on the count alone, neither on the SIMD level nor on a machine's libm.
//
//     x = 2^k m,  sqrt(1/2) <= m < sqrt(2),  s = (m - 1) / (m + 1)
//     log x = k log 2 + 2 (s + s^3/3 + s^5/5 + ... + s^19/19)          |s| < 0.172: the rest is below 2^-56
//     exp t = 2^k exp f,  |f| <= log(2)/2,  by f + f^2/2 + ... + f^13/13!
//
// Error of n log n: within 1.5 units in the last place; of the other functions: within 4.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "../core/correction.h"

namespace ppf::cpu {

inline constexpr uint64_t kCountLimit = uint64_t{1} << 52;  // counts are below

// float64 from an integer below 2^52; AVX2 has no instruction for it.
[[gnu::always_inline]] inline double exact_double(uint64_t n) {
  constexpr double kTwo52 = 0x1p52;
  return std::bit_cast<double>(n | std::bit_cast<uint64_t>(kTwo52)) - kTwo52;
}

// x or 0, by its bits: a choice between doubles would become a branch.
[[gnu::always_inline]] inline double only_if(bool holds, double x) {
  return std::bit_cast<double>(std::bit_cast<uint64_t>(x) & -static_cast<uint64_t>(holds));
}

struct Scaled {
  double k, m;  // 2^k m
};

// x >= 0 as 2^k m; something finite for 0.
[[gnu::always_inline]] inline Scaled scaled(double x) {
  constexpr uint64_t kRootOfHalf = 0x3fe6a09e667f3bcd;  // the bits of sqrt(1/2)
  constexpr uint64_t kBias = 1024;                      // keeps k positive
  const uint64_t bits = std::bit_cast<uint64_t>(x);
  const uint64_t k = (bits - (kRootOfHalf - (kBias << 52))) >> 52;
  constexpr double kTwo52 = 0x1p52;
  const double exponent = std::bit_cast<double>(k | std::bit_cast<uint64_t>(kTwo52)) - (kTwo52 + kBias);
  return {exponent, std::bit_cast<double>(bits - ((k - kBias) << 52))};
}

// log((1 + s) / (1 - s)).
[[gnu::always_inline]] inline double log_ratio(double s) {
  const double z = s * s;
  double series = 1.0 / 19;
  series = series * z + 1.0 / 17;
  series = series * z + 1.0 / 15;
  series = series * z + 1.0 / 13;
  series = series * z + 1.0 / 11;
  series = series * z + 1.0 / 9;
  series = series * z + 1.0 / 7;
  series = series * z + 1.0 / 5;
  series = series * z + 1.0 / 3;
  return 2 * (s + s * (z * series));
}

inline constexpr double kLog2 = 0x1.62e42fefa39efp-1;

// log x; something finite for 0.
[[gnu::always_inline]] inline double log_of(double x) {
  const auto [k, m] = scaled(x);
  return k * kLog2 + log_ratio((m - 1) / (m + 1));
}

// log(1 - q) for 0 <= q < 1, small q included; something finite for 1.
[[gnu::always_inline]] inline double log_one_minus(double q) {
  const double rest = 1 - q, lost = (1 - rest) - q;  // by rounding; what it amounts to for small q, where k = 0
  const auto [k, m] = scaled(rest);
  return k * kLog2 + log_ratio((m - 1 + lost) / (m + 1));
}

// exp(t) - 1 for -64 <= t <= 0.
[[gnu::always_inline]] inline double exp_minus_one(double t) {
  constexpr double kRound = 0x1.8p52, kLog2High = 0x1.62e42feep-1, kLog2Low = 0x1.a39ef35793c76p-33;
  const double shifted = t * 0x1.71547652b82fep+0 + kRound;  // its last bits are k
  const double k = shifted - kRound;
  const double f = t - k * kLog2High - k * kLog2Low;
  double series = 1.0 / 6227020800;
  series = series * f + 1.0 / 479001600;
  series = series * f + 1.0 / 39916800;
  series = series * f + 1.0 / 3628800;
  series = series * f + 1.0 / 362880;
  series = series * f + 1.0 / 40320;
  series = series * f + 1.0 / 5040;
  series = series * f + 1.0 / 720;
  series = series * f + 1.0 / 120;
  series = series * f + 1.0 / 24;
  series = series * f + 1.0 / 6;
  series = series * f + 1.0 / 2;
  const double power = std::bit_cast<double>((std::bit_cast<uint64_t>(shifted) << 52) + std::bit_cast<uint64_t>(1.0));
  return power * (f + f * (f * series)) + (power - 1);
}

// G of an even e >= 64: log e + sum_k (1 - 2^(1-2k)) B_2k / 2k (2/e)^2k, up to e^-10.
[[gnu::always_inline]] inline double even_g(uint64_t e) {
  const double x = exact_double(e), z = 1 / (x * x);
  double series = 511.0 / 66;
  series = series * z - 127.0 / 120;
  series = series * z + 31.0 / 126;
  series = series * z - 7.0 / 60;
  series = series * z + 1.0 / 6;
  return log_of(x) + z * series;
}

// d(n) = n log n - (n-1) log(n-1) of the jackknife, without their difference.
[[gnu::always_inline]] inline double jackknife_d(uint64_t n) {
  const double x = exact_double(n);
  return log_of(x) - (x - 1) * log_one_minus(1 / x);
}

// What is added up over the cells in the first pass. Chao-Shen's and James-Stein's say what the second one needs.
template <Correction kCorrection>
[[gnu::always_inline]] inline double entropy_term(uint64_t n) {
  const double x = exact_double(n);
  if constexpr (kCorrection == Correction::grassberger) return x * even_g(n & ~uint64_t{1});
  if constexpr (kCorrection == Correction::chao_shen) return exact_double(static_cast<uint64_t>(n == 1));
  if constexpr (kCorrection == Correction::james_stein) return x * x;
  if constexpr (kCorrection == Correction::jackknife) return x * jackknife_d(n);
  return x * log_of(x);  // plug_in, miller_madow
}

// Terms of small counts, which most are, by the same arithmetic; and 0 for 0.
inline constexpr uint64_t kSmallCounts = 4096;

template <Correction kCorrection>
const double* small_entropy_terms() {
  static const auto table = [] {
    std::array<double, kSmallCounts> terms{};
    for (uint64_t n = 1; n < kSmallCounts; ++n) terms[n] = entropy_term<kCorrection>(n);
    if constexpr (kCorrection == Correction::grassberger) {  // below the series' reach G(e) = G(e + 2) - 2 / (e + 1)
      double g = even_g(64);
      for (uint64_t e = 64; e > 0;) {
        e -= 2;
        g -= 2 / exact_double(e + 1);
        for (const uint64_t n : {e, e + 1}) terms[n] = exact_double(n) * g;
      }
    }
    return terms;
  }();
  return table.data();
}

// What the terms of Chao-Shen depend on: N, r = (1 - f/N) / N, log(1/r), and from where on no count is rare.
struct ChaoShenRow {
  double total, rate, log_inverse;
  uint64_t sure;
};

// 1 / (1 - (1 - q)^N), q = n r: what a cell's term is multiplied by for cells like it that were not seen. n > 0.
[[gnu::always_inline]] inline double unseen_factor(uint64_t n, const ChaoShenRow& row) {
  const double exponent = row.total * -log_one_minus(exact_double(n) * row.rate);
  // The smaller one of two numbers above 0, by their bits for the same reason.
  const uint64_t bits = std::bit_cast<uint64_t>(exponent), most = std::bit_cast<uint64_t>(64.0);
  return -1 / exp_minus_one(-std::bit_cast<double>(bits < most ? bits : most));
}

}  // namespace ppf::cpu
