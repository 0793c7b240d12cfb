#ifndef HEARTH_CKERNELS_TRANSFORMER_H
#define HEARTH_CKERNELS_TRANSFORMER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#pragma clang assume_nonnull begin

// Kernels of a transformer block that the Swift compiler does not vectorise: reductions and exp.
// Every function runs on the calling thread and its result depends on its operands alone.

// The same source compiled for three levels of vector instructions.
enum {
  HEARTH_TRANSFORMER_PORTABLE = 0,  // what the architecture guarantees: SSE2 or NEON
  HEARTH_TRANSFORMER_AVX2 = 1,      // AVX2 and FMA
  HEARTH_TRANSFORMER_AVX512 = 2     // AVX-512 F, BW, VL, DQ besides
};

// True when this CPU runs the set.
bool hearth_transformer_supports(int32_t set);
// The calling thread uses `set` from now on; a negative value returns to the best set. For tests.
void hearth_transformer_force(int32_t set);

// Operands of multi-head attention over token-packed sequences. Strides are in floats. Head h is the
// columns h·head_size ..< (h+1)·head_size. Sequence s of the queries attends to sequence s of the keys.
typedef struct {
  const float *q, *k, *v;
  ptrdiff_t q_stride, k_stride, v_stride;
  const ptrdiff_t *query_offsets, *key_offsets;  // sequences + 1 row offsets each
  ptrdiff_t sequences, heads, head_size;
  float scale;
  bool causal;
  const float *_Nullable bias;  // heads rows of 2·bias_span − 1, indexed by key − query + bias_span − 1
  ptrdiff_t bias_span;
} hearth_attention;

// out = softmax(scale·q·kᵀ + bias)·v; log_sum_exp is [query rows × heads]. False: no memory for scratch.
bool hearth_attention_forward(const hearth_attention *a, float *out, ptrdiff_t out_stride,
                              float *_Nullable log_sum_exp);

// Gradients of attention; dq, dk and dv are written, bias_gradient is added to. False: no memory.
typedef struct {
  const float *out, *log_sum_exp, *d_out;
  ptrdiff_t out_stride, d_out_stride;
  float *dq, *dk, *dv;
  ptrdiff_t dq_stride, dk_stride, dv_stride;
  float *_Nullable bias_gradient;
} hearth_attention_gradient;
bool hearth_attention_backward(const hearth_attention *a, const hearth_attention_gradient *g);

// One row in place: x = softmax(x).
void hearth_softmax(float *x, ptrdiff_t count);
// log Σ exp(x), and gradient[i] = softmax(x)[i]·scale when gradient is not NULL (it may be x).
float hearth_log_sum_exp(const float *x, ptrdiff_t count, float *_Nullable gradient, float scale);

// Activations by number, as in Swift's `Activation`.
enum {
  HEARTH_ACTIVATION_NONE = 0,
  HEARTH_ACTIVATION_RELU = 1,
  HEARTH_ACTIVATION_GELU = 2,      // x·Φ(x), exact
  HEARTH_ACTIVATION_GELU_TANH = 3  // its approximation by tanh
};
// y = f(x); y may be x.
void hearth_activate(int32_t kind, const float *x, float *y, ptrdiff_t count);
// dx = dy·f'(x); dx may be x or dy.
void hearth_activate_backward(int32_t kind, const float *x, const float *dy, float *dx, ptrdiff_t count);
// y = f(g)·u.
void hearth_gate(int32_t kind, const float *g, const float *u, float *y, ptrdiff_t count);
// du = dy·f(g), dg = dy·u·f'(g).
void hearth_gate_backward(int32_t kind, const float *g, const float *u, const float *dy, float *dg, float *du,
                          ptrdiff_t count);
// f in place over a tile, the epilogue of a matrix product.
void hearth_activate_tile(int32_t kind, float *x, size_t stride, size_t rows, size_t columns);

// A normalisation over rows of `count` elements: RMS or, with the mean taken off, LayerNorm.
typedef struct {
  ptrdiff_t count;
  bool layer;
  float epsilon;
  const float *weight;
  const float *_Nullable bias;
} hearth_norm;
// x += residual when it is not NULL, then y = norm(x); statistics gets mean and 1/σ, for RMS 1/rms alone.
void hearth_norm_forward(const hearth_norm *norm, float *x, const float *_Nullable residual, float *y,
                         float *_Nullable statistics);
// dx (+)= the gradient of one row; weight_gradient and bias_gradient are added to when not NULL.
void hearth_norm_backward(const hearth_norm *norm, const float *x, const float *statistics, const float *dy,
                          float *dx, bool accumulate, float *_Nullable weight_gradient,
                          float *_Nullable bias_gradient);

// `floats` floats of scratch of the calling thread, valid until its next call of attention or of this.
float *_Nullable hearth_transformer_scratch(ptrdiff_t floats);

// The C library's functions in double, for the reference implementations.
double hearth_libm_exp(double x);
double hearth_libm_log(double x);
double hearth_libm_erf(double x);
double hearth_libm_tanh(double x);

#pragma clang assume_nonnull end
#endif
