// Runs each CPU kernel at the SIMD level that the argument names, between two marks, for bench/instructions.py, which
// counts the instructions from mark to mark. The first call of each is not counted: it grows the heap and binds
// symbols.
//
// Two ways to count, since valgrind 3.19 knows no AVX-512 and virtual machines rarely count instructions for `perf`:
// under callgrind the marks are client requests; elsewhere the marks are signals, and the program steps from one to the
// other through a child of its own. The C library should not use `rep`, each turn of which is a step.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>
#include <valgrind/callgrind.h>

#include "../../csrc/core/aura.h"
#include "../../csrc/core/entropy.h"
#include "../../csrc/core/extremes.h"
#include "../../csrc/core/joint.h"
#include "../../csrc/core/masked_norm.h"
#include "../../csrc/core/norms.h"
#include "../../csrc/core/pairs.h"
#include "../../csrc/core/take.h"
#include "../../csrc/cpu/isa.h"
#include "views.h"

using namespace ppf;

namespace {

// --- counting --------------------------------------------------------------------------------------------------------

void under_callgrind(const std::string& name, const std::function<void()>& call) {
  call();
  CALLGRIND_ZERO_STATS;
  call();
  CALLGRIND_DUMP_STATS_AT(name.c_str());
}

// From the child's first stop to its second.
void by_steps(const std::string& name, const std::function<void()>& call) {
  const pid_t child = fork();
  if (child == 0) {
    ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    call();
    raise(SIGUSR1);
    call();
    raise(SIGUSR1);
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  bool counted = WIFSTOPPED(status) && WSTOPSIG(status) == SIGUSR1;
  int64_t steps = 0;
  while (counted) {
    counted = ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr) == 0 && waitpid(child, &status, 0) == child &&
              WIFSTOPPED(status);
    if (!counted || WSTOPSIG(status) != SIGTRAP) break;
    ++steps;
  }
  counted = counted && WSTOPSIG(status) == SIGUSR1;
  kill(child, SIGKILL);
  waitpid(child, &status, 0);
  if (!counted) std::exit((std::fprintf(stderr, "%s could not be stepped through\n", name.c_str()), 1));
  std::printf("%s: %lld\n", name.c_str(), static_cast<long long>(steps));
  std::fflush(stdout);
}

// Counts a call that does `units` sites, cells, entries or pairs.
void count(const std::string& kernel, int64_t units, const std::function<void()>& call) {
  const std::string name = kernel + " / " + std::to_string(units);
  if (RUNNING_ON_VALGRIND) {
    under_callgrind(name, call);
  } else {
    by_steps(name, call);
  }
}

// --- kernels ---------------------------------------------------------------------------------------------------------

// Rectified, bell-shaped, the same everywhere: the standard fixes the generator, integers the rest.
std::vector<float> activations(int64_t n) {
  std::mt19937 random(1);
  std::vector<float> x(n);
  for (float& v : x) {
    const uint32_t r = random();
    const int sum = static_cast<int>((r & 255) + (r >> 8 & 255) + (r >> 16 & 255) + (r >> 24)) - 510;
    v = static_cast<float>(std::max(sum, 0)) / 148;
  }
  return x;
}

struct Maps {
  int64_t N, C, H, W;
  bool channels_last = false;
};

// A batch of maps, their levels, and the counts of what is asked.
struct Activations {
  std::vector<float> values, edges;
  std::vector<int64_t> counts, nans;
  TensorView x, e, missing;
  int64_t sites;

  Activations(const Maps& m, int L)
      : values(activations(m.N * m.C * m.H * m.W)), edges(m.C * (L - 1)), nans(m.C), sites(std::ssize(values)) {
    for (size_t i = 0; i < edges.size(); ++i) edges[i] = 2.5f * static_cast<float>(i % (L - 1)) / static_cast<float>(L);
    x = view(values, DType::float32, {m.N, m.C, m.H, m.W});
    if (m.channels_last) x.stride = {m.C * m.H * m.W, 1, m.W * m.C, m.C};
    e = view(edges, DType::float32, {m.C, L - 1});
    missing = view(nans, DType::int64, {m.C});
  }

  TensorView counts_of(std::initializer_list<int64_t> shape) {
    int64_t cells = 1;
    for (const int64_t n : shape) cells *= n;
    counts.assign(cells, 0);
    return view(counts, DType::int64, shape);
  }
};

const std::vector<Offset> kAxial = {{0, 0, 1}, {0, 1, 0}}, kMoore = {{0, 0, 1}, {0, 1, -1}, {0, 1, 0}, {0, 1, 1}};

void count_aura(const std::string& name, const Maps& m, int L, const std::vector<Offset>& offsets, bool merge = false) {
  Activations a(m, L);
  const TensorView counts = a.counts_of({m.C, 1, merge ? 1 : std::ssize(offsets), L, L});
  count(name, a.sites, [&] { cpu::aura_counts(a.x, a.e, offsets, false, std::nullopt, counts, a.missing, 1); });
}

// A step takes some 15 microseconds, hence `small`.
void count_activations(bool small) {
  const Maps maps = small ? Maps{1, 4, 56, 56} : Maps{4, 16, 56, 56};
  if (!small) count_aura("aura axial, L = 8", maps, 8, kAxial);
  for (const int L : {16, 32}) count_aura("aura axial, L = " + std::to_string(L), maps, L, kAxial);
  // Enough sites a channel for the small counters, and too few.
  if (!small) count_aura("aura axial, L = 256, many sites", {24, 3, 56, 56}, 256, kAxial);
  count_aura("aura axial, L = 256, few sites", {maps.N, small ? 1 : 16, 56, 56}, 256, kAxial);
  count_aura("aura axial, L = 16, 14x14", {small ? 4 : 32, small ? 10 : 32, 14, 14}, 16, kAxial);
  count_aura("aura axial, L = 16, channels_last", {maps.N, small ? 8 : 32, small ? 14 : 28, 28, true}, 16, kAxial);
  count_aura("aura moore, merged, L = 16", maps, 16, kMoore, true);

  Activations a(maps, 16);
  const TensorView joint = a.counts_of({maps.C, 1, 16});
  count("joint, L = 16", a.sites, [&] { cpu::joint_counts(a.x, a.e, std::nullopt, joint, a.missing, 1); });

  const int64_t C = small ? 4 : 16, work = C * (C + 1) / 2 * 56 * 56;
  Activations b({1, C, 56, 56}, 16);
  const TensorView pairs = b.counts_of({C, C, 16, 16});
  count("pairs, L = 16", work, [&] { cpu::pair_counts(b.x, b.e, pairs, b.missing, 1); });

  std::vector<float> low(maps.C), high(maps.C);
  const TensorView lows = view(low, DType::float32, {maps.C}), highs = view(high, DType::float32, {maps.C});
  count("extremes", a.sites, [&] { cpu::extremes(a.x, lows, highs, a.missing, 1); });
}

void count_weights(bool small) {
  const int64_t O = small ? 8 : 256, I = 128;
  std::vector<float> w = activations(O * I * 9), rows(O), columns(I);
  const TensorView weight = view(w, DType::float32, {O, I, 3, 3});
  const TensorView row_sums = view(rows, DType::float32, {O}), column_sums = view(columns, DType::float32, {I});
  count("norms", std::ssize(w), [&] { cpu::norms(weight, 2, std::nullopt, row_sums, column_sums, 1); });

  std::vector<int64_t> every_second(std::max(O, I) / 2);
  for (int64_t i = 0; i < std::ssize(every_second); ++i) every_second[i] = 2 * i;
  std::vector<float> out(O / 2 * (I / 2) * 9);
  const TensorView to = view(out, DType::float32, {O / 2, I / 2, 3, 3});
  const TensorView kept_rows = view(every_second, DType::int64, {O / 2});
  const TensorView kept_columns = view(every_second, DType::int64, {I / 2});
  count("take", std::ssize(out), [&] { cpu::take(weight, kept_rows, kept_columns, to, 1); });
}

void count_masked_norm() {
  const int64_t N = 128, C = 200;
  std::vector<float> x = activations(N * C), y(N * C), mask(C, 0.5f), sums(C), mean(N), variance(N);
  const TensorView rows = view(x, DType::float32, {N, C}), out = view(y, DType::float32, {N, C});
  const TensorView m = view(mask, DType::float32, {C}), dm = view(sums, DType::float32, {C});
  const TensorView mu = view(mean, DType::float32, {N}), v = view(variance, DType::float32, {N});
  count("masked_norm", N * C, [&] { cpu::masked_norm(rows, m, m, m, 1e-5, true, out, mu, v, 1); });
  count("masked_norm, backward", N * C, [&] {
    cpu::masked_norm_backward(rows, rows, m, m, mu, v, 1e-5, true, out, dm, std::nullopt, std::nullopt, 1);
  });
}

void count_entropy(bool small) {
  const int64_t rows = small ? 4 : 512, cells = 256;
  std::mt19937 random(1);
  std::vector<int64_t> counts(rows * cells);
  for (int64_t& n : counts) n = random() % 3 == 0 ? random() % 2000 : 0;
  std::vector<double> H(rows);
  const TensorView table = view(counts, DType::int64, {rows, cells}), entropies = view(H, DType::float64, {rows});
  for (const auto& [name, correction] : {std::pair{"entropy", Correction::plug_in},
                                         {"entropy, jackknife", Correction::jackknife},
                                         {"entropy, chao-shen", Correction::chao_shen},
                                         {"entropy, james-stein", Correction::james_stein}}) {
    count(name, rows * cells, [&, which = correction] { cpu::entropy(table, which, entropies, 1); });
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fputs("usage: instructions LEVEL\n", stderr), 2;
  cpu::set_isa(argv[1]);
  const bool small = !RUNNING_ON_VALGRIND;
  count_activations(small);
  count_weights(small);
  if (RUNNING_ON_VALGRIND) count_masked_norm();  // not recorded yet at the levels that are stepped through
  count_entropy(small);
}
