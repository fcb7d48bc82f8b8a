// pair_counts and pair_information on the CPU. Contract: core/pairs.h.
//
// All channels become levels first, a byte a site. Then blocks of channel pairs are counted, so that the levels of a
// block stay in the caches: two channels of the block's rows with two of its columns at a time.
#include "../core/pairs.h"

#include <numeric>

#include "pair_tables.h"
#include "parallel.h"
#include "planes.h"
#include "table_entropy.h"

namespace ppf::cpu {
namespace {

constexpr int64_t kBlock = 16;  // channels in the rows and in the columns of a block

// The levels of all channels, `pitch` apart.
template <class Level>
struct LevelTable {
  int64_t channels, sites, pitch;
  std::vector<Level> levels;

  const Level* channel(int64_t c) const { return levels.data() + c * pitch; }
};

template <class Level, class T>
LevelTable<Level> all_levels(const Lattice& x, const float* edges, int num_levels, int64_t* nans, int threads) {
  const int64_t pitch = x.N * x.sites() + kSlack;
  LevelTable<Level> table{x.C, x.N * x.sites(), pitch, std::vector<Level>(x.C * pitch)};
  const ClassOrder order(std::nullopt, x.N, 1);
  const int64_t block = channels_per_task(x);
  parallel_for((x.C + block - 1) / block, threads, [&](int64_t task) {
    const int64_t c = task * block, count = std::min(block, x.C - c);
    LevelReader<T, Level> reader(x, edges, num_levels - 1, c, count);
    const auto images = order.images(0);
    const auto step = static_cast<size_t>(reader.images_per_call());
    for (size_t n = 0; n < images.size(); n += step) {
      const auto some = images.subspan(n, std::min(step, images.size() - n));
      reader.read(some, table.levels.data() + c * pitch + static_cast<int64_t>(n) * x.sites(), pitch, nans + c);
    }
  });
  return table;
}

// Calls take(a, b, counts) for every pair a <= b, with counts (L, L). A channel with itself has its counts on the
// diagonal.
template <class Level, class Take>
void for_each_pair(const LevelTable<Level>& x, int num_levels, int threads, Take&& take) {
  const int64_t blocks = (x.channels + kBlock - 1) / kBlock, cells = int64_t{num_levels} * num_levels;
  const Kernels<Level>& inner = kernels<Level>();
  parallel_for(blocks * blocks, threads, [&](int64_t task) {
    const int64_t row = task / blocks * kBlock, column = task % blocks * kBlock;
    if (row > column) return;
    const int64_t last_row = std::min(row + kBlock, x.channels), last_column = std::min(column + kBlock, x.channels);
    std::vector<int64_t> four(4 * cells);
    int64_t* const counts[4] = {four.data(), four.data() + cells, four.data() + 2 * cells, four.data() + 3 * cells};
    PairTables tables(1, 4, num_levels, x.sites);
    const CountTables in_tables = {tables.of(0, x.sites).counters, false};
    for (int64_t a = row; a < last_row; a += 2) {
      for (int64_t b = std::max(a, column); b < last_column; b += 2) {
        std::fill(four.begin(), four.end(), 0);
        // An odd last channel stands for its missing neighbour too.
        const Level* const rows[2] = {x.channel(a), x.channel(std::min(a + 1, x.channels - 1))};
        const Level* const columns[2] = {x.channel(b), x.channel(std::min(b + 1, x.channels - 1))};
        inner.cross(rows, columns, x.sites, num_levels, counts, in_tables);
        if (in_tables.counters != nullptr) tables.add_to(four.data(), 0, false);
        for (int pair = 0; pair < 4; ++pair) {
          const int64_t p = a + pair / 2, q = b + pair % 2;
          if (p <= q && p < last_row && q < last_column) take(p, q, counts[pair]);
        }
      }
    }
  });
}

// Turns tables of pairs into their information. A channel's own entropy is known beforehand; in a pair it is another
// one only where the other channel lacks a level.
class PairInformation {
 public:
  template <class Level>
  PairInformation(const LevelTable<Level>& x, int64_t num_levels, const EntropyRule& rule, int threads)
      : L_(num_levels), rule_(rule), own_(x.channels), whole_(x.channels) {
    parallel_for(x.channels, threads, [&](int64_t c) {
      int64_t counts[kMaxLevels] = {};
      kernels<Level>().histogram(x.channel(c), x.sites, static_cast<int>(L_), counts);
      own_[c] = entropy_of(rule_, counts, L_);
      whole_[c] = std::accumulate(counts, counts + L_, int64_t{0}) == x.sites;
    });
  }

  // I(a; b) = H(a) + H(b) - H(a, b), or H(a) of a channel with itself.
  double operator()(int64_t a, int64_t b, const int64_t* table) const {
    if (a == b) return own_[a];
    const double both = whole_[a] && whole_[b] ? own_[a] + own_[b] : of_margins(table);
    return both - entropy_of(rule_, table, L_ * L_);
  }

 private:
  double of_margins(const int64_t* table) const {
    int64_t rows[kMaxLevels] = {}, columns[kMaxLevels] = {};
    for (int64_t g = 0; g < L_; ++g) {
      for (int64_t h = 0; h < L_; ++h) {
        rows[g] += table[g * L_ + h];
        columns[h] += table[g * L_ + h];
      }
    }
    return entropy_of(rule_, rows, L_) + entropy_of(rule_, columns, L_);
  }

  int64_t L_;
  const EntropyRule& rule_;
  std::vector<double> own_;
  std::vector<char> whole_;  // has it a level at every site? A byte each: threads write them
};

struct Arguments {
  Lattice lattice;
  int num_levels;
};

Arguments checked(const TensorView& x, const TensorView& edges, const TensorView& out, const TensorView& nans) {
  require_on_cpu(x, edges, out, nans);
  const Lattice lattice = lattice_of(x);
  const int num_levels = edges_per_channel(edges, lattice) + 1;
  require(lattice.N * lattice.sites() < int64_t{1} << 32, "x: wanted fewer than 2^32 sites a channel in one call");
  require_output(nans, DType::int64, lattice.C, "nans: wanted (C,) int64, contiguous, writable");
  return {lattice, num_levels};
}

// Calls with_levels(levels) for what takes (a, b, counts) of every pair.
template <class WithLevels>
void count_pairs(const Arguments& arguments, const TensorView& edges, const TensorView& nans, int threads,
                 WithLevels&& with_levels) {
  const auto& [lattice, num_levels] = arguments;
  if (lattice.C * lattice.N * lattice.sites() == 0) return;
  with_level_and_float(num_levels, lattice.dtype, [&](auto level, auto value) {
    const auto levels = all_levels<decltype(level), decltype(value)>(lattice, edges.as<const float>(), num_levels,
                                                                     nans.as<int64_t>(), threads);
    for_each_pair(levels, num_levels, threads, with_levels(levels));
  });
}

}  // namespace

void pair_counts(const TensorView& x, const TensorView& edges, const TensorView& counts, const TensorView& nans,
                 int threads) {
  const Arguments arguments = checked(x, edges, counts, nans);
  const int64_t C = arguments.lattice.C, L = arguments.num_levels;
  require_output(counts, DType::int64, C * C * L * L, "counts: wanted (C, C, L, L) int64, contiguous, writable");
  auto* out = counts.as<int64_t>();
  const auto add = [=](int64_t a, int64_t b, const int64_t* table) {
    int64_t* ab = out + (a * C + b) * L * L;
    int64_t* ba = out + (b * C + a) * L * L;
    for (int64_t g = 0; g < L; ++g) {
      for (int64_t h = 0; h < L; ++h) {
        ab[g * L + h] += table[g * L + h];
        if (a != b) ba[h * L + g] += table[g * L + h];
      }
    }
  };
  count_pairs(arguments, edges, nans, threads, [&](const auto&) { return add; });
}

void pair_information(const TensorView& x, const TensorView& edges, Correction correction,
                      const TensorView& information, const TensorView& nans, int threads) {
  const Arguments arguments = checked(x, edges, information, nans);
  const int64_t C = arguments.lattice.C;
  require_output(information, DType::float64, C * C, "information: wanted (C, C) float64, contiguous, writable");
  auto* out = information.as<double>();
  std::fill_n(out, C * C, 0.0);  // what no site tells
  const EntropyRule rule(correction);
  count_pairs(arguments, edges, nans, threads, [&](const auto& levels) {
    const PairInformation information_of(levels, arguments.num_levels, rule, threads);
    return [=](int64_t a, int64_t b, const int64_t* table) {
      out[a * C + b] = out[b * C + a] = information_of(a, b, table);
    };
  });
}

}  // namespace ppf::cpu
