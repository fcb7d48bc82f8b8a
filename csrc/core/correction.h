// Bias corrections of an entropy: what is estimated from the counts n of a table's cells, N = sum n, in nats.
//
//     plug_in       H = log N - (1/N) sum n log n
//     miller_madow  H + (m - 1) / 2N                                       m = non-empty cells (Miller 1955)
//     grassberger   log N - (1/N) sum n G(n)                               (Grassberger 2003, arXiv physics/0307138)
//                   G(n) = psi(n) + (-1)^n/2 [psi((n+1)/2) - psi(n/2)] = psi(floor(n/2) + 1/2) + log 2
//     chao_shen     -sum q log q / (1 - (1 - q)^N),  q = (1 - f/N) n/N     f = cells of one count (Chao & Shen 2003);
//                                                                          N - 1 in its place where all cells are
//     james_stein   H(p),  p = lam/M + (1 - lam) n/N                       M = all cells (Hausser & Strimmer 2009)
//                   lam = (1 - sum (n/N)^2) / ((N - 1) (sum (n/N)^2 - 1/M)), clipped to [0, 1]
//     jackknife     N H - (N-1)/N sum n H(one count less in that cell)     (Zahl 1977)
//                   = d(N) - (1/N) sum n d(n),  d(n) = n log n - (n-1) log(n-1)
//
// All are exactly 0 where fewer than two cells hold something: for nothing, and for a constant, since a dead channel
// must score 0. Four formulas say so themselves. Grassberger's leaves some 1/N of a constant where N is odd, -1/6N^2
// where it is even: dead channels would stand in the order of their counts' parity. James-Stein's lam is 0 for a
// constant, so that nothing is spread over the other cells, but 0/0 where N = 1. What rounding takes below 0 is 0.
// James-Stein alone knows empty cells: it takes all cells of the table for possible.
#pragma once

#include <algorithm>
#include <iterator>
#include <string_view>

#include "check.h"

namespace ppf {

enum class Correction { plug_in, miller_madow, grassberger, chao_shen, james_stein, jackknife };

inline constexpr std::string_view kCorrectionNames[] = {"plug-in",   "miller-madow", "grassberger",
                                                        "chao-shen", "james-stein",  "jackknife"};

inline Correction correction_named(std::string_view name) {
  const auto* const found = std::find(std::begin(kCorrectionNames), std::end(kCorrectionNames), name);
  require(found != std::end(kCorrectionNames),
          "correction: wanted plug-in or miller-madow or grassberger or chao-shen or james-stein or jackknife");
  return static_cast<Correction>(found - kCorrectionNames);
}

}  // namespace ppf
