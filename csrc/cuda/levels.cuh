// Levels of activations, read in place from any strides: the part that all counting kernels share. The rule:
// core/levels.h.
//
// Images are addressed by their place in the order of classes, sites by their number in their map. A block reads some
// channels together: one where a channel's sites lie together, several where channels do (channels_last), so that every
// sector of memory is read once.
#pragma once

#include "device.cuh"

namespace ppf::cuda {

// Activations on the device: core/lattice.h, with what device code divides by.
struct Maps {
  const void* data;
  const int32_t* order;  // images in the order of their classes; null: as they come
  int64_t stride_n, stride_c, stride_d, stride_h, stride_w;
  uint32_t channels;
  bool flat;    // all sites of a map are stride_w apart
  bool across;  // neighbouring threads read neighbouring channels
  Divider by_sites, by_plane, by_row;

  __device__ int64_t offset_of(uint32_t site) const {
    if (flat) return site * stride_w;
    const uint32_t d = by_plane.quotient(site);
    const uint32_t in_plane = site - d * by_plane.divisor;
    const uint32_t h = by_row.quotient(in_plane);
    return d * stride_d + h * stride_h + (in_plane - h * by_row.divisor) * stride_w;
  }

  template <class T>
  __device__ const T* at(int64_t image, uint32_t channel, uint32_t site) const {
    const int64_t n = order != nullptr ? order[image] : image;
    return static_cast<const T*>(data) + n * stride_n + channel * stride_c + offset_of(site);
  }
};

struct LevelSource {
  Maps maps;
  const float* edges;  // null when the elements of `maps` are levels already
  uint32_t num_levels;
};

// Elements that are levels already: what levels_kernel wrote.
template <class T>
inline constexpr bool kIsLevel = false;
template <>
inline constexpr bool kIsLevel<uint8_t> = true;
template <>
inline constexpr bool kIsLevel<uint16_t> = true;

// How a kernel reads: kCount elements at once, along a channel's sites or across channels.
template <class T, int kCount_, bool kAcross_>
struct Access {
  using Value = T;
  static constexpr int kCount = kCount_;
  static constexpr bool kAcross = kAcross_;
};

// Edges in shared memory are padded to 16, 32 or 256 for a search of equal steps.
__host__ __device__ inline uint32_t padded_edges(uint32_t num_levels) {
  return num_levels <= 16 ? 16 : num_levels <= 32 ? 32 : 256;
}

// An edge of a channel, and beyond the last one +inf, which is below nothing.
__device__ inline float padded_edge(const LevelSource& x, uint32_t channel, uint32_t edge) {
  const uint32_t count = x.num_levels - 1;
  return edge < count ? x.edges[int64_t{channel} * count + edge] : __uint_as_float(0x7f800000u);
}

__device__ inline void copy_edges(const LevelSource& x, uint32_t channel, uint32_t channels, float* shared) {
  if (x.edges == nullptr) return;
  const uint32_t pitch = padded_edges(x.num_levels);
  for (uint32_t i = threadIdx.x; i < channels * pitch; i += blockDim.x) {
    shared[i] = padded_edge(x, channel + i / pitch, i % pitch);
  }
}

// The number of edges below each value, by halving; the values of one thread go side by side to hide the latency.
template <int kEdges, int kCount>
__device__ void search(const float (&x)[kCount], const float* edges, uint32_t edge_pitch, uint32_t (&level)[kCount]) {
  for (int v = 0; v < kCount; ++v) level[v] = 0;
#pragma unroll
  for (uint32_t step = kEdges / 2; step > 0; step /= 2) {
#pragma unroll
    for (int v = 0; v < kCount; ++v) {
      if (edges[v * edge_pitch + level[v] + step - 1] < x[v]) level[v] += step;
    }
  }
}

// Levels of what one thread has read; num_levels where there is none. `edges` are those of the first element's channel.
template <class A>
__device__ void levels_of(const Vector<typename A::Value, A::kCount>& x, const LevelSource& source, const float* edges,
                          uint32_t (&level)[A::kCount]) {
  constexpr int kCount = A::kCount;
  if constexpr (kIsLevel<typename A::Value>) {
    for (int v = 0; v < kCount; ++v) level[v] = x.item[v];
  } else {
    float value[kCount];
    for (int v = 0; v < kCount; ++v) value[v] = widened(x.item[v]);
    const uint32_t pitch = padded_edges(source.num_levels), edge_pitch = A::kAcross ? pitch : 0;
    if (pitch == 16) {
      search<16>(value, edges, edge_pitch, level);
    } else if (pitch == 32) {
      search<32>(value, edges, edge_pitch, level);
    } else {
      search<256>(value, edges, edge_pitch, level);
    }
    for (int v = 0; v < kCount; ++v) level[v] = value[v] == value[v] ? level[v] : source.num_levels;
  }
}

// What a block reads at a time: channels, and sites counted through the images from the first site of `image`.
struct Span {
  uint32_t channel, channels;
  int64_t image;
  uint32_t begin, end;
};

// Neighbouring threads read so many neighbouring groups of A::kCount channels: a power of two.
template <class A>
__device__ uint32_t groups_across(uint32_t channels) {
  uint32_t groups = 1;
  while (groups * A::kCount < channels) groups *= 2;
  return groups;
}

// Calls take(k, image, site, level) with the levels of A::kCount sites of channel k (or of one site of the channels
// from k on), and done(k) after a thread's last ones of k. k counts from the span's first channel, the image from its
// first image. `begin` is rounded down to whole vectors, `end` up.
template <class A, class Take, class Done>
__device__ void read_levels(const LevelSource& x, const float* edges, const Span& span, Take&& take, Done&& done) {
  constexpr uint32_t kCount = A::kCount;
  const uint32_t pitch = padded_edges(x.num_levels);
  const auto read = [&](uint32_t k, uint32_t i) {
    const uint32_t image = x.maps.by_sites.quotient(i), site = i - image * x.maps.by_sites.divisor;
    const auto* at = x.maps.template at<typename A::Value>(span.image + image, span.channel + k, site);
    uint32_t level[kCount];
    levels_of<A>(load<kCount>(at), x, edges + k * pitch, level);
    take(k, image, site, level);
  };
  if (A::kAcross || (kCount == 1 && x.maps.across)) {
    const uint32_t groups = groups_across<A>(span.channels), k = threadIdx.x % groups * kCount;
    if (k >= span.channels) return;
    for (uint32_t i = span.begin + threadIdx.x / groups; i < span.end; i += blockDim.x / groups) read(k, i);
    done(k);
  } else {
    for (uint32_t k = 0; k < span.channels; ++k) {
      for (uint32_t i = (span.begin / kCount + threadIdx.x) * kCount; i < span.end; i += blockDim.x * kCount)
        read(k, i);
      done(k);
    }
  }
}

}  // namespace ppf::cuda
