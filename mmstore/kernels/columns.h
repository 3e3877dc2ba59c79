/* Loops over whole columns: offsets, strings, numbers.  raw.py has each once more, with numpy.
 *
 * They are written so that a compiler makes vectors of them for any processor of the kind (no -march): a sum of
 * bits or several accumulators inside, blocks outside, and a second look only where a block is found wanting.
 * Lengths and places are signed, as Arrow and numpy have them; each is checked before it is used (I6).
 */
#ifndef MMSTORE_COLUMNS_H
#define MMSTORE_COLUMNS_H

#include "native.h"

#include <math.h>

enum { MMS_BLOCK = 1024, MMS_AHEAD = 16, MMS_SHORT = 32 };

#define MMS_HIGH_BITS 0x8080808080808080u

/* Buffers of callers need not be aligned, which vector code would otherwise assume. */
#if defined(__GNUC__)
#define MMS_ANYWHERE(TYPE, NAME) typedef TYPE NAME __attribute__((aligned(1), may_alias));
#else
#define MMS_ANYWHERE(TYPE, NAME) typedef TYPE NAME;
#endif
MMS_ANYWHERE(int32_t, mms_i4)
MMS_ANYWHERE(uint32_t, mms_u4)
MMS_ANYWHERE(int64_t, mms_i8)
MMS_ANYWHERE(uint64_t, mms_u8)
MMS_ANYWHERE(float, mms_f4)
MMS_ANYWHERE(double, mms_f8)

/* --- offsets and codes ----------------------------------------------------------------------------- */

/* The first i of offsets[0:n] that is below 0, beyond limit or below its predecessor; -1 if none is. */
static inline int64_t mms_check_offsets(const mms_i8 *offsets, int64_t n, int64_t limit) {
    const mms_u8 *x = (const mms_u8 *)offsets; /* unsigned, as differences may wrap */
    int64_t start, i;
    for (start = 0; start < n; start += MMS_BLOCK) {
        int64_t stop = n - start < MMS_BLOCK ? n : start + MMS_BLOCK;
        uint64_t bits = x[start] | ((uint64_t)limit - x[start]);
        if (start)
            bits |= x[start] - x[start - 1];
        for (i = start + 1; i < stop; i++) /* no difference of numbers >= 0 wraps, so its sign tells */
            bits |= x[i] | (x[i] - x[i - 1]) | ((uint64_t)limit - x[i]);
        if (!(bits >> 63))
            continue;
        for (i = start; i < stop; i++)
            if (offsets[i] < 0 || offsets[i] > limit || (i && offsets[i] < offsets[i - 1]))
                return i;
    }
    return -1;
}

/* The first i of codes[0:n] that is not in [0, count); -1 if all are.  count is at most 2^31. */
static inline int64_t mms_check_codes(const mms_i4 *codes, int64_t n, int64_t count) {
    const mms_u4 *x = (const mms_u4 *)codes;
    const uint32_t last = (uint32_t)(count - 1);
    int64_t start, i;
    for (start = 0; start < n; start += MMS_BLOCK) {
        int64_t stop = n - start < MMS_BLOCK ? n : start + MMS_BLOCK;
        uint32_t bits = 0;
        for (i = start; i < stop; i++)
            bits |= x[i] | (last - x[i]);
        if (!(bits >> 31))
            continue;
        for (i = start; i < stop; i++)
            if (codes[i] < 0 || codes[i] >= count)
                return i;
    }
    return -1;
}

/* --- strings --------------------------------------------------------------------------------------- */

/* The number in [0, room] next to x. */
static inline int64_t mms_within(int64_t x, int64_t room) {
    return x < 0 ? 0 : x < room ? x : room;
}

/* Copies source[starts[i]:][:length] to out[offsets[i]:offsets[i + 1]], for n slices; returns -1, or the first i
 * whose slice or place is out of bounds.  Short slices are copied as 32 bytes, where both sides have as many:
 * what is too much is covered by the slices that follow. */
static inline int64_t mms_copy_slices(const unsigned char *source, int64_t size, const mms_i8 *starts,
                                      const mms_i8 *offsets, int64_t n, unsigned char *out, int64_t room) {
    int64_t end = mms_within(offsets[n], room), i;
    for (i = 0; i < n; i++) {
        int64_t at = starts[i], to = offsets[i], length;
        if (to < 0 || offsets[i + 1] < to || offsets[i + 1] > room)
            return i;
        length = offsets[i + 1] - to;
        if (i + MMS_AHEAD < n)
            mms_prefetch(source, (size_t)starts[i + MMS_AHEAD]);
        if (length == 0)
            continue;
        if (at < 0 || length > size || at > size - length)
            return i;
        if (length <= MMS_SHORT && at <= size - MMS_SHORT && to <= end - MMS_SHORT)
            memcpy(out + to, source + at, MMS_SHORT);
        else
            memcpy(out + to, source + at, (size_t)length);
    }
    return -1;
}

/* The same of n Arrow string views, of 16 bytes each: a length, then up to 12 bytes, or a prefix of 4 bytes, the
 * number of a buffer and an offset.  Buffer b has sizes[b] bytes at the address buffers[b]. */
static inline int64_t mms_copy_views(const unsigned char *views, const uint64_t *buffers, const uint64_t *sizes,
                                     int64_t n_buffers, const mms_i8 *offsets, int64_t n, unsigned char *out,
                                     int64_t room) {
    int64_t end = mms_within(offsets[n], room), i;
    for (i = 0; i < n; i++) {
        const unsigned char *view = views + 16 * i;
        int64_t to = offsets[i], length;
        if (to < 0 || offsets[i + 1] < to || offsets[i + 1] > room)
            return i;
        length = offsets[i + 1] - to;
        if (length == 0)
            continue;
        if (length > INT32_MAX || (int64_t)mms_peek32(view, 0) != length)
            return i;
        if (length <= 12) {
            if (to <= end - 12)
                memcpy(out + to, view + 4, 12);
            else
                memcpy(out + to, view + 4, (size_t)length);
        } else {
            uint64_t buffer = mms_peek32(view, 8), at = mms_peek32(view, 12);
            const unsigned char *source;
            if (buffer >= (uint64_t)n_buffers || at > INT32_MAX || at + (uint64_t)length > sizes[buffer])
                return i;
            source = (const unsigned char *)(uintptr_t)buffers[buffer] + at;
            if (length <= MMS_SHORT && at + MMS_SHORT <= sizes[buffer] && to <= end - MMS_SHORT)
                memcpy(out + to, source, MMS_SHORT);
            else
                memcpy(out + to, source, (size_t)length);
        }
    }
    return -1;
}

/* Where in [at, stop) the first byte of 0x80 and more is; stop if there is none. */
static inline int64_t mms_ascii_end(const unsigned char *p, int64_t at, int64_t stop) {
    for (; stop - at >= 64; at += 64) {
        uint64_t words[8], bits = 0;
        int i;
        memcpy(words, p + at, 64);
        for (i = 0; i < 8; i++)
            bits |= words[i];
        if (bits & MMS_HIGH_BITS)
            break;
    }
    for (; stop - at >= 8; at += 8) {
        uint64_t word;
        memcpy(&word, p + at, 8);
        if (word & MMS_HIGH_BITS)
            break;
    }
    while (at < stop && p[at] < 0x80)
        at++;
    return at;
}

/* Bytes of the code point at p, of at most n; 0 if it is none (Unicode 15, table 3-7). */
static inline int64_t mms_code_point(const unsigned char *p, int64_t n) {
    unsigned char c = p[0];
    if (c < 0x80)
        return 1;
    if (c < 0xC2 || n < 2 || (p[1] & 0xC0) != 0x80)
        return 0;
    if (c < 0xE0)
        return 2;
    if (n < 3 || (p[2] & 0xC0) != 0x80)
        return 0;
    if (c < 0xF0)
        return (c == 0xE0 && p[1] < 0xA0) || (c == 0xED && p[1] > 0x9F) ? 0 : 3;
    if (n < 4 || (p[3] & 0xC0) != 0x80 || c > 0xF4)
        return 0;
    return (c == 0xF0 && p[1] < 0x90) || (c == 0xF4 && p[1] > 0x8F) ? 0 : 4;
}

/* The first i of n rows data[offsets[i]:offsets[i + 1]] that is not UTF-8 by itself; -1 if all are.  The offsets
 * have been checked.  All rows are looked at as one text: if that is valid and no row begins inside a code point,
 * each row is valid. */
static inline int64_t mms_check_utf8(const unsigned char *data, const mms_i8 *offsets, int64_t n) {
    int64_t last = offsets[n], at = mms_ascii_end(data, offsets[0], last), i, low, high;
    if (at == last)
        return -1;
    while (at < last) {
        int64_t size = mms_code_point(data + at, last - at);
        if (size == 0)
            break;
        at += size;
        if (size == 1)
            at = mms_ascii_end(data, at, last);
    }
    for (i = 1; i < n && offsets[i] < at; i++)
        if ((data[offsets[i]] & 0xC0) == 0x80) {
            at = offsets[i] - 1; /* where the code point that is cut goes on; the row of this byte ends too soon */
            break;
        }
    if (at == last)
        return -1;
    for (low = 0, high = n; high - low > 1;) { /* the row of byte `at`: offsets[low] <= at < offsets[high] */
        int64_t middle = low + (high - low) / 2;
        if (offsets[middle] <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Up to 8 of n bytes as a number that compares like them; what is missing counts as zeros. */
static inline uint64_t mms_prefix(const unsigned char *p, int64_t n) {
    uint64_t word = 0;
    int64_t i;
    if (n >= 8)
        return (uint64_t)p[0] << 56 | (uint64_t)p[1] << 48 | (uint64_t)p[2] << 40 | (uint64_t)p[3] << 32 |
               (uint64_t)p[4] << 24 | (uint64_t)p[5] << 16 | (uint64_t)p[6] << 8 | p[7];
    for (i = 0; i < n; i++)
        word |= (uint64_t)p[i] << (56 - 8 * i);
    return word;
}

/* The first of the rows data[starts[i]:stops[i]] that is smallest, and the first that is largest, by 16 bytes, into
 * ends; -1 if there are none.  Returns -1, or the first row that leaves data. */
static inline int64_t mms_text_extremes(const unsigned char *data, int64_t size, const mms_i8 *starts,
                                        const mms_i8 *stops, int64_t n, unsigned char *ends) {
    uint64_t low = 0, low_more = 0, high = 0, high_more = 0;
    int64_t i, least = -1, most = -1;
    for (i = 0; i < n; i++) {
        int64_t start = starts[i], stop = stops[i], length;
        uint64_t word, more = 0;
        const unsigned char *p;
        if (start < 0 || stop < start || stop > size)
            return i;
        length = stop - start;
        p = data + start;
        word = mms_prefix(p, length);
        if (least >= 0 && word > low && word < high)
            continue;
        if (length > 8)
            more = mms_prefix(p + 8, length - 8);
        if (least < 0 || word < low || (word == low && more < low_more)) {
            least = i;
            low = word;
            low_more = more;
        }
        if (most < 0 || word > high || (word == high && more > high_more)) {
            most = i;
            high = word;
            high_more = more;
        }
    }
    ((mms_i8 *)(void *)ends)[0] = least;
    ((mms_i8 *)(void *)ends)[1] = most;
    return -1;
}

/* --- numbers --------------------------------------------------------------------------------------- */

/* Smallest and largest of x[0:n], n >= 1, into ends[0] and ends[1]; returns 2 * (number of NaNs) + (1 if ordered).
 * Ordered numbers need no second pass, the others are usually found out in their first block.  SSE2 has no minimum
 * of 64-bit integers, so those are best held in four registers; a loop over 32 lanes becomes one over vectors. */
#define MMS_EXTREMES(NAME, TYPE, CELL, COUNT, LEAST, MOST, FLOAT)                                                      \
    static inline int64_t NAME(const CELL *x, int64_t n, CELL *ends) {                                                 \
        enum { LANES = sizeof(TYPE) == 8 ? 4 : 32 };                                                                   \
        TYPE low[LANES], high[LANES];                                                                                  \
        int64_t start, i, nans = 0;                                                                                    \
        int j;                                                                                                         \
        for (start = 1; start < n; start += MMS_BLOCK) {                                                               \
            int64_t stop = n - start < MMS_BLOCK ? n : start + MMS_BLOCK;                                              \
            COUNT falls = 0;                                                                                           \
            for (i = start; i < stop; i++)                                                                             \
                falls |= (COUNT) !(x[i - 1] <= x[i]);                                                                  \
            if (falls)                                                                                                 \
                break;                                                                                                 \
        }                                                                                                              \
        if (start >= n && (!FLOAT || x[0] == x[0])) {                                                                  \
            ends[0] = x[0];                                                                                            \
            ends[1] = x[n - 1];                                                                                        \
            return 1;                                                                                                  \
        }                                                                                                              \
        for (j = 0; j < LANES; j++) {                                                                                  \
            low[j] = MOST;                                                                                             \
            high[j] = LEAST;                                                                                           \
        }                                                                                                              \
        for (start = 0; start < n; start += MMS_BLOCK) {                                                               \
            int64_t stop = n - start < MMS_BLOCK ? n : start + MMS_BLOCK;                                              \
            COUNT odd[LANES] = {0};                                                                                    \
            for (i = start; i + LANES <= stop; i += LANES)                                                             \
                for (j = 0; j < LANES; j++) {                                                                          \
                    TYPE v = x[i + j];                                                                                 \
                    low[j] = v < low[j] ? v : low[j];                                                                  \
                    high[j] = v > high[j] ? v : high[j];                                                               \
                    if (FLOAT)                                                                                         \
                        odd[j] += (COUNT)(v != v);                                                                     \
                }                                                                                                      \
            for (; i < stop; i++) {                                                                                    \
                low[0] = x[i] < low[0] ? x[i] : low[0];                                                                \
                high[0] = x[i] > high[0] ? x[i] : high[0];                                                             \
                odd[0] += (COUNT)(x[i] != x[i]);                                                                       \
            }                                                                                                          \
            for (j = 0; j < LANES; j++)                                                                                \
                nans += (int64_t)odd[j];                                                                               \
        }                                                                                                              \
        for (j = 1; j < LANES; j++) {                                                                                  \
            low[0] = low[j] < low[0] ? low[j] : low[0];                                                                \
            high[0] = high[j] > high[0] ? high[j] : high[0];                                                           \
        }                                                                                                              \
        ends[0] = low[0];                                                                                              \
        ends[1] = high[0];                                                                                             \
        return 2 * nans;                                                                                               \
    }

MMS_EXTREMES(mms_extremes_i4, int32_t, mms_i4, uint32_t, INT32_MIN, INT32_MAX, 0)
MMS_EXTREMES(mms_extremes_u4, uint32_t, mms_u4, uint32_t, 0, UINT32_MAX, 0)
MMS_EXTREMES(mms_extremes_i8, int64_t, mms_i8, uint64_t, INT64_MIN, INT64_MAX, 0)
MMS_EXTREMES(mms_extremes_u8, uint64_t, mms_u8, uint64_t, 0, UINT64_MAX, 0)
MMS_EXTREMES(mms_extremes_f4, float, mms_f4, uint32_t, -HUGE_VALF, HUGE_VALF, 1)
MMS_EXTREMES(mms_extremes_f8, double, mms_f8, uint64_t, -HUGE_VAL, HUGE_VAL, 1)

/* The same of n values at p, whose type is `kind` * 16 + size, as numpy has them; -1 for any other type. */
static inline int64_t mms_extremes(const unsigned char *p, int64_t n, int kind, unsigned char *ends) {
    switch (kind) {
    case 16 * 'i' + 4:
        return mms_extremes_i4((const mms_i4 *)(const void *)p, n, (mms_i4 *)(void *)ends);
    case 16 * 'u' + 4:
        return mms_extremes_u4((const mms_u4 *)(const void *)p, n, (mms_u4 *)(void *)ends);
    case 16 * 'i' + 8:
        return mms_extremes_i8((const mms_i8 *)(const void *)p, n, (mms_i8 *)(void *)ends);
    case 16 * 'u' + 8:
        return mms_extremes_u8((const mms_u8 *)(const void *)p, n, (mms_u8 *)(void *)ends);
    case 16 * 'f' + 4:
        return mms_extremes_f4((const mms_f4 *)(const void *)p, n, (mms_f4 *)(void *)ends);
    case 16 * 'f' + 8:
        return mms_extremes_f8((const mms_f8 *)(const void *)p, n, (mms_f8 *)(void *)ends);
    default:
        return -1;
    }
}

#endif
