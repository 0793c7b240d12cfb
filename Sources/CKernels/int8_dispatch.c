// The choice among the instructions that multiply bytes.
#include "ckernels_int8.h"
#include "ckernels_platform.h"
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif
#endif

extern const hearth_int8_kernels hearth_int8_kernels_portable;
#if defined(__x86_64__)
extern const hearth_int8_kernels hearth_int8_kernels_avx2, hearth_int8_kernels_avx_vnni,
  hearth_int8_kernels_avx512_vnni;
#elif defined(__aarch64__)
extern const hearth_int8_kernels hearth_int8_kernels_neon_dot;
#endif

size_t hearth_int8_bytes(size_t outputs, size_t inputs) {
  const size_t panels = (outputs + HEARTH_INT8_PANEL - 1) / HEARTH_INT8_PANEL;
  return panels * (HEARTH_INT8_PANEL_HEADER + (inputs + 3) / 4 * 4 * HEARTH_INT8_PANEL);
}

const hearth_int8_kernels *hearth_int8_kernels_of(int32_t variant) {
  if (variant == HEARTH_INT8_PORTABLE) return &hearth_int8_kernels_portable;
#if defined(__x86_64__)
  const int32_t features = hearth_cpu_features(), sets = hearth_cpu_sets();
  if (variant == HEARTH_INT8_AVX2 && sets >> HEARTH_SET_AVX2 & 1) return &hearth_int8_kernels_avx2;
  if (variant == HEARTH_INT8_AVX_VNNI && sets >> HEARTH_SET_AVX2 & 1 && features & HEARTH_CPU_AVX_VNNI)
    return &hearth_int8_kernels_avx_vnni;
  if (variant == HEARTH_INT8_AVX512_VNNI && sets >> HEARTH_SET_AVX512 & 1 && features & HEARTH_CPU_VNNI)
    return &hearth_int8_kernels_avx512_vnni;
#elif defined(__aarch64__) && defined(__linux__)
  if (variant == HEARTH_INT8_NEON_DOT && getauxval(AT_HWCAP) & HWCAP_ASIMDDP) return &hearth_int8_kernels_neon_dot;
#endif
  return 0;
}
