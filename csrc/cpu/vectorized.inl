// The inner loops in plain C++ that a compiler vectorises. Included once for every SIMD level, inside that level's
// namespace and target region: no header may be included here, and no library function called that could be shared
// between levels.

// clang-format off: each may use those before it
#include "plain/values.inl"
#include "plain/histogram.inl"
#include "plain/pairs.inl"
#include "plain/norms.inl"
#include "plain/masked_norm.inl"
#include "plain/entropy.inl"
#include "plain/extremes.inl"
// clang-format on
