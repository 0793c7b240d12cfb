#if defined(__x86_64__)
#define VL 16
#define MR 14
#define HALF 1
#define NARROW 8
#define TARGET "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c"
#define INT8_AVX512_VNNI
#define KERNELS hearth_int8_kernels_avx512_vnni
#include "int8.inc"
#endif
