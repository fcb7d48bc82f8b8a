// The sets of kernels: the plain loops compiled for each level, and the hand-written ones where they win.
// Levels are compiled in target regions; the flags of the whole build stay those of the oldest machine.
#include "kernels.h"

#if defined(__x86_64__)
// gcc 12 takes the undefined registers of its own intrinsics for a mistake (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#endif

namespace ppf::cpu {

namespace portable {
#include "vectorized.inl"
}  // namespace portable

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt")
namespace avx2 {
#include "vectorized.inl"
// after the plain loops
#include "levels_avx2.h"
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512cd,prefer-vector-width=512")
namespace avx512 {
#include "vectorized.inl"
// after the plain loops
#include "levels_avx512.h"
}  // namespace avx512
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512cd,amx-tile,amx-int8")
namespace amx {
#include "cooccurrences_amx.h"

void cooccurrences(const uint8_t* site, const uint8_t* neighbor, int64_t n, const int64_t* shift, int num_shifts,
                   int num_levels, uint32_t* tables) {
  if (num_levels <= kTileLevels) {
    tile_cooccurrences(site, neighbor, n, shift, num_shifts, num_levels, tables);
  } else {
    avx512::cooccurrences(site, neighbor, n, shift, num_shifts, num_levels, tables);
  }
}
}  // namespace amx
#pragma GCC pop_options
#endif

namespace {

template <class Level>
Kernels<Level> kernels_of(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::amx) {
    if constexpr (sizeof(Level) == 1) return {avx512::tree_levels_of, avx512::histogram<Level>, amx::cooccurrences};
    return {avx512::tree_levels_of, avx512::histogram<Level>, avx512::cooccurrences<Level>};
  }
  if (isa == Isa::avx512) return {avx512::tree_levels_of, avx512::histogram<Level>, avx512::cooccurrences<Level>};
  if (isa == Isa::avx2) return {avx2::tree_levels_of<Level>, avx2::histogram<Level>, avx2::cooccurrences<Level>};
#endif
  (void)isa;
  return {portable::levels<Level>, portable::histogram<Level>, portable::cooccurrences<Level>};
}

Widening widening_of(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::avx512) return {avx512::gathered, avx512::from_float16, avx512::from_bfloat16, avx512::from_float64};
  if (isa == Isa::avx2) return {avx2::strided, avx2::from_float16, avx2::from_bfloat16, avx2::from_float64};
#endif
  (void)isa;
  return {portable::strided, portable::from_float16, portable::from_bfloat16, portable::from_float64};
}

}  // namespace

template <class Level>
const Kernels<Level>& kernels() {
  static const Kernels<Level> sets[] = {kernels_of<Level>(Isa::portable), kernels_of<Level>(Isa::avx2),
                                        kernels_of<Level>(Isa::avx512), kernels_of<Level>(Isa::amx)};
  return sets[static_cast<int>(active_isa())];
}

template const Kernels<uint8_t>& kernels<uint8_t>();
template const Kernels<uint16_t>& kernels<uint16_t>();

const Widening& widening() {
  static const Widening sets[] = {widening_of(Isa::portable), widening_of(Isa::avx2), widening_of(Isa::avx512),
                                  widening_of(Isa::amx)};
  return sets[static_cast<int>(active_isa())];
}

template <class T>
NormBlock<T> norm_block(int power, bool with_factor) {
#if defined(__x86_64__)
  if (active_isa() >= Isa::avx512) return avx512::norm_block<T>(power, with_factor);
  if (active_isa() == Isa::avx2) return avx2::norm_block<T>(power, with_factor);
#endif
  return portable::norm_block<T>(power, with_factor);
}

template NormBlock<float> norm_block<float>(int, bool);
template NormBlock<double> norm_block<double>(int, bool);
template NormBlock<float16> norm_block<float16>(int, bool);
template NormBlock<bfloat16> norm_block<bfloat16>(int, bool);

}  // namespace ppf::cpu
