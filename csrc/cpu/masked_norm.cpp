// masked_norm on the CPU. Contract: core/masked_norm.h.
//
// Rows are dealt out in tasks of their own. Sums over rows are a task's first; a last pass adds the tasks' sums in
// order.
#include "../core/masked_norm.h"

#include <algorithm>
#include <vector>

#include "kernels.h"
#include "parallel.h"

namespace ppf::cpu {
namespace {

constexpr int64_t kRows = 64;   // summed in x's dtype
constexpr int64_t kTasks = 64;  // at most: each has sums over rows of its own

int64_t rows_of_task(int64_t N) { return (N + kRows * kTasks - 1) / (kRows * kTasks) * kRows; }

// Calls f with a value of x's type.
template <class F>
void with_real(const TensorView& x, F&& f) {
  require(x.dtype == DType::float32 || x.dtype == DType::float64, "x: wanted float32 or float64");
  return x.dtype == DType::float32 ? f(float{}) : f(double{});
}

void require_like(const TensorView& x, const TensorView& input, const char* what) {
  require(input.dtype == x.dtype && input.is_contiguous() && input.numel() == x.numel(), what);
}

void require_row(const TensorView& x, const TensorView& row, const char* what) {
  require(row.dtype == x.dtype && row.is_contiguous() && row.numel() == x.shape[1], what);
}

void check(const TensorView& x, const TensorView& mask, const std::optional<TensorView>& weight) {
  require(x.ndim == 2 && x.is_contiguous(), "x: wanted (N, C), contiguous");
  require_row(x, mask, "mask: wanted (C,) of x's dtype, contiguous");
  if (weight) require_row(x, *weight, "weight: wanted (C,) of x's dtype, contiguous");
}

// A norm with its rows of numbers; those that are absent are made here.
template <class T>
struct Rows {
  std::vector<T> ones, zeros;
  MaskedNorm<T> norm;

  Rows(const TensorView& x, const TensorView& mask, const std::optional<TensorView>& weight,
       const std::optional<TensorView>& bias, double eps, bool centred)
      : ones(weight ? 0 : x.shape[1], T(1)), zeros(bias ? 0 : x.shape[1]) {
    double total = 0;
    for (int64_t c = 0; c < x.shape[1]; ++c) total += static_cast<double>(mask.as<const T>()[c]);
    norm = {mask.as<const T>(),
            weight ? weight->as<const T>() : ones.data(),
            bias ? bias->as<const T>() : zeros.data(),
            x.shape[1],
            total,
            eps,
            centred};
  }
};

}  // namespace

void masked_norm(const TensorView& x, const TensorView& mask, const std::optional<TensorView>& weight,
                 const std::optional<TensorView>& bias, double eps, bool centred, const TensorView& y,
                 const TensorView& mean, const TensorView& variance, int threads) {
  require_on_cpu(x, mask, weight.value_or(TensorView{}), bias.value_or(TensorView{}), y, mean, variance);
  check(x, mask, weight);
  if (bias) require_row(x, *bias, "bias: wanted (C,) of x's dtype, contiguous");
  const int64_t N = x.shape[0], C = x.shape[1], share = rows_of_task(N);
  require_output(y, x.dtype, N * C, "y: wanted (N, C) of x's dtype, contiguous, writable");
  require_output(mean, x.dtype, N, "mean: wanted (N,) of x's dtype, contiguous, writable");
  require_output(variance, x.dtype, N, "variance: wanted (N,) of x's dtype, contiguous, writable");
  with_real(x, [&](auto value) {
    using T = decltype(value);
    const Rows<T> rows(x, mask, weight, bias, eps, centred);
    const auto forward = masked_norm_kernels<T>().forward;
    parallel_for(N > 0 ? (N + share - 1) / share : 0, threads, [&](int64_t task) {
      const int64_t n = task * share;
      forward(rows.norm, x.as<const T>() + n * C, std::min(share, N - n), y.as<T>() + n * C, mean.as<T>() + n,
              variance.as<T>() + n);
    });
  });
}

void masked_norm_backward(const TensorView& grad, const TensorView& x, const TensorView& mask,
                          const std::optional<TensorView>& weight, const TensorView& mean, const TensorView& variance,
                          double eps, bool centred, const TensorView& dx, const TensorView& dmask,
                          const std::optional<TensorView>& dweight, const std::optional<TensorView>& dbias,
                          int threads) {
  require_on_cpu(grad, x, mask, weight.value_or(TensorView{}), mean, variance, dx, dmask,
                 dweight.value_or(TensorView{}), dbias.value_or(TensorView{}));
  check(x, mask, weight);
  const int64_t N = x.shape[0], C = x.shape[1], share = rows_of_task(N);
  require_like(x, grad, "grad: wanted (N, C) of x's dtype, contiguous");
  for (const TensorView& of_rows : {mean, variance}) {
    require(of_rows.dtype == x.dtype && of_rows.is_contiguous() && of_rows.numel() == N,
            "mean, variance: wanted (N,) of x's dtype, contiguous");
  }
  require_output(dx, x.dtype, N * C, "dx: wanted (N, C) of x's dtype, contiguous, writable");
  require(dweight.has_value() == dbias.has_value(), "dweight, dbias: wanted both or neither");
  const TensorView outputs[] = {dmask, dweight.value_or(dmask), dbias.value_or(dmask)};
  for (const TensorView& out : outputs) {
    require_output(out, x.dtype, C, "dmask, dweight, dbias: wanted (C,) of x's dtype, contiguous, writable");
  }
  const int64_t sums = dweight ? 3 : 1, tasks = N > 0 ? (N + share - 1) / share : 0;
  with_real(x, [&](auto value) {
    using T = decltype(value);
    const Rows<T> rows(x, mask, weight, std::nullopt, eps, centred);
    const auto backward = masked_norm_kernels<T>().backward;
    std::vector<double> of_tasks(tasks * sums * C);
    parallel_for(tasks, threads, [&](int64_t task) {
      std::vector<T> some(sums * C);
      T *const dm = some.data(), *const dw = dweight ? dm + C : nullptr, *const db = dweight ? dm + 2 * C : nullptr;
      const int64_t end = std::min(task * share + share, N);
      for (int64_t n = task * share; n < end; n += kRows) {
        std::fill(some.begin(), some.end(), T(0));
        backward(rows.norm, grad.as<const T>() + n * C, x.as<const T>() + n * C, std::min(kRows, end - n),
                 mean.as<const T>() + n, variance.as<const T>() + n, dx.as<T>() + n * C, dm, dw, db);
        for (int64_t i = 0; i < sums * C; ++i) of_tasks[task * sums * C + i] += static_cast<double>(some[i]);
      }
    });
    for (int64_t i = 0; i < sums * C; ++i) {
      double sum = 0;
      for (int64_t task = 0; task < tasks; ++task) sum += of_tasks[task * sums * C + i];
      outputs[i / C].as<T>()[i % C] = static_cast<T>(i < C ? -sum / rows.norm.total : sum);
    }
  });
}

}  // namespace ppf::cpu
