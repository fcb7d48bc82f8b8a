// aura_counts on a GPU. Contract: core/aura.h. The kernels: aura_kernels.cuh.
//
// Four ways, the first that fits: bits of levels and products of bits (aura_bits.cuh); one kernel that reads the
// activations once and counts all offsets; levels written to the workspace first and tables split over blocks by offset
// and by row; pairs counted one by one.
#include "../core/aura.h"

#include <vector>

#include "aura_bits.cuh"
#include "aura_kernels.cuh"
#include "staged.cuh"

namespace ppf::cuda {
namespace {

constexpr int64_t kBand = 8192;  // places: enough that what neighbouring bands read twice is little
constexpr int64_t kLeastBand = 512;
constexpr int64_t kSeveralBlocks = 56 << 10;  // shared memory of a block that shares a multiprocessor with others

// An offset as this map has it: one that meets nothing is as near as it can be without meeting something.
Offset reduced(Offset r, const Lattice& x, bool periodic) {
  const auto axis = [&](int64_t step, int64_t extent) {
    if (!periodic) return std::clamp(step, -extent, extent);
    const int64_t residue = ((step % extent) + extent) % extent;
    return residue > extent / 2 ? residue - extent : residue;
  };
  return {axis(r.d, x.D), axis(r.h, x.H), axis(r.w, x.W)};
}

// The padded run of one launch's offsets.
struct Layout {
  Padding padding{};
  std::vector<int32_t> shifts;
  int64_t margin = 0, after = 0;  // places that the offsets reach before and after a site
  int64_t pitch = 0;              // of an image
  bool words;                     // four sites of a row lie in one word of a tile: rows start at whole words

  Layout(const Lattice& x, std::span<const Offset> offsets, bool periodic) {
    Offset before{}, behind{};
    for (const Offset& r : offsets) {
      before = {std::max(before.d, -r.d), std::max(before.h, -r.h), std::max(before.w, -r.w)};
      behind = {std::max(behind.d, r.d), std::max(behind.h, r.h), std::max(behind.w, r.w)};
    }
    if (!periodic) {  // what is behind one row is before the next
      behind = {std::max(before.d, behind.d), std::max(before.h, behind.h), std::max(before.w, behind.w)};
      before = {};
    }
    words = !periodic && x.W % 4 == 0;
    const int64_t row = rounded_up(before.w + x.W + behind.w, words ? 4 : 1), plane = row * (before.h + x.H + behind.h);
    pitch = plane * (before.d + x.D + behind.d);
    require(pitch < kMaxSites, "x: wanted fewer than 2^29 sites a map, with what the offsets reach");
    padding = {static_cast<uint32_t>(x.D),
               static_cast<uint32_t>(x.H),
               static_cast<uint32_t>(x.W),
               static_cast<uint32_t>(before.d),
               static_cast<uint32_t>(before.h),
               static_cast<uint32_t>(before.w),
               Divider(static_cast<uint32_t>(pitch)),
               Divider(static_cast<uint32_t>(plane)),
               Divider(static_cast<uint32_t>(row))};
    for (const Offset& r : offsets) {
      const int64_t shift = r.d * plane + r.h * row + r.w;
      shifts.push_back(static_cast<int32_t>(shift));
      margin = std::max(margin, -shift);
      after = std::max(after, shift);
    }
    margin = rounded_up(margin, 16);
  }
};

// How the tables and the tiles of a block share its memory. band = 0: they do not fit.
struct Tiling {
  int64_t channels, offsets, rows;  // of a block
  int64_t band = 0, tile = 0;
  AuraShared shared{};

  Tiling(const Layout& layout, int64_t channels_, int64_t offsets_, int64_t tables_, int64_t rows_, int num_levels,
         bool has_edges, int level_bytes, bool periodic, int64_t total, int64_t limit)
      : channels(channels_), offsets(offsets_), rows(rows_) {
    shared.nans = has_edges ? edges_bytes(channels, num_levels) : 0;
    shared.tables = shared.nans + static_cast<uint32_t>(rounded_up(channels * 4, 16));
    const int64_t tables = rounded_up(channels * tables_ * (rows + (has_edges ? 1 : 0)) * (num_levels + 1) * 4, 16);
    const int64_t tiles = periodic ? 2 : 1, place_bytes = channels * tiles * level_bytes;
    if (shared.tables + tables > limit) return;
    shared.sites = shared.tables + static_cast<uint32_t>(tables);

    const int64_t reach = layout.margin + rounded_up(layout.after, 16) + 16;  // a word more is read than counted
    const int64_t wanted = std::min(rounded_up(total, 16), std::max(kBand / channels, 3 * reach));
    const auto fitting = [&](int64_t bytes) {
      return std::min(wanted, ((bytes - shared.sites) / place_bytes - reach) / 16 * 16);
    };
    band = fitting(std::min(limit, kSeveralBlocks));
    if (band < std::min(wanted, std::max(kBand / channels / 2, reach))) band = fitting(limit);
    if (band < std::min(wanted, kLeastBand)) {
      band = 0;
      return;
    }
    tile = band + reach;
    const auto tile_bytes = static_cast<uint32_t>(channels * tile * level_bytes);
    shared.neighbors = shared.sites + (periodic ? tile_bytes : 0);
    shared.bytes = shared.neighbors + tile_bytes;
  }
};

AuraParams params_of(const Job& job, const Reading& reading, const Layout& layout, const Tiling& tiling,
                     const Chunks& chunks, int64_t first_offset) {
  AuraParams p{};
  p.x = {reading.maps, nullptr, static_cast<uint32_t>(job.num_levels)};
  p.classes = job.order.classes();
  p.padding = layout.padding;
  p.shared = tiling.shared;
  p.counts = job.counts;
  p.chunk = chunks.size;
  p.chunks = static_cast<uint32_t>(chunks.count);
  p.channels_per_block = static_cast<uint32_t>(tiling.channels);
  p.offsets_per_block = static_cast<uint32_t>(tiling.offsets);
  p.rows_per_block = static_cast<uint32_t>(tiling.rows);
  p.total_offsets = static_cast<uint32_t>(job.total_offsets);
  p.first_offset = static_cast<uint32_t>(first_offset);
  p.num_offsets = static_cast<uint32_t>(layout.shifts.size());
  p.margin = static_cast<uint32_t>(layout.margin);
  p.band = static_cast<uint32_t>(tiling.band);
  p.tile = static_cast<uint32_t>(tiling.tile);
  p.periodic = job.periodic;
  p.merged = job.merged;
  p.words = layout.words;
  std::copy(layout.shifts.begin(), layout.shifts.end(), p.shift);
  return p;
}

int threads_for(const Tiling& tiling) {  // where one block fills a multiprocessor, it needs all the threads
  return tiling.shared.bytes <= 64 << 10 ? kMaxAuraThreads / 2 : kMaxAuraThreads;
}

// Blocks of the grid and how the run is cut among them. A flush of a block's tables is to cost little beside reading.
struct Cutting {
  int64_t blocks;
  Chunks chunks;

  Cutting(const Job& job, const Layout& layout, const Tiling& tiling)
      : blocks(divided_up(job.x.C, tiling.channels) * divided_up(std::ssize(layout.shifts), tiling.offsets) *
               divided_up(job.num_levels, tiling.rows)),
        chunks(job.x.N * layout.pitch, std::max(tiling.band, 16 * tiling.offsets * tiling.rows * job.num_levels),
               blocks, job.device) {
    blocks *= chunks.count;
  }
};

// Where everything fits at once: straight from the activations. A block takes as many channels as fit.
std::optional<Tiling> whole_tiling(const Job& job, Reading& reading, const Layout& layout) {
  const int64_t offsets = std::ssize(layout.shifts), total = job.x.N * layout.pitch;
  for (int64_t channels = reading.channels_per_block; job.num_levels < kMaxLevels - 1 && channels > 0; channels /= 2) {
    const Tiling tiling(layout, channels, offsets, job.merged ? 1 : offsets, job.num_levels, job.num_levels, true, 1,
                        job.periodic, total, job.device.shared_bytes);
    if (tiling.band == 0) continue;
    if (reading.maps.across && channels % reading.count != 0) reading.count = 1;
    return tiling;
  }
  return std::nullopt;
}

// Levels are read from the workspace: as many offsets a block as fit, or as many rows of one.
Tiling split_tiling(const Job& job, const Layout& layout, int level_bytes) {
  const int64_t L = job.num_levels, tiles = (job.periodic ? 2 : 1) * level_bytes;
  const int64_t for_tiles = tiles * (layout.margin + layout.after + kBand / 2);
  const int64_t lines = (job.device.shared_bytes - for_tiles) / ((L + 1) * 4);  // rows of tables that fit beside
  const int64_t all = std::ssize(layout.shifts), offsets = job.merged ? all : std::clamp<int64_t>(lines / L, 1, all);
  const int64_t groups = divided_up(L, std::max<int64_t>(1, std::min(L, lines)));
  return Tiling(layout, 1, offsets, job.merged ? 1 : offsets, lines > 0 ? divided_up(L, groups) : L, job.num_levels,
                false, level_bytes, job.periodic, job.x.N * layout.pitch, job.device.shared_bytes);
}

// The staged levels as maps: dense, images in the order of their classes.
Reading staged_reading(const Reading& reading, const StagedLevels& levels) {
  Reading staged = reading;
  const int64_t sites = reading.maps.by_sites.divisor, wide = 16 / levels.item_bytes;
  staged.maps.data = levels.data;
  staged.maps.order = nullptr;
  staged.maps.stride_n = sites;
  staged.maps.stride_c = levels.pitch;
  staged.maps.stride_w = 1;
  staged.maps.flat = true;
  staged.maps.across = false;
  staged.count = sites % wide == 0 ? static_cast<int>(wide) : 1;
  return staged;
}

template <class Level>
void count_staged(const Job& job, const Reading& staged, const Layout& layout, std::span<const Offset> offsets,
                  int64_t first_offset) {
  const Tiling tiling = split_tiling(job, layout, sizeof(Level));
  if (tiling.band > 0) {
    const Cutting cutting(job, layout, tiling);
    const AuraParams p = params_of(job, staged, layout, tiling, cutting.chunks, first_offset);
    const Grid grid{cutting.blocks, threads_for(tiling), tiling.shared.bytes, job.stream};
    if (staged.count == 1) return launch<aura_kernel<Access<Level, 1, false>>>(grid, p);
    return launch<aura_kernel<Access<Level, 16 / sizeof(Level), false>>>(grid, p);
  }
  AuraFarParams p{};
  p.levels = staged.maps;
  p.classes = job.order.classes();
  p.num_levels = static_cast<uint32_t>(job.num_levels);
  p.counts = job.counts;
  p.total_offsets = static_cast<uint32_t>(job.total_offsets);
  p.first_offset = static_cast<uint32_t>(first_offset);
  p.num_offsets = static_cast<uint32_t>(offsets.size());
  p.periodic = job.periodic;
  p.merged = job.merged;
  for (size_t r = 0; r < offsets.size(); ++r) {
    p.d[r] = static_cast<int32_t>(offsets[r].d);
    p.h[r] = static_cast<int32_t>(offsets[r].h);
    p.w[r] = static_cast<int32_t>(offsets[r].w);
  }
  const int64_t blocks =
      std::min<int64_t>(divided_up(job.x.N * job.x.sites() * job.x.C, 256), 16 * job.device.multiprocessors);
  launch<aura_far_kernel<Level>>({blocks, 256, 0, job.stream}, p);
}

struct Arguments {
  Lattice x;
  int num_levels;
  int64_t classes, tables;
  std::vector<Offset> offsets;

  bool merged() const { return tables == 1 && offsets.size() > 1; }
};

Arguments checked(const TensorView& x, const TensorView& edges, std::span<const Offset> offsets, bool periodic,
                  const TensorView& counts) {
  const Lattice lattice = lattice_of(x);
  Arguments a{lattice, edges_per_channel(edges, lattice) + 1, 0, 0, {}};
  require(counts.ndim == 5, "counts: wanted (C, K, R, L, L) int64, contiguous, writable");
  a.classes = counts.shape[1];
  const int64_t R = std::ssize(offsets);
  a.tables = counts.shape[2] == 1 ? std::min<int64_t>(R, 1) : R;
  require_output(counts, DType::int64, lattice.C * a.classes * a.tables * a.num_levels * a.num_levels,
                 "counts: wanted (C, K, R or 1, L, L) int64, contiguous, writable");
  if (x.numel() == 0) return a;
  for (const Offset& r : offsets) a.offsets.push_back(reduced(r, lattice, periodic));
  return a;
}

// Counts some offsets straight from the activations, or says that it cannot.
bool count_whole(const Job& job, Reading reading, const Layout& layout, int64_t first_offset, int64_t* nans) {
  const auto tiling = whole_tiling(job, reading, layout);
  if (!tiling) return false;
  const Cutting cutting(job, layout, *tiling);
  AuraParams p = params_of(job, reading, layout, *tiling, cutting.chunks, first_offset);
  p.x.edges = job.edges.as<const float>();
  p.nans = nans;
  with_access(reading, [&](auto access) {
    launch<aura_kernel<decltype(access)>>({cutting.blocks, threads_for(*tiling), tiling->shared.bytes, job.stream}, p);
  });
  return true;
}

}  // namespace

int64_t aura_counts_workspace(const TensorView& x, const TensorView& edges, std::span<const Offset> offsets,
                              bool periodic, const std::optional<TensorView>& labels, const TensorView& counts) {
  const Arguments a = checked(x, edges, offsets, periodic, counts);
  if (a.offsets.empty()) return 0;
  const OnDeviceOf device(x);
  Workspace workspace;
  const ClassOrder order(labels, a.x.N, a.classes, workspace);
  const Job job{edges,   a.x,      x.item_bytes, a.num_levels, periodic, order,
                nullptr, a.tables, a.merged(),   device,       nullptr};
  Reading reading = reading_of(a.x, x.item_bytes);
  if (bits_stage(job, reading, a.offsets)) return workspace.bytes();
  for (size_t r = 0; r < a.offsets.size(); r += kMaxOffsets) {
    const auto some = std::span(a.offsets).subspan(r, std::min<size_t>(kMaxOffsets, a.offsets.size() - r));
    if (whole_tiling(job, reading, Layout(a.x, some, periodic))) continue;
    staged_levels(a.x, a.num_levels, workspace);
    break;
  }
  return workspace.bytes();
}

void aura_counts(const TensorView& x, const TensorView& edges, std::span<const Offset> offsets, bool periodic,
                 const std::optional<TensorView>& labels, const TensorView& counts, const TensorView& nans,
                 const TensorView& memory, void* stream) {
  require_on_cuda(x, edges, labels.value_or(TensorView{}), counts, nans, memory);
  const Arguments a = checked(x, edges, offsets, periodic, counts);
  require_output(nans, DType::int64, a.x.C, "nans: wanted (C,) int64, contiguous, writable");
  if (a.offsets.empty()) return;
  require_workspace(memory, aura_counts_workspace(x, edges, offsets, periodic, labels, counts));

  const OnDeviceOf device(x);
  Workspace workspace(memory);
  const ClassOrder order(labels, a.x.N, a.classes, workspace);
  order.run(stream);
  const Job job{edges,    a.x,        x.item_bytes, a.num_levels, periodic, order, counts.as<int64_t>(),
                a.tables, a.merged(), device,       stream};
  Reading reading = reading_of(a.x, x.item_bytes);
  reading.maps.order = order.order();
  if (const auto stage = bits_stage(job, reading, a.offsets)) {
    return count_bits(job, reading, *stage, a.offsets, nans.as<int64_t>());
  }
  std::optional<StagedLevels> levels;
  int64_t* uncounted = nans.as<int64_t>();  // null as soon as a launch has counted them
  for (size_t r = 0; r < a.offsets.size(); r += kMaxOffsets) {
    const auto some = std::span(a.offsets).subspan(r, std::min<size_t>(kMaxOffsets, a.offsets.size() - r));
    const Layout layout(a.x, some, periodic);
    const auto first = static_cast<int64_t>(r);
    if (!count_whole(job, reading, layout, first, uncounted)) {
      if (!levels) {
        levels = staged_levels(a.x, a.num_levels, workspace);
        write_levels(reading, edges, order.classes(), *levels, uncounted, device, stream);
      }
      const Reading staged = staged_reading(reading, *levels);
      if (levels->item_bytes == 1) {
        count_staged<uint8_t>(job, staged, layout, some, first);
      } else {
        count_staged<uint16_t>(job, staged, layout, some, first);
      }
    }
    uncounted = nullptr;
  }
}

}  // namespace ppf::cuda
