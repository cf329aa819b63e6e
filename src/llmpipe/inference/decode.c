// One decoding step on a CPU: a few new tokens, each of another sequence or following each other, through all blocks and
// the head.
//
// torch reads weights at little more than half of the speed of memory when a matrix meets one or a few rows, and
// spends a fifth of a small model's step between its operators. Here the weights are read in the order in which they
// lie, once for all rows, and nothing happens in between. They are used where they are: nothing is copied or packed,
// so a model in training and the engine share them.
//
// The sum behind each output is taken in one order whatever the number of rows, so what a sequence computes does not
// depend on the others in its batch.
//
// Vectors are those of GCC and Clang, which turn 16 floats into whatever the machine has. Names and shapes are those of
// llmpipe/model; llmpipe/inference/native.py fills the structures.

#ifdef __AVX512F__
#include <immintrin.h>
#endif
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { FLOAT32, BFLOAT16, INT8 };

#define WIDTH 16 // floats of a vector
#define MOST_SUMS 24 // that a tile keeps in registers

typedef float vec __attribute__((vector_size(64)));
typedef float vec_at __attribute__((vector_size(64), aligned(4), may_alias));
typedef float vec8 __attribute__((vector_size(32)));
typedef float vec4 __attribute__((vector_size(16)));
typedef int32_t int_vec __attribute__((vector_size(64)));
typedef uint32_t uint_vec __attribute__((vector_size(64)));
typedef uint16_t half_at __attribute__((vector_size(32), aligned(2), may_alias));
typedef int8_t byte_at __attribute__((vector_size(16), aligned(1), may_alias));
typedef float vec4_at __attribute__((vector_size(16), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
#ifdef __AVX512F__ // load it once; GCC would do so again for each use
#define KEEP(v) __asm__("" : "+v"(v))
#else
#define KEEP(v)
#endif
#define UNROLL _Pragma("GCC unroll 8") // so that sums stay in registers

typedef struct {
  const void *weight; // n_out n_in
  const void *bias;   // n_out; may be missing
  const float *scale; // n_out; of INT8 only
  int64_t n_out, n_in;
  int32_t kind, bias_kind;
} Linear;

typedef struct {
  const void *weight, *bias; // a norm without a bias is an RMSNorm; one without a weight does nothing
  int64_t kind;
} Norm;

typedef struct {
  Norm attn_norm, mlp_norm, q_norm, k_norm;
  Linear q, k, v, o, gate, up, down; // gate.weight is missing in GPT-2
  void *keys, *values;               // slots kv_heads columns head_dim
} Block;

typedef struct {
  const Block *blocks;
  Norm norm;
  Linear head;
  int64_t n_blocks, d_model, n_heads, n_kv_heads, head_dim, d_ff;
  int64_t n_columns; // of a slot
  int32_t cache_kind, n_threads;
  float eps;
} Model;

// ----------------------------------------------------------------------------------------------
// Numbers

// 16 numbers of whatever kind, as float32.
INLINE vec load(const void *at, int64_t i, int kind) {
  if (kind == FLOAT32) return *(const vec_at *)((const float *)at + i);
  if (kind == BFLOAT16) {
    uint_vec bits = __builtin_convertvector(*(const half_at *)((const uint16_t *)at + i), uint_vec) << 16;
    return (vec)bits;
  }
#ifdef __AVX512F__ // which GCC 12 does not find by itself
  return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)((const int8_t *)at + i))));
#else
  return __builtin_convertvector(__builtin_convertvector(*(const byte_at *)((const int8_t *)at + i), int_vec), vec);
#endif
}

INLINE float load_one(const void *at, int64_t i, int kind) {
  if (kind == FLOAT32) return ((const float *)at)[i];
  if (kind == INT8) return ((const int8_t *)at)[i];
  uint32_t bits = (uint32_t)((const uint16_t *)at)[i] << 16;
  float number;
  memcpy(&number, &bits, sizeof number);
  return number;
}

// bfloat16 is the upper half of a float32: the same exponent, and 8 bits of precision in place of 24. So turning it
// back is a shift by 16 bits, and zeros are the rest of the number.

// The numbers from `i` to `n`, fewer than a vector holds, and zeros.
static __attribute__((noinline)) vec load_end(const void *at, int64_t i, int64_t n, int kind) {
  vec numbers = {};
  for (int k = 0; k < n - i; k++) numbers[k] = load_one(at, i + k, kind);
  return numbers;
}

INLINE void store_one(void *at, int64_t i, int kind, float number) {
  if (kind == FLOAT32) {
    ((float *)at)[i] = number;
    return;
  }
  uint32_t bits; // to the nearest bfloat16, ties to even
  memcpy(&bits, &number, sizeof bits);
  ((uint16_t *)at)[i] = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

INLINE vec4 fold(vec a) {
  union { vec whole; vec8 halves[2]; } of16 = {a};
  union { vec8 whole; vec4 halves[2]; } of8 = {of16.halves[0] + of16.halves[1]};
  return of8.halves[0] + of8.halves[1];
}

INLINE float sum(vec a) {
  vec4 four = fold(a);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

INLINE vec choose(int_vec is_first, vec first, vec second) {
  return (vec)(((int_vec)first & is_first) | ((int_vec)second & ~is_first));
}

// e to the power of x to 1e-7 of itself: 2 to a whole number times a polynomial (Cephes, expf.c).
INLINE vec vexp(vec x) {
  x = choose(x > 88.0f, (vec){} + 88.0f, x); // beyond, the result would be no number of this kind
  x = choose(x < -87.0f, (vec){} - 87.0f, x);
  const float magic = 12582912.0f; // 1.5 * 2**23: adding it rounds to a whole number
  vec n = (x * 1.44269504f + magic) - magic;
  vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
  vec p = ((((1.9875691500e-4f * r + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r +
           1.6666665459e-1f) * r + 5.0000001201e-1f;
  vec y = p * r * r + r + 1.0f;
  return y * (vec)((__builtin_convertvector(n, int_vec) + 127) << 23);
}

// ----------------------------------------------------------------------------------------------
// Matrices
//
// y = W x is a dot product for each row of W. For one token each weight is read once and used once, so no arithmetic can
// help: the step takes what reading W from memory takes (126M weights in float32 are 0.5 GB). For several tokens
// each weight that has been read is used for all of them before the next is read. A "tile" is that: a few outputs (rows
// of W) times a few tokens, with all their sums in registers.
//
//            x0 x1 x2     tokens (rows of x)
//     W[o]   s  s  s      n_o x n_b sums, each a vector of 16 that is folded to one number at the end
//     W[o+1] s  s  s

INLINE int64_t size_of(int kind) { return kind == FLOAT32 ? 4 : kind == BFLOAT16 ? 2 : 1; }

// What to fetch from memory for the next tile while this one is computed: of each vector's worth of weights, which
// share. Several groups of rows share the work. The processor's own prefetching follows one stream, not several.
typedef struct {
  const char *at;
  int begin, end;
} Ahead;

// The sums of `n_o` outputs for `n_b` rows, both known when this is compiled. One function for each pair: in a larger
// one, compilers lose sight of the sums and keep them in memory.
#define DEFINE_TILE(name, kind, n_o, n_b)                                                                            \
  static __attribute__((noinline)) void name(const char *weight, Ahead ahead, const void *rows, int64_t n_in, float *totals) { \
    const float *x = rows;                                                                                           \
    const int64_t row = n_in * size_of(kind), whole = n_in / WIDTH * WIDTH;                                          \
    vec sums[n_b][n_o] = {};                                                                                         \
    for (int64_t i = 0; i < whole; i += WIDTH) {                                                                     \
      vec w[n_o];                                                                                                    \
      UNROLL for (int k = 0; k < n_o; k++) w[k] = load(weight + k * row, i, kind);                                   \
      for (int k = ahead.begin; k < ahead.end; k++)                                                                  \
        __builtin_prefetch(ahead.at + (i * n_o + k * WIDTH) * size_of(kind), 0, 1);                                  \
      UNROLL for (int b = 0; b < n_b; b++) {                                                                         \
        vec of_row = *(const vec_at *)(x + b * n_in + i);                                                            \
        KEEP(of_row);                                                                                                \
        UNROLL for (int k = 0; k < n_o; k++) sums[b][k] += w[k] * of_row;                                            \
      }                                                                                                              \
    }                                                                                                                \
    if (whole < n_in)                                                                                                \
      UNROLL for (int b = 0; b < n_b; b++)                                                                           \
        UNROLL for (int k = 0; k < n_o; k++) {                                                                       \
          vec w = load_end(weight + k * row, whole, n_in, kind), of_row = load_end(x + b * n_in, whole, n_in, FLOAT32); \
          KEEP(of_row);                                                                                              \
          sums[b][k] += w * of_row;                                                                                  \
        }                                                                                                            \
    UNROLL for (int b = 0; b < n_b; b++)                                                                             \
      UNROLL for (int k = 0; k < n_o; k++) totals[b * n_o + k] = sum(sums[b][k]);                                    \
  }

typedef void Tile(const char *weight, Ahead ahead, const void *x, int64_t n_in, float *totals);

// Outputs times rows: the sums take 24 of the 32 registers that AVX-512 has. A single row is read as one stream, output
// after output, which memory likes best. Up to 8 rows meet the weights once, 3 outputs at a time; of more rows, 6 and the
// weights of 4 outputs fit the innermost cache better.
#define DEFINE_TILES(kind)         \
  DEFINE_TILE(kind##_1x1, kind, 1, 1) \
  DEFINE_TILE(kind##_3x2, kind, 3, 2) \
  DEFINE_TILE(kind##_3x3, kind, 3, 3) \
  DEFINE_TILE(kind##_3x4, kind, 3, 4) \
  DEFINE_TILE(kind##_3x5, kind, 3, 5) \
  DEFINE_TILE(kind##_3x6, kind, 3, 6) \
  DEFINE_TILE(kind##_3x7, kind, 3, 7) \
  DEFINE_TILE(kind##_3x8, kind, 3, 8) \
  DEFINE_TILE(kind##_4x4, kind, 4, 4) \
  DEFINE_TILE(kind##_4x5, kind, 4, 5) \
  DEFINE_TILE(kind##_4x6, kind, 4, 6)

DEFINE_TILES(FLOAT32)
DEFINE_TILES(INT8)

#ifdef __AVX512BF16__
// Processors that multiply bfloat16 with bfloat16 do that twice as fast: there the rows are rounded as well, as torch
// rounds them. Sums are of float32 either way.
#define HALF_WIDTH 32

INLINE __m512bh halves(const void *at, int64_t i, int64_t n) {
  __mmask32 there = n - i < HALF_WIDTH ? (1u << (n - i)) - 1 : ~0u;
  return (__m512bh)_mm512_maskz_loadu_epi16(there, (const uint16_t *)at + i);
}

#undef DEFINE_TILE
#define DEFINE_TILE(name, kind, n_o, n_b)                                                                            \
  static __attribute__((noinline)) void name(const char *weight, Ahead ahead, const void *x, int64_t n_in, float *totals) { \
    const int64_t row = n_in * size_of(kind);                                                                        \
    __m512 sums[n_b][n_o] = {};                                                                                      \
    for (int64_t i = 0; i < n_in; i += HALF_WIDTH) {                                                                 \
      __m512bh w[n_o];                                                                                               \
      UNROLL for (int k = 0; k < n_o; k++) w[k] = halves(weight + k * row, i, n_in);                                 \
      for (int k = ahead.begin; k < ahead.end; k++)                                                                  \
        __builtin_prefetch(ahead.at + (i * n_o + k * HALF_WIDTH) * size_of(kind), 0, 1);                             \
      UNROLL for (int b = 0; b < n_b; b++) {                                                                         \
        __m512bh of_row = halves((const char *)x + b * row, i, n_in);                                                \
        UNROLL for (int k = 0; k < n_o; k++) sums[b][k] = _mm512_dpbf16_ps(sums[b][k], w[k], of_row);                \
      }                                                                                                              \
    }                                                                                                                \
    UNROLL for (int b = 0; b < n_b; b++)                                                                             \
      UNROLL for (int k = 0; k < n_o; k++) totals[b * n_o + k] = sum((vec)sums[b][k]);                               \
  }

static const int ROUNDS_ROWS = 1;
#else
static const int ROUNDS_ROWS = 0;
#endif
DEFINE_TILES(BFLOAT16)

#define TILES_OF(kind)                                                                                             \
  {                                                                                                                \
    {0},                                                                                                           \
    {0, kind##_1x1},                                                                                               \
    {0},                                                                                                           \
    {0, 0, kind##_3x2, kind##_3x3, kind##_3x4, kind##_3x5, kind##_3x6, kind##_3x7, kind##_3x8},                    \
    {0, 0, 0, 0, kind##_4x4, kind##_4x5, kind##_4x6},                                                              \
  }
static Tile *const TILES[][5][9] = {TILES_OF(FLOAT32), TILES_OF(BFLOAT16), TILES_OF(INT8)};
static const int MOST_ROWS[] = {0, 1, 0, 8, 6}; // by outputs of a tile

// `n_o` outputs from `o` on, of all rows.
static void outputs(const Linear *linear, int64_t o, int n_o, const char *x, int64_t x_size, float *y, int64_t n_rows) {
  const int64_t n_in = linear->n_in, n_groups = (n_rows + MOST_ROWS[n_o] - 1) / MOST_ROWS[n_o];
  const char *weight = (const char *)linear->weight + o * n_in * size_of(linear->kind);
  for (int64_t group = 0; group < n_groups; group++) {
    int64_t begin = n_rows * group / n_groups, end = n_rows * (group + 1) / n_groups; // of nearly equal sizes
    float totals[MOST_SUMS];
    Ahead ahead = {weight + n_o * n_in * size_of(linear->kind), n_o * group / n_groups, n_o * (group + 1) / n_groups};
    if (n_o == 1) ahead.end = ahead.begin;
    TILES[linear->kind][n_o][end - begin](weight, ahead, x + begin * n_in * x_size, n_in, totals);
    for (int64_t row = begin; row < end; row++)
      for (int64_t k = 0; k < n_o; k++) {
        float total = totals[(row - begin) * n_o + k];
        if (linear->scale) total *= linear->scale[o + k];
        if (linear->bias) total += load_one(linear->bias, o + k, linear->bias_kind);
        y[row * linear->n_out + o + k] = total;
      }
  }
}

// Products of fewer multiplications than this are done by one thread: waking another, which sleeps in between, takes
// some 0.1 ms, as long as this many take.
enum { THREADED_WORK = 1 << 20 };

static void apply(const Linear *linear, const float *x, float *y, int64_t n_rows, int n_threads) {
  const char *rows = (const char *)x;
  const int n_o = n_rows == 1 ? 1 : n_rows <= 8 ? 3 : 4;
  int64_t x_size = sizeof *x, n_tiles = linear->n_out / n_o;
  uint16_t *rounded = NULL;
  if (linear->kind == BFLOAT16 && ROUNDS_ROWS) {
    x_size = sizeof *rounded;
    rounded = malloc(n_rows * linear->n_in * x_size);
    for (int64_t i = 0; i < n_rows * linear->n_in; i++) store_one(rounded, i, BFLOAT16, x[i]);
    rows = (const char *)rounded;
  }
#pragma omp parallel for num_threads(n_threads) if (n_rows * linear->n_in * linear->n_out >= THREADED_WORK)
  for (int64_t i = 0; i < n_tiles; i++) outputs(linear, i * n_o, n_o, rows, x_size, y, n_rows);
  for (int64_t o = n_tiles * n_o; o < linear->n_out; o++) outputs(linear, o, 1, rows, x_size, y, n_rows);
  free(rounded);
}

// ----------------------------------------------------------------------------------------------
// The parts of a block

// RMSNorm: y = x / sqrt(mean of x^2 + eps) * weight. LayerNorm (GPT-2) takes the mean away first and adds a bias.
static void normalize(const Norm *norm, const float *x, float *y, int64_t n, float eps) {
  const int64_t whole = n / WIDTH * WIDTH;
  float mean = 0;
  if (norm->bias) {
    for (int64_t i = 0; i < n; i++) mean += x[i];
    mean /= n;
  }
  vec squares = {};
  for (int64_t i = 0; i < whole; i += WIDTH) {
    vec away = *(const vec_at *)(x + i) - mean;
    squares += away * away;
  }
  float square = sum(squares);
  for (int64_t i = whole; i < n; i++) square += (x[i] - mean) * (x[i] - mean);
  float factor = 1.0f / sqrtf(square / n + eps);
  for (int64_t i = 0; i < n; i++) {
    float weight = load_one(norm->weight, i, norm->kind);
    float bias = norm->bias ? load_one(norm->bias, i, norm->kind) : 0;
    y[i] = (x[i] - mean) * factor * weight + bias;
  }
}

// Norm and rotation of the heads of a query or key; pairs are half a head apart.
static void prepare_heads(const Norm *norm, float *heads, int64_t n, int64_t dim, const float *cosines, const float *sines, float eps) {
  for (int64_t h = 0; h < n; h++) {
    float *x = heads + h * dim;
    if (norm->weight) normalize(norm, x, x, dim, eps);
    for (int64_t i = 0; cosines && i < dim / 2; i++) {
      float first = x[i], second = x[i + dim / 2];
      x[i] = first * cosines[i] - second * sines[i];
      x[i + dim / 2] = second * cosines[i] + first * sines[i];
    }
  }
}

INLINE float dot(const float *x, const void *at, int64_t n, int kind) {
  int64_t i = 0;
  vec sums = {};
  for (; i + WIDTH <= n; i += WIDTH) sums += *(const vec_at *)(x + i) * load(at, i, kind);
  float total = sum(sums);
  for (; i < n; i++) total += x[i] * load_one(at, i, kind);
  return total;
}

INLINE void exp_in_place(float *x, int64_t n, float offset) {
  for (int64_t i = 0; i < n; i += WIDTH) { // the buffer has room for a whole last vector, of which nobody asks
    vec_at *at = (vec_at *)(x + i);
    *at = vexp(*at - offset);
  }
}

// One head's query over the keys and values of its sequence: y = sum of softmax(q . k / sqrt(dim)) v.
// The softmax is not changed if the same number is taken from all scores. Taking the highest keeps e^score at most 1,
// where it would overflow otherwise. Dividing by the total is left to the end: once per output, not once per key.
INLINE void attend(const float *q, const void *keys, const void *values, float *y, float *scores, int64_t n_keys, int64_t dim, int kind) {
  const int64_t stride = dim * size_of(kind);
  float scale = 1.0f / sqrtf(dim), highest = -INFINITY, total = 0;
  for (int64_t t = 0; t < n_keys; t++) {
    scores[t] = scale * dot(q, (const char *)keys + t * stride, dim, kind);
    highest = scores[t] > highest ? scores[t] : highest;
  }
  exp_in_place(scores, n_keys, highest);
  memset(y, 0, dim * sizeof *y);
  for (int64_t t = 0; t < n_keys; t++) {
    const char *value = (const char *)values + t * stride;
    int64_t i = 0;
    total += scores[t];
    for (; i + WIDTH <= dim; i += WIDTH) *(vec_at *)(y + i) += scores[t] * load(value, i, kind);
    for (; i < dim; i++) y[i] += scores[t] * load_one(value, i, kind);
  }
  for (int64_t i = 0; i < dim; i++) y[i] /= total;
}

static void *at_head(const Model *model, void *memory, int64_t slot, int64_t g) {
  return (char *)memory + (slot * model->n_kv_heads + g) * model->n_columns * model->head_dim * size_of(model->cache_kind);
}

static void attention(const Model *model, const Block *block, int64_t n_rows, const int64_t *slots, const int64_t *lengths, const float *q, const float *k, const float *v, float *y) {
  const int64_t dim = model->head_dim, n_groups = model->n_kv_heads, per_group = model->n_heads / n_groups;
  const int kind = model->cache_kind;
  // All are stored before any is read: rows may be tokens of one sequence. Such a row still sees no later one, because
  // it reads only the keys up to its own place: the causal mask is a loop bound here.
  for (int64_t row = 0; row < n_rows; row++)
    for (int64_t g = 0; g < n_groups; g++) {
      void *keys = at_head(model, block->keys, slots[row], g), *values = at_head(model, block->values, slots[row], g);
      for (int64_t i = 0; i < dim; i++) {
        store_one(keys, lengths[row] * dim + i, kind, k[(row * n_groups + g) * dim + i]);
        store_one(values, lengths[row] * dim + i, kind, v[(row * n_groups + g) * dim + i]);
      }
    }
  int64_t work = 0;
  for (int64_t row = 0; row < n_rows; row++) work += (lengths[row] + 1) * model->n_heads * dim * 2;
#pragma omp parallel for num_threads(model->n_threads) collapse(2) if (work >= THREADED_WORK)
  for (int64_t row = 0; row < n_rows; row++)
    for (int64_t g = 0; g < n_groups; g++) {
      const void *keys = at_head(model, block->keys, slots[row], g), *values = at_head(model, block->values, slots[row], g);
      int64_t n_keys = lengths[row] + 1;
      float *scores = malloc((n_keys + WIDTH) * sizeof *scores);
      memset(scores + n_keys, 0, WIDTH * sizeof *scores);
      for (int64_t h = g * per_group; h < (g + 1) * per_group; h++) {
        int64_t at = (row * model->n_heads + h) * dim;
        if (kind == FLOAT32) attend(q + at, keys, values, y + at, scores, n_keys, dim, FLOAT32);
        else attend(q + at, keys, values, y + at, scores, n_keys, dim, BFLOAT16);
      }
      free(scores);
    }
}

// SwiGLU: silu(gate) * up. GELU in its tanh form, which is x times the sigmoid of 2 * sqrt(2 / pi) * (x + 0.044715 x^3).
static void activate(const float *gate, float *up, int64_t n, int is_gated) {
  for (int64_t i = 0; i < n; i += WIDTH) { // the buffers have room for a whole last vector
    vec u = *(vec_at *)(up + i);
    if (is_gated) {
      vec g = *(const vec_at *)(gate + i);
      u *= g / (1.0f + vexp(-g));
    } else {
      u /= 1.0f + vexp(-1.5957691216f * (u + 0.044715f * u * u * u));
    }
    *(vec_at *)(up + i) = u;
  }
}

// ----------------------------------------------------------------------------------------------
// The step

// slots and lengths: where each row's sequence lies, and how many tokens stand in it before this one. Rows may be tokens
// of one sequence that follow each other, as in a prompt.
// cosines and sines: n_rows head_dim, of the new positions; null for a model with learned positions.
// x: n_rows d_model, the embedded tokens; overwritten.
// wanted: the rows, in ascending order, after which logits are needed; logits: n_wanted head.n_out.
int decode(const Model *model, int64_t n_rows, const int64_t *slots, const int64_t *lengths, const float *cosines, const float *sines, float *x, int64_t n_wanted, const int64_t *wanted, float *logits) {
  const int64_t d_model = model->d_model, dim = model->head_dim;
  const int64_t q_width = model->n_heads * dim, k_width = model->n_kv_heads * dim, d_ff = model->d_ff;
  const int n_threads = model->n_threads;
  const int64_t n_bytes = (n_rows * (2 * d_model + 2 * q_width + 2 * k_width + 2 * d_ff) / WIDTH + 2) * sizeof(vec);
  float *memory = aligned_alloc(sizeof(vec), n_bytes);
  if (!memory) return 1;
  memset(memory, 0, n_bytes);
  float *normal = memory, *out = normal + n_rows * d_model, *q = out + n_rows * d_model;
  float *mixed = q + n_rows * q_width, *k = mixed + n_rows * q_width, *v = k + n_rows * k_width;
  float *gate = v + n_rows * k_width, *up = gate + n_rows * d_ff;

  for (int64_t i = 0; i < model->n_blocks; i++) {
    const Block *block = model->blocks + i;
    // x = x + attention(norm(x)); as in model/transformer.py and model/attention.py
    for (int64_t row = 0; row < n_rows; row++)
      normalize(&block->attn_norm, x + row * d_model, normal + row * d_model, d_model, model->eps);
    apply(&block->q, normal, q, n_rows, n_threads);
    apply(&block->k, normal, k, n_rows, n_threads);
    apply(&block->v, normal, v, n_rows, n_threads);
    for (int64_t row = 0; row < n_rows; row++) {
      const float *cosine = cosines ? cosines + row * dim : NULL, *sine = sines ? sines + row * dim : NULL;
      prepare_heads(&block->q_norm, q + row * q_width, model->n_heads, dim, cosine, sine, model->eps);
      prepare_heads(&block->k_norm, k + row * k_width, model->n_kv_heads, dim, cosine, sine, model->eps);
    }
    attention(model, block, n_rows, slots, lengths, q, k, v, mixed);
    apply(&block->o, mixed, out, n_rows, n_threads);
    for (int64_t j = 0; j < n_rows * d_model; j++) x[j] += out[j];

    // x = x + mlp(norm(x)); as in model/mlp.py
    for (int64_t row = 0; row < n_rows; row++)
      normalize(&block->mlp_norm, x + row * d_model, normal + row * d_model, d_model, model->eps);
    int is_gated = block->gate.weight != NULL;
    if (is_gated) apply(&block->gate, normal, gate, n_rows, n_threads);
    apply(&block->up, normal, up, n_rows, n_threads);
    activate(gate, up, n_rows * d_ff, is_gated);
    apply(&block->down, up, out, n_rows, n_threads);
    for (int64_t j = 0; j < n_rows * d_model; j++) x[j] += out[j];
  }
  // The head is the largest matrix of a small model. Of a prompt only the last token's logits are needed.
  for (int64_t i = 0; i < n_wanted; i++)
    normalize(&model->norm, x + wanted[i] * d_model, normal + i * d_model, d_model, model->eps);
  apply(&model->head, normal, logits, n_wanted, n_threads);
  free(memory);
  return 0;
}
