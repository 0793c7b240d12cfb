#if defined(__x86_64__)
#define VL 16
#define MR 14
#define HALF 1
#define TARGET "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"
#define KERNELS hearth_kernels_avx512
#include "kernels.inc"
#endif
