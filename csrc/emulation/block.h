// Runs the threads of one block as fibers until each has ended, and says where a kernel goes wrong:
//
//   a barrier that some threads wait at elsewhere, or that a thread ended without reaching
//   a warp collective whose lanes never all come, or that asks a lane outside its mask
//   a deadlock of both
//
// Threads run one after another, each up to its next barrier or collective: code that relies on lock-step fails at
// once. The order is that of the schedule, which tests turn round. What __syncthreads and the collectives order is told
// to ThreadSanitizer, and nothing else is; blocks come one after another, so races between blocks are not seen.
#pragma once

#include <source_location>
#include <stdexcept>
#include <string>

#include "fiber.h"

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

// Set before a thread goes on, so every thread reads its own.
inline dim3 threadIdx;

namespace ppf::emulation {

inline constexpr int kWarp = 32;
inline constexpr int kMaxThreads = 1024;

enum class State : uint8_t { ready, at_barrier, in_collective, ended };
enum class Collective : uint8_t { sync, ballot, shuffle };

struct Thread {
  Fiber* fiber = nullptr;
  State state = State::ended;
  const char* file = "";
  unsigned line = 0;
  Collective kind = Collective::sync;
  unsigned mask = 0;
  int source = 0;      // lane that a shuffle asks
  uint64_t value = 0;  // what the lane brings, then what it takes away
};

class Block {
 public:
  using Body = void (*)(const void* kernel);

  Block() = default;
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block() { drop_fibers(); }

  // Runs `count` threads to their ends. Throws std::runtime_error with what went wrong.
  void run(Body body, const void* kernel, unsigned count, unsigned schedule) {
    body_ = body;
    kernel_ = kernel;
    count_ = count;
    running_ = this;
    for (unsigned t = 0; t < count; ++t) {
      if (threads_[t].fiber == nullptr) threads_[t].fiber = new Fiber(&Block::enter);
      threads_[t].state = State::ready;
    }
    complaint_ = nullptr;
    release(&scheduler_);
    while (complaint_ == nullptr && run_ready(schedule)) {
    }
    acquire(&threads_);
    if (complaint_ == nullptr && ended() == count) return;
    const std::string text = complaint_ != nullptr ? at(complaint_, thread_) : stuck();
    drop_fibers();  // their stacks hold half a kernel
    throw std::runtime_error("emulated kernel: " + text);
  }

  // __syncthreads: everything before it, in all threads, is seen by everything after it.
  PPF_UNWATCHED void barrier(const std::source_location& where) {
    Thread& me = threads_[thread_];
    me.state = State::at_barrier;
    me.file = where.file_name();
    me.line = where.line();
    wait(this);
  }

  // A collective of the lanes in `mask`: returns what this lane takes away.
  PPF_UNWATCHED uint64_t collective(Collective kind, unsigned mask, uint64_t value, int source,
                                    const std::source_location& where) {
    Thread& me = threads_[thread_];
    me.state = State::in_collective;
    me.file = where.file_name();
    me.line = where.line();
    me.kind = kind;
    me.mask = mask;
    me.value = value;
    me.source = source;
    if (!(mask >> (thread_ % kWarp) & 1)) {
      complain("the mask of a warp collective leaves out its own lane: ");
    } else if (kind == Collective::shuffle && (source < 0 || source >= kWarp || !(mask >> source & 1))) {
      complain("a shuffle asks a lane outside its mask: ");
    } else {
      complete_if_all_came();
    }
    wait(&threads_[thread_ / kWarp * kWarp]);
    return me.value;
  }

  unsigned thread() const { return thread_; }
  static Block& running() { return *running_; }

 private:
  void drop_fibers() {
    for (Thread& thread : threads_) {
      delete thread.fiber;
      thread.fiber = nullptr;
    }
  }

  PPF_UNWATCHED static void enter() {
    Block& block = *running_;
    block.threads_[block.thread_].fiber->arrived();
    for (;;) {  // a fiber is used again by the next block
      Block& now = *running_;
      const unsigned t = now.thread_;
      acquire(&now.scheduler_);
      now.body_(now.kernel_);
      now.threads_[t].state = State::ended;
      release(&now.threads_);
      now.threads_[t].fiber->switch_to(now.scheduler_);
    }
  }

  // Leaves for the scheduler, and comes back when released. `meeting` stands for what orders the threads that meet.
  PPF_UNWATCHED void wait(void* meeting) {
    release(meeting);
    threads_[thread_].fiber->switch_to(scheduler_);
    acquire(meeting);
  }

  PPF_UNWATCHED void go_on(unsigned t) {
    thread_ = threadIdx.x = t;
    scheduler_.switch_to(*threads_[t].fiber);
  }

  // Runs every thread that can go on, once; opens the barrier when all wait there. False when nobody could.
  bool run_ready(unsigned schedule) {
    bool ran = false;
    for (unsigned i = 0; i < count_ && complaint_ == nullptr; ++i) {
      const unsigned turned = (i + schedule * 37) % count_;
      const unsigned t = schedule % 2 == 0 ? turned : count_ - 1 - turned;
      if (threads_[t].state != State::ready) continue;
      ran = true;
      go_on(t);
    }
    return ran || (complaint_ == nullptr && open_barrier());
  }

  bool open_barrier() {
    if (ended() == count_) return false;
    for (unsigned t = 0; t < count_; ++t) {
      const Thread& thread = threads_[t];
      if (thread.state != State::at_barrier || thread.line != threads_[0].line) return false;
    }
    for (unsigned t = 0; t < count_; ++t) threads_[t].state = State::ready;
    return true;
  }

  PPF_UNWATCHED void complete_if_all_came() {
    const unsigned warp = thread_ / kWarp * kWarp;
    const Thread& me = threads_[thread_];
    uint64_t ballot = 0;
    uint64_t brought[kWarp];
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      if (!(me.mask >> lane & 1)) continue;
      if (warp + lane >= count_) return complain("the mask of a warp collective names a lane that does not exist: ");
      const Thread& other = threads_[warp + lane];
      if (other.state != State::in_collective || other.mask != me.mask || other.line != me.line) return;
      brought[lane] = other.value;
      ballot |= uint64_t{other.value != 0} << lane;
    }
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      if (!(me.mask >> lane & 1)) continue;
      Thread& other = threads_[warp + lane];
      other.value = other.kind == Collective::shuffle ? brought[other.source] : ballot;
      other.state = State::ready;
    }
  }

  PPF_UNWATCHED void complain(const char* text) { complaint_ = text; }

  unsigned ended() const {
    unsigned count = 0;
    for (unsigned t = 0; t < count_; ++t) count += threads_[t].state == State::ended;
    return count;
  }

  std::string at(const std::string& text, unsigned t) const {
    return text + "thread " + std::to_string(t) + " at " + threads_[t].file + ":" + std::to_string(threads_[t].line);
  }

  // Why nobody can go on: two threads that wait for different things.
  std::string stuck() const {
    unsigned first = 0;
    while (threads_[first].state == State::ended) ++first;
    const Thread& one = threads_[first];
    for (unsigned t = 0; t < count_; ++t) {
      const Thread& other = threads_[t];
      if (other.state == one.state && other.line == one.line && other.mask == one.mask) continue;
      const bool barrier = one.state == State::at_barrier && other.state != State::in_collective;
      const std::string text = at(barrier ? "divergent __syncthreads: " : "deadlock: ", first);
      if (other.state == State::ended) return text + ", while thread " + std::to_string(t) + " has ended";
      return at(text + ", ", t);
    }
    return at("deadlock: ", first);
  }

  inline static Block* running_ = nullptr;
  Fiber scheduler_;
  Thread threads_[kMaxThreads];
  Body body_ = nullptr;
  const void* kernel_ = nullptr;
  const char* complaint_ = nullptr;
  unsigned count_ = 0, thread_ = 0;
};

}  // namespace ppf::emulation
