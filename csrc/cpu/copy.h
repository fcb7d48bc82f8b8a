// Copies of a few bytes: a call of memcpy costs more than they do.
#pragma once

#include <cstdint>
#include <cstring>

namespace ppf::cpu {

// In steps of one size, the last one overlapping the one before it. bytes >= kStep, or 0.
template <int kStep>
inline void copy_in_steps(const char* from, int64_t bytes, char* to) {
  for (int64_t i = 0; i < bytes - kStep; i += kStep) std::memcpy(to + i, from + i, kStep);
  if (bytes > 0) std::memcpy(to + bytes - kStep, from + bytes - kStep, kStep);
}

inline void copy_short(const char* from, int64_t bytes, char* to) {
  if (bytes > 512) {
    std::memcpy(to, from, bytes);
  } else if (bytes >= 16) {
    copy_in_steps<16>(from, bytes, to);
  } else if (bytes >= 8) {
    copy_in_steps<8>(from, bytes, to);
  } else if (bytes >= 4) {
    copy_in_steps<4>(from, bytes, to);
  } else {
    copy_in_steps<1>(from, bytes, to);
  }
}

}  // namespace ppf::cpu
