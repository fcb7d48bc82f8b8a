// Maps laid out as one flat run with gaps, so that every offset is one constant shift: cpu/padded.h, for blocks that
// hold a part of the run at a time.
//
// Rows are a pitch apart that leaves a gap as wide as the neighbourhood reaches, planes and images likewise. Gaps hold
// the sentinel "no level". With a periodic boundary there are two runs of one layout: the sites, and the neighbours,
// whose gaps, here on both sides of a row, hold what lies on the other side of the map.
#pragma once

#include "levels.cuh"

namespace ppf::cuda {

struct Padding {
  uint32_t D, H, W;
  uint32_t before_d, before_h, before_w;  // gap before a plane, line and site; 0 for a free boundary: the gaps after do
  Divider by_image, by_plane, by_row;     // pitches

  // The place of a site in its image's run.
  __device__ uint32_t place_of(uint32_t d, uint32_t h, uint32_t w) const {
    return (d + before_d) * by_plane.divisor + (h + before_h) * by_row.divisor + w + before_w;
  }

  // How many sites lie before a place of the run, counted from the first image on.
  __device__ uint32_t sites_before(uint32_t place) const {
    const uint32_t image = by_image.quotient(place), in_image = place - image * by_image.divisor;
    const uint32_t plane = by_plane.quotient(in_image), in_plane = in_image - plane * by_plane.divisor;
    const uint32_t line = by_row.quotient(in_plane), in_line = in_plane - line * by_row.divisor;
    const uint32_t before = image * D * H * W;
    if (plane < before_d) return before;
    if (plane - before_d >= D) return before + D * H * W;
    const uint32_t planes = before + (plane - before_d) * H * W;
    if (line < before_h) return planes;
    if (line - before_h >= H) return planes + H * W;
    const uint32_t w = in_line < before_w ? 0 : in_line - before_w;
    return planes + (line - before_h) * W + (w < W ? w : W);
  }
};

// Goes from a site to the next one of its map, and knows its place.
class Walk {
 public:
  __device__ Walk(const Padding& padding, const Maps& maps, uint32_t site) : padding_(padding) {
    const uint32_t d = maps.by_plane.quotient(site), in_plane = site - d * maps.by_plane.divisor;
    h_ = maps.by_row.quotient(in_plane);
    w_ = in_plane - h_ * maps.by_row.divisor;
    place_ = padding.place_of(d, h_, w_);
  }
  __device__ uint32_t place() const { return place_; }
  // By one site, or by several that end in the same row.
  __device__ void step(uint32_t sites = 1) {
    place_ += sites;
    w_ += sites;
    if (w_ < padding_.W) return;
    w_ = 0;
    place_ += padding_.by_row.divisor - padding_.W;
    if (++h_ < padding_.H) return;
    h_ = 0;
    place_ += padding_.by_plane.divisor - padding_.H * padding_.by_row.divisor;
  }

 private:
  const Padding& padding_;
  uint32_t h_, w_, place_;
};

}  // namespace ppf::cuda
