// Small matrix products in registers, for attention: c[m × n] (+)= a[m × k]·b[k × n].
// a is read by broadcast and may have any strides; the rows of b and c are whole vectors long.
// Every element of c is summed over k in ascending order whatever the tile, so that its bits do not
// depend on how many rows or columns the product has.

// A tile of R rows by NV vectors of type V.
#define DEFINE_TILE(V, UNALIGNED, WIDTH, R, NV, ID)                                                        \
  static void NAME(tile_##ID##R##x##NV)(ptrdiff_t k, const float *restrict a, ptrdiff_t row,               \
                                        ptrdiff_t column, const float *restrict b, ptrdiff_t b_stride,     \
                                        float *restrict c, ptrdiff_t c_stride, bool accumulate) {          \
    V sums[R][NV];                                                                                         \
    UNROLLED for (int i = 0; i < R; i++) UNROLLED for (int j = 0; j < NV; j++) sums[i][j] =                \
        accumulate ? (V) * (const UNALIGNED *)(c + i * c_stride + j * WIDTH) : (V)(0.0f);                  \
    for (ptrdiff_t p = 0; p < k; p++) {                                                                    \
      V right[NV];                                                                                         \
      UNROLLED for (int j = 0; j < NV; j++) right[j] = (V) * (const UNALIGNED *)(b + j * WIDTH);           \
      UNROLLED for (int i = 0; i < R; i++) {                                                               \
        V left = (V)(a[i * row]);                                                                          \
        UNROLLED for (int j = 0; j < NV; j++) sums[i][j] = FMA(left, right[j], sums[i][j]);                \
      }                                                                                                    \
      a += column;                                                                                         \
      b += b_stride;                                                                                       \
    }                                                                                                      \
    UNROLLED for (int i = 0; i < R; i++) UNROLLED for (int j = 0; j < NV; j++)                             \
        *(UNALIGNED *)(c + i * c_stride + j * WIDTH) = sums[i][j];                                         \
  }

// All rows of one panel of NV vectors: tiles of TALL rows, then 6, 4, 2 and 1.
#define ROWS(ID, R, NV)                                                                                    \
  for (; m - i >= R; i += R)                                                                               \
  NAME(tile_##ID##R##x##NV)(k, a + i * row, row, column, b, b_stride, c + i * c_stride, c_stride, accumulate)
#define DEFINE_PANEL(ID, NV, TALL_ROWS)                                                                    \
  static void NAME(panel_##ID##NV)(ptrdiff_t m, ptrdiff_t k, const float *a, ptrdiff_t row,                \
                                   ptrdiff_t column, const float *b, ptrdiff_t b_stride, float *c,         \
                                   ptrdiff_t c_stride, bool accumulate) {                                  \
    ptrdiff_t i = 0;                                                                                       \
    TALL_ROWS;                                                                                             \
    ROWS(ID, 6, NV);                                                                                       \
    ROWS(ID, 4, NV);                                                                                       \
    ROWS(ID, 2, NV);                                                                                       \
    ROWS(ID, 1, NV);                                                                                       \
  }
#define DEFINE_TILES(V, UNALIGNED, WIDTH, NV, ID)                                                          \
  DEFINE_TILE(V, UNALIGNED, WIDTH, 6, NV, ID)                                                              \
  DEFINE_TILE(V, UNALIGNED, WIDTH, 4, NV, ID)                                                              \
  DEFINE_TILE(V, UNALIGNED, WIDTH, 2, NV, ID)                                                              \
  DEFINE_TILE(V, UNALIGNED, WIDTH, 1, NV, ID)

DEFINE_TILE(vh, vhu, HALF_LANES, 12, 1, half)
DEFINE_TILES(vh, vhu, HALF_LANES, 1, half)
DEFINE_PANEL(half, 1, ROWS(half, 12, 1))
DEFINE_TILE(vf, vfu, LANES, 12, 1, full)
DEFINE_TILES(vf, vfu, LANES, 1, full)
DEFINE_PANEL(full, 1, ROWS(full, 12, 1))
DEFINE_TILES(vf, vfu, LANES, 2, full)
DEFINE_PANEL(full, 2, (void)0)
#if PANEL_VECTORS == 4
DEFINE_TILES(vf, vfu, LANES, 4, full)
DEFINE_PANEL(full, 4, (void)0)
#endif

static void NAME(product)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const float *a, ptrdiff_t row,
                          ptrdiff_t column, const float *b, ptrdiff_t b_stride, float *c,
                          ptrdiff_t c_stride, bool accumulate) {
  ptrdiff_t j = 0;
#if PANEL_VECTORS == 4
  for (; n - j >= 4 * LANES; j += 4 * LANES)
    NAME(panel_full4)(m, k, a, row, column, b + j, b_stride, c + j, c_stride, accumulate);
#endif
  for (; n - j >= 2 * LANES; j += 2 * LANES)
    NAME(panel_full2)(m, k, a, row, column, b + j, b_stride, c + j, c_stride, accumulate);
  for (; n - j >= LANES; j += LANES)
    NAME(panel_full1)(m, k, a, row, column, b + j, b_stride, c + j, c_stride, accumulate);
  for (; j < n; j += HALF_LANES)
    NAME(panel_half1)(m, k, a, row, column, b + j, b_stride, c + j, c_stride, accumulate);
}
#undef DEFINE_TILE
#undef ROWS
#undef DEFINE_PANEL
#undef DEFINE_TILES
