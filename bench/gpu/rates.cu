// What one multiprocessor does in a cycle of the things that the counting kernels are made of: the numbers behind the
// choice among them. Every result is a count of warp instructions a cycle, with 16 warps resident.
//
//     nvcc -std=c++20 -O3 -arch=native bench/gpu/rates.cu -o /tmp/rates && /tmp/rates
#include <cstdint>
#include <cstdio>

namespace {

constexpr int kWarps = 16, kSteps = 256, kUnroll = 8;

struct Bmma {  // 1-bit product, 16 x 8 x 256
  int32_t c[4] = {};
  __device__ void step(uint32_t a, uint32_t b) {
    asm volatile(
        "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a), "r"(a), "r"(b), "r"(b), "r"(a), "r"(b));
  }
  __device__ uint32_t result() const { return c[0] ^ c[1] ^ c[2] ^ c[3]; }
};

struct Imma {  // 8-bit product, 16 x 8 x 32
  int32_t c[4] = {};
  __device__ void step(uint32_t a, uint32_t b) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a), "r"(a), "r"(b), "r"(b), "r"(a), "r"(b));
  }
  __device__ uint32_t result() const { return c[0] ^ c[1] ^ c[2] ^ c[3]; }
};

struct Lop3 {
  uint32_t x = 0;
  __device__ void step(uint32_t a, uint32_t b) {
    asm volatile("lop3.b32 %0, %0, %1, %2, 0x96;" : "+r"(x) : "r"(a), "r"(b));
  }
  __device__ uint32_t result() const { return x; }
};

struct Funnel {
  uint32_t x = 0;
  __device__ void step(uint32_t a, uint32_t b) {
    asm volatile("shf.r.wrap.b32 %0, %0, %1, %2;" : "+r"(x) : "r"(a), "r"(b));
  }
  __device__ uint32_t result() const { return x; }
};

struct HalfCompare {  // two bfloat16, to masks
  uint32_t x = 0;
  __device__ void step(uint32_t a, uint32_t b) { asm volatile("set.gt.u32.bf16x2 %0, %0, %1;" : "+r"(x) : "r"(a + b)); }
  __device__ uint32_t result() const { return x; }
};

struct Compare {  // float32 to a predicate, and its ballot
  uint32_t x = 0;
  __device__ void step(uint32_t a, uint32_t b) {
    asm volatile("{.reg .pred p; setp.gt.f32 p, %1, %2; vote.sync.ballot.b32 %0, p, 0xffffffff;}"
                 : "=r"(x)
                 : "f"(__uint_as_float(a ^ x)), "f"(__uint_as_float(b)));
  }
  __device__ uint32_t result() const { return x; }
};

extern __shared__ uint32_t memory[];

struct Load {  // dependent only on the address
  uint32_t x = 0;
  __device__ void step(uint32_t a, uint32_t) { x ^= *static_cast<volatile uint32_t*>(memory + (a & 1023)); }
  __device__ uint32_t result() const { return x; }
};

template <int kCells>
struct Atomic {  // every lane adds to one of kCells cells of its warp's own table
  __device__ void step(uint32_t a, uint32_t) { atomicAdd(&memory[threadIdx.x / 32 * 289 + (a >> 8) % kCells], 1u); }
  __device__ uint32_t result() const { return 0; }
};

template <class Op>
__global__ void rate(uint32_t seed, uint32_t* out, long long* cycles) {
  Op op[kUnroll];
  uint32_t a = (seed + threadIdx.x) * 2654435761u;
  const uint32_t b = seed ^ threadIdx.x;
  for (uint32_t i = threadIdx.x; i < 289 * kWarps; i += blockDim.x) memory[i] = 0;
  __syncthreads();
  const long long start = clock64();
  for (int i = 0; i < kSteps; ++i) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) op[u].step(a + u * 0x9e3779b9u, b);
    a = a * 1664525u + 1013904223u;
  }
  __syncthreads();
  const long long took = clock64() - start;
  uint32_t x = 0;
  for (int u = 0; u < kUnroll; ++u) x ^= op[u].result();
  out[blockIdx.x * blockDim.x + threadIdx.x] = x;
  if (threadIdx.x == 0) cycles[0] = took;
}

template <class Op>
void measure(const char* name) {
  uint32_t* out = nullptr;
  long long *cycles = nullptr, took = 0;
  cudaMalloc(&out, 4 * 32 * kWarps);
  cudaMalloc(&cycles, 8);
  for (int i = 0; i < 3; ++i) rate<Op><<<1, 32 * kWarps, 4 * 289 * kWarps>>>(12345 + i, out, cycles);
  const cudaError_t error = cudaMemcpy(&took, cycles, 8, cudaMemcpyDeviceToHost);
  std::printf("%-28s %6.3f a cycle  %s\n", name, double(kWarps) * kSteps * kUnroll / took, cudaGetErrorString(error));
}

}  // namespace

int main() {
  measure<Bmma>("1-bit product 16x8x256");
  measure<Imma>("8-bit product 16x8x32");
  measure<Lop3>("lop3");
  measure<Funnel>("funnel shift");
  measure<HalfCompare>("bfloat16x2 compare (+ add)");
  measure<Compare>("float32 compare and ballot");
  measure<Load>("shared load (+ xor)");
  measure<Atomic<1>>("shared atomic, one cell");
  measure<Atomic<16>>("shared atomic, 16 cells");
  measure<Atomic<256>>("shared atomic, 256 cells");
}
