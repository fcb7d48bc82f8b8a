// entropy and information on the CPU. Contract: core/entropy.h.
//
// For an information, a piece of the sum over classes stays in the first-level cache while the pieces of its classes
// pass.
#include "../core/entropy.h"

#include <vector>

#include "parallel.h"
#include "table_entropy.h"

namespace ppf::cpu {
namespace {

constexpr int64_t kCellsPerTask = 16384;  // or one table, where that is more

// The tables of some classes, `stride` apart.
struct ClassTables {
  const int64_t* counts;
  int64_t classes, stride, cells;

  // Calls take(k, piece, length) for the pieces of every class, and with k = classes for those of their sum.
  template <class Take>
  void for_each_piece(Take&& take) const {
    int64_t sum[kPiece];
    for (int64_t begin = 0; begin < cells; begin += kPiece) {
      const int64_t length = std::min(kPiece, cells - begin);
      std::fill_n(sum, length, int64_t{0});
      for (int64_t k = 0; k < classes; ++k) {
        const int64_t* piece = counts + k * stride + begin;
        take(k, piece, length);
        for (int64_t i = 0; i < length; ++i) sum[i] = static_cast<int64_t>(uint64_t(sum[i]) + uint64_t(piece[i]));
      }
      take(classes, sum, length);
    }
  }
};

double information_of(const EntropyRule& rule, const ClassTables& tables) {
  std::vector<TableEntropy> all(tables.classes + 1);  // the last is the sum's
  tables.for_each_piece([&](int64_t k, const int64_t* piece, int64_t length) { all[k].add(rule, piece, length); });
  if (rule.two_passes()) {
    for (TableEntropy& one : all) one.prepare(rule, tables.cells);
    tables.for_each_piece([&](int64_t k, const int64_t* piece, int64_t length) { all[k].weigh(rule, piece, length); });
  }
  double within = 0;
  for (int64_t k = 0; k < tables.classes; ++k) within += all[k].total() * all[k].value(rule, tables.cells);
  const TableEntropy& pooled = all.back();
  return pooled.value(rule, tables.cells) - within / std::max(pooled.total(), 1.0);
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

void entropy(const TensorView& counts, Correction correction, const TensorView& entropies, int threads) {
  require_on_cpu(counts, entropies);
  require(counts.ndim == 2 && counts.dtype == DType::int64 && counts.is_contiguous(),
          "counts: wanted (rows, cells) int64, contiguous");
  const int64_t rows = counts.shape[0], cells = counts.shape[1];
  require_output(entropies, DType::float64, rows, "entropies: wanted (rows,) float64, contiguous, writable");
  const EntropyRule rule(correction);
  for_each(rows, cells, threads, [&](int64_t row) {
    entropies.as<double>()[row] = entropy_of(rule, counts.as<const int64_t>() + row * cells, cells);
  });
}

void information(const TensorView& counts, Correction correction, const TensorView& information, int threads) {
  require_on_cpu(counts, information);
  require(counts.ndim == 4 && counts.dtype == DType::int64 && (counts.shape[3] < 2 || counts.stride[3] == 1),
          "counts: wanted (A, B, K, cells) int64, the cells contiguous");
  const auto [A, B, K, cells] = std::array{counts.shape[0], counts.shape[1], counts.shape[2], counts.shape[3]};
  require_output(information, DType::float64, A * B, "information: wanted (A, B) float64, contiguous, writable");
  const EntropyRule rule(correction);
  for_each(A * B, K * cells, threads, [&, B = B, K = K, cells = cells](int64_t i) {
    const int64_t* tables = counts.as<const int64_t>() + i / B * counts.stride[0] + i % B * counts.stride[1];
    information.as<double>()[i] = information_of(rule, {tables, K, counts.stride[2], cells});
  });
}

}  // namespace ppf::cpu
