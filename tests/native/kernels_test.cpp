// The CPU kernels without Python, against plain loops: for machines that we can only emulate. Prints "ok" or what
// differs.
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

#include "../../csrc/core/aura.h"
#include "../../csrc/core/entropy.h"
#include "../../csrc/core/extremes.h"
#include "../../csrc/core/joint.h"
#include "../../csrc/core/levels.h"
#include "../../csrc/core/masked_norm.h"
#include "../../csrc/core/norms.h"
#include "../../csrc/core/pairs.h"
#include "../../csrc/core/take.h"
#include "expect.h"
#include "views.h"

using namespace ppf;

namespace {

void test_counts(int L, bool periodic) {
  const int64_t N = 5, C = 19, H = 9, W = 13, K = 2, S = H * W;
  std::mt19937 random(L);
  std::normal_distribution<float> normal;
  std::vector<float> x(N * C * S), edges(C * (L - 1));
  for (int64_t c = 0; c < C; ++c) {
    for (int e = 0; e < L - 1; ++e) edges[c * (L - 1) + e] = -2 + 4 * (e + 0.5f) / L;
  }
  for (float& v : x) v = random() % 97 == 0 ? std::numeric_limits<float>::quiet_NaN() : normal(random);
  for (size_t i = 0; i < x.size(); i += 11) x[i] = edges[i % edges.size()];  // values on edges
  x[1] = 1e-42f, x[2] = INFINITY, x[3] = -INFINITY;
  std::vector<int64_t> labels = {1, 0, 1, 1, 0};
  const std::vector<Offset> offsets = {{0, 0, 1}, {0, 1, 0}, {0, 2, -3}, {0, -1, 20}};
  const int64_t R = std::ssize(offsets);

  const auto level = [&](int64_t n, int64_t c, int64_t h, int64_t w) {
    const float v = x[(n * C + c) * S + h * W + w];
    return has_no_level(v) ? -1 : level_of(v, edges.data() + c * (L - 1), L - 1);
  };
  std::vector<int64_t> aura(C * K * R * L * L), joint(C * K * L), pairs(C * C * L * L), nans(C);
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t c = 0; c < C; ++c) {
      for (int64_t s = 0; s < S; ++s) {
        const int g = level(n, c, s / W, s % W);
        nans[c] += g < 0;
        if (g < 0) continue;
        ++joint[(c * K + labels[n]) * L + g];
        for (int64_t b = 0; b < C; ++b) {
          const int h = level(n, b, s / W, s % W);
          if (h >= 0) ++pairs[((c * C + b) * L + g) * L + h];
        }
        for (int64_t r = 0; r < R; ++r) {
          int64_t h2 = s / W + offsets[r].h, w2 = s % W + offsets[r].w;
          if (periodic) {
            h2 = ((h2 % H) + H) % H;
            w2 = ((w2 % W) + W) % W;
          } else if (h2 < 0 || h2 >= H || w2 < 0 || w2 >= W) {
            continue;
          }
          const int h = level(n, c, h2, w2);
          if (h >= 0) ++aura[(((c * K + labels[n]) * R + r) * L + g) * L + h];
        }
      }
    }
  }
  auto xs = view(x, DType::float32, {N, C, H, W}), es = view(edges, DType::float32, {C, L - 1});
  auto ls = view(labels, DType::int64, {N});
  for (const int threads : {1, 3}) {
    std::vector<int64_t> got(aura.size()), missing(C);
    cpu::aura_counts(xs, es, offsets, periodic, ls, view(got, DType::int64, {C, K, R, L, L}),
                     view(missing, DType::int64, {C}), threads);
    expect_equal(periodic ? "aura on a torus" : "aura", L, got, aura);
    expect_equal("nans", L, missing, nans);
    got.assign(joint.size(), 0), missing.assign(C, 0);
    cpu::joint_counts(xs, es, ls, view(got, DType::int64, {C, K, L}), view(missing, DType::int64, {C}), threads);
    expect_equal("joint", L, got, joint);
    got.assign(pairs.size(), 0), missing.assign(C, 0);
    cpu::pair_counts(xs, es, view(got, DType::int64, {C, C, L, L}), view(missing, DType::int64, {C}), threads);
    expect_equal("pairs", L, got, pairs);
  }
}

// Numbers that any order of summation sums exactly: a mask of 1 and 0 on values that are small integers.
void test_masked_norm() {
  const int64_t N = 131, C = 37;
  std::mt19937 random(1);
  std::vector<double> x(N * C), grad(N * C), mask(C), y(N * C), mean(N), variance(N), wanted_mean(N),
      wanted_variance(N);
  for (double& v : x) v = static_cast<double>(random() % 64);
  for (double& v : grad) v = static_cast<double>(random() % 64);
  for (int64_t c = 0; c < C; ++c) mask[c] = c % 37 < 32 ? 1 : 0;  // a mean is a multiple of 1/32
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t c = 0; c < C; ++c) wanted_mean[n] += mask[c] * x[n * C + c] / 32;
    for (int64_t c = 0; c < C; ++c) {
      const double off = x[n * C + c] - wanted_mean[n];
      wanted_variance[n] += mask[c] * off * off / 32;
    }
  }
  const auto rows = [&](std::vector<double>& of) { return view(of, DType::float64, {N}); };
  const auto whole = [&](std::vector<double>& of) { return view(of, DType::float64, {N, C}); };
  const auto channels = [&](std::vector<double>& of) { return view(of, DType::float64, {C}); };
  std::vector<std::vector<double>> first;
  for (const int threads : {1, 3}) {
    std::vector<double> dx(N * C), dmask(C), dweight(C), dbias(C), wanted_dbias(C);
    cpu::masked_norm(whole(x), channels(mask), std::nullopt, std::nullopt, 0.5, true, whole(y), rows(mean),
                     rows(variance), threads);
    expect_equal("masked_norm, mean", 0, mean, wanted_mean);
    expect_equal("masked_norm, variance", 0, variance, wanted_variance);
    cpu::masked_norm_backward(whole(grad), whole(x), channels(mask), std::nullopt, rows(mean), rows(variance), 0.5,
                              true, whole(dx), channels(dmask), channels(dweight), channels(dbias), threads);
    for (int64_t i = 0; i < N * C; ++i) wanted_dbias[i % C] += grad[i];
    expect_equal("masked_norm, dbias", 0, dbias, wanted_dbias);
    if (first.empty()) first = {y, dx, dmask, dweight};
    const std::vector<std::vector<double>> now = {y, dx, dmask, dweight};
    for (size_t i = 0; i < now.size(); ++i) expect_equal("masked_norm, threads", static_cast<int>(i), now[i], first[i]);
  }
}

void test_weights() {
  const int64_t O = 67, I = 35, K = 9;
  std::mt19937 random(1);
  std::vector<float> w(O * I * K);
  for (float& v : w) v = static_cast<float>(static_cast<int>(random() % 201) - 100);  // sums are exact
  std::vector<float> rows(O), columns(I), wanted_rows(O), wanted_columns(I);
  for (int64_t i = 0; i < std::ssize(w); ++i) {
    wanted_rows[i / (I * K)] += std::fabs(w[i]);
    wanted_columns[i / K % I] += std::fabs(w[i]);
  }
  auto ws = view(w, DType::float32, {O, I, 3, 3});
  cpu::norms(ws, 1, std::nullopt, view(rows, DType::float32, {O}), view(columns, DType::float32, {I}), 2);
  expect_equal("norms, rows", 0, rows, wanted_rows);
  expect_equal("norms, columns", 0, columns, wanted_columns);

  std::vector<int64_t> keep_o = {0, 3, 4, 5, 66}, keep_i = {1, 2, 30, 34};
  std::vector<float> out(keep_o.size() * keep_i.size() * K), wanted;
  for (const int64_t o : keep_o) {
    for (const int64_t i : keep_i) wanted.insert(wanted.end(), &w[(o * I + i) * K], &w[(o * I + i) * K] + K);
  }
  cpu::take(ws, view(keep_o, DType::int64, {5}), view(keep_i, DType::int64, {4}),
            view(out, DType::float32, {5, 4, 3, 3}), 2);
  expect_equal("take", 0, out, wanted);

  std::vector<int64_t> odd;  // many words of a row in order
  for (int64_t j = 1; j < I * K; j += 2) odd.push_back(j);
  std::vector<float> words(keep_o.size() * odd.size()), wanted_words;
  for (const int64_t o : keep_o) {
    for (const int64_t j : odd) wanted_words.push_back(w[o * I * K + j]);
  }
  cpu::take(view(w, DType::float32, {O, I * K}), view(keep_o, DType::int64, {5}),
            view(odd, DType::int64, {std::ssize(odd)}), view(words, DType::float32, {5, std::ssize(odd)}), 2);
  expect_equal("take, words", 0, words, wanted_words);
}

// Counts on both sides of the switch from the table to the logarithm.
void test_entropy(int64_t cells) {
  const int64_t A = 3, K = 4;
  std::mt19937 random(cells);
  std::vector<int64_t> counts(A * K * cells);
  for (int64_t& n : counts) n = random() % 3 == 0 ? random() % 9000 : 0;
  const auto entropy_of = [&](const std::vector<int64_t>& n) {
    double N = 0, H = 0;
    for (const int64_t i : n) N += i;
    for (const int64_t i : n) H -= i > 0 ? i / N * std::log(i / N) : 0;
    return std::pair(H, N);
  };
  std::vector<double> H(A * K), I(A);
  cpu::entropy(view(counts, DType::int64, {A * K, cells}), Correction::plug_in, view(H, DType::float64, {A * K}), 2);
  cpu::information(view(counts, DType::int64, {A, 1, K, cells}), Correction::plug_in, view(I, DType::float64, {A, 1}),
                   2);
  for (int64_t a = 0; a < A; ++a) {
    std::vector<int64_t> pooled(cells);
    double within = 0;
    for (int64_t k = 0; k < K; ++k) {
      const int64_t* row = counts.data() + (a * K + k) * cells;
      const auto [h, n] = entropy_of({row, row + cells});
      for (int64_t i = 0; i < cells; ++i) pooled[i] += row[i];
      within += n * h;
      expect_equal("entropy", cells, {std::fabs(H[a * K + k] - (n > 0 ? h : 0)) < 1e-12}, std::vector<bool>{true});
    }
    const auto [h, n] = entropy_of(pooled);
    expect_equal("information", cells, {std::fabs(I[a] - (n > 0 ? h - within / n : 0)) < 1e-12},
                 std::vector<bool>{true});
  }
}

// Planes of one window and of several with a rest, in order and with the channels inside.
void test_extremes(int64_t sites) {
  const int64_t N = 6, C = 21;
  std::mt19937 random(sites);
  std::normal_distribution<float> normal;
  std::vector<float> x(N * C * sites), wanted_low(C, INFINITY), wanted_high(C, -INFINITY);
  std::vector<int64_t> wanted_nans(C);
  for (int64_t i = 0; i < std::ssize(x); ++i) {
    const int64_t c = i / sites % C;
    x[i] = random() % 97 == 0 ? std::numeric_limits<float>::quiet_NaN() : normal(random);
    wanted_nans[c] += has_no_level(x[i]);
    if (x[i] < wanted_low[c]) wanted_low[c] = x[i];
    if (x[i] > wanted_high[c]) wanted_high[c] = x[i];
  }
  std::vector<float> inside(x.size());
  for (int64_t i = 0; i < std::ssize(x); ++i) inside[(i / (C * sites) * sites + i % sites) * C + i / sites % C] = x[i];
  auto in_order = view(x, DType::float32, {N, C, sites}), last = view(inside, DType::float32, {N, C, sites});
  last.stride[1] = 1, last.stride[2] = C;
  for (const auto& xs : {in_order, last}) {
    std::vector<float> low(C, INFINITY), high(C, -INFINITY);
    std::vector<int64_t> nans(C);
    cpu::extremes(xs, view(low, DType::float32, {C}), view(high, DType::float32, {C}), view(nans, DType::int64, {C}),
                  3);
    expect_equal("extremes, low", sites, low, wanted_low);
    expect_equal("extremes, high", sites, high, wanted_high);
    expect_equal("extremes, nans", sites, nans, wanted_nans);
  }
}

}  // namespace

int main() {
  for (const int L : {2, 8, 16, 17, 33, 255, 256}) {
    test_counts(L, false);
    test_counts(L, true);
  }
  test_masked_norm();
  test_weights();
  for (const int64_t cells : {1, 8, 13, 1024, 2051}) test_entropy(cells);
  for (const int64_t sites : {1, 9, 130, 513, 700}) test_extremes(sites);
  if (failures == 0) std::puts("ok");
  return failures != 0;
}
