#include "parallel.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace ppf::cpu {
namespace {

// Denormals count as what they are for as long as this lives. A thread inherits its parent's setting.
#if defined(__SSE2__)
class DenormalsHonoured {
 public:
  DenormalsHonoured() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ & ~kFlushBits); }
  ~DenormalsHonoured() { _mm_setcsr(saved_); }
  DenormalsHonoured(const DenormalsHonoured&) = delete;
  DenormalsHonoured& operator=(const DenormalsHonoured&) = delete;

 private:
  static constexpr unsigned kFlushBits = 0x8040;  // FTZ and DAZ
  unsigned saved_;
};
#elif defined(__aarch64__)
class DenormalsHonoured {
 public:
  DenormalsHonoured() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(saved_ & ~kFlushBits));
  }
  ~DenormalsHonoured() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }
  DenormalsHonoured(const DenormalsHonoured&) = delete;
  DenormalsHonoured& operator=(const DenormalsHonoured&) = delete;

 private:
  static constexpr uint64_t kFlushBits = (uint64_t{1} << 24) | (uint64_t{1} << 19);  // FZ and FZ16
  uint64_t saved_;
};
#else
struct DenormalsHonoured {};
#endif

// One parallel_for under way: tasks are handed out by an atomic counter.
class Job {
 public:
  Job(int64_t n, const std::function<void(int64_t)>& task) : n_(n), task_(task) {}

  void work() {
    [[maybe_unused]] const DenormalsHonoured denormals;
    try {
      for (int64_t i = next_++; i < n_; i = next_++) task_(i);
    } catch (...) {
      next_ = n_;  // the remaining tasks are not started
      const std::lock_guard lock(error_mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }

  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  const int64_t n_;
  const std::function<void(int64_t)>& task_;
  std::atomic<int64_t> next_{0};
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

class Pool {
 public:
  // False if the pool is busy with another caller's job.
  bool run(Job& job, int helpers) {
    const std::unique_lock busy(busy_, std::try_to_lock);
    if (!busy.owns_lock()) return false;
    {
      const std::lock_guard lock(mutex_);
      while (static_cast<int>(threads_.size()) < helpers) {
        const int id = static_cast<int>(threads_.size());
        threads_.emplace_back([this, id, seen = round_] { serve(id, seen); });
      }
      job_ = &job;
      helpers_ = pending_ = helpers;
      ++round_;
    }
    wake_.notify_all();
    job.work();
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return pending_ == 0; });
    return true;
  }

 private:
  void serve(int id, uint64_t seen) {
    for (;;) {
      Job* job = nullptr;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return round_ != seen; });
        seen = round_;
        if (id < helpers_) job = job_;
      }
      if (job == nullptr) continue;  // this round asked for fewer threads
      job->work();
      const std::lock_guard lock(mutex_);
      if (--pending_ == 0) done_.notify_one();
    }
  }

  std::mutex busy_, mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> threads_;
  Job* job_ = nullptr;
  int helpers_ = 0, pending_ = 0;
  uint64_t round_ = 0;
};

// Never destroyed: its threads wait for work until the process ends. After fork the child has none of them, so it
// forgets the parent's pool and makes its own.
std::atomic<Pool*> pool{nullptr};

Pool& the_pool() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { pool = nullptr; });
  (void)registered;
  Pool* current = pool.load();
  if (current == nullptr) {
    auto* fresh = new Pool;
    if (pool.compare_exchange_strong(current, fresh)) return *fresh;
    delete fresh;  // another thread was faster; this one has no threads yet
  }
  return *current;
}

}  // namespace

void parallel_for(int64_t n, int threads, const std::function<void(int64_t)>& task) {
  if (n <= 0) return;
  Job job(n, task);
  const int helpers = static_cast<int>(std::min<int64_t>(threads, n)) - 1;
  if (helpers < 1 || !the_pool().run(job, helpers)) job.work();
  job.rethrow();
}

}  // namespace ppf::cpu
