/* A stand-in for the vendor's library, for tests: it does what the real one does, and counts each misuse that
 * would crash there. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    uint64_t next;
    int open, lent;
} meter;

typedef struct {
    uint64_t first;
    size_t count;
    float *samples;
    meter *of;
    int lent;
} meter_block;

enum { OK, NO_DEVICE, BUSY, MISUSE };

static int misuses, opened, lent;

int meter_misuses(void) { return misuses; }
int meter_opened(void) { return opened; }
int meter_lent(void) { return lent; }

const char *meter_error(int number) {
    static const char *texts[] = {"ok", "no such device", "blocks of the device are lent", "misuse"};
    return number >= OK && number <= MISUSE ? texts[number] : "unknown error";
}

static int misuse(void) {
    misuses++;
    return MISUSE;
}

int meter_open(const char *serial, meter **device) {
    if (strncmp(serial, "M-", 2) != 0)
        return NO_DEVICE;
    *device = calloc(1, sizeof **device); /* never freed, so that misuse can be told */
    (*device)->open = 1;
    opened++;
    return OK;
}

int meter_read(meter *device, size_t count, meter_block **into) {
    if (!device->open)
        return misuse();
    meter_block *block = calloc(1, sizeof *block);
    *block = (meter_block){device->next, count, malloc(count * sizeof(float)), device, 1};
    for (size_t i = 0; i < count; i++)
        block->samples[i] = (float)(device->next + i) / 2;
    device->next += count;
    device->lent++;
    lent++;
    *into = block;
    return OK;
}

int meter_free(meter_block *block) {
    if (!block->lent || !block->of->open)
        return misuse();
    memset(block->samples, 0xff, block->count * sizeof(float)); /* whoever reads it later reads no number */
    block->lent = 0;
    block->of->lent--;
    lent--;
    return OK;
}

int meter_close(meter *device) {
    if (!device->open)
        return misuse();
    if (device->lent)
        return misuse(), BUSY;
    device->open = 0;
    opened--;
    return OK;
}
