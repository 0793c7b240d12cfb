#if defined(__x86_64__)
#define VL 16
#define MR 14
#define HALF 1
#define NARROW 8
#define PANEL_VECTORS 4
#define TARGET "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"
#define KERNELS hearth_kernels_avx512
#include "kernels.inc"
#endif
