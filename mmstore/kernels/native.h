/* The primitives that a kernel cannot say in typed Python: loads, stores and moves through a pointer,
 * and the 64 x 64 -> 128 bit product.  raw.py is the same set for uncompiled runs.
 *
 * load* reads memory that others may change meanwhile (the mapped file): exactly once, so that what
 * was checked is what is used.  peek* reads memory of our own, as the compiler likes.  All return 64
 * bits, so that shifts mean the same as in Python.
 */
#ifndef MMSTORE_NATIVE_H
#define MMSTORE_NATIVE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define MMS_LE16(x) __builtin_bswap16(x)
#define MMS_LE32(x) __builtin_bswap32(x)
#define MMS_LE64(x) __builtin_bswap64(x)
#else
#define MMS_LE16(x) (x)
#define MMS_LE32(x) (x)
#define MMS_LE64(x) (x)
#endif

#define MMS_WINDOW 32

static inline uint64_t mms_load8(const unsigned char *p, size_t at) {
    return *(const volatile uint8_t *)(p + at);
}
static inline uint64_t mms_load16(const unsigned char *p, size_t at) {
    return MMS_LE16(*(const volatile uint16_t *)(p + at));
}
static inline uint64_t mms_load32(const unsigned char *p, size_t at) {
    return MMS_LE32(*(const volatile uint32_t *)(p + at));
}
static inline uint64_t mms_load64(const unsigned char *p, size_t at) {
    return MMS_LE64(*(const volatile uint64_t *)(p + at));
}
static inline uint64_t mms_peek8(const unsigned char *p, size_t at) {
    return p[at];
}
static inline uint64_t mms_peek32(const unsigned char *p, size_t at) {
    uint32_t x;
    memcpy(&x, p + at, 4);
    return MMS_LE32(x);
}
static inline uint64_t mms_peek64(const unsigned char *p, size_t at) {
    uint64_t x;
    memcpy(&x, p + at, 8);
    return MMS_LE64(x);
}
/* How many of the n numbers of 32 bits are below a bound.  It answers at most n whatever is read, so these may be
 * read as the compiler likes, also from the mapped file: several at a time. */
static inline uint64_t mms_below(const unsigned char *p, size_t at, size_t n, uint32_t bound) {
    uint32_t x, found = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        memcpy(&x, p + at + 4 * i, 4);
        found += MMS_LE32(x) < bound;
    }
    return found;
}
static inline uint64_t mms_below_window(const unsigned char *p, size_t at, uint32_t bound) {
    return mms_below(p, at, MMS_WINDOW, bound);
}
static inline void mms_store16(unsigned char *p, size_t at, uint16_t x) {
    x = MMS_LE16(x);
    memcpy(p + at, &x, 2);
}
static inline void mms_store32(unsigned char *p, size_t at, uint32_t x) {
    x = MMS_LE32(x);
    memcpy(p + at, &x, 4);
}
static inline void mms_store64(unsigned char *p, size_t at, uint64_t x) {
    x = MMS_LE64(x);
    memcpy(p + at, &x, 8);
}

/* The two halves of a * b, one xored onto the other. */
static inline uint64_t mms_fold64(uint64_t a, uint64_t b) {
#if defined(__SIZEOF_INT128__)
    unsigned __int128 p = (unsigned __int128)a * b;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
#else
    uint64_t ll = (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu), hl = (a >> 32) * (b & 0xFFFFFFFFu);
    uint64_t lh = (a & 0xFFFFFFFFu) * (b >> 32), hh = (a >> 32) * (b >> 32);
    uint64_t mid = (ll >> 32) + (hl & 0xFFFFFFFFu) + lh;
    return ((mid << 32) | (ll & 0xFFFFFFFFu)) ^ ((hl >> 32) + (mid >> 32) + hh);
#endif
}

static inline void mms_prefetch(const void *p, size_t at) {
#if defined(__GNUC__)
    __builtin_prefetch((const unsigned char *)p + at);
#else
    (void)p;
    (void)at;
#endif
}

/* Sorts by the bits [low, 64), bottom-up by bytes; equal ones keep their order; `other` is scratch.
 * `low` is a multiple of 8. */
static inline void mms_sort64(uint64_t *a, uint64_t *other, size_t n, int low) {
    uint64_t *from = a, *to = other, *t;
    size_t i, j;
    int shift;
    if (n < 2)
        return;
    if (n < 64) {
        for (i = 1; i < n; i++) {
            uint64_t x = a[i];
            for (j = i; j > 0 && (a[j - 1] >> low) > (x >> low); j--)
                a[j] = a[j - 1];
            a[j] = x;
        }
        return;
    }
    for (shift = low; shift < 64; shift += 8) {
        size_t count[256] = {0}, sum = 0;
        for (i = 0; i < n; i++)
            count[(from[i] >> shift) & 255]++;
        if (count[(from[0] >> shift) & 255] == n)
            continue;
        for (i = 0; i < 256; i++) {
            size_t c = count[i];
            count[i] = sum;
            sum += c;
        }
        for (i = 0; i < n; i++)
            to[count[(from[i] >> shift) & 255]++] = from[i];
        t = from;
        from = to;
        to = t;
    }
    if (from != a)
        memcpy(a, from, n * sizeof *a);
}

/* XXH3 of more than 240 bytes, after xxHash's specification (hashing.py has the shorter ones).  Eight sums
 * take in 64 bytes at a time; after 16 times they are scrambled. */
#if defined(__SSE2__)
#include <emmintrin.h>

static inline __m128i mms_xxh3_add(__m128i sum, const unsigned char *in, const unsigned char *secret) {
    __m128i data = _mm_loadu_si128((const __m128i *)(const void *)in);
    __m128i key = _mm_xor_si128(data, _mm_loadu_si128((const __m128i *)(const void *)secret));
    sum = _mm_add_epi64(sum, _mm_shuffle_epi32(data, _MM_SHUFFLE(1, 0, 3, 2)));
    return _mm_add_epi64(sum, _mm_mul_epu32(key, _mm_srli_epi64(key, 32)));
}

static inline void mms_xxh3_stripes(uint64_t *acc, const unsigned char *in, const unsigned char *secret, size_t n) {
    __m128i *sums = (__m128i *)(void *)acc;
    __m128i a = _mm_loadu_si128(sums), b = _mm_loadu_si128(sums + 1);
    __m128i c = _mm_loadu_si128(sums + 2), d = _mm_loadu_si128(sums + 3);
    for (; n; n--, in += 64, secret += 8) {
        a = mms_xxh3_add(a, in, secret);
        b = mms_xxh3_add(b, in + 16, secret + 16);
        c = mms_xxh3_add(c, in + 32, secret + 32);
        d = mms_xxh3_add(d, in + 48, secret + 48);
    }
    _mm_storeu_si128(sums, a);
    _mm_storeu_si128(sums + 1, b);
    _mm_storeu_si128(sums + 2, c);
    _mm_storeu_si128(sums + 3, d);
}
#else
static inline void mms_xxh3_stripes(uint64_t *acc, const unsigned char *in, const unsigned char *secret, size_t n) {
    int i;
    for (; n; n--, in += 64, secret += 8)
        for (i = 0; i < 8; i++) {
            uint64_t data = mms_peek64(in, 8 * i), key = data ^ mms_peek64(secret, 8 * i);
            acc[i ^ 1] += data;
            acc[i] += (key & 0xFFFFFFFFu) * (key >> 32);
        }
}
#endif

static inline uint64_t mms_xxh3_long(const unsigned char *base, size_t at, size_t n, uint64_t seed,
                                     const unsigned char *constants) {
    const unsigned char *in = base + at;
    uint64_t acc[8] = {0xC2B2AE3Du,         0x9E3779B185EBCA87u, 0xC2B2AE3D27D4EB4Fu, 0x165667B19E3779F9u,
                       0x85EBCA77C2B2AE63u, 0x85EBCA77u,         0x27D4EB2F165667C5u, 0x9E3779B1u};
    unsigned char secret[192];
    size_t stripes = (n - 1) / 64, i;
    uint64_t h;
    for (i = 0; i < 192; i += 16) {
        mms_store64(secret, i, mms_peek64(constants, i) + seed);
        mms_store64(secret, i + 8, mms_peek64(constants, i + 8) - seed);
    }
    for (; stripes >= 16; stripes -= 16, in += 1024) {
        mms_xxh3_stripes(acc, in, secret, 16);
        for (i = 0; i < 8; i++)
            acc[i] = (acc[i] ^ (acc[i] >> 47) ^ mms_peek64(secret, 128 + 8 * i)) * 0x9E3779B1u;
    }
    mms_xxh3_stripes(acc, in, secret, stripes);
    mms_xxh3_stripes(acc, base + at + n - 64, secret + 121, 1);
    h = n * 0x9E3779B185EBCA87u;
    for (i = 0; i < 4; i++)
        h += mms_fold64(acc[2 * i] ^ mms_peek64(secret, 11 + 16 * i), acc[2 * i + 1] ^ mms_peek64(secret, 19 + 16 * i));
    h ^= h >> 37;
    h *= 0x165667919E3779F9u;
    return h ^ (h >> 32);
}

#endif
