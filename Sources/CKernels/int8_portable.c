// What every CPU of the architecture has.
#define VL 4
#define MR 6
#define HALF 0
#define NARROW 4
#define KERNELS hearth_int8_kernels_portable
#include "int8.inc"
