#ifndef HEARTH_CKERNELS_TRANSFORMER_H
#define HEARTH_CKERNELS_TRANSFORMER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#pragma clang assume_nonnull begin

// Operands of the kernels of a transformer block.

// Dropout by a counter-based generator: an element of row `row` of sample `sample` is kept when its 16 bits are under
// `threshold`, and then multiplied by `scale` = 65536 / threshold.
typedef struct {
  uint32_t key[2];
  uint32_t site;
  uint32_t threshold;  // 1 to 65536
  float scale;
} hearth_dropout;

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
  // Dropout of the probabilities when it is not NULL: the mask's row is head·2^20 + query, its column the key.
  const hearth_dropout *_Nullable dropout;
  const ptrdiff_t *_Nullable samples;  // one a sequence
} hearth_attention;

// Gradients of attention; dq, dk and dv are written, bias_gradient is added to. False: no memory.
typedef struct {
  const float *out, *log_sum_exp, *d_out;
  ptrdiff_t out_stride, d_out_stride;
  float *dq, *dk, *dv;
  ptrdiff_t dq_stride, dk_stride, dv_stride;
  float *_Nullable bias_gradient;
} hearth_attention_gradient;

// Activations by number, as in Swift's `Activation`.
enum {
  HEARTH_ACTIVATION_NONE = 0,
  HEARTH_ACTIVATION_RELU = 1,
  HEARTH_ACTIVATION_GELU = 2,      // x·Φ(x), exact
  HEARTH_ACTIVATION_GELU_TANH = 3  // its approximation by tanh
};
// A normalisation over rows of `count` elements: RMS or, with the mean taken off, LayerNorm.
typedef struct {
  ptrdiff_t count;
  bool layer;
  float epsilon;
  const float *weight;
  const float *_Nullable bias;
} hearth_norm;
// A frozen output head under a cross-entropy.
typedef struct {
  const float *x;  // [rows × width]
  size_t x_stride, rows, width;
  const float *weight;  // [outputs × width]
  size_t weight_stride, outputs;
  float scale;
  const float *_Nullable bias;  // [outputs], added to the scaled products
  const int32_t *labels;        // under `outputs`
  float *_Nullable dx;          // [rows × width]
  size_t dx_stride;
} hearth_head;

#pragma clang assume_nonnull end
#endif
