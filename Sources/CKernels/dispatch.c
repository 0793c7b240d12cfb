// The choice among the kernel sets, and why they are C.
//
// Time of the plain Swift loop (Swift 6.3 -O, baseline x86-64) over the time of the C kernel, on one core of
// a Zen 4 with AVX-512, 100,000 elements in cache, best of 15:
//   dot product in double 7.2, AdamW 6.8, fixed-point sum 12, float16 decode 46, float16 encode 47,
//   product 512x96x96 29;
// rows of 768, 128 tokens: attention of 12 heads of 64 columns 17, of 8 columns 12, softmax 12, GELU 11,
//   LayerNorm 9.
// Swift maps without a reduction, a conversion or a root (sums of rows, blends, look-ups) stay Swift.
#include "ckernels_platform.h"
#include "ckernels_set.h"

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
