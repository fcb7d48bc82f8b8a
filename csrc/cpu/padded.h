// Level maps in one flat run, so that every offset is one constant shift and no kernel knows an edge.
//
// Rows are a pitch apart that leaves a gap as wide as the neighbourhood reaches; planes and images likewise. Gaps hold
// the sentinel "no level", and pairs that touch it are not counted. With a periodic boundary there are two runs of one
// layout: the sites with their gaps, and the neighbours, whose gaps hold the values from the other side of the map.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <span>
#include <vector>

#include "../core/lattice.h"
#include "../core/offset.h"
#include "copy.h"

namespace ppf::cpu {

inline int64_t wrapped(int64_t i, int64_t extent) { return ((i % extent) + extent) % extent; }

struct Padding {
  int64_t D, H, W;
  int64_t halo_d = 0, halo_h = 0, halo_w = 0;  // gap before each map, row and plane; free boundaries share one gap
  int64_t pitch_h, pitch_d, pitch_n;
  std::vector<int64_t> shifts;    // of the offsets, in the flat run
  std::vector<uint64_t> pattern;  // a bit for each place of the first maps of a run: is it a site?

  Padding(const Lattice& x, std::span<const Offset> offsets, bool periodic) : D(x.D), H(x.H), W(x.W) {
    std::vector<Offset> reach(offsets.begin(), offsets.end());
    for (Offset& r : reach) {
      if (periodic) {
        r = {wrapped(r.d, D), wrapped(r.h, H), wrapped(r.w, W)};
      } else {
        // An offset beyond the map meets nothing; the nearest one that meets nothing needs a smaller gap.
        r = {std::clamp(r.d, -D, D), std::clamp(r.h, -H, H), std::clamp(r.w, -W, W)};
      }
      halo_d = std::max(halo_d, std::abs(r.d));
      halo_h = std::max(halo_h, std::abs(r.h));
      halo_w = std::max(halo_w, std::abs(r.w));
    }
    pitch_h = W + halo_w;
    pitch_d = (H + halo_h) * pitch_h;
    pitch_n = (D + halo_d) * pitch_d;
    for (const Offset& r : reach) shifts.push_back(r.d * pitch_d + r.h * pitch_h + r.w);
    if (pitch_n <= kPatternLength / 2) make_pattern();
  }

  // Levels before the first and after the last image that a shift may reach.
  int64_t margin() const { return halo_d * pitch_d + halo_h * pitch_h + halo_w; }

  // Places that `pattern` tells of.
  int64_t pattern_length() const { return 64 * std::ssize(pattern); }

  // Puts a dense map into the run with gaps filled from the other side of the map. Offsets are not negative here, so
  // gaps follow the map.
  template <class Level>
  void place_wrapped(const Level* dense, Level* run) const {
    for (int64_t d = 0; d < D + halo_d; ++d) {
      for (int64_t h = 0; h < H + halo_h; ++h) {
        const Level* row = dense + ((d % D) * H + h % H) * W;
        for (int64_t w = 0; w < W + halo_w; ++w) run[d * pitch_d + h * pitch_h + w] = row[w % W];
      }
    }
  }

 private:
  static constexpr int64_t kPatternLength = 8192;

  void make_pattern() {
    const int64_t maps = kPatternLength / pitch_n;
    pattern.assign((maps * pitch_n + 63) / 64, 0);
    for (int64_t m = 0; m < maps; ++m) {
      for (int64_t d = 0; d < D; ++d) {
        for (int64_t h = 0; h < H; ++h) {
          const int64_t row = m * pitch_n + d * pitch_d + h * pitch_h;
          for (int64_t i = row, end = row + W; i < end; i = (i / 64 + 1) * 64) {  // a word at a time
            const uint64_t until_end = end - i / 64 * 64 >= 64 ? ~uint64_t{0} : (uint64_t{1} << (end % 64)) - 1;
            pattern[i / 64] |= until_end & (~uint64_t{0} << (i % 64));
          }
        }
      }
    }
  }
};

// Dense maps into a run, row by row. Its gaps hold the sentinel before and after.
template <class Level>
void place_rows(const Level* dense, int64_t maps, const Padding& padding, Level, Level* run) {
  for (int64_t m = 0; m < maps; ++m, run += padding.pitch_n) {
    for (int64_t d = 0; d < padding.D; ++d) {
      for (int64_t h = 0; h < padding.H; ++h, dense += padding.W) {
        copy_short(reinterpret_cast<const char*>(dense), padding.W * int64_t{sizeof(Level)},
                   reinterpret_cast<char*>(run + d * padding.pitch_d + h * padding.pitch_h));
      }
    }
  }
}

}  // namespace ppf::cpu
