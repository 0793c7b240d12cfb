// Kernels over one row or one run of floats.

// Visits a row of `count` floats LANES at a time; `x` is the vector, lanes past the end hold `other`.
INLINE vf NAME(load_or)(const float *p, ptrdiff_t left, float other) {
  return left >= LANES ? LOAD(p) : NAME(keep)(NAME(load_part)(p, left), left, other);
}
INLINE void NAME(store_some)(float *p, vf value, ptrdiff_t left) {
  if (left >= LANES) STORE(p, value);
  else NAME(store_part)(p, value, left);
}

// Writes exp(x − largest) to y when it is not NULL; returns the sum of the exponentials.
INLINE float NAME(exponentials)(const float *x, ptrdiff_t count, float *y, float *maximum) {
  vf high = NAME(splat)(-__builtin_inff());
  for (ptrdiff_t i = 0; i < count; i += LANES)
    high = __builtin_elementwise_max(high, NAME(load_or)(x + i, count - i, -__builtin_inff()));
  *maximum = NAME(largest)(high);
  const vf base = NAME(splat)(*maximum == -__builtin_inff() ? 0 : *maximum);
  vf total = NAME(splat)(0);
  for (ptrdiff_t i = 0; i < count; i += LANES) {
    vf e = NAME(exp)(NAME(load_or)(x + i, count - i, -__builtin_inff()) - base);
    if (y) NAME(store_some)(y + i, e, count - i);
    total += e;
  }
  return NAME(sum)(total);
}

static float NAME(log_sum_exp)(const float *x, ptrdiff_t count, float *gradient, float scale) {
  float maximum;
  float total = NAME(exponentials)(x, count, gradient, &maximum);
  if (gradient) {
    const float factor = total > 0 ? scale / total : 0;
    for (ptrdiff_t i = 0; i < count; i++) gradient[i] *= factor;
  }
  return total > 0 ? maximum + NAME(log)(NAME(splat)(total))[0] : maximum;
}

// The element-wise kernels are compiled once per activation: the switch is outside of the loop.
#define FOR_EACH_ACTIVATION(call)                                                                          \
  switch (kind) {                                                                                          \
    case HEARTH_ACTIVATION_RELU: call(HEARTH_ACTIVATION_RELU); break;                                      \
    case HEARTH_ACTIVATION_GELU: call(HEARTH_ACTIVATION_GELU); break;                                      \
    case HEARTH_ACTIVATION_GELU_TANH: call(HEARTH_ACTIVATION_GELU_TANH); break;                            \
    default: call(HEARTH_ACTIVATION_NONE); break;                                                          \
  }
// Runs `step(i, left, slot)` for every vector; the last may be part of one. Four slots in turn let four
// chains of additions run side by side; what is left over goes to slot 0.
#define FOR_EACH_VECTOR(step)                                                                              \
  do {                                                                                                     \
    ptrdiff_t i = 0;                                                                                       \
    for (; i + 4 * LANES <= count; i += 4 * LANES) {                                                       \
      step(i, LANES, 0);                                                                                   \
      step((i + LANES), LANES, 1);                                                                         \
      step((i + 2 * LANES), LANES, 2);                                                                     \
      step((i + 3 * LANES), LANES, 3);                                                                     \
    }                                                                                                      \
    for (; i + LANES <= count; i += LANES) step(i, LANES, 0);                                              \
    if (i < count) step(i, (count - i), 0);                                                                \
  } while (0)
#define PART(p) (left >= LANES ? LOAD(p) : NAME(load_part)((p), left))

INLINE void NAME(activate_step)(int32_t kind, const float *x, float *y, ptrdiff_t left) {
  vf slope;
  NAME(store_some)(y, NAME(activation)(kind, PART(x), &slope), left);
}
static void NAME(activate)(int32_t kind, const float *x, float *y, ptrdiff_t count) {
#define STEP(i, left, slot) NAME(activate_step)(constant, x + i, y + i, left)
#define CALL(number)                                                                                       \
  do {                                                                                                     \
    enum { constant = number };                                                                            \
    FOR_EACH_VECTOR(STEP);                                                                                 \
  } while (0)
  FOR_EACH_ACTIVATION(CALL)
#undef STEP
}

INLINE void NAME(activate_backward_step)(int32_t kind, const float *x, const float *dy, float *dx,
                                         ptrdiff_t left) {
  vf slope;
  NAME(activation)(kind, PART(x), &slope);
  NAME(store_some)(dx, PART(dy) * slope, left);
}
static void NAME(activate_backward)(int32_t kind, const float *x, const float *dy, float *dx,
                                    ptrdiff_t count) {
#define STEP(i, left, slot) NAME(activate_backward_step)(constant, x + i, dy + i, dx + i, left)
  FOR_EACH_ACTIVATION(CALL)
#undef STEP
}

INLINE void NAME(gate_step)(int32_t kind, const float *g, const float *u, float *y, ptrdiff_t left) {
  vf slope;
  NAME(store_some)(y, NAME(activation)(kind, PART(g), &slope) * PART(u), left);
}
static void NAME(gate)(int32_t kind, const float *g, const float *u, float *y, ptrdiff_t count) {
#define STEP(i, left, slot) NAME(gate_step)(constant, g + i, u + i, y + i, left)
  FOR_EACH_ACTIVATION(CALL)
#undef STEP
}

INLINE void NAME(gate_backward_step)(int32_t kind, const float *g, const float *u, const float *dy, float *dg,
                                     float *du, ptrdiff_t left) {
  vf slope, d = PART(dy), linear = PART(u);
  vf value = NAME(activation)(kind, PART(g), &slope);
  NAME(store_some)(du, d * value, left);
  NAME(store_some)(dg, d * linear * slope, left);
}
static void NAME(gate_backward)(int32_t kind, const float *g, const float *u, const float *dy, float *dg,
                                float *du, ptrdiff_t count) {
#define STEP(i, left, slot) NAME(gate_backward_step)(constant, g + i, u + i, dy + i, dg + i, du + i, left)
  FOR_EACH_ACTIVATION(CALL)
#undef STEP
}
#undef CALL
#undef FOR_EACH_ACTIVATION

// One row of a normalisation. Sums run in four vectors, so that an addition need not await the last.
static void NAME(norm_forward)(const hearth_norm *norm, float *x, const float *residual, float *y,
                               float *statistics) {
  const ptrdiff_t count = norm->count;
  vf sums[4] = {0}, squares[4] = {0};
#define STEP(i, left, slot)                                                                                \
  do {                                                                                                     \
    vf value = PART_OF(x + i, left);                                                                       \
    if (residual) {                                                                                        \
      value += PART_OF(residual + i, left);                                                                \
      NAME(store_some)(x + i, value, left);                                                                \
    }                                                                                                      \
    sums[slot] += value;                                                                                   \
    squares[slot] = FMA(value, value, squares[slot]);                                                      \
  } while (0)
#define PART_OF(p, left) ((left) >= LANES ? LOAD(p) : NAME(load_part)((p), (left)))
  FOR_EACH_VECTOR(STEP);
#undef STEP
  float mean = 0;
  float square = NAME(sum)((squares[0] + squares[1]) + (squares[2] + squares[3]));
  if (norm->layer) {
    // The sum of squared differences from the mean: the difference of two sums would cancel.
    mean = NAME(sum)((sums[0] + sums[1]) + (sums[2] + sums[3])) / (float)count;
    vf spread[4] = {0};
#define STEP(i, left, slot)                                                                                \
  do {                                                                                                     \
    vf d = PART_OF(x + i, left) - mean;                                                                    \
    if ((left) < LANES) d = NAME(keep)(d, (left), 0);                                                      \
    spread[slot] = FMA(d, d, spread[slot]);                                                                \
  } while (0)
    FOR_EACH_VECTOR(STEP);
#undef STEP
    square = NAME(sum)((spread[0] + spread[1]) + (spread[2] + spread[3]));
  }
  const float inverse = 1 / __builtin_sqrtf(square / (float)count + norm->epsilon);
  if (statistics) {
    if (norm->layer) *statistics++ = mean;
    *statistics = inverse;
  }
#define STEP(i, left, slot)                                                                                \
  do {                                                                                                     \
    vf value = (PART_OF(x + i, left) - mean) * inverse * PART_OF(norm->weight + i, left);                  \
    if (norm->bias) value += PART_OF(norm->bias + i, left);                                                \
    NAME(store_some)(y + i, value, left);                                                                  \
  } while (0)
  FOR_EACH_VECTOR(STEP);
#undef STEP
}

static void NAME(norm_backward)(const hearth_norm *norm, const float *x, const float *statistics,
                                const float *dy, float *dx, bool accumulate, float *weight_gradient,
                                float *bias_gradient) {
  const ptrdiff_t count = norm->count;
  const float mean = norm->layer ? statistics[0] : 0;
  const float inverse = norm->layer ? statistics[1] : statistics[0];
  vf along[4] = {0}, sums[4] = {0};
#define STEP(i, left, slot)                                                                                \
  do {                                                                                                     \
    vf h = (PART_OF(x + i, left) - mean) * inverse, d = PART_OF(dy + i, left);                             \
    vf g = d * PART_OF(norm->weight + i, left);                                                            \
    if (weight_gradient)                                                                                   \
      NAME(store_some)(weight_gradient + i, FMA(d, h, PART_OF(weight_gradient + i, left)), left);          \
    if (bias_gradient) NAME(store_some)(bias_gradient + i, d + PART_OF(bias_gradient + i, left), left);    \
    along[slot] = FMA(g, h, along[slot]);                                                                  \
    sums[slot] += g;                                                                                       \
  } while (0)
  FOR_EACH_VECTOR(STEP);
#undef STEP
  const float slope = NAME(sum)((along[0] + along[1]) + (along[2] + along[3])) / (float)count;
  const float shift = norm->layer ? NAME(sum)((sums[0] + sums[1]) + (sums[2] + sums[3])) / (float)count : 0;
#define STEP(i, left, slot)                                                                                \
  do {                                                                                                     \
    vf h = (PART_OF(x + i, left) - mean) * inverse;                                                        \
    vf g = PART_OF(dy + i, left) * PART_OF(norm->weight + i, left);                                        \
    vf d = (g - FMA(h, NAME(splat)(slope), NAME(splat)(shift))) * inverse;                                 \
    if (accumulate) d += PART_OF(dx + i, left);                                                            \
    NAME(store_some)(dx + i, d, left);                                                                     \
  } while (0)
  FOR_EACH_VECTOR(STEP);
#undef STEP
}
#undef PART_OF
#undef PART
#undef FOR_EACH_VECTOR
