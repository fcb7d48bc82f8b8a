// What aura and joint share: images ordered by class, and planes read in place and turned into levels.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <type_traits>
#include <vector>

#include "../core/lattice.h"
#include "../core/levels.h"
#include "levels_portable.h"

namespace ppf::cpu {

// Images grouped by class, so that a kernel keeps one set of tables and changes it K times at most.
class ClassOrder {
 public:
  ClassOrder(const std::optional<TensorView>& labels, int64_t num_images, int64_t num_classes)
      : images_(num_images), begin_(num_classes + 1, 0) {
    if (labels) {
      require(labels->dtype == DType::int64 && labels->is_contiguous() && labels->numel() == num_images,
              "labels: wanted (N,) int64, contiguous");
    }
    const auto class_of = [&](int64_t n) { return labels ? labels->as<const int64_t>()[n] : int64_t{0}; };
    for (int64_t n = 0; n < num_images; ++n) {
      require(class_of(n) >= 0 && class_of(n) < num_classes, "labels: wanted values in 0..K-1");
      ++begin_[class_of(n) + 1];
    }
    for (int64_t k = 0; k < num_classes; ++k) begin_[k + 1] += begin_[k];
    std::vector<int64_t> next(begin_.begin(), begin_.end() - 1);
    for (int64_t n = 0; n < num_images; ++n) images_[next[class_of(n)]++] = n;
  }

  int64_t num_classes() const { return static_cast<int64_t>(begin_.size()) - 1; }
  const int64_t* begin(int64_t k) const { return images_.data() + begin_[k]; }
  const int64_t* end(int64_t k) const { return images_.data() + begin_[k + 1]; }

 private:
  std::vector<int64_t> images_, begin_;
};

// Neighbouring axes that are one run in memory are joined: fewer, longer rows to read.
inline Lattice joined(Lattice x) {
  if (x.H == 1 || x.stride_h == x.stride_w * x.W) {
    x.W *= x.H;
    x.H = 1;
    if (x.D == 1 || x.stride_d == x.stride_w * x.W) {
      x.W *= x.D;
      x.D = 1;
    }
  }
  return x;
}

// Channels that one task reads together: one where a channel's sites lie together; a cache line's worth where the
// channels of a site do (channels_last, or no spatial axes), since each line would be fetched once a channel otherwise.
inline int64_t channels_per_task(const Lattice& x) {
  const bool channels_inside = x.sites() == 1 || std::abs(x.stride_c) < std::abs(joined(x).stride_w);
  return channels_inside ? 16 : 1;
}

template <class T, class Level>
class LevelReader {
 public:
  LevelReader(const Lattice& x, const float* edges, int num_edges)
      : x_(joined(x)), sites_(x.sites()), edges_(edges), num_edges_(num_edges) {}

  // Levels of image n, channels c .. c+count-1, to out[count][sites], dense; sites without a level are added to nans[].
  void read(int64_t n, int64_t c, int64_t count, Level* out, int64_t* nans) {
    const T* image = static_cast<const T*>(x_.data) + n * x_.stride_n + c * x_.stride_c;
    int64_t site = 0;
    for (int64_t d = 0; d < x_.D; ++d) {
      for (int64_t h = 0; h < x_.H; ++h, site += x_.W) {
        read_row(image + d * x_.stride_d + h * x_.stride_h, c, count, out + site, nans);
      }
    }
  }

 private:
  static constexpr int64_t kChunk = 256;
  static constexpr int64_t kMaxChannels = 16;

  void read_row(const T* row, int64_t c, int64_t count, Level* out, int64_t* nans) {
    if constexpr (std::is_same_v<T, float>) {
      if (count == 1 && (x_.stride_w == 1 || x_.W == 1)) {
        nans[0] += levels_of(row, x_.W, edges_ + c * num_edges_, num_edges_, out);
        return;
      }
    }
    for (int64_t begin = 0; begin < x_.W; begin += kChunk) {
      const int64_t length = std::min(kChunk, x_.W - begin);
      const T* chunk = row + begin * x_.stride_w;
      for (int64_t i = 0; i < length; ++i) {
        for (int64_t k = 0; k < count; ++k) values_[k][i] = to_float(chunk[i * x_.stride_w + k * x_.stride_c]);
      }
      for (int64_t k = 0; k < count; ++k) {
        nans[k] += levels_of(values_[k], length, edges_ + (c + k) * num_edges_, num_edges_, out + k * sites_ + begin);
      }
    }
  }

  const Lattice x_;
  const int64_t sites_;
  const float* edges_;
  const int num_edges_;
  float values_[kMaxChannels][kChunk];
};

inline int edges_per_channel(const TensorView& edges, int64_t num_channels) {
  require(edges.ndim == 2 && edges.shape[0] == num_channels && edges.shape[1] >= 1 && edges.shape[1] < kMaxLevels &&
              edges.dtype == DType::float32 && edges.is_contiguous(),
          "edges: wanted (C, L-1) float32, contiguous, 2 <= L <= 256");
  return static_cast<int>(edges.shape[1]);
}

// Calls f(level type, value type): a byte holds a level and the sentinel up to L = 255.
template <class F>
void with_level_and_float(int num_levels, DType dtype, F&& f) {
  with_float(dtype, [&](auto value) {
    if (num_levels < kMaxLevels) {
      f(uint8_t{}, value);
    } else {
      f(uint16_t{}, value);
    }
  });
}

}  // namespace ppf::cpu
