// How a lattice is read by levels.cuh: how many elements at once, along sites or across channels, and its classes in
// order.
#pragma once

#include <cstdlib>
#include <optional>

#include "../core/lattice.h"
#include "classes.cuh"
#include "launch.cuh"
#include "levels.cuh"

namespace ppf::cuda {

struct Reading {
  Maps maps;
  DType dtype;
  int count;  // elements at once
  int64_t channels_per_block;
};

inline constexpr int64_t kMaxSites = int64_t{1} << 29;  // of a map and its gaps: indices in a map are 32 bits wide

// Sites of a map in the order of memory: how far apart all of them are, or nothing where rows or planes are further
// apart.
inline std::optional<int64_t> site_step(const Lattice& x) {
  std::optional<int64_t> step;
  int64_t inside = 1;
  for (const auto& [extent, stride] : {std::pair{x.W, x.stride_w}, {x.H, x.stride_h}, {x.D, x.stride_d}}) {
    if (extent == 1) continue;
    if (!step) step = stride;
    if (stride != *step * inside) return std::nullopt;
    inside *= extent;
  }
  return step.value_or(0);
}

// Elements read at once across channels: each has edges of its own to be compared with, and registers are few.
constexpr int wide_across(int item_bytes) { return std::min(16 / item_bytes, 4); }

inline Reading reading_of(const Lattice& x, int item_bytes) {
  require(x.sites() < kMaxSites && x.N < kMaxSites && x.C < kMaxSites,
          "x: wanted fewer than 2^29 images, channels and sites");
  const auto step = site_step(x);
  const int64_t across_step = x.C > 1 ? x.stride_c : 0, image_step = x.N > 1 ? x.stride_n : 0;
  const bool across = x.C > 1 && (x.sites() == 1 || std::abs(x.stride_c) < std::abs(step.value_or(x.stride_w)));
  const int wide = across ? wide_across(item_bytes) : 16 / item_bytes;
  const auto divides = [&](auto... numbers) { return ((numbers % wide == 0) && ...); };
  const bool aligned = reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && divides(image_step);
  const bool all_along = aligned && !across && step == 1 && divides(x.sites(), across_step);
  const bool all_across = aligned && across && x.stride_c == 1 &&
                          divides(x.C, x.D > 1 ? x.stride_d : 0, x.H > 1 ? x.stride_h : 0, x.W > 1 ? x.stride_w : 0);
  Reading reading{};
  reading.maps.data = x.data;
  reading.maps.stride_n = x.stride_n;
  reading.maps.stride_c = x.stride_c;
  reading.maps.stride_d = x.stride_d;
  reading.maps.stride_h = x.stride_h;
  reading.maps.stride_w = step.value_or(x.stride_w);
  reading.maps.channels = static_cast<uint32_t>(x.C);
  reading.maps.flat = step.has_value();
  reading.maps.across = across;
  reading.maps.by_sites = Divider(static_cast<uint32_t>(x.sites()));
  reading.maps.by_plane = Divider(static_cast<uint32_t>(x.H * x.W));
  reading.maps.by_row = Divider(static_cast<uint32_t>(x.W));
  reading.dtype = x.dtype;
  reading.count = all_along || all_across ? wide : 1;
  reading.channels_per_block = across ? std::min<int64_t>(x.C, 32 / item_bytes) : 1;  // a sector of memory
  return reading;
}

// Calls f with the Access that a reading asks for.
template <class F>
void with_access(const Reading& reading, F&& f) {
  with_float(reading.dtype, [&](auto value) {
    using T = decltype(value);
    constexpr int kWide = 16 / sizeof(T);
    if (reading.count == 1) {
      f(Access<T, 1, false>{});
    } else if (reading.maps.across) {
      f(Access<T, wide_across(sizeof(T)), true>{});
    } else {
      f(Access<T, kWide, false>{});
    }
  });
}

inline uint32_t edges_bytes(int64_t channels, int num_levels) {
  return static_cast<uint32_t>(channels * padded_edges(num_levels) * sizeof(float));
}

// Room for the images in order, and the kernel that orders them.
class ClassOrder {
 public:
  ClassOrder(const std::optional<TensorView>& labels, int64_t num_images, int64_t num_classes, Workspace& workspace)
      : labels_(labels), classes_{nullptr, static_cast<uint32_t>(num_classes), num_images} {
    if (!labels) return;
    require(labels->dtype == DType::int64 && labels->is_contiguous() && labels->numel() == num_images,
            "labels: wanted (N,) int64, contiguous");
    classes_.begin = begin_ = workspace.take<int32_t>(num_classes + 1);
    next_ = workspace.take<int32_t>(num_classes);
    order_ = workspace.take<int32_t>(num_images);
  }

  void run(void* stream) const {
    if (!labels_) return;
    launch<classes_kernel>({1, 1024, 0, stream}, labels_->as<const int64_t>(), classes_.images, classes_.count, begin_,
                           next_, order_);
  }

  const Classes& classes() const { return classes_; }
  const int32_t* order() const { return order_; }

 private:
  std::optional<TensorView> labels_;
  Classes classes_;
  int32_t *begin_ = nullptr, *next_ = nullptr, *order_ = nullptr;
};

}  // namespace ppf::cuda
