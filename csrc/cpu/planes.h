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
#include "copy.h"
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
inline constexpr int64_t kMaxChannelsPerTask = 32;

inline bool channels_inside(const Lattice& x) {
  return x.sites() == 1 || std::abs(x.stride_c) < std::abs(joined(x).stride_w);
}

inline int64_t channels_per_task(const Lattice& x) {
  constexpr int64_t kLine = 64, kRunOfSites = 1024;
  const int64_t item_bytes = with_float(x.dtype, [](auto value) { return int64_t{sizeof(value)}; });
  if (channels_inside(x)) return std::min(2 * kLine / item_bytes, kMaxChannelsPerTask);
  return std::clamp(kRunOfSites / x.sites(), int64_t{1}, kMaxChannelsPerTask / 2);
}

// Levels of whole maps, dense, from activations of any dtype and strides, for channels c .. c+count-1.
template <class T, class Level>
class LevelReader {
 public:
  LevelReader(const Lattice& x, const float* edges, int num_edges, int64_t c, int64_t count)
      : x_(joined(x)), sites_(x.sites()), c_(c), searches_(count) {
    for (int64_t k = 0; k < count; ++k) {
      kernels<Level>().prepare(edges + (c + k) * num_edges, num_edges, x.N * sites_, searches_[k]);
    }
  }

  // How many images are read well in one call: small maps share the cost of a call.
  int64_t images_per_call() const { return std::max<int64_t>(1, kChunk / sites_); }

  // Levels of some images to out[k * pitch + image * sites + site]; sites without a level are added to nans[k]. At most
  // images_per_call() images.
  void read(std::span<const int64_t> images, Level* out, int64_t pitch, int64_t* nans) {
    if (sites_ == 1 && x_.stride_c == 1) {
      read_points(images, out, pitch, nans);
    } else if (x_.stride_w != 1 && x_.W > 1) {
      read_strided(images, out, pitch, nans);
    } else if (images.size() > 1) {
      read_together(images, out, pitch, nans);
    } else {
      const T* image = image_at(images[0]);
      for_each_row(image, [&](const T* row, int64_t at) { quantise(row, x_.stride_c, x_.W, out + at, pitch, nans); });
    }
  }

 private:
  static constexpr int64_t kChunk = 1024, kStridedChunk = 512, kPoints = 256;  // sites
  static constexpr int64_t kPitch = kChunk + 32;  // not a power of two: channels would share cache sets

  const T* image_at(int64_t n) const { return static_cast<const T*>(x_.data) + n * x_.stride_n + c_ * x_.stride_c; }

  template <class F>
  void for_each_row(const T* image, F&& f) const {
    for (int64_t d = 0; d < x_.D; ++d) {
      for (int64_t h = 0; h < x_.H; ++h) f(image + d * x_.stride_d + h * x_.stride_h, (d * x_.H + h) * x_.W);
    }
  }

  template <class Value>
  void quantise(const Value* values, int64_t values_pitch, int64_t length, Level* out, int64_t pitch, int64_t* nans) {
    const auto levels = read_levels<Value, Level>();
    for (int64_t k = 0; k < std::ssize(searches_); ++k) {
      nans[k] += levels(values + k * values_pitch, length, searches_[k], out + k * pitch);
    }
  }

  // Several small images, each channel's values side by side first.
  void read_together(std::span<const int64_t> images, Level* out, int64_t pitch, int64_t* nans) {
    T* values = reinterpret_cast<T*>(values_);
    int64_t to = 0;
    for (const int64_t n : images) {
      for_each_row(image_at(n), [&](const T* row, int64_t at) {
        for (int64_t k = 0; k < std::ssize(searches_); ++k) {
          copy_short(reinterpret_cast<const char*>(row + k * x_.stride_c), x_.W * int64_t{sizeof(T)},
                     reinterpret_cast<char*>(values + k * kPitch + to + at));
        }
      });
      to += sites_;
    }
    quantise(values, kPitch, to, out, pitch, nans);
  }

  // Images of one site: their channels are copied together, and then brought apart.
  void read_points(std::span<const int64_t> images, Level* out, int64_t pitch, int64_t* nans) {
    const int64_t count = std::ssize(searches_);
    T points[kPoints * kMaxChannelsPerTask];
    for (int64_t begin = 0; begin < std::ssize(images); begin += kPoints) {
      const int64_t length = std::min(kPoints, std::ssize(images) - begin);
      for (int64_t m = 0; m < length; ++m) {
        const int64_t ahead = std::min(begin + m + 16, std::ssize(images) - 1);
        __builtin_prefetch(image_at(images[ahead]));
        copy_short(reinterpret_cast<const char*>(image_at(images[begin + m])), count * int64_t{sizeof(T)},
                   reinterpret_cast<char*>(points + m * count));
      }
      auto* values = reinterpret_cast<float*>(values_);
      transpose<T>()(points, length, count, count, values, kPitch);
      quantise(values, kPitch, length, out + begin, pitch, nans);
    }
  }

  // Sites that do not lie together: their values are brought together first, as float32.
  void read_strided(std::span<const int64_t> images, Level* out, int64_t pitch, int64_t* nans) {
    auto* values = reinterpret_cast<float*>(values_);
    int64_t filled = 0;
    const auto empty = [&] {
      quantise(values, kPitch, filled, out, pitch, nans);
      out += filled;
      filled = 0;
    };
    for (const int64_t n : images) {
      for_each_row(image_at(n), [&](const T* row, int64_t) {
        for (int64_t begin = 0; begin < x_.W;) {
          const int64_t length = std::min(x_.W - begin, kStridedChunk - filled);
          bring_together(row + begin * x_.stride_w, length, values + filled);
          filled += length;
          begin += length;
          if (filled == kStridedChunk) empty();
        }
      });
    }
    if (filled > 0) empty();
  }

  void bring_together(const T* x, int64_t length, float* to) const {
    const int64_t count = std::ssize(searches_);
    if (x_.stride_c == 1) return transpose<T>()(x, length, x_.stride_w, count, to, kPitch);
    for (int64_t k = 0; k < count; ++k) {
      for (int64_t i = 0; i < length; ++i) to[k * kPitch + i] = to_float(x[k * x_.stride_c + i * x_.stride_w]);
    }
  }

  const Lattice x_;
  const int64_t sites_, c_;
  std::vector<EdgeSearch> searches_;
  static constexpr int64_t kValueBytes = sizeof(T) > sizeof(float) ? sizeof(T) : sizeof(float);
  alignas(64) char values_[kMaxChannelsPerTask * kPitch * kValueBytes];
};

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
