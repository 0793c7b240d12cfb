// Dispatch of the transformer kernels, and the scratch memory that they share.
//
// Why C and not Swift: reductions and exp do not vectorise there. Time of the same plain loops in Swift 6.3
// at -O over the time of these kernels, one core of a Zen 4 with AVX-512, rows of 768, 128 tokens:
// attention of 12 heads of 64 columns 17 times, of 8 columns 12, softmax 12, GELU 11, LayerNorm 9.
#include "ckernels_transformer.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

// Scratch memory of the calling thread. It grows to the largest request and is then reused, so that a
// training step allocates nothing once the longest sequence has been seen.
static _Thread_local float *scratch_base;
static _Thread_local ptrdiff_t scratch_floats;
static pthread_key_t scratch_key;
static pthread_once_t scratch_once = PTHREAD_ONCE_INIT;
static void create_scratch_key(void) { pthread_key_create(&scratch_key, free); }

static float *thread_scratch(ptrdiff_t floats) {
  if (floats <= scratch_floats) return scratch_base;
  pthread_once(&scratch_once, create_scratch_key);
  const size_t bytes = ((size_t)floats * sizeof(float) + 4095) / 4096 * 4096;
  float *base = aligned_alloc(4096, bytes);
  if (!base) return NULL;
  free(scratch_base);
  scratch_base = base;
  scratch_floats = (ptrdiff_t)(bytes / sizeof(float));
  pthread_setspecific(scratch_key, base);  // freed when the thread ends
  return base;
}

static void longest_sequences(const hearth_attention *t, ptrdiff_t *queries, ptrdiff_t *keys) {
  for (ptrdiff_t s = 0; s < t->sequences; s++) {
    const ptrdiff_t q = t->query_offsets[s + 1] - t->query_offsets[s];
    const ptrdiff_t k = t->key_offsets[s + 1] - t->key_offsets[s];
    if (q > *queries) *queries = q;
    if (k > *keys) *keys = k;
  }
}

// The kernels of one instruction set.
typedef struct {
  bool (*attention_forward)(const hearth_attention *, float *, ptrdiff_t, float *);
  bool (*attention_backward)(const hearth_attention *, const hearth_attention_gradient *);
  float (*log_sum_exp)(const float *, ptrdiff_t, float *, float);
  void (*activate)(int32_t, const float *, float *, ptrdiff_t);
  void (*activate_backward)(int32_t, const float *, const float *, float *, ptrdiff_t);
  void (*gate)(int32_t, const float *, const float *, float *, ptrdiff_t);
  void (*gate_backward)(int32_t, const float *, const float *, const float *, float *, float *, ptrdiff_t);
  void (*norm_forward)(const hearth_norm *, float *, const float *, float *, float *);
  void (*norm_backward)(const hearth_norm *, const float *, const float *, const float *, float *, bool,
                        float *, float *);
} transformer_functions;

#define SET portable
#define LANES 4
#define HALF_LANES 4
#define PANEL_VECTORS 2
#if defined(__x86_64__)
#define FUSED 0
#else
#define FUSED 1
#endif
#include "transformer_body.h"

#if defined(__x86_64__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#define SET avx2
#define LANES 8
#define HALF_LANES 4
#define PANEL_VECTORS 2
#define FUSED 1
#include "transformer_body.h"
#pragma clang attribute pop

#pragma clang attribute push(                                                                              \
    __attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq"))),                 \
    apply_to = function)
#define SET avx512
#define LANES 16
#define HALF_LANES 8
#define PANEL_VECTORS 4
#define FUSED 1
#include "transformer_body.h"
#pragma clang attribute pop
#endif

bool hearth_transformer_supports(int32_t set) {
  if (set == HEARTH_TRANSFORMER_PORTABLE) return true;
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (set == HEARTH_TRANSFORMER_AVX2) return avx2;
  if (set == HEARTH_TRANSFORMER_AVX512)
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#endif
  return false;
}

static const transformer_functions *functions_of(int32_t set) {
#if defined(__x86_64__)
  if (set == HEARTH_TRANSFORMER_AVX512) return &functions_avx512;
  if (set == HEARTH_TRANSFORMER_AVX2) return &functions_avx2;
#endif
  (void)set;
  return &functions_portable;
}

static const transformer_functions *best_functions;
static pthread_once_t best_once = PTHREAD_ONCE_INIT;
static void find_best(void) {
  int32_t set = HEARTH_TRANSFORMER_AVX512;
  while (!hearth_transformer_supports(set)) set--;
  best_functions = functions_of(set);
}

static _Thread_local const transformer_functions *forced_functions;
void hearth_transformer_force(int32_t set) {
  forced_functions = set < 0 || !hearth_transformer_supports(set) ? NULL : functions_of(set);
}

static const transformer_functions *functions(void) {
  if (forced_functions) return forced_functions;
  pthread_once(&best_once, find_best);
  return best_functions;
}

bool hearth_attention_forward(const hearth_attention *a, float *out, ptrdiff_t out_stride,
                              float *log_sum_exp) {
  return functions()->attention_forward(a, out, out_stride, log_sum_exp);
}
bool hearth_attention_backward(const hearth_attention *a, const hearth_attention_gradient *g) {
  return functions()->attention_backward(a, g);
}
void hearth_softmax(float *x, ptrdiff_t count) { functions()->log_sum_exp(x, count, x, 1); }
float hearth_log_sum_exp(const float *x, ptrdiff_t count, float *gradient, float scale) {
  return functions()->log_sum_exp(x, count, gradient, scale);
}

void hearth_activate(int32_t kind, const float *x, float *y, ptrdiff_t count) {
  functions()->activate(kind, x, y, count);
}
void hearth_activate_backward(int32_t kind, const float *x, const float *dy, float *dx, ptrdiff_t count) {
  functions()->activate_backward(kind, x, dy, dx, count);
}
void hearth_gate(int32_t kind, const float *g, const float *u, float *y, ptrdiff_t count) {
  functions()->gate(kind, g, u, y, count);
}
void hearth_gate_backward(int32_t kind, const float *g, const float *u, const float *dy, float *dg, float *du,
                          ptrdiff_t count) {
  functions()->gate_backward(kind, g, u, dy, dg, du, count);
}
void hearth_activate_tile(int32_t kind, float *x, size_t stride, size_t rows, size_t columns) {
  const transformer_functions *chosen = functions();
  for (size_t i = 0; i < rows; i++)
    chosen->activate(kind, x + i * stride, x + i * stride, (ptrdiff_t)columns);
}
void hearth_norm_forward(const hearth_norm *norm, float *x, const float *residual, float *y,
                         float *statistics) {
  functions()->norm_forward(norm, x, residual, y, statistics);
}
void hearth_norm_backward(const hearth_norm *norm, const float *x, const float *statistics, const float *dy,
                          float *dx, bool accumulate, float *weight_gradient, float *bias_gradient) {
  functions()->norm_backward(norm, x, statistics, dy, dx, accumulate, weight_gradient, bias_gradient);
}
float *hearth_transformer_scratch(ptrdiff_t floats) { return thread_scratch(floats); }

double hearth_libm_exp(double x) { return exp(x); }
double hearth_libm_log(double x) { return log(x); }
double hearth_libm_erf(double x) { return erf(x); }
double hearth_libm_tanh(double x) { return tanh(x); }
