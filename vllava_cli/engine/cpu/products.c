/* Products with weights of 32, 16, 8 and 4 bits, and attention over a cache in fp16, for x86-64 with AVX2, FMA and F16C.

   A product is y[b, o] = sum over i of x[b, i] * w[o, i]. Weights are held row after row as a checkpoint or `quantise`
   has them; `inputs` is a multiple of 32. Four bits: 32 weights of a row are a group, whose scale is fp16; byte j of its
   16 has weight j in its low half and weight j + 16 in its high half, each plus 8. Eight bits: one fp32 scale for each
   row. Threads are OpenMP's: the library that torch has loaded, if torch was imported before. */

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

enum form { FP32, FP16, BF16, INT8, INT4 };
#define GROUP 32
#define AHEAD 1024 /* bytes that are fetched before they are needed */
#define SHARE 32 /* rows that a thread takes at a time */
#define INLINE static inline __attribute__((always_inline))

struct weights {
    int form;
    const uint8_t *values, *scales;
    int64_t inputs;
};

int is_supported(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

static int64_t value_bytes(const struct weights *w)
{
    return w->form == INT4 ? w->inputs / 2 : w->form == INT8 ? w->inputs : w->inputs * (w->form == FP32 ? 4 : 2);
}

static int64_t scale_bytes(const struct weights *w)
{
    return w->form == INT4 ? w->inputs / GROUP * 2 : w->form == INT8 ? 4 : 0;
}

INLINE float total(__m256 v)
{
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

INLINE __m256 eight_halves(const void *from)
{
    return _mm256_cvtph_ps(_mm_loadu_si128(from));
}

/* Eight weights from the i-th of a row on, as fp32 without their scale; not for four bits. */
INLINE __m256 eight(int form, const uint8_t *row, int64_t i)
{
    if (form == FP32)
        return _mm256_loadu_ps((const float *)row + i);
    if (form == FP16)
        return eight_halves(row + 2 * i);
    if (form == BF16) {
        __m128i halves = _mm_loadu_si128((const __m128i *)(row + 2 * i));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
    }
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(row + i))));
}

/* The products of x with `count` rows, at most 4, which begin `bytes` apart: several streams keep the memory busy. */
INLINE void dots(int form, int count, int64_t inputs, const uint8_t *row, int64_t bytes, const float *x, float *out)
{
    __m256 sums[8];
    for (int k = 0; k < 2 * count; k++)
        sums[k] = _mm256_setzero_ps();
    for (int64_t i = 0; i < inputs; i += GROUP)
        for (int k = 0; k < count; k++)
            for (int part = 0; part < 4; part++) {
                __m256 weights = eight(form, row + k * bytes, i + 8 * part);
                int sum = 2 * k + part % 2;
                sums[sum] = _mm256_fmadd_ps(weights, _mm256_loadu_ps(x + i + 8 * part), sums[sum]);
            }
    for (int k = 0; k < count; k++)
        out[k] = total(_mm256_add_ps(sums[2 * k], sums[2 * k + 1]));
}

#define TOGETHER 4
#define DOTS(name, form)                                                                                               \
    static void name(int count, int64_t inputs, const uint8_t *row, int64_t bytes, const float *x, float *out)         \
    {                                                                                                                  \
        if (count == TOGETHER)                                                                                         \
            dots(form, TOGETHER, inputs, row, bytes, x, out);                                                          \
        else                                                                                                           \
            for (int k = 0; k < count; k++)                                                                            \
                dots(form, 1, inputs, row + k * bytes, bytes, x, out + k);                                             \
    }
DOTS(dots_fp32, FP32)
DOTS(dots_fp16, FP16)
DOTS(dots_bf16, BF16)
DOTS(dots_int8, INT8)

/* Zero if all of these numbers, a multiple of 32, are finite, else not a number: infinity * 0 isn't, either. */
static float oddity(const float *x, int64_t count)
{
    __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int64_t i = 0; i < count; i += GROUP)
        for (int k = 0; k < 4; k++)
            sums[k] = _mm256_fmadd_ps(_mm256_loadu_ps(x + i + 8 * k), _mm256_setzero_ps(), sums[k]);
    return total(_mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3])));
}

/* x in eight bits, of which 32 numbers share a scale. `shifts` has 8 * scale * the sum of the 32 numbers. */
struct rounded {
    int8_t *numbers;
    float *scales, *shifts;
};

static void round_row(const float *x, int64_t inputs, struct rounded to)
{
    for (int64_t group = 0; group < inputs / GROUP; group++) {
        const float *from = x + group * GROUP;
        float most = 0;
        int sum = 0;
        for (int i = 0; i < GROUP; i++)
            most = fabsf(from[i]) > most ? fabsf(from[i]) : most;
        float up = most > 0 ? 127.0f / most : 0;
        for (int i = 0; i < GROUP; i++) {
            int number = (int)(from[i] * up + 127.5f) - 127; /* the sum is positive: cutting it off rounds it */
            to.numbers[group * GROUP + i] = (int8_t)number;
            sum += number;
        }
        to.scales[group] = most / 127.0f + oddity(from, GROUP);
        to.shifts[group] = 8.0f * to.scales[group] * (float)sum;
    }
}

/* The 32 numbers of a group, each plus 8. */
INLINE __m256i numbers_of(const uint8_t *row, int64_t group)
{
    __m128i both = _mm_loadu_si128((const __m128i *)(row + group * (GROUP / 2)));
    return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(both, 4), both), _mm256_set1_epi8(15));
}

/* Eight sums of four products each. The products of numbers of 0 to 15 and of -127 to 127 fit into 16 bits in pairs. */
INLINE __m256 group_sums(const uint8_t *row, const int8_t *numbers, int64_t group)
{
    __m256i values = _mm256_loadu_si256((const __m256i *)(numbers + group * GROUP));
    __m256i pairs = _mm256_maddubs_epi16(numbers_of(row, group), values);
    return _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

static float dot_int4(int64_t inputs, const uint8_t *row, const uint8_t *scales, struct rounded x)
{
    __m256 sum = _mm256_setzero_ps(), other = sum, shift = sum;
    int64_t groups = inputs / GROUP, group = 0;
    float rest = 0;
    for (; group + 8 <= groups; group += 8) {
        float products[8] __attribute__((aligned(32)));
        __m256 scale = eight_halves(scales + 2 * group);
        _mm256_store_ps(products, _mm256_mul_ps(scale, _mm256_loadu_ps(x.scales + group)));
        shift = _mm256_fmadd_ps(scale, _mm256_loadu_ps(x.shifts + group), shift);
        _mm_prefetch((const char *)row + group * (GROUP / 2) + AHEAD, _MM_HINT_T0);
        _mm_prefetch((const char *)row + group * (GROUP / 2) + AHEAD + 64, _MM_HINT_T0);
        for (int k = 0; k < 8; k += 2) {
            __m256 one = _mm256_broadcast_ss(products + k), two = _mm256_broadcast_ss(products + k + 1);
            sum = _mm256_fmadd_ps(group_sums(row, x.numbers, group + k), one, sum);
            other = _mm256_fmadd_ps(group_sums(row, x.numbers, group + k + 1), two, other);
        }
    }
    for (; group < groups; group++) {
        float scale = _cvtsh_ss(((const uint16_t *)scales)[group]);
        sum = _mm256_fmadd_ps(group_sums(row, x.numbers, group), _mm256_set1_ps(scale * x.scales[group]), sum);
        rest += scale * x.shifts[group];
    }
    return total(_mm256_sub_ps(_mm256_add_ps(sum, other), shift)) - rest;
}

/* The bytes that `few_rows` needs as `room` for x of this size. */
int64_t room_bytes(int64_t rows, int64_t inputs)
{
    return rows * (inputs + inputs / GROUP * 8);
}

/* Multiplies a few rows x [rows, inputs] by w [outputs, inputs]; row b of y begins at y + b * stride. */
void few_rows(int form, const uint8_t *values, const uint8_t *scales, int64_t outputs, int64_t inputs, const float *x,
              int64_t rows, float *y, int64_t stride, uint8_t *room, int threads)
{
    struct weights w = {form, values, scales, inputs};
    int64_t groups = inputs / GROUP;
    float *floats = (float *)room;
    struct rounded all = {(int8_t *)(floats + 2 * rows * groups), floats, floats + rows * groups};
    for (int64_t b = 0; b < rows && form == INT4; b++) {
        struct rounded one = {all.numbers + b * inputs, all.scales + b * groups, all.shifts + b * groups};
        round_row(x + b * inputs, inputs, one);
    }
#pragma omp parallel for schedule(dynamic, SHARE / TOGETHER) num_threads(threads)
    for (int64_t o = 0; o < outputs; o += TOGETHER) {
        const uint8_t *row = values + o * value_bytes(&w);
        int count = outputs - o < TOGETHER ? (int)(outputs - o) : TOGETHER;
        for (int64_t b = 0; b < rows; b++) {
            struct rounded one = {all.numbers + b * inputs, all.scales + b * groups, all.shifts + b * groups};
            const float *from = x + b * inputs;
            float *to = y + b * stride + o;
            if (form == FP32)
                dots_fp32(count, inputs, row, value_bytes(&w), from, to);
            else if (form == FP16)
                dots_fp16(count, inputs, row, value_bytes(&w), from, to);
            else if (form == BF16)
                dots_bf16(count, inputs, row, value_bytes(&w), from, to);
            else if (form == INT8)
                dots_int8(count, inputs, row, value_bytes(&w), from, to);
            for (int k = 0; k < count && form == INT8; k++)
                to[k] *= ((const float *)scales)[o + k];
            for (int k = 0; k < count && form == INT4; k++)
                to[k] = dot_int4(inputs, row + k * value_bytes(&w), scales + (o + k) * scale_bytes(&w), one);
        }
    }
}

/* Rounds to bf16, ties to even, in the upper halves; the lower halves become zero. */
INLINE __m256i to_bf16(__m256 values)
{
    __m256i bits = _mm256_castps_si256(values);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
}

INLINE void unpack_group(const struct weights *w, const uint8_t *row, const uint8_t *scales, int64_t group, __m256 *out)
{
    float scale = 1;
    if (w->form == INT4) {
        __m256i all = _mm256_sub_epi8(numbers_of(row, group), _mm256_set1_epi8(8));
        __m128i halves[2] = {_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1)};
        scale = _cvtsh_ss(((const uint16_t *)scales)[group]);
        for (int k = 0; k < 4; k++) {
            __m128i bytes = k & 1 ? _mm_srli_si128(halves[k / 2], 8) : halves[k / 2];
            out[k] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
        }
    } else
        for (int k = 0; k < 4; k++)
            out[k] = eight(w->form, row, group * GROUP + 8 * k);
    if (w->form == INT8)
        memcpy(&scale, scales, 4);
    for (int k = 0; k < 4 && w->form >= INT8; k++)
        out[k] = _mm256_mul_ps(out[k], _mm256_set1_ps(scale));
}

static void unpack_row(const struct weights *w, const uint8_t *row, const uint8_t *scales, void *out, int is_bf16)
{
    for (int64_t group = 0; group < w->inputs / GROUP; group++) {
        __m256 parts[4];
        unpack_group(w, row, scales, group, parts);
        for (int k = 0; k < 4 && !is_bf16; k++)
            _mm256_storeu_ps((float *)out + group * GROUP + 8 * k, parts[k]);
        for (int k = 0; k < 4 && is_bf16; k += 2) {
            __m256i both = _mm256_packus_epi32(to_bf16(parts[k]), to_bf16(parts[k + 1]));
            both = _mm256_permute4x64_epi64(both, 0xd8); /* packing interleaved the halves */
            _mm256_storeu_si256((__m256i *)((uint16_t *)out + group * GROUP + 8 * k), both);
        }
    }
}

/* Writes the weights of `rows` rows as fp32, or as bf16, row after row. */
void unpack(int form, const uint8_t *values, const uint8_t *scales, int64_t rows, int64_t inputs, void *out, int is_bf16,
            int threads)
{
    struct weights w = {form, values, scales, inputs};
#pragma omp parallel for schedule(dynamic, SHARE) num_threads(threads)
    for (int64_t o = 0; o < rows; o++)
        unpack_row(&w, values + o * value_bytes(&w), scales + o * scale_bytes(&w),
                   (char *)out + o * inputs * (is_bf16 ? 2 : 4), is_bf16);
}

/* Vectors of eight, as GCC and Clang offer them. */
typedef float floats __attribute__((vector_size(32), aligned(4)));
typedef int32_t ints __attribute__((vector_size(32)));
#define TRIES 9

/* Four bits of least error: several scales near the largest weight / -8 are tried. For each, the numbers are found, and
   then the scale that fits these numbers best, by least squares. */
INLINE void quantise_group(const float *x, uint8_t *pairs, uint16_t *scale)
{
    float most = 0, best = 0, chosen = 0;
    ints numbers[4] = {{0}};
    for (int i = 0; i < GROUP; i++)
        most = fabsf(x[i]) > fabsf(most) ? x[i] : most;
    for (int try = 0; try < TRIES && most != 0; try++) {
        float up = (-8.0f - 0.2f * (float)(try - 3)) / most, product = 0, square = 0;
        floats products = {0}, squares = {0};
        ints found[4];
        for (int k = 0; k < 4; k++) {
            floats values = *(const floats *)(x + 8 * k);
            ints raw = __builtin_convertvector(values * up + 8.5f, ints); /* it is above -1: cutting off rounds it */
            raw &= raw >= 0;
            found[k] = ((raw & (raw <= 15)) | (15 & (raw > 15))) - 8;
            floats number = __builtin_convertvector(found[k], floats);
            products += number * values;
            squares += number * number;
        }
        for (int i = 0; i < 8; i++) {
            product += products[i];
            square += squares[i];
        }
        /* The error is the sum of x * x, which is the same for all, minus this. */
        if (square > 0 && product * product > best * square) {
            best = product * product / square;
            chosen = product / square;
            memcpy(numbers, found, sizeof found);
        }
    }
    *scale = _cvtss_sh(chosen + oddity(x, GROUP), 0);
    for (int i = 0; i < 16; i++)
        pairs[i] = (uint8_t)((numbers[i / 8][i % 8] + 8) | (numbers[i / 8 + 2][i % 8] + 8) << 4);
}

static void quantise_row(int form, const float *x, int64_t inputs, uint8_t *values, uint8_t *scales)
{
    float most = 0;
    for (int64_t group = 0; group < inputs / GROUP && form == INT4; group++)
        quantise_group(x + group * GROUP, values + group * (GROUP / 2), (uint16_t *)scales + group);
    if (form == INT4)
        return;
    for (int64_t i = 0; i < inputs; i++)
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    float scale = most / 127.0f + oddity(x, inputs), up = most > 0 ? 127.0f / most : 0;
    memcpy(scales, &scale, 4);
    for (int64_t i = 0; i < inputs; i++)
        values[i] = (uint8_t)((int)(x[i] * up + 127.5f) - 127);
}

/* Quantises fp32, fp16 or bf16 weights to eight or four bits; `room` is a row of fp32 for each thread. */
void quantise(int form, const uint8_t *from, int from_form, int64_t outputs, int64_t inputs, uint8_t *values,
              uint8_t *scales, float *room, int threads)
{
    struct weights w = {form, values, scales, inputs}, source = {from_form, from, 0, inputs};
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t part = 0; part < threads; part++)
        for (int64_t o = part; o < outputs; o += threads) {
            float *x = room + part * inputs;
            unpack_row(&source, from + o * value_bytes(&source), 0, x, 0);
            quantise_row(form, x, inputs, values + o * value_bytes(&w), scales + o * scale_bytes(&w));
        }
}

/* e to the power of eight numbers that aren't positive: 2^n * 2^f, the second by a polynomial (error below 1e-7). What
   is no number stays none, since a maximum is its second number then. */
INLINE __m256 exp8(__m256 x)
{
    const float terms[6] = {1.8775767e-3f, 8.9893397e-3f, 5.5826318e-2f, 2.4015361e-1f, 6.9315308e-1f, 9.9999994e-1f};
    x = _mm256_mul_ps(_mm256_max_ps(_mm256_set1_ps(-87.0f), x), _mm256_set1_ps(1.44269504f));
    __m256 whole = _mm256_floor_ps(x), part = _mm256_sub_ps(x, whole), found = _mm256_set1_ps(terms[0]);
    for (int k = 1; k < 6; k++)
        found = _mm256_fmadd_ps(found, part, _mm256_set1_ps(terms[k]));
    __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(found, _mm256_castsi256_ps(power));
}

/* A cache in fp16: [rows, kv heads, capacity, size], of which `length` tokens are used. */
struct cache {
    const uint16_t *keys, *values;
    int64_t row, head; /* steps between rows and between heads, in numbers */
    int64_t length, size;
};

/* One query's attention over a head of the cache; `scores` has room for its length, rounded up to eight. */
static void attend_head(const struct cache *cache, int64_t at, const float *query, const float *mask, float *scores,
                        float *out)
{
    int64_t length = cache->length, size = cache->size, padded = (length + 7) / 8 * 8;
    const uint16_t *keys = cache->keys + at, *values = cache->values + at;
    float scale = 1.0f / sqrtf((float)size), most = -INFINITY;
    for (int64_t t = 0; t < padded; t++) {
        scores[t] = -INFINITY;
        if (t < length) {
            dots_fp16(1, size, (const uint8_t *)(keys + t * size), 0, query, scores + t);
            scores[t] = scale * scores[t] + (mask ? mask[t] : 0);
        }
        most = scores[t] > most ? scores[t] : most;
    }
    most = most == -INFINITY ? 0 : most; /* none is larger: all are masked, or are no numbers */
    __m256 sum = _mm256_setzero_ps();
    for (int64_t t = 0; t < padded; t += 8) {
        __m256 found = exp8(_mm256_sub_ps(_mm256_loadu_ps(scores + t), _mm256_set1_ps(most)));
        found = t + 8 > length ? _mm256_and_ps(found, _mm256_cmp_ps(_mm256_loadu_ps(scores + t),
                                                                    _mm256_set1_ps(-INFINITY), _CMP_NLE_UQ)) : found;
        sum = _mm256_add_ps(sum, found);
        _mm256_storeu_ps(scores + t, found);
    }
    for (int64_t i = 0; i < size; i += GROUP) {
        __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
        for (int64_t t = 0; t < length; t++)
            for (int k = 0; k < 4; k++)
                sums[k] = _mm256_fmadd_ps(_mm256_set1_ps(scores[t]), eight_halves(values + t * size + i + 8 * k), sums[k]);
        for (int k = 0; k < 4; k++)
            _mm256_storeu_ps(out + i + 8 * k, _mm256_mul_ps(sums[k], _mm256_set1_ps(1.0f / total(sum))));
    }
}

/* Attention of one query a row and head, query and out [rows, heads, size], over a cache; `mask` [rows, length] is 0 or
   -infinity, or missing. Each thread has `room` for the scores of a head. */
void attend(const float *query, const uint16_t *keys, const uint16_t *values, int64_t row, int64_t head, int64_t rows,
            int64_t heads, int64_t kv_heads, int64_t length, int64_t size, const float *mask, float *out, float *room,
            int threads)
{
    struct cache cache = {keys, values, row, head, length, size};
    int64_t padded = (length + 7) / 8 * 8;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t part = 0; part < threads; part++)
        for (int64_t one = part; one < rows * heads; one += threads) {
            int64_t b = one / heads, at = b * row + one % heads / (heads / kv_heads) * head;
            attend_head(&cache, at, query + one * size, mask ? mask + b * length : 0, room + part * padded, out + one * size);
        }
}
