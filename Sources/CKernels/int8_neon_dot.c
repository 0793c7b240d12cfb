#if defined(__aarch64__)
#define VL 4
#define MR 12
#define HALF 0
#define NARROW 4
#define TARGET "dotprod"
#define INT8_NEON_DOT
#define KERNELS hearth_int8_kernels_neon_dot
#include "int8.inc"
#endif
