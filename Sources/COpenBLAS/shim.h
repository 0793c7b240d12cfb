#include <cblas.h>

// Exported by OpenBLAS builds with DYNAMIC_ARCH; weak, because other builds lack them.
extern void gotoblas_dynamic_init(void) __attribute__((weak));
extern void gotoblas_dynamic_quit(void) __attribute__((weak));
