// norms on the CPU. Contract: core/norms.h.
//
// The weight is a matrix of O rows and M = I * K entries. It is cut into blocks that do not depend on the number of
// threads; a block leaves its row sums and the sums of its positions behind, and a second, short pass adds those up.
#include "../core/norms.h"

#include <vector>

#include "kernels.h"
#include "parallel.h"

namespace ppf::cpu {
namespace {

constexpr int64_t kRows = 64;         // of a block
constexpr int64_t kEntries = 8192;    // of a block: its position sums stay in the second-level cache
constexpr int64_t kPositions = 1024;  // added up together

enum class Inner { in_order, channels_last };

// How the entries of a row lie, or an exception.
Inner inner_of(const TensorView& x) {
  if (x.is_contiguous()) return Inner::in_order;
  int64_t expected = 1;
  bool in_order = true;
  for (int d = x.ndim - 1; d >= 1; --d) {
    in_order = in_order && (x.shape[d] == 1 || x.stride[d] == expected);
    expected *= x.shape[d];
  }
  if (in_order) return Inner::in_order;
  bool last = x.stride[1] == 1;
  expected = x.shape[1];
  for (int d = x.ndim - 1; d >= 2; --d) {
    last = last && (x.shape[d] == 1 || x.stride[d] == expected);
    expected *= x.shape[d];
  }
  require(last, "x: wanted dense rows, in order or channels_last");
  return Inner::channels_last;
}

bool same_layout(const TensorView& a, const TensorView& b) {
  bool same = a.dtype == b.dtype && a.ndim == b.ndim;
  for (int d = 0; same && d < a.ndim; ++d) {
    same = a.shape[d] == b.shape[d] && (a.shape[d] == 1 || a.stride[d] == b.stride[d]);
  }
  return same;
}

}  // namespace

void norms(const TensorView& x, int power, const std::optional<TensorView>& factor, const TensorView& rows,
           const TensorView& columns, int threads) {
  require_on_cpu(x, factor.value_or(TensorView{}), rows, columns);
  require(x.ndim >= 1, "x: wanted at least one axis");
  require(power == 1 || power == 2, "power: wanted 1 or 2");
  require(!factor || same_layout(x, *factor), "factor: wanted x's shape, dtype and strides");
  const int64_t O = x.shape[0], I = x.ndim >= 2 ? x.shape[1] : 1;
  require_output(rows, DType::float32, O, "rows: wanted (O,) float32, contiguous, writable");
  require_output(columns, DType::float32, I, "columns: wanted (I,) float32, contiguous, writable");
  const Inner inner = inner_of(x);
  int64_t M = 1;
  for (int d = 1; d < x.ndim; ++d) M *= x.shape[d];
  const int64_t K = I > 0 ? M / I : 0;

  const int64_t row_blocks = (O + kRows - 1) / kRows, tiles = (M + kEntries - 1) / kEntries;
  std::vector<double> row_sums(tiles * O, 0.0);
  std::vector<float> position_sums(row_blocks * M, 0.0f);
  with_float(x.dtype, [&](auto value) {
    using T = decltype(value);
    const auto sum_block = norm_block<T>(power, factor.has_value());
    parallel_for(row_blocks * tiles, threads, [&](int64_t task) {
      const int64_t block = task / tiles, tile = task % tiles, o = block * kRows, m = tile * kEntries;
      const int64_t at = o * x.stride[0] + m;
      sum_block(x.as<const T>() + at, factor ? factor->as<const T>() + at : nullptr, x.stride[0],
                std::min(kRows, O - o), std::min(kEntries, M - m), row_sums.data() + tile * O + o,
                position_sums.data() + block * M + m);
    });
  });
  for (int64_t o = 0; o < O; ++o) {
    double sum = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) sum += row_sums[tile * O + o];
    rows.as<float>()[o] = static_cast<float>(sum);
  }
  const int64_t column_step = inner == Inner::in_order ? K : 1, step = inner == Inner::in_order ? 1 : I;
  const auto add_columns = [&](const auto* sums) {
    parallel_for((I + kPositions - 1) / kPositions, threads, [&](int64_t task) {
      const int64_t first = task * kPositions, last = std::min(I, first + kPositions);
      float* to = columns.as<float>();
      if (K == 1) {
        for (int64_t i = first; i < last; ++i) to[i] = static_cast<float>(sums[i]);
        return;
      }
      for (int64_t i = first; i < last; ++i) {
        double sum = 0;
        for (int64_t k = 0; k < K; ++k) sum += sums[i * column_step + k * step];
        to[i] = static_cast<float>(sum);
      }
    });
  };
  if (row_blocks == 1) return add_columns(position_sums.data());
  std::vector<double> totals(M, 0.0);
  parallel_for((M + kPositions - 1) / kPositions, threads, [&](int64_t task) {
    const int64_t first = task * kPositions, last = std::min(M, first + kPositions);
    for (int64_t block = 0; block < row_blocks; ++block) {
      const float* sums = position_sums.data() + block * M;
      for (int64_t m = first; m < last; ++m) totals[m] += sums[m];
    }
  });
  add_columns(totals.data());
}

}  // namespace ppf::cpu
