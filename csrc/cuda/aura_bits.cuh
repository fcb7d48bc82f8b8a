// The launches of aura_bits_kernels.cuh: which calls it can serve, and how work and shared memory are divided.
#pragma once

#include <span>

#include "aura_bits_kernels.cuh"
#include "aura_job.cuh"
#include "device.h"

namespace ppf::cuda {

// What a warp reads at a time: maps, each from a whole word on.
struct BitsStage {
  static constexpr int64_t kMostWords = 256;  // unless one map has more

  int64_t map_words, maps, words;
  int64_t before = 0, behind = 1;  // words that the offsets reach: a word more is read than counted

  BitsStage(const Lattice& x, std::span<const Offset> offsets)
      : map_words(divided_up(x.sites(), kWarpLanes)), maps(1), words(rounded_up(map_words, kStep)) {
    for (int64_t n = 2; n <= kWarpLanes && n * map_words <= kMostWords;
         ++n) {  // as many as leave the least of the last step unused
      const int64_t more = rounded_up(n * map_words, kStep);
      if (more * maps <= words * n) maps = n, words = more;
    }
    for (const Offset& r : offsets) {
      const int64_t shift = shift_of(x, r);
      before = std::max(before, divided_up(-shift, kWarpLanes));
      behind = std::max(behind, shift / kWarpLanes + 1);
    }
  }

  static int64_t shift_of(const Lattice& x, const Offset& r) { return (r.d * x.H + r.h) * x.W + r.w; }

  // A block's memory for so many offsets and warps.
  AuraBitsShared shared(int64_t offsets, int64_t warps) const {
    const int64_t room = before + words + behind;
    AuraBitsShared at{};
    at.within = static_cast<uint32_t>(words * sizeof(StageWord));
    at.trouble = at.within + static_cast<uint32_t>(offsets * words * 4);
    at.questions = at.trouble + 16;
    at.maps = at.questions + static_cast<uint32_t>(warps * kBitLevels * 4);
    at.valid = at.maps + static_cast<uint32_t>(warps * kWarpLanes * 8);
    at.bits = at.valid + static_cast<uint32_t>(rounded_up(warps * room * 4, 16));
    at.bytes = at.bits + static_cast<uint32_t>(warps * room * sizeof(LevelBits));
    return at;
  }
};

inline int64_t bits_warps(const Reading& reading, int item_bytes) { return reading.maps.across ? 32 / item_bytes : 8; }

inline int64_t bits_offsets(const Job& job) { return job.merged ? kMostShifts : kMostTables; }  // of a launch

// How to read for it, or nothing where levels, boundary, layout, size or device ask for another way. On trial.
inline std::optional<BitsStage> bits_stage(const Job& job, const Reading& reading, std::span<const Offset> offsets) {
  const bool readable = reading.maps.flat && (!reading.maps.across || reading.count > 1) && job.item_bytes < 8 &&
                        job.x.sites() * std::abs(reading.maps.stride_w) < int64_t{1} << 31;
  if (!trial_kernels || job.device.compute_capability < 8 || job.num_levels > static_cast<int>(kBitLevels) ||
      job.periodic || !readable) {
    return std::nullopt;
  }
  const BitsStage stage(job.x, offsets);
  const int64_t together = std::min<int64_t>(bits_offsets(job), std::ssize(offsets));
  const int64_t bytes = stage.shared(together, bits_warps(reading, job.item_bytes)).bytes;
  if (bytes > job.device.shared_bytes) return std::nullopt;
  return stage;
}

// Images are cut among units of work so that all multiprocessors are busy and a flush of the sums costs little.
inline int64_t images_of_chunk(const Job& job, int64_t units_otherwise, int64_t units_at_once, int64_t tables) {
  const int64_t cells = tables * job.num_levels * job.num_levels, N = job.x.N;
  const int64_t most = std::max<int64_t>(1, std::min(N, N * job.x.sites() / (8 * cells)));
  const int64_t chunks = std::clamp<int64_t>(divided_up(2 * units_at_once, units_otherwise), 1, most);
  return divided_up(N, std::max(chunks, divided_up(N * job.x.sites(), int64_t{1} << 30)));
}

template <class T, int kTables>
void launch_bits(const Grid& grid, const AuraBitsParams& p) {
  if (p.x.maps.across) return launch<aura_bits_across_kernel<T, kTables>>(grid, p);
  launch<aura_bits_kernel<T, kTables>>(grid, p);
}

inline void count_bits(const Job& job, const Reading& reading, const BitsStage& stage, std::span<const Offset> offsets,
                       int64_t* nans) {
  const int64_t warps = bits_warps(reading, job.item_bytes), C = job.x.C;
  const bool across = reading.maps.across;
  for (int64_t first = 0; first < std::ssize(offsets); first += bits_offsets(job)) {
    const auto some = offsets.subspan(first, std::min<int64_t>(bits_offsets(job), std::ssize(offsets) - first));
    const int64_t tables = job.merged ? 1 : std::ssize(some);
    AuraBitsParams p{};
    p.x = {reading.maps, job.edges.as<const float>(), static_cast<uint32_t>(job.num_levels)};
    p.classes = job.order.classes();
    p.shared = stage.shared(std::ssize(some), warps);
    p.counts = job.counts;
    p.nans = first == 0 ? nans : nullptr;
    const int64_t units = across ? divided_up(C, warps) : C, at_once = job.device.multiprocessors * (across ? 2 : 24);
    p.images = images_of_chunk(job, units, at_once, tables);
    p.units = static_cast<uint32_t>(units * divided_up(job.x.N, p.images));
    p.map_words = static_cast<uint32_t>(stage.map_words);
    p.maps = static_cast<uint32_t>(stage.maps);
    p.words = static_cast<uint32_t>(stage.words);
    p.site_step = static_cast<int32_t>(reading.maps.stride_w);
    p.before = static_cast<uint32_t>(stage.before);
    p.room = static_cast<uint32_t>(stage.before + stage.words + stage.behind);
    p.total_offsets = static_cast<uint32_t>(job.total_offsets);
    p.first_offset = static_cast<uint32_t>(job.merged ? 0 : first);
    p.num_offsets = static_cast<uint32_t>(some.size());
    p.merged = job.merged;
    for (size_t r = 0; r < some.size(); ++r) {
      p.d[r] = static_cast<int32_t>(some[r].d);
      p.h[r] = static_cast<int32_t>(some[r].h);
      p.w[r] = static_cast<int32_t>(some[r].w);
      p.shift[r] = static_cast<int32_t>(BitsStage::shift_of(job.x, some[r]));
    }
    const int64_t blocks = across ? p.units : divided_up(p.units, warps);
    const Grid grid{blocks, static_cast<int>(warps * kWarpLanes), p.shared.bytes, job.stream};
    with_float(reading.dtype, [&](auto value) {
      using T = decltype(value);
      if constexpr (sizeof(T) < 8) {
        if (tables <= 2) return launch_bits<T, 2>(grid, p);
        launch_bits<T, kMostTables>(grid, p);
      }
    });
  }
}

}  // namespace ppf::cuda
