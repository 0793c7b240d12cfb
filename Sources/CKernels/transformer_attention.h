// Fused attention: one (sequence, head) at a time, all of it in the first two cache levels. A block of
// query rows meets all keys; the probabilities stay in scratch memory and are never written out.
// Lanes run over keys for the scores and over the head's columns for the weighted sums.

// Query rows of a block. Forward keeps the block's scores in the L1 cache; backward holds two such blocks
// and adds a product over the block's rows to dk and dv, hence taller blocks.
enum { NAME(forward_rows) = 24, NAME(backward_rows) = 48 };

INLINE ptrdiff_t NAME(pad)(ptrdiff_t count) { return (count + LANES - 1) / LANES * LANES; }
// Columns of a packed head: whole vectors, or one half vector for the small heads of a side network.
INLINE ptrdiff_t NAME(pad_head)(ptrdiff_t size) { return size <= HALF_LANES ? HALF_LANES : NAME(pad)(size); }

typedef float NAME(v8u) __attribute__((ext_vector_type(8), aligned(4)));

// y = x·factor over one row of a head, eight columns at a time: a call of memcpy would cost more.
INLINE void NAME(scale_row)(const float *x, float *y, ptrdiff_t size, float factor) {
  ptrdiff_t d = 0;
  for (; d + 8 <= size; d += 8) *(NAME(v8u) *)(y + d) = *(const NAME(v8u) *)(x + d) * factor;
  for (; d < size; d++) y[d] = x[d] * factor;
}

// y[rows × padded] = x[rows × size], the padding 0.
static void NAME(pack_rows)(const float *x, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t size, float *y,
                            ptrdiff_t padded) {
  for (ptrdiff_t i = 0; i < rows; i++) {
    NAME(scale_row)(x + i * stride, y + i * padded, size, 1);
    for (ptrdiff_t d = size; d < padded; d++) y[i * padded + d] = 0;
  }
}

// An 8 × 8 transposition by three rounds of interleaving.
INLINE void NAME(transpose8)(const float *restrict x, ptrdiff_t stride, float *restrict y,
                             ptrdiff_t y_stride) {
  NAME(v8) a[8], b[8];
  UNROLLED for (int i = 0; i < 8; i++) a[i] = *(const NAME(v8u) *)(x + i * stride);
  UNROLLED for (int i = 0; i < 8; i += 2) {
    b[i] = __builtin_shufflevector(a[i], a[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    b[i + 1] = __builtin_shufflevector(a[i], a[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
  UNROLLED for (int i = 0; i < 8; i += 4) UNROLLED for (int j = i; j < i + 2; j++) {
    a[j] = __builtin_shufflevector(b[j], b[j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    a[j + 2] = __builtin_shufflevector(b[j], b[j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
  }
  UNROLLED for (int i = 0; i < 4; i++) {
    *(NAME(v8u) *)(y + i * y_stride) = __builtin_shufflevector(a[i], a[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    *(NAME(v8u) *)(y + (i + 4) * y_stride) =
        __builtin_shufflevector(a[i], a[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

// y[size × padded] = x[rows × size]ᵀ, the padding 0.
static void NAME(pack_transposed)(const float *restrict x, ptrdiff_t stride, ptrdiff_t rows,
                                  ptrdiff_t size, float *restrict y, ptrdiff_t padded) {
  ptrdiff_t i = 0;
  for (; i + 8 <= rows; i += 8) {
    ptrdiff_t d = 0;
    for (; d + 8 <= size; d += 8) NAME(transpose8)(x + i * stride + d, stride, y + d * padded + i, padded);
    for (; d < size; d++)
      for (ptrdiff_t j = i; j < i + 8; j++) y[d * padded + j] = x[j * stride + d];
  }
  for (ptrdiff_t d = 0; d < size; d++) {
    for (ptrdiff_t j = i; j < rows; j++) y[d * padded + j] = x[j * stride + d];
    for (ptrdiff_t j = rows; j < padded; j++) y[d * padded + j] = 0;
  }
}

// The bias of key − query = first ..< first + count, padded by a vector that is read but never counts.
static const float *NAME(pack_bias)(const hearth_attention *t, ptrdiff_t head, ptrdiff_t queries,
                                    ptrdiff_t keys, float *y) {
  ptrdiff_t count = queries + keys - 1;
  const float *row = t->bias + head * (2 * t->bias_span - 1) + t->bias_span - queries;
  memcpy(y, row, (size_t)count * sizeof(float));
  for (ptrdiff_t i = count; i < count + LANES; i++) y[i] = 0;
  return y;
}

// score·scale + bias for LANES keys.
INLINE vf NAME(score)(const float *s, ptrdiff_t j, vf scale, const float *bias) {
  return bias ? FMA(LOAD(s + j), scale, LOAD(bias + j)) : LOAD(s + j) * scale;
}

// exp(score − largest) in place over the first `limit` of `padded` keys, 0 after; returns the sum.
INLINE float NAME(exponentiate)(float *s, ptrdiff_t limit, ptrdiff_t padded, float scale,
                                const float *bias, float *maximum) {
  const vf factor = NAME(splat)(scale);
  const ptrdiff_t whole = limit / LANES * LANES;
  vf high = NAME(splat)(-__builtin_inff());
  ptrdiff_t j = 0;
  for (; j < whole; j += LANES) {
    vf x = NAME(score)(s, j, factor, bias);
    STORE(s + j, x);
    high = __builtin_elementwise_max(high, x);
  }
  if (j < limit) {
    vf x = NAME(keep)(NAME(score)(s, j, factor, bias), limit - j, -__builtin_inff());
    STORE(s + j, x);
    high = __builtin_elementwise_max(high, x);
    j += LANES;
  }
  for (ptrdiff_t rest = j; rest < padded; rest += LANES) STORE(s + rest, NAME(splat)(0));
  *maximum = NAME(largest)(high);
  // A row whose scores are all −∞ gives probabilities 0, not NaN.
  const vf base = NAME(splat)(*maximum == -__builtin_inff() ? 0 : *maximum);
  vf total = NAME(splat)(0);
  for (ptrdiff_t i = 0; i < j; i += LANES) {
    vf e = NAME(exp)(LOAD(s + i) - base);
    STORE(s + i, e);
    total += e;
  }
  return NAME(sum)(total);
}

static void NAME(forward_head)(const hearth_attention *t, ptrdiff_t sequence, ptrdiff_t head, float *out,
                               ptrdiff_t out_stride, float *log_sum_exp, float *scratch) {
  const ptrdiff_t first_query = t->query_offsets[sequence], first_key = t->key_offsets[sequence];
  const ptrdiff_t queries = t->query_offsets[sequence + 1] - first_query;
  const ptrdiff_t keys = t->key_offsets[sequence + 1] - first_key;
  const ptrdiff_t size = t->head_size, column = head * size;
  const ptrdiff_t padded_keys = NAME(pad)(keys), padded_size = NAME(pad_head)(size);
  float *k = scratch, *v = k + size * padded_keys, *s = v + keys * padded_size;
  float *o = s + NAME(forward_rows) * padded_keys, *bias_row = o + NAME(forward_rows) * padded_size;
  float maxima[64], sums[64];
  NAME(pack_transposed)(t->k + first_key * t->k_stride + column, t->k_stride, keys, size, k, padded_keys);
  NAME(pack_rows)(t->v + first_key * t->v_stride + column, t->v_stride, keys, size, v, padded_size);
  const float *bias = t->bias ? NAME(pack_bias)(t, head, queries, keys, bias_row) : NULL;

  for (ptrdiff_t i0 = 0; i0 < queries; i0 += NAME(forward_rows)) {
    ptrdiff_t rows = queries - i0 < NAME(forward_rows) ? queries - i0 : NAME(forward_rows);
    ptrdiff_t seen = t->causal && i0 + rows < keys ? i0 + rows : keys;
    const float *q = t->q + (first_query + i0) * t->q_stride + column;
    NAME(product)(rows, NAME(pad)(seen), size, q, t->q_stride, 1, k, padded_keys, s, padded_keys, false);
    for (ptrdiff_t i = 0; i < rows; i++) {
      ptrdiff_t limit = t->causal && i0 + i + 1 < keys ? i0 + i + 1 : keys;
      sums[i] = NAME(exponentiate)(s + i * padded_keys, limit, NAME(pad)(seen), t->scale,
                                   bias ? bias + (queries - 1 - i0 - i) : NULL, &maxima[i]);
    }
    NAME(product)(rows, padded_size, seen, s, padded_keys, 1, v, padded_size, o, padded_size, false);
    for (ptrdiff_t i = 0; i < rows; i++) {
      const float inverse = sums[i] > 0 ? 1 / sums[i] : 0;
      float *row = out + (first_query + i0 + i) * out_stride + column;
      NAME(scale_row)(o + i * padded_size, row, size, inverse);
    }
    if (!log_sum_exp) continue;
    for (ptrdiff_t i = rows; i < NAME(pad)(rows); i++) sums[i] = 1;
    for (ptrdiff_t i = 0; i < rows; i += LANES) STORE(sums + i, NAME(log)(LOAD(sums + i)));
    for (ptrdiff_t i = 0; i < rows; i++)
      log_sum_exp[(first_query + i0 + i) * t->heads + head] =
          maxima[i] == -__builtin_inff() ? maxima[i] : maxima[i] + sums[i];
  }
}

static bool NAME(attention_forward)(const hearth_attention *t, float *out, ptrdiff_t out_stride,
                                    float *log_sum_exp) {
  ptrdiff_t keys = 0, queries = 0;
  longest_sequences(t, &queries, &keys);
  const ptrdiff_t padded_keys = NAME(pad)(keys), padded_size = NAME(pad_head)(t->head_size);
  const ptrdiff_t floats = t->head_size * padded_keys + keys * padded_size + queries + keys + LANES +
                           NAME(forward_rows) * (padded_keys + padded_size);
  float *scratch = thread_scratch(floats);
  if (!scratch) return false;
  for (ptrdiff_t s = 0; s < t->sequences; s++)
    for (ptrdiff_t h = 0; h < t->heads; h++)
      NAME(forward_head)(t, s, h, out, out_stride, log_sum_exp, scratch);
  return true;
}

// Scratch of one head's backward.
typedef struct {
  float *k_transposed, *v_transposed, *k, *q, *d_out, *dk, *dv, *dq, *p, *ds, *bias, *d_bias;
} NAME(backward_scratch);

INLINE float *NAME(take)(float **top, ptrdiff_t floats) {
  float *start = *top;
  *top += (floats + 15) / 16 * 16;
  return start;
}
static ptrdiff_t NAME(lay_out)(NAME(backward_scratch) * s, float *base, ptrdiff_t queries, ptrdiff_t keys,
                               ptrdiff_t size) {
  const ptrdiff_t padded_keys = NAME(pad)(keys), padded_size = NAME(pad_head)(size);
  float *top = base;
  s->k_transposed = NAME(take)(&top, size * padded_keys);
  s->v_transposed = NAME(take)(&top, size * padded_keys);
  s->k = NAME(take)(&top, keys * padded_size);
  s->q = NAME(take)(&top, queries * padded_size);
  s->d_out = NAME(take)(&top, queries * padded_size);
  s->dk = NAME(take)(&top, keys * padded_size);
  s->dv = NAME(take)(&top, keys * padded_size);
  s->dq = NAME(take)(&top, NAME(backward_rows) * padded_size);
  s->p = NAME(take)(&top, NAME(backward_rows) * padded_keys);
  s->ds = NAME(take)(&top, NAME(backward_rows) * padded_keys);
  s->bias = NAME(take)(&top, queries + keys + LANES);
  s->d_bias = NAME(take)(&top, queries + keys + LANES);
  return top - base;
}

// One row: p = exp(score − logSumExp) and ds = p ∘ (dp − delta), in place of the score and of dp.
INLINE void NAME(differentiate)(float *p, float *ds, ptrdiff_t limit, ptrdiff_t padded, float scale,
                                const float *bias, float log_sum_exp, float delta, float *d_bias) {
  // A row without any finite score has probabilities 0.
  const vf base = NAME(splat)(log_sum_exp == -__builtin_inff() ? __builtin_inff() : log_sum_exp);
  const vf factor = NAME(splat)(scale);
  for (ptrdiff_t j = 0; j < limit; j += LANES) {
    vf e = NAME(exp)(NAME(score)(p, j, factor, bias) - base);
    if (j + LANES > limit) e = NAME(keep)(e, limit - j, 0);
    vf d = e * (LOAD(ds + j) - delta);
    STORE(p + j, e);
    STORE(ds + j, d);
    if (d_bias) STORE(d_bias + j, LOAD(d_bias + j) + d);
  }
  for (ptrdiff_t j = NAME(pad)(limit); j < padded; j += LANES) {
    STORE(p + j, NAME(splat)(0));
    STORE(ds + j, NAME(splat)(0));
  }
}

INLINE void NAME(write_scaled)(float *y, ptrdiff_t stride, const float *x, ptrdiff_t padded, ptrdiff_t rows,
                               ptrdiff_t size, float scale) {
  for (ptrdiff_t i = 0; i < rows; i++) NAME(scale_row)(x + i * padded, y + i * stride, size, scale);
}

// Inner product of two unpadded rows, in a fixed order.
INLINE float NAME(dot)(const float *x, const float *y, ptrdiff_t count) {
  vf total = NAME(splat)(0);
  ptrdiff_t i = 0;
  for (; i + LANES <= count; i += LANES) total = FMA(LOAD(x + i), LOAD(y + i), total);
  if (i < count) total = FMA(NAME(load_part)(x + i, count - i), NAME(load_part)(y + i, count - i), total);
  return NAME(sum)(total);
}

static void NAME(backward_head)(const hearth_attention *t, const hearth_attention_gradient *g,
                                ptrdiff_t sequence, ptrdiff_t head, float *scratch) {
  const ptrdiff_t first_query = t->query_offsets[sequence], first_key = t->key_offsets[sequence];
  const ptrdiff_t queries = t->query_offsets[sequence + 1] - first_query;
  const ptrdiff_t keys = t->key_offsets[sequence + 1] - first_key;
  const ptrdiff_t size = t->head_size, column = head * size;
  const ptrdiff_t padded_keys = NAME(pad)(keys), padded_size = NAME(pad_head)(size);
  const float *k = t->k + first_key * t->k_stride + column, *v = t->v + first_key * t->v_stride + column;
  NAME(backward_scratch) s;
  NAME(lay_out)(&s, scratch, queries, keys, size);
  NAME(pack_transposed)(k, t->k_stride, keys, size, s.k_transposed, padded_keys);
  NAME(pack_transposed)(v, t->v_stride, keys, size, s.v_transposed, padded_keys);
  NAME(pack_rows)(k, t->k_stride, keys, size, s.k, padded_size);
  NAME(pack_rows)(t->q + first_query * t->q_stride + column, t->q_stride, queries, size, s.q, padded_size);
  NAME(pack_rows)(g->d_out + first_query * g->d_out_stride + column, g->d_out_stride, queries, size, s.d_out,
                  padded_size);
  memset(s.dk, 0, (size_t)(keys * padded_size) * sizeof(float));
  memset(s.dv, 0, (size_t)(keys * padded_size) * sizeof(float));
  const float *bias = t->bias ? NAME(pack_bias)(t, head, queries, keys, s.bias) : NULL;
  float *d_bias = t->bias && g->bias_gradient ? s.d_bias : NULL;
  if (d_bias) memset(d_bias, 0, (size_t)(queries + keys + LANES) * sizeof(float));

  for (ptrdiff_t i0 = 0; i0 < queries; i0 += NAME(backward_rows)) {
    const ptrdiff_t rows = queries - i0 < NAME(backward_rows) ? queries - i0 : NAME(backward_rows);
    const ptrdiff_t seen = t->causal && i0 + rows < keys ? i0 + rows : keys, width = NAME(pad)(seen);
    const float *q = s.q + i0 * padded_size, *d_out = s.d_out + i0 * padded_size;
    NAME(product)(rows, width, size, q, padded_size, 1, s.k_transposed, padded_keys, s.p, padded_keys, false);
    NAME(product)(rows, width, size, d_out, padded_size, 1, s.v_transposed, padded_keys, s.ds, padded_keys,
                  false);
    for (ptrdiff_t i = 0; i < rows; i++) {
      const ptrdiff_t row = first_query + i0 + i, back = queries - 1 - i0 - i;
      const float delta = NAME(dot)(d_out + i * padded_size, g->out + row * g->out_stride + column, size);
      NAME(differentiate)(s.p + i * padded_keys, s.ds + i * padded_keys,
                          t->causal && i0 + i + 1 < keys ? i0 + i + 1 : keys, width, t->scale,
                          bias ? bias + back : NULL, g->log_sum_exp[row * t->heads + head], delta,
                          d_bias ? d_bias + back : NULL);
    }
    NAME(product)(rows, padded_size, seen, s.ds, padded_keys, 1, s.k, padded_size, s.dq, padded_size, false);
    NAME(write_scaled)(g->dq + (first_query + i0) * g->dq_stride + column, g->dq_stride, s.dq, padded_size,
                       rows, size, t->scale);
    NAME(product)(seen, padded_size, rows, s.p, 1, padded_keys, d_out, padded_size, s.dv, padded_size, true);
    NAME(product)(seen, padded_size, rows, s.ds, 1, padded_keys, q, padded_size, s.dk, padded_size, true);
  }
  NAME(write_scaled)(g->dk + first_key * g->dk_stride + column, g->dk_stride, s.dk, padded_size, keys, size,
                     t->scale);
  NAME(write_scaled)(g->dv + first_key * g->dv_stride + column, g->dv_stride, s.dv, padded_size, keys, size,
                     1);
  if (!d_bias) return;
  float *total = g->bias_gradient + head * (2 * t->bias_span - 1) + t->bias_span - queries;
  for (ptrdiff_t i = 0; i < queries + keys - 1; i++) total[i] += d_bias[i];
}

static bool NAME(attention_backward)(const hearth_attention *t, const hearth_attention_gradient *g) {
  ptrdiff_t keys = 0, queries = 0;
  longest_sequences(t, &queries, &keys);
  NAME(backward_scratch) sizes;
  float *scratch = thread_scratch(NAME(lay_out)(&sizes, NULL, queries, keys, t->head_size));
  if (!scratch) return false;
  for (ptrdiff_t s = 0; s < t->sequences; s++)
    for (ptrdiff_t h = 0; h < t->heads; h++) NAME(backward_head)(t, g, s, h, scratch);
  return true;
}
