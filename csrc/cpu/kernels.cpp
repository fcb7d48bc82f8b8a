// The sets of kernels: the plain loops compiled for each level, and the hand-written ones where they win.
// Levels are compiled in target regions; the flags of the whole build stay those of the oldest machine.
#include "kernels.h"

#include <cstring>

#include "entropy_terms.h"
#include "padded.h"

#if defined(__x86_64__)
// gcc 12 takes the undefined registers of its own intrinsics for a mistake (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#endif

namespace ppf::cpu {

namespace {

inline void prepare(const float* edges, int num_edges, int64_t, EdgeSearch& to) {
  to.edges = edges;
  to.num_edges = num_edges;
}

}  // namespace

namespace portable {
constexpr int kWide = 4;  // floats of a register
#include "plain/half.inl"
#include "plain/transpose.inl"
// before what uses it
#include "vectorized.inl"
// after it
#include "plain/levels.inl"
}  // namespace portable

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt,f16c")
namespace avx2 {
constexpr int kWide = 8;  // floats of a register
#include "half_f16c.h"
#include "transpose_avx2.h"
// before what uses it
#include "vectorized.inl"
// after the plain loops
#include "levels_avx2.h"
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512cd,prefer-vector-width=512")
namespace avx512 {
constexpr int kWide = 16;  // floats of a register
#include "half_f16c.h"
#include "transpose_avx512.h"
// before what uses it
#include "vectorized.inl"
// after the plain loops
#include "levels_by_64.h"
// and these
#include "levels_avx512.h"
#include "take_avx512.h"
}  // namespace avx512
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512cd,prefer-vector-width=512")
#pragma GCC target("avx512vbmi,avx512vbmi2,avx512vpopcntdq")
namespace vbmi {
#include "levels_by_64.h"
// before what uses it
#include "levels_vbmi.h"
// one word an op
#include "histogram_vbmi.h"
#include "place_vbmi.h"
#include "take_vbmi.h"
}  // namespace vbmi
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512cd,amx-tile,amx-int8")
namespace amx {
#include "tiles_amx.h"
// before what is made of tiles
#include "cooccurrences_amx.h"
#include "cross_amx.h"
// after the ring
#include "merged_amx.h"

constexpr int64_t kWorthTiles = 384;  // sites of a run

void cooccurrences(const uint8_t* site, const uint8_t* neighbor, int64_t n, const int64_t* shift, int num_shifts,
                   int num_levels, int64_t* counts, int64_t stride, CountTables tables) {
  const bool by_tiles = num_levels <= kTileLevels && n >= kWorthTiles;
  const bool merged = stride == 0 && num_shifts > 1;
  if (by_tiles && merged && tile_merged(site, neighbor, n, shift, num_shifts, num_levels, counts)) return;
  if (by_tiles) {
    tile_cooccurrences(site, neighbor, n, shift, num_shifts, num_levels, counts, stride);
  } else {
    avx512::cooccurrences(site, neighbor, n, shift, num_shifts, num_levels, counts, stride, tables);
  }
}

void cross(const uint8_t* const (&a)[2], const uint8_t* const (&b)[2], int64_t n, int num_levels,
           int64_t* const (&counts)[4], CountTables tables) {
  if (num_levels <= kTileLevels) {
    tile_cross(a, b, n, num_levels, counts);
  } else {
    avx512::cross(a, b, n, num_levels, counts, tables);
  }
}
}  // namespace amx
#pragma GCC pop_options
#endif

namespace {

template <class Level>
Kernels<Level> kernels_of(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::avx512) {
    Kernels<Level> set = {prepare, avx512::histogram<Level>, place_rows<Level>, avx512::cooccurrences<Level>,
                          avx512::cross<Level>};
    if (isa >= Isa::vbmi) set.prepare = vbmi::prepare;
    if constexpr (sizeof(Level) == 1) {
      if (isa >= Isa::vbmi) set.histogram = vbmi::histogram, set.place = vbmi::place;
      if (isa >= Isa::amx) set.cooccurrences = amx::cooccurrences, set.cross = amx::cross;
    }
    return set;
  }
  if (isa == Isa::avx2) {
    return {prepare, avx2::histogram<Level>, place_rows<Level>, avx2::cooccurrences<Level>, avx2::cross<Level>};
  }
#endif
  (void)isa;
  return {prepare, portable::histogram<Level>, place_rows<Level>, portable::cooccurrences<Level>,
          portable::cross<Level>};
}

}  // namespace

template <class Level>
const Kernels<Level>& kernels() {
  static const Kernels<Level> sets[] = {kernels_of<Level>(Isa::portable), kernels_of<Level>(Isa::avx2),
                                        kernels_of<Level>(Isa::avx512), kernels_of<Level>(Isa::vbmi),
                                        kernels_of<Level>(Isa::amx)};
  return sets[static_cast<int>(active_isa())];
}

template const Kernels<uint8_t>& kernels<uint8_t>();
template const Kernels<uint16_t>& kernels<uint16_t>();

bool wants_tables(int num_levels) { return active_isa() < Isa::amx || num_levels > kTileLevels; }

template <class T, class Level>
ReadLevels<T, Level> read_levels() {
#if defined(__x86_64__)
  if (active_isa() >= Isa::vbmi) return vbmi::read_levels<T, Level>;
  if (active_isa() == Isa::avx512) return avx512::read_levels<T>;
  if (active_isa() == Isa::avx2) return avx2::read_levels<T, Level>;
#endif
  return portable::read_levels<T, Level>;
}

template <class T>
Transpose<T> transpose() {
#if defined(__x86_64__)
  if (active_isa() >= Isa::avx512) return avx512::transpose;
  if (active_isa() == Isa::avx2) return avx2::transpose;
#endif
  return portable::transpose;
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

template <class T>
MaskedNormKernels<T> masked_norm_kernels() {
#if defined(__x86_64__)
  if (active_isa() >= Isa::avx512) return {avx512::masked_norm_forward<T>, avx512::masked_norm_backward<T>};
  if (active_isa() == Isa::avx2) return {avx2::masked_norm_forward<T>, avx2::masked_norm_backward<T>};
#endif
  return {portable::masked_norm_forward<T>, portable::masked_norm_backward<T>};
}

template MaskedNormKernels<float> masked_norm_kernels<float>();
template MaskedNormKernels<double> masked_norm_kernels<double>();

template ReadLevels<float, uint8_t> read_levels();
template ReadLevels<float, uint16_t> read_levels();
template ReadLevels<double, uint8_t> read_levels();
template ReadLevels<double, uint16_t> read_levels();
template ReadLevels<float16, uint8_t> read_levels();
template ReadLevels<float16, uint16_t> read_levels();
template ReadLevels<bfloat16, uint8_t> read_levels();
template ReadLevels<bfloat16, uint16_t> read_levels();

template Transpose<float> transpose();
template Transpose<double> transpose();
template Transpose<float16> transpose();
template Transpose<bfloat16> transpose();

EntropyKernels entropy_kernels(Correction correction) {
#if defined(__x86_64__)
  if (active_isa() >= Isa::avx512) return avx512::entropy_kernels(correction);
  if (active_isa() == Isa::avx2) return avx2::entropy_kernels(correction);
#endif
  return portable::entropy_kernels(correction);
}

template <class T>
RangeColumns<T> range_columns() {
#if defined(__x86_64__)
  if (active_isa() >= Isa::avx512) return avx512::range_columns<T>;
  if (active_isa() == Isa::avx2) return avx2::range_columns<T>;
#endif
  return portable::range_columns<T>;
}

CompressRow compress_row(int64_t element_bytes) {
#if defined(__x86_64__)
  if (element_bytes == 4 && active_isa() >= Isa::avx512) return avx512::compress_words;
  if (element_bytes == 2 && active_isa() >= Isa::vbmi) return vbmi::compress_halves;
#endif
  (void)element_bytes;
  return nullptr;
}

template RangeColumns<float> range_columns<float>();
template RangeColumns<double> range_columns<double>();
template RangeColumns<float16> range_columns<float16>();
template RangeColumns<bfloat16> range_columns<bfloat16>();

}  // namespace ppf::cpu
