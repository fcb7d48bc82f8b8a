// Fibers: stacks that one OS thread switches between, for x86-64. Each CUDA thread of a block is one.
//
// Sanitizers are told of every switch: AddressSanitizer keeps its idea of the stack, and ThreadSanitizer takes each
// fiber for a thread of its own that a switch does not order, so that only barriers and warp collectives do.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace ppf::emulation {

// Saves the callee's registers on the present stack, keeps its pointer in *from, and goes on at `to`.
extern "C" void ppf_switch_stack(void** from, void* to);
asm(R"(
.pushsection .text
.weak ppf_switch_stack
.type ppf_switch_stack, @function
ppf_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size ppf_switch_stack, .-ppf_switch_stack
.popsection
)");

// Bookkeeping of the switches themselves is no memory access of the program that is watched.
#define PPF_UNWATCHED __attribute__((noinline, no_sanitize("thread")))

// What a fiber did before it releases `meeting` is seen by those that acquire it afterwards: all the order there is.
inline void release([[maybe_unused]] void* meeting) {
#if defined(__SANITIZE_THREAD__)
  __tsan_release(meeting);
#endif
}

inline void acquire([[maybe_unused]] void* meeting) {
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(meeting);
#endif
}

class Fiber {
 public:
  using Entry = void (*)();

  Fiber() = default;  // the caller's own stack, until somebody switches away from it
  explicit Fiber(Entry entry) : stack_(map_stack()), top_(prepared(entry)) {
#if defined(__SANITIZE_THREAD__)
    tsan_ = __tsan_create_fiber(0);
#endif
  }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber() {
    if (stack_ == nullptr) return;
#if defined(__SANITIZE_THREAD__)
    __tsan_destroy_fiber(tsan_);
#endif
    munmap(stack_, kStackBytes);
  }

  // Goes on with `to`; returns when somebody switches back.
  PPF_UNWATCHED void switch_to(Fiber& to) {
#if defined(__SANITIZE_THREAD__)
    if (stack_ == nullptr) tsan_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to.tsan_, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&fake_stack_, to.asan_bottom_, to.asan_bytes_);
    coming_from_ = this;
#endif
    ppf_switch_stack(&top_, to.top_);
    arrived();
  }

 private:
  static constexpr size_t kStackBytes = size_t{256} << 10;  // reserved; what is not touched costs nothing

  static char* map_stack() {
    void* memory =
        mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) abort();
    return static_cast<char*>(memory);
  }

  // A stack as ppf_switch_stack leaves one: six registers, and where to return to.
  void* prepared(Entry entry) {
    auto* frame = reinterpret_cast<uintptr_t*>(stack_ + kStackBytes) - 8;
    for (int i = 0; i < 6; ++i) frame[i] = 0;
    frame[6] = reinterpret_cast<uintptr_t>(entry);
    frame[7] = 0;
#if defined(__SANITIZE_ADDRESS__)
    asan_bottom_ = stack_;
    asan_bytes_ = kStackBytes;
#endif
    return frame;
  }

#if defined(__SANITIZE_ADDRESS__)
 public:
  // To be called first on a stack that somebody switched to.
  void arrived() {
    const void* bottom = nullptr;
    size_t bytes = 0;
    __sanitizer_finish_switch_fiber(fake_stack_, &bottom, &bytes);
    if (coming_from_ != nullptr && coming_from_->stack_ == nullptr) {
      coming_from_->asan_bottom_ = bottom;
      coming_from_->asan_bytes_ = bytes;
    }
  }

 private:
  inline static Fiber* coming_from_ = nullptr;
  void* fake_stack_ = nullptr;
  const void* asan_bottom_ = nullptr;
  size_t asan_bytes_ = 0;
#else
 public:
  void arrived() {}

 private:
#endif
  char* stack_ = nullptr;
  void* top_ = nullptr;
#if defined(__SANITIZE_THREAD__)
  void* tsan_ = nullptr;
#endif
};

}  // namespace ppf::emulation
