// A neighbour's place relative to a site.
#pragma once

#include <cstdint>

namespace ppf {

struct Offset {
  int64_t d, h, w;
};

}  // namespace ppf
