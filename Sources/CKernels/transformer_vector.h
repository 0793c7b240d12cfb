// Vectors of one instruction set and the functions of them that the kernels need.
// Included by transformer_body.h once per set; SET names the set, LANES is its vector length.

typedef float NAME(vf) __attribute__((ext_vector_type(LANES)));
typedef int32_t NAME(vi) __attribute__((ext_vector_type(LANES)));
typedef float NAME(vfu) __attribute__((ext_vector_type(LANES), aligned(4)));
typedef float NAME(vh) __attribute__((ext_vector_type(HALF_LANES)));
typedef float NAME(vhu) __attribute__((ext_vector_type(HALF_LANES), aligned(4)));
#define vf NAME(vf)
#define vi NAME(vi)
#define vfu NAME(vfu)
#define vh NAME(vh)
#define vhu NAME(vhu)

#if FUSED
#define FMA(a, b, c) __builtin_elementwise_fma((a), (b), (c))
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif
#define LOAD(p) ((vf)*(const vfu *)(p))
#define STORE(p, value) (*(vfu *)(p) = (value))

INLINE vf NAME(splat)(float x) { return (vf)(x); }

// The first `count` floats at p, the other lanes 0.
INLINE vf NAME(load_part)(const float *p, ptrdiff_t count) {
  float lanes[LANES] = {0};
  for (ptrdiff_t i = 0; i < count; i++) lanes[i] = p[i];
  return LOAD(lanes);
}
INLINE void NAME(store_part)(float *p, vf value, ptrdiff_t count) {
  float lanes[LANES];
  STORE(lanes, value);
  for (ptrdiff_t i = 0; i < count; i++) p[i] = lanes[i];
}

INLINE vi NAME(lane_numbers)(void) {
  vi numbers;
  for (int i = 0; i < LANES; i++) numbers[i] = i;
  return numbers;
}
// `value` in the lanes under `count`, `other` in the rest.
INLINE vf NAME(keep)(vf value, ptrdiff_t count, float other) {
  return NAME(lane_numbers)() < (vi)(int32_t)count ? value : NAME(splat)(other);
}

// Sum and maximum of the lanes, always by halving, so that the order of the additions is fixed.
#define HALVE_4(x, join)                                                                                   \
  do {                                                                                                     \
    __typeof__(x) two = join(x, __builtin_shufflevector(x, x, 2, 3, 2, 3));                                \
    return join(two, __builtin_shufflevector(two, two, 1, 1, 1, 1))[0];                                    \
  } while (0)
typedef float NAME(v4) __attribute__((ext_vector_type(4)));
typedef float NAME(v8) __attribute__((ext_vector_type(8)));
#define JOIN_SUM(x, y) ((x) + (y))
#define JOIN_LARGEST(x, y) __builtin_elementwise_max((x), (y))
#define DEFINE_REDUCTION(name, join)                                                                       \
  INLINE float NAME(name##4)(NAME(v4) x) { HALVE_4(x, join); }                                             \
  INLINE float NAME(name##8)(NAME(v8) x) {                                                                 \
    return NAME(name##4)(                                                                                  \
        join(__builtin_shufflevector(x, x, 0, 1, 2, 3), __builtin_shufflevector(x, x, 4, 5, 6, 7)));       \
  }
DEFINE_REDUCTION(sum, JOIN_SUM)
DEFINE_REDUCTION(largest, JOIN_LARGEST)
#if LANES == 16
#define LOWER(x) __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7)
#define UPPER(x) __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15)
INLINE float NAME(sum)(vf x) { return NAME(sum8)(JOIN_SUM(LOWER(x), UPPER(x))); }
INLINE float NAME(largest)(vf x) { return NAME(largest8)(JOIN_LARGEST(LOWER(x), UPPER(x))); }
#undef LOWER
#undef UPPER
#elif LANES == 8
INLINE float NAME(sum)(vf x) { return NAME(sum8)(x); }
INLINE float NAME(largest)(vf x) { return NAME(largest8)(x); }
#else
INLINE float NAME(sum)(vf x) { return NAME(sum4)(x); }
INLINE float NAME(largest)(vf x) { return NAME(largest4)(x); }
#endif
#undef HALVE_4
#undef JOIN_SUM
#undef JOIN_LARGEST
#undef DEFINE_REDUCTION

// e^x for x ≤ 88. x = n·ln 2 + r with |r| ≤ ln 2 / 2; a minimax polynomial gives e^r, and n is added to
// the exponent bits. Results under the smallest normal number are 0; NaN stays NaN.
INLINE vf NAME(exp)(vf x) {
  const vf magic = NAME(splat)(12582912.0f);  // 1.5·2²³: adding it rounds to an integer
  vf shifted = FMA(x, NAME(splat)(1.44269504f), magic);
  vf n = shifted - magic;
  vf r = FMA(n, NAME(splat)(-0.693359375f), x);  // 9 bits of ln 2, so that the product is exact
  r = FMA(n, NAME(splat)(2.12194440e-4f), r);
  vf p = NAME(splat)(0.00139506022f);
  p = FMA(p, r, NAME(splat)(0.00836895352f));
  p = FMA(p, r, NAME(splat)(0.0416662041f));
  p = FMA(p, r, NAME(splat)(0.166665183f));
  p = FMA(p, r, NAME(splat)(0.5f));
  p = FMA(p, r, NAME(splat)(1.0f));
  p = FMA(p, r, NAME(splat)(1.0f));
  vi bits = __builtin_bit_cast(vi, p) + (__builtin_bit_cast(vi, shifted) << 23);
  return x < NAME(splat)(-87.33654f) ? NAME(splat)(0.0f) : __builtin_bit_cast(vf, bits);
}

// log x for positive normal x: x = 2^n·(1 + f) with 1 + f in [√½, √2).
INLINE vf NAME(log)(vf x) {
  vi bits = __builtin_bit_cast(vi, x) - 0x3F3504F3;  // bits of √½
  vi exponent = bits >> 23;
  vf f = __builtin_bit_cast(vf, (bits & 0x007FFFFF) + 0x3F3504F3) - 1.0f;
  vf n = __builtin_convertvector(exponent, vf);
  vf p = NAME(splat)(-0.0785961747f);
  p = FMA(p, f, NAME(splat)(0.128816451f));
  p = FMA(p, f, NAME(splat)(-0.131287513f));
  p = FMA(p, f, NAME(splat)(0.141811922f));
  p = FMA(p, f, NAME(splat)(-0.166245545f));
  p = FMA(p, f, NAME(splat)(0.200022863f));
  p = FMA(p, f, NAME(splat)(-0.250008104f));
  p = FMA(p, f, NAME(splat)(0.333333167f));
  vf square = f * f;
  vf low = FMA(n, NAME(splat)(-2.12194440e-4f), p * f * square);
  low = FMA(square, NAME(splat)(-0.5f), low);
  return FMA(n, NAME(splat)(0.693359375f), f + low);
}

// The standard normal distribution at x and its density. Φ(−|x|) = e^(−x²/2)·h(|x|) with h smooth: one
// minimax polynomial over [0, 6] serves the forward and the backward pass; beyond 6 the tail is < 1e-9.
INLINE vf NAME(normal)(vf x, vf *density) {
  vf magnitude = __builtin_elementwise_min(__builtin_elementwise_abs(x), NAME(splat)(13.0f));
  vf e = NAME(exp)(magnitude * magnitude * -0.5f);
  vf t = FMA(__builtin_elementwise_min(magnitude, NAME(splat)(6.0f)), NAME(splat)(1.0f / 3.0f),
             NAME(splat)(-1.0f));
  vf h = NAME(splat)(0.00942224475f);
  h = FMA(h, t, NAME(splat)(0.00377682184f));
  h = FMA(h, t, NAME(splat)(-0.0133699545f));
  h = FMA(h, t, NAME(splat)(-0.0211317421f));
  h = FMA(h, t, NAME(splat)(0.0171926807f));
  h = FMA(h, t, NAME(splat)(0.000459483502f));
  h = FMA(h, t, NAME(splat)(0.0212412483f));
  h = FMA(h, t, NAME(splat)(-0.035388847f));
  h = FMA(h, t, NAME(splat)(0.0438680345f));
  h = FMA(h, t, NAME(splat)(-0.0621164792f));
  h = FMA(h, t, NAME(splat)(0.0825395728f));
  h = FMA(h, t, NAME(splat)(-0.103191927f));
  h = FMA(h, t, NAME(splat)(0.121513449f));
  vf tail = e * h;
  *density = e * 0.39894228f;
  return x < NAME(splat)(0) ? tail : 1.0f - tail;
}

// 1 / (1 + e^(−x)) without overflow, and its slope without the cancellation of s·(1 − s).
INLINE vf NAME(sigmoid)(vf x, vf *slope) {
  vf e = NAME(exp)(-__builtin_elementwise_abs(x));
  vf upper = 1.0f / (1.0f + e);
  vf lower = e * upper;
  *slope = lower * upper;
  return x < NAME(splat)(0) ? lower : upper;
}

// f(x), and f'(x) in *slope.
INLINE vf NAME(activation)(int32_t kind, vf x, vf *slope) {
  switch (kind) {
    case HEARTH_ACTIVATION_RELU: {
      *slope = x > NAME(splat)(0) ? NAME(splat)(1) : NAME(splat)(0);
      return x > NAME(splat)(0) ? x : NAME(splat)(0);
    }
    case HEARTH_ACTIVATION_GELU: {
      vf density;
      vf normal = NAME(normal)(x, &density);
      *slope = FMA(x, density, normal);
      return x * normal;
    }
    case HEARTH_ACTIVATION_GELU_TANH: {
      // ½(1 + tanh z) is the sigmoid of 2z; 2z = x·(a + b·x²). It is 0 or 1 long before |x| = 13.
      const vf bound = NAME(splat)(13.0f);
      vf c = __builtin_elementwise_max(__builtin_elementwise_min(x, bound), -bound);
      vf square = c * c, rise;
      vf s = NAME(sigmoid)(c * FMA(square, NAME(splat)(0.071354816f), NAME(splat)(1.5957691f)), &rise);
      vf inner = FMA(square, NAME(splat)(0.21406445f), NAME(splat)(1.5957691f));
      *slope = FMA(c * inner, rise, s);
      return x * s;
    }
    default: *slope = NAME(splat)(1); return x;
  }
}
