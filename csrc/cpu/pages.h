// Memory that a result is about to fill for the first time.
#pragma once

#include <sys/mman.h>

#include <cstdint>

namespace ppf::cpu {

// Asks for pages of 2 MiB where they fit: the system then hands out and zeroes 512 small ones at once, which otherwise
// costs more than the copy itself. Where the system has none to give, nothing changes.
inline void advise_huge_pages(void* begin, int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kHuge = uintptr_t{1} << 21;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(begin) + kHuge - 1) / kHuge * kHuge;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(begin) + bytes) / kHuge * kHuge;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace ppf::cpu
