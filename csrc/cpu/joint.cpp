// joint_counts on the CPU. Contract: core/joint.h.
#include "../core/joint.h"

#include "parallel.h"
#include "planes.h"

namespace ppf::cpu {
namespace {

template <class Level, class T>
void count_channels(const Lattice& x, const float* edges, int num_levels, const ClassOrder& order, int64_t c,
                    int64_t channels, int64_t* counts, int64_t* nans) {
  const int64_t K = order.num_classes(), sites = x.sites();
  LevelReader<T, Level> reader(x, edges, num_levels - 1, c, channels);
  const int64_t step = std::min(reader.images_per_call(), x.N), pitch = step * sites;
  std::vector<Level> levels(channels * pitch);
  for (int64_t k = 0; k < K; ++k) {
    const auto images = order.images(k);
    for (size_t n = 0; n < images.size(); n += step) {
      const auto some = images.subspan(n, std::min<size_t>(step, images.size() - n));
      reader.read(some, levels.data(), pitch, nans + c);
      for (int64_t i = 0; i < channels; ++i) {
        kernels<Level>().histogram(levels.data() + i * pitch, std::ssize(some) * sites, num_levels,
                                   counts + ((c + i) * K + k) * num_levels);
      }
    }
  }
}

}  // namespace

void joint_counts(const TensorView& x, const TensorView& edges, const std::optional<TensorView>& labels,
                  const TensorView& counts, const TensorView& nans, int threads) {
  require_on_cpu(x, edges, counts, nans, labels.value_or(TensorView{}));
  const Lattice lattice = lattice_of(x);
  const int num_levels = edges_per_channel(edges, lattice) + 1;
  require(counts.ndim == 3, "counts: wanted (C, K, L) int64, contiguous, writable");
  const int64_t K = counts.shape[1];
  require_output(counts, DType::int64, lattice.C * K * num_levels,
                 "counts: wanted (C, K, L) int64, contiguous, writable");
  require_output(nans, DType::int64, lattice.C, "nans: wanted (C,) int64, contiguous, writable");
  if (lattice.sites() == 0) return;
  const ClassOrder order(labels, lattice.N, K);
  const int64_t block = channels_per_task(lattice);
  with_level_and_float(num_levels, lattice.dtype, [&](auto level, auto value) {
    parallel_for((lattice.C + block - 1) / block, threads, [&](int64_t task) {
      const int64_t c = task * block;
      count_channels<decltype(level), decltype(value)>(lattice, edges.as<const float>(), num_levels, order, c,
                                                       std::min(block, lattice.C - c), counts.as<int64_t>(),
                                                       nans.as<int64_t>());
    });
  });
}

}  // namespace ppf::cpu
