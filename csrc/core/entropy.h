// entropy: from counts to entropies and to information about a class.
//
//     H(n) = log N - (1/N) sum_i n_i log n_i          N = sum_i n_i, in nats; or corrected, see correction.h; exactly 0
//                                                     where fewer than two cells hold something
//
//     I = H(sum_k n_k) - sum_k (N_k / N) H(n_k)       k the classes; each of the K + 1 entropies corrected alike
//
//   counts       entropy: (rows, cells) int64, contiguous
//                information: (A, B, K, cells) int64, the cells contiguous, any strides on the other axes
//                0 <= n and N < 2^52, else an exception
//   entropies    (rows,) float64, contiguous: written
//   information  (A, B) float64, contiguous: written
//
// Every count is read once from memory; Chao-Shen and James-Stein, whose terms depend on the whole table, pass over a
// table twice, the second time in the caches.
//
// Deterministic: a sum is taken in an order that only the number of cells decides, with logarithms and exponentials of
// our own (cpu/entropy_terms.h): the same bits whatever the threads, the SIMD level and the machine.
#pragma once

#include "correction.h"
#include "tensor_view.h"

namespace ppf::cpu {

void entropy(const TensorView& counts, Correction correction, const TensorView& entropies, int threads);

void information(const TensorView& counts, Correction correction, const TensorView& information, int threads);

}  // namespace ppf::cpu
