// take on a GPU. Contract: core/take.h. The kernel: take_kernels.cuh.
#include "../core/take.h"

#include <numeric>
#include <vector>

#include "launch.cuh"
#include "take_kernels.cuh"

namespace ppf::cuda {
namespace {

constexpr int kManyCuts = 64;  // of one launch: descriptors travel with it, in at most 32 KB

struct Axis {
  int64_t extent, stride;  // bytes
};

const int64_t* indices_of(const std::optional<TensorView>& index, const char* what) {
  if (!index) return nullptr;
  require(index->dtype == DType::int64 && index->ndim == 1 && index->is_contiguous(), what);
  return index->as<const int64_t>();
}

// The axes behind rows and columns, and the bytes of an element, outermost first; those that are one run are joined.
std::vector<Axis> joined_axes(const TensorView& x) {
  std::vector<Axis> axes;
  for (int d = 2; d < x.ndim; ++d) {
    if (x.shape[d] == 1) continue;
    const Axis axis{x.shape[d], x.stride[d] * x.item_bytes};
    if (!axes.empty() && axes.back().stride == axis.extent * axis.stride) {
      axes.back() = {axes.back().extent * axis.extent, axis.stride};
    } else {
      axes.push_back(axis);
    }
  }
  if (!axes.empty() && axes.back().stride == x.item_bytes) {
    axes.back() = {axes.back().extent * x.item_bytes, 1};
  } else {
    axes.push_back({x.item_bytes, 1});
  }
  return axes;
}

// The descriptor of one tensor; no words where there is nothing to copy.
Cut cut_of(const TakeArguments& a) {
  const TensorView& x = a.x;
  require(x.ndim >= 1 && (x.ndim >= 2 || !a.columns), "x: wanted at least one axis, two to take columns");
  Cut cut{};
  cut.from = x.as<const char>();
  cut.to = a.out.as<char>();
  cut.rows = indices_of(a.rows, "rows: wanted (I,) int64, contiguous");
  cut.columns = indices_of(a.columns, "columns: wanted (J,) int64, contiguous");
  const int64_t I = a.rows ? a.rows->shape[0] : x.shape[0];
  const int64_t J = a.columns ? a.columns->shape[0] : (x.ndim >= 2 ? x.shape[1] : 1);
  const int64_t row_stride = x.stride[0] * x.item_bytes, column_stride = x.ndim >= 2 ? x.stride[1] * x.item_bytes : 0;
  std::vector<Axis> axes = joined_axes(x);
  if (!a.columns && axes.size() == 1 && column_stride == axes[0].extent) {  // whole rows are one run
    axes[0].extent *= J;
  } else if (!a.columns) {
    axes.insert(axes.begin(), {J, column_stride});
  }
  const int64_t item =
      std::accumulate(axes.begin(), axes.end(), int64_t{1}, [](int64_t n, Axis b) { return n * b.extent; });
  const int64_t columns = a.columns ? J : 1;
  require(a.out.dtype == x.dtype && a.out.item_bytes == x.item_bytes && !a.out.read_only && a.out.is_contiguous() &&
              a.out.numel() * a.out.item_bytes == I * columns * item,
          "out: wanted shape (I, J, rest of x), x's dtype, contiguous, writable");

  uint64_t bits = reinterpret_cast<uintptr_t>(cut.from) | reinterpret_cast<uintptr_t>(cut.to) | row_stride |
                  (a.columns ? column_stride : 0) | axes.back().extent | 16;
  for (size_t d = 0; d + 1 < axes.size(); ++d) bits |= axes[d].stride;
  const auto word = static_cast<int64_t>(bits & -bits);  // the widest that divides all of them
  require(I * columns * item / word < int64_t{1} << 31, "x: wanted fewer than 2^31 words to copy");
  cut.word_bytes = static_cast<uint32_t>(word);
  cut.words = static_cast<uint32_t>(I * columns * item / word);
  cut.row_stride = row_stride / word;
  cut.column_stride = a.columns ? column_stride / word : 0;
  cut.axes = static_cast<uint32_t>(axes.size());
  if (cut.words == 0) return cut;
  axes.back() = {axes.back().extent / word, word};
  for (size_t d = 0; d < axes.size(); ++d) {
    cut.stride[d] = axes[d].stride / word;
    cut.by_extent[d] = Divider(static_cast<uint32_t>(axes[d].extent));
  }
  cut.by_column = Divider(static_cast<uint32_t>(item / word));
  cut.by_row = Divider(static_cast<uint32_t>(columns * item / word));
  return cut;
}

template <int kCuts>
void launch_cuts(std::span<const Cut> cuts, void* stream) {
  TakeParams<kCuts> p{};
  uint32_t blocks = 0;
  for (const Cut& cut : cuts) {
    p.cuts[p.count] = cut;
    p.cuts[p.count++].first_block = blocks;
    blocks += (cut.words + kTakeTile - 1) / kTakeTile;
  }
  launch<take_kernel<kCuts>>({blocks, kTakeThreads, 0, stream}, p);
}

}  // namespace

void take(std::span<const TakeArguments> arguments, void* stream) {
  if (arguments.empty()) return;
  std::vector<Cut> cuts;
  for (const TakeArguments& a : arguments) {
    require_on_cuda(arguments[0].x, a.x, a.rows.value_or(TensorView{}), a.columns.value_or(TensorView{}), a.out);
    const Cut cut = cut_of(a);
    if (cut.words > 0) cuts.push_back(cut);
  }
  const OnDeviceOf device(arguments[0].x);
  for (size_t i = 0; i < cuts.size(); i += kManyCuts) {
    const auto some = std::span<const Cut>(cuts).subspan(i, std::min<size_t>(kManyCuts, cuts.size() - i));
    if (some.size() == 1) {
      launch_cuts<1>(some, stream);
    } else {
      launch_cuts<kManyCuts>(some, stream);
    }
  }
}

}  // namespace ppf::cuda
