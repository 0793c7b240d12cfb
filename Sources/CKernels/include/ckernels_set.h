#ifndef HEARTH_CKERNELS_SET_H
#define HEARTH_CKERNELS_SET_H
#include "ckernels_gemm.h"
#include "ckernels_transformer.h"
#pragma clang assume_nonnull begin

// Integers of a packed block.
#define HEARTH_PACKED_BLOCK 256

typedef struct {
  float learning_rate, beta1, beta2, epsilon, decay;  // decay = learning rate x weight decay
  float correction1, correction2;                     // 1 / (1 - beta1^t), 1 / sqrt(1 - beta2^t)
  float gradient_scale;
} hearth_adamw_step;

// The kernels of one set. Every function runs on the calling thread, and its result depends on its operands alone.
typedef struct {
  // c[m x n] = activate(scale a b + bias) + (accumulate ? c : 0); activate together with accumulate is not
  // supported (the caller adds in a second pass).
  void (*multiply)(
    size_t m, size_t n, size_t k, const hearth_operand *a, const hearth_operand *b, float *c, size_t stride,
    const hearth_epilogue *epilogue);

  // out = softmax(scale·q·kᵀ + bias)·v; log_sum_exp is [query rows × heads]. False: no memory for scratch.
  bool (*attention_forward)(
    const hearth_attention *a, float *out, ptrdiff_t out_stride, float *_Nullable log_sum_exp);
  // False: no memory for scratch.
  bool (*attention_backward)(const hearth_attention *a, const hearth_attention_gradient *g);

  // log Σ exp(x), and gradient[i] = softmax(x)[i]·scale when gradient is not NULL (it may be x).
  float (*log_sum_exp)(const float *x, ptrdiff_t count, float *_Nullable gradient, float scale);
  // y = f(x); y may be x.
  void (*activate)(int32_t kind, const float *x, float *y, ptrdiff_t count);
  // dx = dy·f'(x); dx may be x or dy.
  void (*activate_backward)(int32_t kind, const float *x, const float *dy, float *dx, ptrdiff_t count);
  // f in place over a tile, the epilogue of a matrix product.
  void (*activate_tile)(int32_t kind, float *x, size_t stride, size_t rows, size_t columns);
  // y = f(g)·u.
  void (*gate)(int32_t kind, const float *g, const float *u, float *y, ptrdiff_t count);
  // du = dy·f(g), dg = dy·u·f'(g).
  void (*gate_backward)(
    int32_t kind, const float *g, const float *u, const float *dy, float *dg, float *du, ptrdiff_t count);
  // x += residual when it is not NULL, then y = norm(x); statistics gets mean and 1/σ, for RMS 1/rms alone.
  void (*norm_forward)(
    const hearth_norm *norm, float *x, const float *_Nullable residual, float *y, float *_Nullable statistics);
  // dx (+)= the gradient of one row; weight_gradient and bias_gradient are added to when not NULL.
  void (*norm_backward)(
    const hearth_norm *norm, const float *x, const float *statistics, const float *dy, float *dx, bool accumulate,
    float *_Nullable weight_gradient, float *_Nullable bias_gradient);

  // *loss = Σ over rows of log Σ exp(scale·x·weightᵀ) − the label's score; dx gets its gradient when it is not NULL.
  // A row with a negative label counts for nothing. False: no memory for scratch.
  bool (*head_cross_entropy)(const hearth_head *head, double *loss);

  // Both return the number of values that do not fit.
  size_t (*encode_float16)(const float *x, size_t count, void *y);
  size_t (*encode_int8)(const float *x, size_t count, void *y);
  void (*encode_bfloat16)(const float *x, size_t count, void *y);
  void (*decode_bfloat16)(const void *x, size_t count, float *y);
  void (*decode_float16)(const void *x, size_t count, float *y);
  void (*decode_int8)(const void *x, size_t count, float *y);
  // y = dropout(x), or y += dropout(x) when accumulating; y may be x. The same call is its own backward pass.
  void (*dropout)(
    const hearth_dropout *d, uint32_t sample, uint32_t row, const float *x, float *y, size_t count,
    bool accumulate);
  // The 16 bits that decide each of the 64 elements of a column block.
  void (*dropout_bits)(
    const hearth_dropout *d, uint32_t sample, uint32_t row, uint32_t block, uint16_t *bits);
  double (*dot)(const float *x, const float *y, size_t count);
  void (*adamw)(
    const hearth_adamw_step *step, float *parameters, const float *gradients, float *m, float *v, size_t count);
  // 1 when every |x| < limit; the sums are garbage otherwise.
  int32_t (*accumulate_fixed)(const float *x, size_t count, double scale, float limit, int64_t *sums);
  // y = (float)x·scale
  void (*fixed_to_float)(const int64_t *x, size_t count, float scale, float *y);
  // sums += rint(x·scale), ties to even, for a power of two `scale`; returns the bits of the largest |x|, NaN above all.
  // A sum whose |x·scale| is above 2^30 is garbage.
  uint32_t (*accumulate_scaled)(const float *x, size_t count, float scale, int32_t *sums);
  // The bits of the largest |x|, NaN above all.
  uint32_t (*largest_magnitude)(const float *x, size_t count);
  // y = (float)x·scale
  void (*scaled_to_float)(const int32_t *x, size_t count, float scale, float *y);
  // The width of each block of HEARTH_PACKED_BLOCK integers: bits of its widest in two's complement, 0 where all are 0.
  void (*packed_widths)(const int64_t *x, size_t blocks, uint8_t *widths);
  // Writes a block in `width` (1…64, at least its width) bits an integer: width x HEARTH_PACKED_BLOCK / 8 bytes.
  void (*pack_block)(const int64_t *x, uint32_t width, uint8_t *y);
  // Reads what pack_block wrote with the same width.
  void (*unpack_block)(const uint8_t *x, uint32_t width, int64_t *y);
  // Independent chains of fused multiply-adds, for measuring the peak; returns the operations done.
  double (*multiply_add_chains)(size_t iterations, float *sink);
} hearth_kernels;

// NULL when the CPU does not run the set.
const hearth_kernels *_Nullable hearth_kernels_of(int32_t set);

#pragma clang assume_nonnull end
#endif
