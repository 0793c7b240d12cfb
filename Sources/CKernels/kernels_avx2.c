#if defined(__x86_64__)
#define VL 8
#define MR 6
#define HALF 0
#define NARROW 4
#define PANEL_VECTORS 2
#define TARGET "avx2,fma,f16c"
#define KERNELS hearth_kernels_avx2
#include "kernels.inc"
#endif
