// The kernels for one instruction set. transformer.c includes this once per set after it has defined
// SET (suffix of the names), LANES, HALF_LANES, PANEL_VECTORS (vectors of a tile) and FUSED (has FMA).
#define NAME_JOIN(name, set) name##_##set
#define NAME_EXPAND(name, set) NAME_JOIN(name, set)
#define NAME(name) NAME_EXPAND(name, SET)
#define INLINE static inline __attribute__((always_inline, unused))
#define UNROLLED _Pragma("clang loop unroll(full)")

#include "transformer_vector.h"

#include "transformer_product.h"

#include "transformer_attention.h"

#include "transformer_rows.h"

static const transformer_functions NAME(functions) = {
    .attention_forward = NAME(attention_forward),
    .attention_backward = NAME(attention_backward),
    .log_sum_exp = NAME(log_sum_exp),
    .activate = NAME(activate),
    .activate_backward = NAME(activate_backward),
    .gate = NAME(gate),
    .gate_backward = NAME(gate_backward),
    .norm_forward = NAME(norm_forward),
    .norm_backward = NAME(norm_backward),
};

#undef vf
#undef vi
#undef vfu
#undef vh
#undef vhu
#undef FMA
#undef LOAD
#undef STORE
#undef NAME_JOIN
#undef NAME_EXPAND
#undef NAME
#undef INLINE
#undef UNROLLED
#undef SET
#undef LANES
#undef HALF_LANES
#undef PANEL_VECTORS
#undef FUSED
