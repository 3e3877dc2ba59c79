/* Loops over whole columns: offsets, strings, numbers.  raw.py has each once more, with numpy.
 *
 * They are written so that a compiler makes vectors of them for any processor of the kind (no -march): a sum of
 * bits or several accumulators inside, blocks outside, and a second look only where a block is found wanting.
 */
#ifndef MMSTORE_COLUMNS_H
#define MMSTORE_COLUMNS_H

#include <stdint.h>
#include <string.h>

enum { MMS_BLOCK = 1024 };

/* The first i of offsets[0:n] that is below 0, beyond limit or below its predecessor; -1 if none is. */
static inline int64_t mms_check_offsets(const int64_t *offsets, int64_t n, int64_t limit) {
    const uint64_t *x = (const uint64_t *)offsets; /* unsigned, as differences may wrap */
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

#endif
