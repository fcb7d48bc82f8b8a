// extremes on the CPU. Contract: core/extremes.h.
//
// A task reads a window, a row of columns that lie side by side, down all the sites that it has, in whatever order
// memory has them; each column keeps its own range until the end. Columns are what is dense:
//
//     channels_last, no spatial axes   the channels
//     small dense maps                 some channels with all their sites
//     otherwise                        128 sites of one channel
//
// What lies apart, by strides or in runs too short for a loop, is brought together first.
#include "../core/extremes.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <limits>

#include "../core/lattice.h"
#include "kernels.h"
#include "parallel.h"

namespace ppf::cpu {
namespace {

constexpr int64_t kSitesWide = 128;        // of one channel
constexpr int64_t kLargestSmallMap = 511;  // sites
constexpr int64_t kShortRun = 63;          // sites
constexpr int64_t kNearSites = 16384;      // stay in the second-level cache

struct Axis {
  int64_t extent = 1, stride = 0;
};

using Axes = std::array<Axis, 4>;  // innermost first

// The axes of N and of the sites as they follow in memory, those that are one run joined.
Axes axes_of(const Lattice& x) {
  Axes axes = {Axis{x.W, x.stride_w}, {x.H, x.stride_h}, {x.D, x.stride_d}, {x.N, x.stride_n}};
  const auto distance = [](const Axis& a) {  // an axis that repeats itself is read last
    return a.extent == 1 || a.stride == 0 ? std::numeric_limits<int64_t>::max() : std::abs(a.stride);
  };
  std::stable_sort(axes.begin(), axes.end(), [&](const Axis& a, const Axis& b) { return distance(a) < distance(b); });
  Axes joined;
  size_t last = 0;
  for (const Axis& axis : axes) {
    if (axis.extent == 1) continue;
    if (joined[last].extent == 1) {
      joined[last] = axis;
    } else if (axis.stride == joined[last].stride * joined[last].extent) {
      joined[last].extent *= axis.extent;
    } else {
      joined[++last] = axis;
    }
  }
  return joined;
}

Axes without_first(const Axes& axes) { return {axes[1], axes[2], axes[3], Axis{}}; }

template <class Call>
void for_each_place(const Axis& outer, const Axis& inner, Call&& call) {
  for (int64_t i = 0; i < outer.extent; ++i) {
    for (int64_t j = 0; j < inner.extent; ++j) call(i * outer.stride + j * inner.stride);
  }
}

// The ranges of up to kRangeWidth columns.
template <class T>
class Window {
 public:
  explicit Window(int64_t width) : width_(width), columns_(range_columns<T>()) {
    std::fill_n(low_, width, std::numeric_limits<float>::infinity());
    std::fill_n(high_, width, -std::numeric_limits<float>::infinity());
    std::fill_n(nans_, width, int64_t{0});
  }

  // Reads the first `width` columns of all rows.
  void read(const T* x, const Axes& rows, int64_t width) {
    for_each_place(rows[3], rows[2], [&](int64_t place) {
      columns_(x + place, rows[1].extent, rows[1].stride, rows[0].extent, rows[0].stride, width, low_, high_, nans_);
    });
  }

  // Reads all rows by way of a dense copy. Their length is the window's width, or any other where all columns are one
  // channel's.
  void read_apart(const T* x, const Axis& row, const Axes& rows) {
    const int64_t room = kRangeWidth / width_ * width_;
    T dense[kRangeWidth];
    int64_t held = 0;
    const auto flush = [&] {
      const int64_t whole = held / width_, rest = held % width_;
      columns_(dense, 1, 0, whole, width_, width_, low_, high_, nans_);
      columns_(dense + whole * width_, 1, 0, 1, 0, rest, low_, high_, nans_);
      held = 0;
    };
    for_each_place(rows[3], rows[2], [&](int64_t far) {
      for_each_place(rows[1], rows[0], [&](int64_t near) {
        for (int64_t begin = 0; begin < row.extent;) {
          const int64_t count = std::min(row.extent - begin, room - held);
          const T* from = x + far + near + begin * row.stride;
          for (int64_t i = 0; i < count; ++i) dense[held + i] = from[i * row.stride];
          begin += count, held += count;
          if (held == room) flush();
        }
      });
    });
    flush();
  }

  // Combines some columns with a channel's range.
  void fold(int64_t from, int64_t count, float& low, float& high, int64_t& nans) const {
    for (int64_t i = from; i < from + count; ++i) {
      low = std::min(low, low_[i]);
      high = std::max(high, high_[i]);
      nans += nans_[i];
    }
  }

 private:
  const int64_t width_;
  const RangeColumns<T> columns_;
  float low_[kRangeWidth], high_[kRangeWidth];
  int64_t nans_[kRangeWidth];
};

template <class T>
class Extremes {
 public:
  Extremes(const Lattice& x, float* low, float* high, int64_t* nans)
      : x_(x), axes_(axes_of(x)), low_(low), high_(high), nans_(nans) {
    const Axis& inner = axes_[0];
    if (inner.extent == 1 || std::abs(x.stride_c) < std::abs(inner.stride)) {
      sites_inside_ = 1;
    } else if (inner.stride == 1 && inner.extent <= kLargestSmallMap && x.stride_c == inner.extent) {
      sites_inside_ = inner.extent;
    }
  }

  int64_t channels_per_task(int threads) const {
    if (sites_inside_ == 0) return 1;
    constexpr int64_t kLine = 64 / sizeof(T);  // neighbouring tasks share few cache lines
    const int64_t share = (x_.C + threads - 1) / threads;
    return std::clamp((share + kLine - 1) / kLine * kLine, int64_t{1}, kRangeWidth / sites_inside_);
  }

  void read(int64_t c, int64_t channels) const {
    const T* x = static_cast<const T*>(x_.data) + c * x_.stride_c;
    const int64_t columns_each = sites_inside_ == 0 ? kSitesWide : sites_inside_;
    Window<T> window(channels * columns_each);
    if (sites_inside_ == 0) {
      read_channel(x, window);
    } else if (sites_inside_ > 1) {
      window.read(x, without_first(axes_), channels * sites_inside_);
    } else if (x_.stride_c == 1) {
      window.read(x, axes_, channels);
    } else {
      window.read_apart(x, {channels, x_.stride_c}, axes_);
    }
    for (int64_t i = 0; i < channels; ++i) {
      window.fold(i * columns_each, columns_each, low_[c + i], high_[c + i], nans_[c + i]);
    }
  }

 private:
  // Sites by the width of the window, and what is left of each run, or of each few, while it is in the cache.
  void read_channel(const T* x, Window<T>& window) const {
    const Axis& run = axes_[0];
    if (run.stride != 1 || run.extent <= kShortRun) return window.read_apart(x, run, without_first(axes_));
    const int64_t whole = run.extent / kSitesWide, rest = run.extent % kSitesWide;
    const int64_t some = rest == 0 ? axes_[1].extent : std::max<int64_t>(1, kNearSites / run.extent);
    for (int64_t begin = 0; begin < axes_[1].extent; begin += some) {
      const Axis runs = {std::min(some, axes_[1].extent - begin), axes_[1].stride};
      const T* from = x + begin * runs.stride;
      window.read(from, {Axis{whole, kSitesWide}, runs, axes_[2], axes_[3]}, kSitesWide);
      window.read(from + whole * kSitesWide, {runs, axes_[2], axes_[3], Axis{}}, rest);
    }
  }

  const Lattice x_;
  const Axes axes_;
  float *const low_, *const high_;
  int64_t* const nans_;
  int64_t sites_inside_ = 0;  // of a channel, where a window holds whole channels; 0: windows of one channel
};

}  // namespace

void extremes(const TensorView& x, const TensorView& low, const TensorView& high, const TensorView& nans, int threads) {
  require_on_cpu(x, low, high, nans);
  const Lattice lattice = lattice_of(x);
  require_output(low, DType::float32, lattice.C, "low: wanted (C,) float32, contiguous, writable");
  require_output(high, DType::float32, lattice.C, "high: wanted (C,) float32, contiguous, writable");
  require_output(nans, DType::int64, lattice.C, "nans: wanted (C,) int64, contiguous, writable");
  if (lattice.N * lattice.sites() == 0) return;
  with_float(lattice.dtype, [&](auto value) {
    const Extremes<decltype(value)> range(lattice, low.as<float>(), high.as<float>(), nans.as<int64_t>());
    const int64_t block = range.channels_per_task(std::max(threads, 1));
    parallel_for((lattice.C + block - 1) / block, threads,
                 [&](int64_t task) { range.read(task * block, std::min(block, lattice.C - task * block)); });
  });
}

}  // namespace ppf::cpu
