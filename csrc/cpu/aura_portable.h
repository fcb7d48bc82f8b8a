// Level pairs of one plane at one offset, added to a table of (L+1) x (L+1) counters; the last row and column collect
// pairs that touch a site without a level.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../core/offset.h"

namespace ppf::cpu {

template <class Level>
void count_pairs(const Level* site, const Level* neighbor, int64_t n, int side, uint32_t* table) {
  for (int64_t i = 0; i < n; ++i) ++table[site[i] * side + neighbor[i]];
}

inline int64_t wrapped(int64_t i, int64_t extent) { return ((i % extent) + extent) % extent; }

template <class Level>
void count_plane(const Level* plane, int64_t D, int64_t H, int64_t W, const Offset& r, bool periodic, int side,
                 uint32_t* table) {
  const int64_t shift = periodic ? wrapped(r.w, W) : r.w;
  for (int64_t d = 0; d < D; ++d) {
    const int64_t d2 = periodic ? wrapped(d + r.d, D) : d + r.d;
    if (d2 < 0 || d2 >= D) continue;
    for (int64_t h = 0; h < H; ++h) {
      const int64_t h2 = periodic ? wrapped(h + r.h, H) : h + r.h;
      if (h2 < 0 || h2 >= H) continue;
      const Level* row = plane + (d * H + h) * W;
      const Level* other = plane + (d2 * H + h2) * W;
      const int64_t begin = std::max<int64_t>(0, -shift), end = std::min(W, W - shift);
      count_pairs(row + begin, other + begin + shift, end - begin, side, table);
      if (periodic) count_pairs(row + end, other, W - end, side, table);
    }
  }
}

}  // namespace ppf::cpu
