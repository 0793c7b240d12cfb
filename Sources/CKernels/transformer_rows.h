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
