#include <cblas.h>
#include <stdlib.h>

// Exported by OpenBLAS builds with DYNAMIC_ARCH; weak, because other builds lack them.
extern void gotoblas_dynamic_init(void) __attribute__((weak));
extern void gotoblas_dynamic_quit(void) __attribute__((weak));

// The core that the environment asks for, or NULL.
static inline const char *_Nullable hearth_blas_user_core(void) {
  const char *name = getenv("OPENBLAS_CORETYPE");
  return name && *name ? name : NULL;
}

// Makes OpenBLAS choose its kernels again, for the named core; 0 when the build cannot. The environment is
// left as it was, so that a child process does not take the choice for the user's.
static inline int hearth_blas_switch_core(const char *_Nonnull core) {
  if (!gotoblas_dynamic_init || !gotoblas_dynamic_quit) return 0;
  if (setenv("OPENBLAS_CORETYPE", core, 1) != 0) return 0;
  gotoblas_dynamic_quit();
  gotoblas_dynamic_init();
  unsetenv("OPENBLAS_CORETYPE");
  return 1;
}

// Threads are outside: a product runs on the thread that asks for it.
static inline void hearth_blas_one_thread(void) { openblas_set_num_threads(1); }
