#if defined(__x86_64__)
#define VL 8
#define MR 6
#define HALF 0
#define NARROW 4
#define TARGET "avx2,fma,f16c"
#define INT8_AVX2
#define KERNELS hearth_int8_kernels_avx2
#include "int8.inc"
#endif
