// aura_counts on the CPU. Contract: core/aura.h.
// A task owns some channels. Class by class it reads their maps into flat runs of levels with gaps (padded.h), and
// counts the pairs of a run when it is full or the class ends.
#include "../core/aura.h"

#include "padded.h"
#include "pair_tables.h"
#include "parallel.h"
#include "planes.h"

namespace ppf::cpu {
namespace {

// Bytes of one channel's run, and of all runs of a task: they stay in the fast caches.
constexpr int64_t kRunBytes = 24 << 10, kRunBytesOfAll = 192 << 10;

struct Job {
  const Lattice x;
  const float* edges;
  const int num_levels;
  const std::span<const Offset> offsets;
  const bool periodic;
  const ClassOrder& order;
  const bool merge;  // all offsets into one table
  int64_t* counts;
  int64_t* nans;
};

// The runs of one task: for each channel the levels of several images.
template <class Level>
class Runs {
 public:
  Runs(const Padding& padding, int64_t images, int64_t channels, bool periodic, Level sentinel)
      : padding_(padding),
        images_(images),
        sentinel_(sentinel),
        pitch_(padding.margin() + images_ * padding.pitch_n + padding.margin() + kSlack),
        sites_(channels * pitch_, sentinel),
        neighbors_(periodic ? channels * pitch_ : 0, sentinel) {}

  int64_t length() const { return used_ * padding_.pitch_n; }
  void clear() { used_ = 0; }

  // How many images there is still room for.
  int64_t room() const { return images_ - used_; }

  // Adds some images of all channels, from dense maps; a channel's are `dense_pitch` after the channel's before.
  void add(int64_t images, const Level* dense, int64_t dense_pitch) {
    const int64_t sites = padding_.D * padding_.H * padding_.W;
    int64_t at = padding_.margin() + used_ * padding_.pitch_n;
    for (; at < std::ssize(sites_); at += pitch_, dense += dense_pitch) {
      kernels<Level>().place(dense, images, padding_, sentinel_, sites_.data() + at);
      if (neighbors_.empty()) continue;
      for (int64_t m = 0; m < images; ++m) {
        padding_.place_wrapped(dense + m * sites, neighbors_.data() + at + m * padding_.pitch_n);
      }
    }
    used_ += images;
  }

  const Level* sites(int64_t channel) const { return sites_.data() + channel * pitch_ + padding_.margin(); }
  const Level* neighbors(int64_t channel) const {
    return neighbors_.empty() ? sites(channel) : neighbors_.data() + channel * pitch_ + padding_.margin();
  }

 private:
  const Padding& padding_;
  const int64_t images_;
  const Level sentinel_;
  const int64_t pitch_;
  std::vector<Level> sites_, neighbors_;
  int64_t used_ = 0;
};

template <class Level, class T>
void count_channels(const Job& job, const Padding& padding, int64_t c, int64_t channels) {
  const Lattice& x = job.x;
  const int64_t R = std::ssize(job.offsets), K = job.order.num_classes();
  const int64_t cells = int64_t{job.num_levels} * job.num_levels, stored = job.merge ? 1 : R;
  const auto sentinel = static_cast<Level>(job.num_levels);
  LevelReader<T, Level> reader(x, job.edges, job.num_levels - 1, c, channels);
  const Kernels<Level>& inner = kernels<Level>();
  const int64_t step = std::min(reader.images_per_call(), x.N), dense_pitch = step * x.sites();
  const int64_t bytes = std::min(kRunBytes, kRunBytesOfAll / channels);
  const int64_t run = std::clamp(bytes / (padding.pitch_n * int64_t{sizeof(Level)}), step, x.N);
  std::vector<Level> dense(channels * dense_pitch + kSlack);
  Runs<Level> runs(padding, run, channels, job.periodic, sentinel);

  PairTables tables(channels, R, job.num_levels, x.N * padding.pitch_n);
  for (int64_t k = 0; k < K; ++k) {
    const auto images = job.order.images(k);
    const int64_t pairs = std::ssize(images) * padding.pitch_n;
    const CountTables kind = tables.of(0, pairs);
    int64_t in_tables = 0;
    const auto counts = [&](int64_t i) { return job.counts + ((c + i) * K + k) * stored * cells; };
    const auto empty_tables = [&] {
      if (kind.counters == nullptr) return;
      for (int64_t i = 0; i < channels; ++i) tables.add_to(counts(i), i, kind.of_three, job.merge);
      in_tables = 0;
    };
    const auto count_runs = [&] {
      if (in_tables + runs.length() > kTableLimit) empty_tables();
      for (int64_t i = 0; i < channels; ++i) {
        inner.cooccurrences(runs.sites(i), runs.neighbors(i), runs.length(), padding.shifts.data(), static_cast<int>(R),
                            job.num_levels, counts(i), job.merge ? 0 : cells, tables.of(i, pairs));
      }
      in_tables += runs.length();
      runs.clear();
    };
    for (size_t n = 0; n < images.size(); n += step) {
      const auto some = images.subspan(n, std::min<size_t>(step, images.size() - n));
      if (runs.room() < std::ssize(some)) count_runs();
      reader.read(some, dense.data(), dense_pitch, job.nans + c);
      runs.add(std::ssize(some), dense.data(), dense_pitch);
    }
    count_runs();
    empty_tables();
  }
}

}  // namespace

void aura_counts(const TensorView& x, const TensorView& edges, std::span<const Offset> offsets, bool periodic,
                 const std::optional<TensorView>& labels, const TensorView& counts, const TensorView& nans,
                 int threads) {
  require_on_cpu(x, edges, counts, nans, labels.value_or(TensorView{}));
  const Lattice lattice = lattice_of(x);
  const int num_levels = edges_per_channel(edges, lattice) + 1;
  constexpr const char* kWanted = "counts: wanted (C, K, R or 1, L, L) int64, contiguous, writable";
  require(counts.ndim == 5, kWanted);
  const int64_t K = counts.shape[1], R = std::ssize(offsets);
  const bool merge = R > 1 && counts.shape[2] == 1;
  require_output(counts, DType::int64, lattice.C * K * (merge ? 1 : R) * num_levels * num_levels, kWanted);
  require_output(nans, DType::int64, lattice.C, "nans: wanted (C,) int64, contiguous, writable");
  if (lattice.sites() == 0) return;
  const ClassOrder order(labels, lattice.N, K);
  const Job job{lattice, edges.as<const float>(), num_levels,        offsets, periodic, order,
                merge,   counts.as<int64_t>(),    nans.as<int64_t>()};
  const Padding padding(lattice, offsets, periodic);
  const int64_t block = channels_per_task(lattice);
  with_level_and_float(num_levels, lattice.dtype, [&](auto level, auto value) {
    parallel_for((lattice.C + block - 1) / block, threads, [&](int64_t task) {
      const int64_t c = task * block;
      count_channels<decltype(level), decltype(value)>(job, padding, c, std::min(block, lattice.C - c));
    });
  });
}

}  // namespace ppf::cpu
