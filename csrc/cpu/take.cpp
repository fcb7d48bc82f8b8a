// take on the CPU. Contract: core/take.h.
// One pass: each kept byte is read and written once. Kept columns that are neighbours in x and contiguous there are
// copied as one run; many words of a row in ascending order are compressed.
#include "../core/take.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <span>
#include <vector>

#include "copy.h"
#include "kernels.h"
#include "pages.h"
#include "parallel.h"

namespace ppf::cpu {
namespace {

constexpr int64_t kTaskBytes = int64_t{1} << 18;  // enough to make handing out a task free

struct Run {
  int64_t from, length;  // columns
};

// The kept columns as runs of consecutive ones.
std::vector<Run> runs_of(const int64_t* columns, int64_t n) {
  std::vector<Run> runs;
  for (int64_t j = 0; j < n; ++j) {
    if (!runs.empty() && columns[j] == runs.back().from + runs.back().length) {
      ++runs.back().length;
    } else {
      runs.push_back({columns[j], 1});
    }
  }
  return runs;
}

// Where the elements of x[i, j] lie, in bytes from its first.
std::vector<int64_t> places_of(const TensorView& x) {
  std::vector<int64_t> places = {0};
  for (int d = 2; d < x.ndim; ++d) {
    std::vector<int64_t> finer;
    for (const int64_t place : places) {
      for (int64_t i = 0; i < x.shape[d]; ++i) finer.push_back(place + i * x.stride[d] * x.item_bytes);
    }
    places = std::move(finer);
  }
  return places;
}

// Is x[i] (or x[i, j]) dense from `axis` on?
bool is_dense_from(const TensorView& x, int axis) {
  int64_t expected = 1;
  for (int d = x.ndim - 1; d >= axis; --d) {
    if (x.shape[d] != 1 && x.stride[d] != expected) return false;
    expected *= x.shape[d];
  }
  return true;
}

// Columns element by element, place by place, so that neighbouring columns are read together.
template <class Element>
void gather(const char* from, const int64_t* column, int64_t n, int64_t stride, std::span<const int64_t> places,
            char* to) {
  const int64_t pitch = std::ssize(places) * int64_t{sizeof(Element)};
  for (const int64_t place : places) {
    for (int64_t j = 0; j < n; ++j) std::memcpy(to + j * pitch, from + column[j] * stride + place, sizeof(Element));
    to += sizeof(Element);
  }
}

using Gather = decltype(&gather<uint8_t>);

// nullptr where no machine word has that many bytes.
Gather gather_of(int64_t element_bytes) {
  if (element_bytes == 1) return gather<uint8_t>;
  if (element_bytes == 2) return gather<uint16_t>;
  if (element_bytes == 4) return gather<uint32_t>;
  if (element_bytes == 8) return gather<uint64_t>;
  if (element_bytes == 16) return gather<std::array<uint64_t, 2>>;
  return nullptr;
}

// One bit a column, set for those that are kept; nothing where they are not in ascending order.
std::vector<uint64_t> bits_of(const int64_t* columns, int64_t n, int64_t extent) {
  std::vector<uint64_t> bits((extent + 63) / 64);
  for (int64_t j = 0; j < n; ++j) {
    if (j > 0 && columns[j] <= columns[j - 1]) return {};
    bits[columns[j] / 64] |= uint64_t{1} << columns[j] % 64;
  }
  return bits;
}

const int64_t* indices_of(const std::optional<TensorView>& index, int64_t extent, const char* what) {
  if (!index) return nullptr;
  require(index->dtype == DType::int64 && index->ndim == 1 && index->is_contiguous(), what);
  const int64_t* i = index->as<const int64_t>();
  for (int64_t k = 0; k < index->shape[0]; ++k) require(i[k] >= 0 && i[k] < extent, what);
  return i;
}

}  // namespace

void take(const TensorView& x, const std::optional<TensorView>& rows, const std::optional<TensorView>& columns,
          const TensorView& out, int threads) {
  require_on_cpu(x, rows.value_or(TensorView{}), columns.value_or(TensorView{}), out);
  require(x.ndim >= 1 && (x.ndim >= 2 || !columns), "x: wanted at least one axis, two to take columns");
  const int64_t* row = indices_of(rows, x.shape[0], "rows: wanted (I,) int64 within x's axis 0");
  const int64_t* column = indices_of(columns, x.shape[1], "columns: wanted (J,) int64 within x's axis 1");
  const int64_t I = rows ? rows->shape[0] : x.shape[0];
  const int64_t J = columns ? columns->shape[0] : (x.ndim >= 2 ? x.shape[1] : 1);
  int64_t item = x.item_bytes;  // bytes of x[i, j]
  for (int d = 2; d < x.ndim; ++d) item *= x.shape[d];
  require(out.dtype == x.dtype && out.item_bytes == x.item_bytes && !out.read_only && out.is_contiguous() &&
              out.numel() * out.item_bytes == I * J * item,
          "out: wanted shape (I, J, rest of x), x's dtype, contiguous, writable");
  if (I * J * item == 0) return;
  advise_huge_pages(out.data, I * J * item);

  // Columns of a word are gathered, and so are elements that lie apart (channels_last); what is dense is copied in
  // runs.
  const bool dense_items = is_dense_from(x, 2), dense_rows = is_dense_from(x, 1);
  const Gather gather = dense_items && (dense_rows && !column) ? nullptr : gather_of(dense_items ? item : x.item_bytes);
  require(gather != nullptr || dense_items, "x: wanted elements of 1, 2, 4, 8 or 16 bytes");
  // Fewer columns than a quarter are found faster one by one.
  const bool many = column && dense_rows && 4 * J >= x.shape[1];
  const CompressRow compress = many ? compress_row(item) : nullptr;
  const std::vector<uint64_t> keep = compress ? bits_of(column, J, x.shape[1]) : std::vector<uint64_t>{};
  const std::vector<int64_t> places = dense_items ? std::vector<int64_t>{0} : places_of(x);
  std::vector<int64_t> all(column ? 0 : J);
  std::iota(all.begin(), all.end(), int64_t{0});
  if (column == nullptr) column = all.data();
  const std::vector<Run> runs = gather ? std::vector<Run>{} : runs_of(column, J);
  const int64_t row_stride = x.stride[0] * x.item_bytes, column_stride = x.ndim >= 2 ? x.stride[1] * x.item_bytes : 0;
  const auto take_row = [&](int64_t i) {
    const char* from = x.as<const char>() + (row ? row[i] : i) * row_stride;
    char* to = out.as<char>() + i * J * item;
    if (!keep.empty()) return compress(from, x.shape[1], keep.data(), to);
    if (gather != nullptr) return gather(from, column, J, column_stride, places, to);
    for (const Run& run : runs) {
      if (dense_rows) {  // columns that follow each other are one run of bytes
        copy_short(from + run.from * column_stride, run.length * item, to);
        to += run.length * item;
        continue;
      }
      for (int64_t j = run.from; j < run.from + run.length; ++j, to += item) {
        copy_short(from + j * column_stride, item, to);
      }
    }
  };
  const int64_t rows_per_task = std::max<int64_t>(1, kTaskBytes / (J * item));
  parallel_for((I + rows_per_task - 1) / rows_per_task, threads, [&](int64_t task) {
    const int64_t begin = task * rows_per_task, end = std::min(I, begin + rows_per_task);
    for (int64_t i = begin; i < end; ++i) take_row(i);
  });
}

}  // namespace ppf::cpu
