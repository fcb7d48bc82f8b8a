// What aura and joint share: images ordered by class, and planes read in place and turned into levels.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "../core/lattice.h"
#include "../core/levels.h"
#include "kernels.h"

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
  std::span<const int64_t> images(int64_t k) const {
    return {images_.data() + begin_[k], images_.data() + begin_[k + 1]};
  }

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

// Channels that one task reads together. One where a channel's map is large and lies together; several where they share
// cache lines (channels_last, or no spatial axes) or where maps are small, since memory is read well in runs of some
// kilobytes only.
inline constexpr int64_t kMaxChannelsPerTask = 16;

inline int64_t channels_per_task(const Lattice& x) {
  const bool channels_inside = x.sites() == 1 || std::abs(x.stride_c) < std::abs(joined(x).stride_w);
  if (channels_inside) return kMaxChannelsPerTask;
  constexpr int64_t kRunOfSites = 1024;
  return std::clamp(kRunOfSites / x.sites(), int64_t{1}, kMaxChannelsPerTask);
}

// Levels of whole maps, dense, from activations of any dtype and strides.
template <class T, class Level>
class LevelReader {
 public:
  LevelReader(const Lattice& x, const float* edges, int num_edges)
      : x_(joined(x)), sites_(x.sites()), edges_(edges), num_edges_(num_edges), kernels_(kernels<Level>()) {}

  // How many images are read well in one call: small maps share the cost of a call.
  int64_t images_per_call() const { return std::max<int64_t>(1, kChunk / sites_); }

  // Levels of some images, channels c .. c+count-1, to out[i * pitch + image * sites + site]; sites without a level are
  // added to nans[]. At most images_per_call() images.
  void read(std::span<const int64_t> images, int64_t c, int64_t count, Level* out, int64_t pitch, int64_t* nans) {
    if (images.size() > 1) {
      for (size_t m = 0; m < images.size(); ++m)
        gather(image_at(images[m], c), count, static_cast<int64_t>(m) * sites_);
      quantise(values_, std::ssize(images) * sites_, c, count, out, pitch, nans);
      return;
    }
    const T* image = image_at(images[0], c);
    for (int64_t d = 0; d < x_.D; ++d) {
      for (int64_t h = 0; h < x_.H; ++h) {
        const T* row = image + d * x_.stride_d + h * x_.stride_h;
        Level* to = out + (d * x_.H + h) * x_.W;
        for (int64_t begin = 0; begin < x_.W; begin += kChunk) {
          const int64_t length = std::min(kChunk, x_.W - begin);
          quantise(values_of(row + begin * x_.stride_w, count, length), length, c, count, to + begin, pitch, nans);
        }
      }
    }
  }

 private:
  static constexpr int64_t kChunk = 1024;
  static constexpr int64_t kPitch = kChunk + 16;  // not a power of two: channels would share cache sets
  static constexpr int64_t kBlock = 64;

  const T* image_at(int64_t n, int64_t c) const {
    return static_cast<const T*>(x_.data) + n * x_.stride_n + c * x_.stride_c;
  }

  void quantise(const float* values, int64_t length, int64_t c, int64_t count, Level* out, int64_t pitch,
                int64_t* nans) {
    for (int64_t k = 0; k < count; ++k) {
      nans[k] +=
          kernels_.levels(values + k * kPitch, length, edges_ + (c + k) * num_edges_, num_edges_, out + k * pitch);
    }
  }

  // The values of `count` channels at `length` sites, as float32 with kPitch between channels; in place where they lie
  // so.
  const float* values_of(const T* x, int64_t count, int64_t length) {
    if constexpr (std::is_same_v<T, float>) {
      if (count == 1 && (x_.stride_w == 1 || length == 1)) return x;
    }
    copy(x, count, length, values_);
    return values_;
  }

  // One whole small image, from `at` on.
  void gather(const T* image, int64_t count, int64_t at) {
    for (int64_t d = 0; d < x_.D; ++d) {
      for (int64_t h = 0; h < x_.H; ++h, at += x_.W) {
        copy(image + d * x_.stride_d + h * x_.stride_h, count, x_.W, values_ + at);
      }
    }
  }

  void copy(const T* x, int64_t count, int64_t length, float* to) const {
    if (x_.stride_w == 1) {
      for (int64_t k = 0; k < count; ++k) widen(x + k * x_.stride_c, length, to + k * kPitch);
      return;
    }
    // Channels lie together: a transposition, in blocks that fit the first-level cache.
    for (int64_t begin = 0; begin < length; begin += kBlock) {
      const int64_t end = std::min(length, begin + kBlock);
      for (int64_t k = 0; k < count; ++k) {
        strided(x + begin * x_.stride_w + k * x_.stride_c, end - begin, to + k * kPitch + begin);
      }
    }
  }

  void strided(const float* x, int64_t n, float* to) const { widening().strided(x, n, x_.stride_w, to); }
  template <class Value>
  void strided(const Value* x, int64_t n, float* to) const {
    for (int64_t i = 0; i < n; ++i) to[i] = to_float(x[i * x_.stride_w]);
  }

  static void widen(const float* x, int64_t n, float* to) { std::copy_n(x, n, to); }
  static void widen(const double* x, int64_t n, float* to) { widening().from_float64(x, n, to); }
  static void widen(const float16* x, int64_t n, float* to) { widening().from_float16(x, n, to); }
  static void widen(const bfloat16* x, int64_t n, float* to) { widening().from_bfloat16(x, n, to); }

  const Lattice x_;
  const int64_t sites_;
  const float* edges_;
  const int num_edges_;
  const Kernels<Level>& kernels_;
  alignas(64) float values_[kMaxChannelsPerTask * kPitch];
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
