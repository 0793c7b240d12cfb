// The choice among the kernel sets; the measured reason for C at all.
//
// Measured on an AMD EPYC (Zen 4), one core, against the same loops in Swift 6.3 -O (baseline x86-64):
// see the ratios that `hearth-benchmark kernels` prints.
#include "ckernels_gemm.h"
#include "ckernels_platform.h"

extern const hearth_kernels hearth_kernels_portable;
#if defined(__x86_64__)
extern const hearth_kernels hearth_kernels_avx2, hearth_kernels_avx512;
#endif

const hearth_kernels *hearth_kernels_of(int32_t set) {
  if (set < 0 || set >= HEARTH_SET_COUNT || !(hearth_cpu_sets() >> set & 1)) return NULL;
#if defined(__x86_64__)
  if (set == HEARTH_SET_AVX512) return &hearth_kernels_avx512;
  if (set == HEARTH_SET_AVX2) return &hearth_kernels_avx2;
#endif
  return &hearth_kernels_portable;
}
