// What the kernels need from the machine: which instructions it has, memory, and a checksum.
//
// CRC-32C is here because Swift has no intrinsic for the instruction.
#define _GNU_SOURCE
#include "ckernels_platform.h"
#include <malloc.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_acle.h>
#if defined(__linux__)
#include <sys/auxv.h>
#ifndef HWCAP_CRC32
#define HWCAP_CRC32 (1 << 7)
#endif
#endif
#endif

int32_t hearth_cpu_features(void) {
  int32_t bits = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) bits |= HEARTH_CPU_AVX2;
  if (__builtin_cpu_supports("fma")) bits |= HEARTH_CPU_FMA;
  if (__builtin_cpu_supports("f16c")) bits |= HEARTH_CPU_F16C;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    bits |= HEARTH_CPU_AVX512;
  if (__builtin_cpu_supports("avx512vnni")) bits |= HEARTH_CPU_VNNI;
  unsigned a, b, c, d;
  // Leaf 7.1, EAX bit 4: the 256-bit form of the instruction.
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 4 & 1) bits |= HEARTH_CPU_AVX_VNNI;
  if (__get_cpuid(0, &a, &b, &c, &d) && b == signature_AMD_ebx && c == signature_AMD_ecx &&
      __get_cpuid(1, &a, &b, &c, &d)) {
    unsigned family = a >> 8 & 15;
    if (family == 15) family += a >> 20 & 255;
    if (family < 0x1a) bits |= HEARTH_CPU_AMD_BEFORE_ZEN5;
  }
#elif defined(__aarch64__)
  bits |= HEARTH_CPU_NEON;
#endif
  return bits;
}

int32_t hearth_cpu_sets(void) {
  int32_t features = hearth_cpu_features(), sets = 1 << HEARTH_SET_PORTABLE;
  const int32_t avx2 = HEARTH_CPU_AVX2 | HEARTH_CPU_FMA | HEARTH_CPU_F16C;
  if ((features & avx2) == avx2) {
    sets |= 1 << HEARTH_SET_AVX2;
    if (features & HEARTH_CPU_AVX512) sets |= 1 << HEARTH_SET_AVX512;
  }
  return sets;
}

void hearth_cpu_brand(char *name, size_t capacity) {
  char text[49] = {0};
#if defined(__x86_64__)
  unsigned words[12];
  if (__get_cpuid_max(0x80000000, 0) >= 0x80000004) {
    for (unsigned i = 0; i < 3; i++)
      __get_cpuid(0x80000002 + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2], &words[4 * i + 3]);
    memcpy(text, words, 48);
  }
#endif
  if (capacity == 0) return;
  size_t length = strnlen(text, sizeof text);
  if (length > capacity - 1) length = capacity - 1;
  memcpy(name, text, length);
  name[length] = 0;
}

// ---- memory

void *hearth_map_pages(size_t bytes) {
  void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return NULL;
#ifdef MADV_HUGEPAGE
  madvise(base, bytes, MADV_HUGEPAGE);
#endif
  return base;
}

void hearth_unmap_pages(void *base, size_t bytes) { munmap(base, bytes); }

void hearth_discard_pages(void *base, size_t bytes) {
  const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
  const uintptr_t first = ((uintptr_t)base + page - 1) / page * page;
  const uintptr_t end = ((uintptr_t)base + bytes) / page * page;
  // Advice on a mapping of this program's own: where it is not followed, the memory goes with the mapping.
  if (first < end) madvise((void *)first, end - first, MADV_DONTNEED);
}

static pthread_key_t scratch_key;
static pthread_once_t scratch_once = PTHREAD_ONCE_INIT;

static void free_scratch(void *base) { munmap(base, HEARTH_GEMM_SCRATCH_BYTES); }
static void make_scratch_key(void) {
  if (pthread_key_create(&scratch_key, free_scratch) != 0) abort();
}

void *hearth_gemm_scratch(void) {
  // The thread-local pointer saves the key look-up; the key exists to unmap at thread exit.
  static _Thread_local void *base;
  if (!base) {
    pthread_once(&scratch_once, make_scratch_key);
    base = hearth_map_pages(HEARTH_GEMM_SCRATCH_BYTES);
    // Nothing can be computed without it, and the caller is a kernel that has no way to fail.
    if (!base) abort();
    pthread_setspecific(scratch_key, base);
  }
  return base;
}

static _Thread_local float *thread_base;
static _Thread_local ptrdiff_t thread_floats;
static pthread_key_t thread_key;
static pthread_once_t thread_once = PTHREAD_ONCE_INIT;
static void make_thread_key(void) {
  if (pthread_key_create(&thread_key, free) != 0) abort();
}

float *hearth_thread_scratch(ptrdiff_t floats) {
  if (floats <= thread_floats) return thread_base;
  pthread_once(&thread_once, make_thread_key);
  const size_t bytes = ((size_t)floats * sizeof(float) + 4095) / 4096 * 4096;
  float *base = aligned_alloc(4096, bytes);
  if (!base) return NULL;
  free(thread_base);
  thread_base = base;
  thread_floats = (ptrdiff_t)(bytes / sizeof(float));
  pthread_setspecific(thread_key, base);  // freed when the thread ends
  return base;
}

uint64_t hearth_flush_subnormals(void) {
#if defined(__x86_64__)
  const uint64_t control = _mm_getcsr();
  _mm_setcsr((unsigned)control | 0x8040);  // flush to zero, subnormals are zero
  return control;
#elif defined(__aarch64__)
  uint64_t control;
  __asm__ volatile("mrs %0, fpcr" : "=r"(control));
  __asm__ volatile("msr fpcr, %0" : : "r"(control | ((uint64_t)1 << 24)));
  return control;
#else
  return 0;
#endif
}

void hearth_restore_subnormals(uint64_t control) {
#if defined(__x86_64__)
  _mm_setcsr((_mm_getcsr() & ~0x8040u) | ((unsigned)control & 0x8040u));
#elif defined(__aarch64__)
  __asm__ volatile("msr fpcr, %0" : : "r"(control));
#else
  (void)control;
#endif
}

// ---- CRC-32C

static uint32_t crc_table[256];
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;
static void make_crc_table(void) {
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; bit++) c = (c >> 1) ^ (0x82F63B78u & (0u - (c & 1)));
    crc_table[i] = c;
  }
}

uint32_t hearth_crc32c_table(const void *bytes, size_t count, uint32_t seed) {
  pthread_once(&crc_once, make_crc_table);
  const uint8_t *p = bytes;
  uint32_t c = ~seed;
  for (size_t i = 0; i < count; i++) c = (c >> 8) ^ crc_table[(c ^ p[i]) & 255];
  return ~c;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc_instruction(const uint8_t *p, size_t n, uint32_t c) {
  uint64_t wide = c, word;
  for (; n >= 8; n -= 8, p += 8) {
    memcpy(&word, p, 8);
    wide = _mm_crc32_u64(wide, word);
  }
  c = (uint32_t)wide;
  for (; n > 0; n--) c = _mm_crc32_u8(c, *p++);
  return c;
}
static int has_crc_instruction(void) { return __builtin_cpu_supports("sse4.2"); }
#elif defined(__aarch64__) && defined(__linux__)
__attribute__((target("crc"))) static uint32_t crc_instruction(const uint8_t *p, size_t n, uint32_t c) {
  uint64_t word;
  for (; n >= 8; n -= 8, p += 8) {
    memcpy(&word, p, 8);
    c = __crc32cd(c, word);
  }
  for (; n > 0; n--) c = __crc32cb(c, *p++);
  return c;
}
static int has_crc_instruction(void) { return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0; }
#else
static uint32_t crc_instruction(const uint8_t *p, size_t n, uint32_t c) {
  return ~hearth_crc32c_table(p, n, ~c);
}
static int has_crc_instruction(void) { return 0; }
#endif

uint32_t hearth_crc32c(const void *bytes, size_t count, uint32_t seed) {
  if (!has_crc_instruction()) return hearth_crc32c_table(bytes, count, seed);
  return ~crc_instruction(bytes, count, ~seed);
}

// ---- the C library

double hearth_libm_exp(double x) { return exp(x); }
double hearth_libm_log(double x) { return log(x); }
double hearth_libm_erf(double x) { return erf(x); }
double hearth_libm_tanh(double x) { return tanh(x); }

void hearth_allocator_limits(int32_t mapped, int32_t kept, int32_t heaps) {
#if defined(M_MMAP_THRESHOLD) && defined(M_TRIM_THRESHOLD) && defined(M_ARENA_MAX)
  // They fail only for values that the library does not know; then it stays as it was.
  mallopt(M_MMAP_THRESHOLD, mapped);
  mallopt(M_TRIM_THRESHOLD, kept);
  mallopt(M_ARENA_MAX, heaps);
#else
  (void)mapped, (void)kept, (void)heaps;
#endif
}

void hearth_allocator_trim(void) {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}
