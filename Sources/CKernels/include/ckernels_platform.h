#ifndef HEARTH_CKERNELS_PLATFORM_H
#define HEARTH_CKERNELS_PLATFORM_H
#include <stddef.h>
#include <stdint.h>
#pragma clang assume_nonnull begin

// The kernel sets: the same source compiled for three levels of vector instructions.
enum {
  HEARTH_SET_PORTABLE = 0,  // what the architecture guarantees: SSE2 or NEON
  HEARTH_SET_AVX2 = 1,      // AVX2, FMA, F16C
  HEARTH_SET_AVX512 = 2,    // AVX-512 F, BW, VL, DQ besides
  HEARTH_SET_COUNT = 3
};

// Bit `1 << set` is on when this CPU (and its operating system) runs that set.
int32_t hearth_cpu_sets(void);

// Instruction-set extensions that the report names.
enum {
  HEARTH_CPU_AVX2 = 1,
  HEARTH_CPU_FMA = 2,
  HEARTH_CPU_F16C = 4,
  HEARTH_CPU_AVX512 = 8,
  HEARTH_CPU_VNNI = 16,
  HEARTH_CPU_NEON = 32,
  HEARTH_CPU_AMD_BEFORE_ZEN5 = 64,
  HEARTH_CPU_AVX_VNNI = 128
};
int32_t hearth_cpu_features(void);

// The processor's own name, NUL-terminated; empty when the architecture has no instruction for it.
void hearth_cpu_brand(char *name, size_t capacity);

// Scratch memory of the calling thread for the packed products: 64-byte aligned, mapped at the first use and
// unmapped when the thread ends.
#define HEARTH_GEMM_SCRATCH_BYTES ((size_t)2 << 20)
void *hearth_gemm_scratch(void);

// `floats` floats of scratch of the calling thread, valid until its next call of this; NULL when there is no memory.
// It grows to the largest request and is then reused, so that a training step allocates nothing once the longest
// sequence has been seen.
float *_Nullable hearth_thread_scratch(ptrdiff_t floats);

// Zeroed pages straight from the system, advised to be huge; NULL when there are none.
void *_Nullable hearth_map_pages(size_t bytes);
void hearth_unmap_pages(void *base, size_t bytes);
// Gives back what lies on the whole pages from `base` on: they read as zeros when they are touched again.
void hearth_discard_pages(void *base, size_t bytes);
// The C library maps blocks from `mapped` bytes on, keeps `kept` free bytes at the end of a heap, and has at most `heaps`;
// nothing where it is not glibc.
void hearth_allocator_limits(int32_t mapped, int32_t kept, int32_t heaps);
// Gives the system the whole pages that are free in any heap; nothing where it is not glibc.
void hearth_allocator_trim(void);

// Subnormal operands and results count as zero on the calling thread from now on.
uint64_t hearth_flush_subnormals(void);
// Puts back what hearth_flush_subnormals returned.
void hearth_restore_subnormals(uint64_t control);

// CRC-32C (Castagnoli, as in RFC 3720 and Btrfs) of `count` bytes; `seed` is the result for what precedes.
uint32_t hearth_crc32c(const void *bytes, size_t count, uint32_t seed);
// The same by table, whatever the CPU has.
uint32_t hearth_crc32c_table(const void *bytes, size_t count, uint32_t seed);

// The C library's functions in double, for the reference implementations.
double hearth_libm_exp(double x);
double hearth_libm_log(double x);
double hearth_libm_erf(double x);
double hearth_libm_tanh(double x);

#pragma clang assume_nonnull end
#endif
