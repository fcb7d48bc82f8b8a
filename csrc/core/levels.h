// The level rule, the contract of every implementation on every device:
//
//     level(x) = number of edges strictly below x, compared in float32
//
// so +inf is level L-1, -inf is level 0, a value on an edge belongs to the level under it. NaN has no level.
// Letters: L levels, L-1 ascending finite edges a channel.
#pragma once

#include <cstdint>

namespace ppf {

inline constexpr int kMaxLevels = 256;

inline bool has_no_level(float x) { return x != x; }

inline int level_of(float x, const float* edges, int num_edges) {
  int level = 0;
  for (int e = 0; e < num_edges; ++e) level += edges[e] < x;
  return level;
}

}  // namespace ppf
