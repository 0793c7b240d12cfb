#ifndef HEARTH_CKERNELS_INT8_H
#define HEARTH_CKERNELS_INT8_H
#include "ckernels_gemm.h"
#include <stddef.h>
#include <stdint.h>
#pragma clang assume_nonnull begin

// Products of int8 weights, one scale an output, and float32 rows that are quantised on the way, one scale and zero
// point a row. Every variant gives the same integers and the same float32 results, activations apart.

// The variants: the instruction that multiplies bytes.
enum {
  HEARTH_INT8_PORTABLE = 0,     // plain C
  HEARTH_INT8_AVX2 = 1,         // vpmaddwd over widened bytes: vpmaddubsw would saturate
  HEARTH_INT8_AVX_VNNI = 2,     // vpdpbusd over 256 bits
  HEARTH_INT8_AVX512_VNNI = 3,  // vpdpbusd over 512 bits
  HEARTH_INT8_NEON_DOT = 4,     // sdot
  HEARTH_INT8_COUNT = 5
};

// Outputs of a panel. A panel is HEARTH_INT8_PANEL scales, as many sums of an output's integers, and then, for each
// four inputs, the four bytes of each output.
#define HEARTH_INT8_PANEL 32
#define HEARTH_INT8_PANEL_HEADER (HEARTH_INT8_PANEL * 8)
// Most inputs: 65536 · 255 · 127 is under 2^31.
#define HEARTH_INT8_MAX_DEPTH 65536

// Bytes of the panels of a matrix of `outputs` × `inputs`; a multiple of 64, as their address must be.
size_t hearth_int8_bytes(size_t outputs, size_t inputs);

// The rows of a product. Columns that are skipped count as zero: somebody else multiplies them.
typedef struct {
  const float *base;
  size_t stride;
  const uint32_t *_Nullable skipped;  // column numbers
  size_t skipped_count;
} hearth_int8_rows;

typedef struct {
  // Quantises `rows` (at most HEARTH_INT8_PANEL) rows of w into one panel.
  void (*pack_panel)(const float *w, size_t stride, size_t rows, size_t depth, void *panel);
  // c[m × n] = activate(scale · x·wᵀ + bias) + (accumulate ? c : 0); activate and accumulate exclude each other.
  void (*multiply)(
    size_t m, size_t n, size_t k, const hearth_int8_rows *x, const void *panels, float *c, size_t stride,
    const hearth_epilogue *epilogue);
  // x ≈ (y − *zero)·*scale with y in 0…255: what `multiply` makes of a row.
  void (*quantize_row)(const float *x, size_t count, uint8_t *y, float *scale, int32_t *zero);
  // Independent chains of the multiplying instruction; returns the operations done, two a product of bytes.
  double (*dot_chains)(size_t iterations, int32_t *sink);
} hearth_int8_kernels;

// NULL when the CPU does not run the variant.
const hearth_int8_kernels *_Nullable hearth_int8_kernels_of(int32_t variant);

#pragma clang assume_nonnull end
#endif
