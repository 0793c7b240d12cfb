#ifndef HEARTH_CKERNELS_GEMM_H
#define HEARTH_CKERNELS_GEMM_H
#include <stddef.h>
#include <stdint.h>
#pragma clang assume_nonnull begin

// How a matrix operand is stored.
enum { HEARTH_FLOAT32 = 0, HEARTH_FLOAT16 = 1, HEARTH_INT8 = 2 };

typedef struct {
  const void *base;
  size_t row_bytes;
  int32_t element;     // HEARTH_FLOAT32, …; an int8 row starts with its float32 scale
  int32_t transposed;  // the product uses the transpose; float32 only
} hearth_operand;

typedef struct {
  const float *_Nullable bias;  // one a column of c
  float scale;
  int32_t accumulate;
  // Applied in place to each finished tile of c while it is in L1: (kind, x, stride, rows, columns).
  void (*_Nullable activate)(int32_t kind, float *x, size_t stride, size_t rows, size_t columns);
  int32_t activation;
} hearth_epilogue;

typedef struct {
  float learning_rate, beta1, beta2, epsilon, decay;  // decay = learning rate x weight decay
  float correction1, correction2;                     // 1 / (1 - beta1^t), 1 / sqrt(1 - beta2^t)
  float gradient_scale;
} hearth_adamw_step;

// The kernels of one set.
typedef struct {
  // c[m x n] = activate(scale a b + bias) + (accumulate ? c : 0); activate together with accumulate is not
  // supported (the caller adds in a second pass).
  void (*multiply)(
    size_t m, size_t n, size_t k, const hearth_operand *a, const hearth_operand *b, float *c, size_t stride,
    const hearth_epilogue *epilogue);
  // Both return the number of values that do not fit.
  size_t (*encode_float16)(const float *x, size_t count, void *y);
  size_t (*encode_int8)(const float *x, size_t count, void *y);
  void (*decode_float16)(const void *x, size_t count, float *y);
  void (*decode_int8)(const void *x, size_t count, float *y);
  double (*dot)(const float *x, const float *y, size_t count);
  void (*adamw)(
    const hearth_adamw_step *step, float *parameters, const float *gradients, float *m, float *v, size_t count);
  // 1 when every |x| < limit; the sums are garbage otherwise.
  int32_t (*accumulate_fixed)(const float *x, size_t count, double scale, float limit, int64_t *sums);
  // Independent chains of fused multiply-adds, for measuring the peak; returns the operations done.
  double (*multiply_add_chains)(size_t iterations, float *sink);
} hearth_kernels;

// NULL when the CPU does not run the set.
const hearth_kernels *_Nullable hearth_kernels_of(int32_t set);

#pragma clang assume_nonnull end
#endif
