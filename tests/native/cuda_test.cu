// The CUDA kernels on the emulated device against plain loops, without Python: for ThreadSanitizer and
// AddressSanitizer. Prints "ok" or what differs. Argument: the schedule.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

#include "../../csrc/core/aura.h"
#include "../../csrc/core/joint.h"
#include "../../csrc/core/levels.h"
#include "../../csrc/core/pairs.h"
#include "../../csrc/core/take.h"
#include "../../csrc/cuda/device.h"
#include "../../csrc/cuda/launch.cuh"
#include "expect.h"

using namespace ppf;

namespace {

template <class T>
TensorView view(std::vector<T>& data, DType dtype, std::initializer_list<int64_t> shape) {
  TensorView v;
  v.data = data.data();
  v.dtype = dtype;
  v.item_bytes = sizeof(T);
  v.on_cuda = true;
  for (const int64_t n : shape) v.shape[v.ndim++] = n;
  int64_t stride = 1;
  for (int d = v.ndim - 1; d >= 0; --d) v.stride[d] = stride, stride *= v.shape[d];
  return v;
}

// Exactly as many bytes as asked for, so that AddressSanitizer sees a byte too far.
struct Memory {
  explicit Memory(int64_t bytes) : bytes(bytes), data(std::aligned_alloc(256, cuda::rounded_up(bytes + 1, 256))) {}
  ~Memory() { std::free(data); }
  TensorView view() const {
    TensorView v;
    v.data = data;
    v.item_bytes = 1;
    v.on_cuda = true;
    v.ndim = 1;
    v.shape[0] = bytes;
    v.stride[0] = 1;
    return v;
  }
  int64_t bytes;
  void* data;
};

struct Input {
  int64_t N, C, H, W, K = 2;
  bool channels_last;
  int L;
  std::vector<float> x, edges;
  std::vector<int64_t> labels;

  Input(int64_t N, int64_t C, int64_t H, int64_t W, bool channels_last, int L)
      : N(N), C(C), H(H), W(W), channels_last(channels_last), L(L), x(N * C * H * W), edges(C * (L - 1)), labels(N) {
    std::mt19937 random(L);
    std::normal_distribution<float> normal;
    for (size_t e = 0; e < edges.size(); ++e) edges[e] = -2 + 4 * (e % (L - 1) + 0.5f) / L;
    for (float& v : x) {
      v = random() % 23 == 0 ? std::numeric_limits<float>::quiet_NaN() : std::max(normal(random), -1.0f);
    }
    for (int64_t& label : labels) label = random() % (K + 1);  // some have no place
  }

  int level(int64_t n, int64_t c, int64_t h, int64_t w) const {
    const float v = x[channels_last ? ((n * H + h) * W + w) * C + c : ((n * C + c) * H + h) * W + w];
    return has_no_level(v) ? -1 : level_of(v, edges.data() + c * (L - 1), L - 1);
  }
  TensorView view_of_x() {
    TensorView v = view(x, DType::float32, {N, C, H, W});
    if (channels_last) v.stride = {H * W * C, 1, W * C, C};
    return v;
  }
};

template <class F>
void for_each_site(const Input& in, F&& f) {
  for (int64_t n = 0; n < in.N; ++n) {
    for (int64_t c = 0; c < in.C; ++c) {
      for (int64_t s = 0; s < in.H * in.W; ++s) f(n, c, s / in.W, s % in.W, in.level(n, c, s / in.W, s % in.W));
    }
  }
}

void test_aura(Input in, bool periodic, const std::vector<Offset>& offsets) {
  const int64_t R = std::ssize(offsets), L = in.L, K = in.K;
  std::vector<int64_t> wanted(in.C * K * R * L * L), wanted_nans(in.C), got(wanted.size()), nans(in.C);
  for_each_site(in, [&](int64_t n, int64_t c, int64_t h, int64_t w, int g) {
    if (in.labels[n] >= K) return;
    wanted_nans[c] += g < 0;
    for (int64_t r = 0; r < R && g >= 0; ++r) {
      int64_t h2 = h + offsets[r].h, w2 = w + offsets[r].w;
      if (periodic) h2 = ((h2 % in.H) + in.H) % in.H, w2 = ((w2 % in.W) + in.W) % in.W;
      if (h2 < 0 || h2 >= in.H || w2 < 0 || w2 >= in.W) continue;
      const int to = in.level(n, c, h2, w2);
      if (to >= 0) ++wanted[(((c * K + in.labels[n]) * R + r) * L + g) * L + to];
    }
  });
  const auto x = in.view_of_x(), edges = view(in.edges, DType::float32, {in.C, L - 1});
  const auto labels = view(in.labels, DType::int64, {in.N}), counts = view(got, DType::int64, {in.C, K, R, L, L});
  const Memory memory(cuda::aura_counts_workspace(x, edges, offsets, periodic, labels, counts));
  cuda::aura_counts(x, edges, offsets, periodic, labels, counts, view(nans, DType::int64, {in.C}), memory.view(),
                    nullptr);
  expect_equal(periodic ? "aura on a torus" : "aura", in.L, got, wanted);
  expect_equal("aura's nans", in.L, nans, wanted_nans);
}

void test_joint(Input in) {
  std::vector<int64_t> wanted(in.C * in.K * in.L), got(wanted.size()), nans(in.C);
  for_each_site(in, [&](int64_t n, int64_t c, int64_t, int64_t, int g) {
    if (in.labels[n] < in.K && g >= 0) ++wanted[(c * in.K + in.labels[n]) * in.L + g];
  });
  const auto labels = view(in.labels, DType::int64, {in.N}), counts = view(got, DType::int64, {in.C, in.K, in.L});
  const Memory memory(cuda::joint_counts_workspace(labels, counts));
  cuda::joint_counts(in.view_of_x(), view(in.edges, DType::float32, {in.C, in.L - 1}), labels, counts,
                     view(nans, DType::int64, {in.C}), memory.view(), nullptr);
  expect_equal("joint", in.L, got, wanted);
}

void test_pairs(Input in) {
  const int64_t L = in.L, C = in.C;
  std::vector<int64_t> wanted(C * C * L * L), got(wanted.size()), nans(C);
  for_each_site(in, [&](int64_t n, int64_t a, int64_t h, int64_t w, int g) {
    for (int64_t b = 0; b < C && g >= 0; ++b) {
      const int to = in.level(n, b, h, w);
      if (to >= 0) ++wanted[((a * C + b) * L + g) * L + to];
    }
  });
  const auto x = in.view_of_x(), edges = view(in.edges, DType::float32, {C, L - 1});
  const Memory memory(cuda::pairs_workspace(x, edges));
  cuda::pair_counts(x, edges, view(got, DType::int64, {C, C, L, L}), view(nans, DType::int64, {C}), memory.view(),
                    nullptr);
  expect_equal("pairs", in.L, got, wanted);
  std::vector<double> information(C * C, -1.0);
  cuda::pair_information(x, edges, Correction::miller_madow, view(information, DType::float64, {C, C}),
                         view(nans, DType::int64, {C}), memory.view(), nullptr);
  for (const double i : information) failures += !std::isfinite(i);
}

void test_take() {
  std::vector<float> x(7 * 5 * 9), out(3 * 2 * 9), wanted;
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  std::vector<int64_t> rows = {6, 0, 3}, columns = {4, 1};
  for (const int64_t i : rows) {
    for (const int64_t j : columns) wanted.insert(wanted.end(), &x[(i * 5 + j) * 9], &x[(i * 5 + j) * 9] + 9);
  }
  const cuda::TakeArguments cut{view(x, DType::float32, {7, 5, 3, 3}), view(rows, DType::int64, {3}),
                                view(columns, DType::int64, {2}), view(out, DType::float32, {3, 2, 3, 3})};
  const std::vector<cuda::TakeArguments> cuts(3, cut);
  cuda::take(cuts, nullptr);
  expect_equal("take", 0, out, wanted);
}

}  // namespace

int main(int, char** arguments) {
  const auto schedule = static_cast<unsigned>(std::atoi(arguments[1]));
  const std::vector<Offset> near = {{0, 0, 1}, {0, 1, -1}, {0, 1, 0}, {0, -2, 3}};
  emulation::device = {schedule, 2, 227 << 10};
  cuda::trial_kernels = true;
  test_aura(Input(3, 2, 12, 16, false, 16), false, near);
  test_aura(Input(3, 8, 6, 9, true, 5), false, near);
  test_joint(Input(5, 3, 6, 8, false, 16));
  test_joint(Input(5, 12, 6, 7, true, 5));
  test_pairs(Input(2, 5, 6, 8, false, 16));
  cuda::trial_kernels = false;
  for (const bool periodic : {false, true}) {
    test_aura(Input(3, 2, 12, 16, false, 16), periodic, near);
    test_aura(Input(3, 8, 6, 5, true, 5), periodic, near);
    emulation::device.shared_bytes = 24 << 10;
    test_aura(Input(2, 1, 12, 16, false, 100), periodic, near);
    test_aura(Input(2, 1, 9, 7, false, 256), periodic, near);
    emulation::device.shared_bytes = 2 << 10;
    test_aura(Input(2, 2, 12, 16, false, 40), periodic, near);
    emulation::device.shared_bytes = 227 << 10;
  }
  test_joint(Input(5, 3, 6, 8, false, 16));
  test_joint(Input(5, 12, 6, 7, true, 200));
  test_pairs(Input(2, 5, 6, 8, false, 16));
  test_pairs(Input(2, 2, 3, 5, false, 130));
  test_pairs(Input(1, 2, 3, 5, true, 256));
  test_pairs(Input(1, 20, 2, 3, false, 2));
  test_take();
  if (failures == 0) std::puts("ok");
  return failures != 0;
}
