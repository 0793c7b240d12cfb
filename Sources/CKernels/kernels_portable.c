// SSE2 on x86-64, NEON on ARM: what every CPU of the architecture has.
#define VL 4
#if defined(__aarch64__)
#define MR 12
#else
#define MR 6
#endif
#define HALF 0
#define NARROW 4
#define PANEL_VECTORS 2
#define KERNELS hearth_kernels_portable
#include "kernels.inc"
