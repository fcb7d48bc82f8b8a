// A thread pool of our own. OpenMP outside torch hangs in forked workers (a DataLoader's) and needs a second libgomp.
//
// parallel_for calls task(i) once for every i in 0..n-1, on up to `threads` threads, the caller's included. Which
// thread runs which i is left open, so tasks must write to places of their own; then results cannot depend on threads.
// It is safe after fork (the child starts a pool of its own) and from several threads at once (a pool that is busy
// makes the second caller run its tasks itself). The first exception of a task is thrown again in the caller. Tasks run
// with denormals honoured, whatever torch.set_flush_denormal chose: comparisons must be exact.
#pragma once

#include <cstdint>
#include <functional>

namespace ppf::cpu {

void parallel_for(int64_t n, int threads, const std::function<void(int64_t)>& task);

}  // namespace ppf::cpu
