#ifndef HEARTH_CKERNELS_GEMM_H
#define HEARTH_CKERNELS_GEMM_H
#include <stddef.h>
#include <stdint.h>
#pragma clang assume_nonnull begin

// How a matrix operand is stored.
enum { HEARTH_FLOAT32 = 0, HEARTH_FLOAT16 = 1, HEARTH_INT8 = 2, HEARTH_BFLOAT16 = 3 };

typedef struct {
  const void *base;
  size_t row_bytes;
  int32_t element;     // HEARTH_FLOAT32, …; an int8 row starts with its float32 scale
  int32_t transposed;  // the product uses the transpose; not int8, and of the first operand float32 only
} hearth_operand;

typedef struct {
  const float *_Nullable bias;  // one a column of c
  float scale;
  int32_t accumulate;
  // Applied in place to each finished tile of c while it is in L1: (kind, x, stride, rows, columns).
  void (*_Nullable activate)(int32_t kind, float *x, size_t stride, size_t rows, size_t columns);
  int32_t activation;
} hearth_epilogue;

#pragma clang assume_nonnull end
#endif
