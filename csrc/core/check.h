// The one way a kernel refuses its arguments. Python validates first and explains (see _checks.py); what is checked
// again in C++ is only what would corrupt memory.
#pragma once

#include <stdexcept>
#include <string>

namespace ppf {

inline void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

}  // namespace ppf
