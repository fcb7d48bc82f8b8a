// One call of aura_counts, as all its kernels' launchers need it.
#pragma once

#include "reading.cuh"

namespace ppf::cuda {

struct Job {
  const TensorView& edges;
  const Lattice& x;
  int item_bytes;
  int num_levels;
  bool periodic;
  const ClassOrder& order;
  int64_t* counts;
  int64_t total_offsets;  // tables of a class in the counts
  bool merged;            // one for all offsets
  const OnDeviceOf& device;
  void* stream;
};

}  // namespace ppf::cuda
