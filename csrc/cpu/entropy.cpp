// entropy and information on the CPU. Contract: core/entropy.h.
//
// The sums of a table are taken piece by piece. For an information, a piece of the sum over classes stays in the
// first-level cache while the pieces of its classes pass.
#include "../core/entropy.h"

#include <algorithm>
#include <vector>

#include "entropy_terms.h"
#include "kernels.h"
#include "parallel.h"

namespace ppf::cpu {
namespace {

constexpr int64_t kPiece = 1024;          // cells
constexpr int64_t kCellsPerTask = 16384;  // or one table, where that is more

void check(const EntropySums& sums) {
  require((sums.seen | sums.total) < kCountLimit, "counts: wanted n >= 0 and sums below 2^52");
}

double entropy_of(const EntropySums& sums, bool miller_madow) {
  check(sums);
  if (sums.used < 2) return 0;
  const double N = exact_double(sums.total);
  const double plugin = std::max(log_of(sums.total) - sums.terms / N, 0.0);
  return miller_madow ? plugin + static_cast<double>(sums.used - 1) / (2 * N) : plugin;
}

double entropy_of(const int64_t* counts, int64_t cells, bool miller_madow) {
  const EntropySum add = entropy_sum();
  const double* small = small_entropy_terms();
  EntropySums sums;
  for (int64_t i = 0; i < cells; i += kPiece) add(counts + i, std::min(kPiece, cells - i), small, &sums);
  return entropy_of(sums, miller_madow);
}

double information_of(const int64_t* counts, int64_t classes, int64_t class_stride, int64_t cells, bool miller_madow) {
  const EntropySum add = entropy_sum();
  const double* small = small_entropy_terms();
  EntropySums pooled;
  std::vector<EntropySums> sums(classes);
  int64_t piece[kPiece];
  for (int64_t begin = 0; begin < cells; begin += kPiece) {
    const int64_t length = std::min(kPiece, cells - begin);
    std::fill_n(piece, length, int64_t{0});
    for (int64_t k = 0; k < classes; ++k) {
      const int64_t* some = counts + k * class_stride + begin;
      add(some, length, small, &sums[k]);
      for (int64_t i = 0; i < length; ++i) piece[i] = static_cast<int64_t>(uint64_t(piece[i]) + uint64_t(some[i]));
    }
    add(piece, length, small, &pooled);
  }
  double within = 0;
  for (const EntropySums& one : sums) within += exact_double(one.total) * entropy_of(one, miller_madow);
  return entropy_of(pooled, miller_madow) - within / std::max(exact_double(pooled.total), 1.0);
}

// Calls task(i) for 0 <= i < n, several to a thread's turn where one is little work.
template <class Task>
void for_each(int64_t n, int64_t cells, int threads, Task&& task) {
  const int64_t some = std::max<int64_t>(1, kCellsPerTask / std::max<int64_t>(cells, 1));
  parallel_for((n + some - 1) / some, threads, [&](int64_t block) {
    for (int64_t i = block * some; i < std::min(n, (block + 1) * some); ++i) task(i);
  });
}

}  // namespace

void entropy(const TensorView& counts, bool miller_madow, const TensorView& entropies, int threads) {
  require_on_cpu(counts, entropies);
  require(counts.ndim == 2 && counts.dtype == DType::int64 && counts.is_contiguous(),
          "counts: wanted (rows, cells) int64, contiguous");
  const int64_t rows = counts.shape[0], cells = counts.shape[1];
  require_output(entropies, DType::float64, rows, "entropies: wanted (rows,) float64, contiguous, writable");
  for_each(rows, cells, threads, [&](int64_t row) {
    entropies.as<double>()[row] = entropy_of(counts.as<const int64_t>() + row * cells, cells, miller_madow);
  });
}

void information(const TensorView& counts, bool miller_madow, const TensorView& information, int threads) {
  require_on_cpu(counts, information);
  require(counts.ndim == 4 && counts.dtype == DType::int64 && (counts.shape[3] < 2 || counts.stride[3] == 1),
          "counts: wanted (A, B, K, cells) int64, the cells contiguous");
  const auto [A, B, K, cells] = std::array{counts.shape[0], counts.shape[1], counts.shape[2], counts.shape[3]};
  require_output(information, DType::float64, A * B, "information: wanted (A, B) float64, contiguous, writable");
  for_each(A * B, K * cells, threads, [&, B = B, K = K, cells = cells](int64_t i) {
    const int64_t* tables = counts.as<const int64_t>() + i / B * counts.stride[0] + i % B * counts.stride[1];
    information.as<double>()[i] = information_of(tables, K, counts.stride[2], cells, miller_madow);
  });
}

}  // namespace ppf::cpu
