/* An invented camera SDK, such as vendors ship: what examples/camera_sdk.py is an adapter for.
 *
 * A device has a ring of buffers. A thread of the SDK fills the next one that is queued and lends it to the
 * callback; where none is queued the frame is dropped. A buffer that was lent is the program's until it is
 * requeued. The order of the end: cam_stop (no callback runs after it), every buffer requeued, cam_close, and
 * only then may the descriptor be closed that was given to cam_open.
 *
 * It is strict where vendors' own crash: each misuse is counted by cam_errors, what is requeued is overwritten,
 * and the memory of a closed device is unmapped. With CAMERA_SDK_REPORT in the environment it says at the end
 * of the process what is left.
 *
 *     cc -shared -fPIC -pthread -o libcamera_sdk.so camera_sdk.c
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct cam_device cam_device;

typedef struct {
    uint64_t number; /* of the frame, from 0 */
    uint8_t *data;   /* the SDK's memory */
    size_t length;
    cam_device *device;
    int lent;
} cam_buffer;

typedef void (*cam_callback)(cam_buffer *buffer, void *user);

struct cam_device {
    pthread_mutex_t lock;
    pthread_t thread;
    atomic_int running;
    int started, closed, count, pause, events;
    pid_t pid;
    uint64_t frames, dropped;
    cam_callback callback;
    void *user;
    cam_buffer *buffers;
    uint8_t *memory;
    size_t mapped;
};

static atomic_int errors, opened, lent;

int cam_errors(void) { return errors; }
int cam_opened(void) { return opened; }
int cam_lent(void) { return lent; }

static int misuse(void) {
    errors++;
    return -1;
}

/* Open a device with `count` buffers of `length` bytes, which delivers a frame every `pause` microseconds.
 * `events` is a descriptor of the caller's: a byte is written there when the device is unplugged, and one when
 * it is closed. */
cam_device *cam_open(int events, int count, size_t length, int pause) {
    cam_device *device = calloc(1, sizeof *device); /* never freed, so that misuse can be told */
    if (device == NULL || count < 1 || (device->buffers = calloc(count, sizeof *device->buffers)) == NULL)
        return NULL;
    device->mapped = count * length;
    device->memory = mmap(NULL, device->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (device->memory == MAP_FAILED)
        return NULL;
    pthread_mutex_init(&device->lock, NULL);
    device->count = count;
    device->pause = pause;
    device->events = events;
    device->pid = getpid();
    for (int i = 0; i < count; i++)
        device->buffers[i] =
            (cam_buffer){.data = device->memory + i * length, .length = length, .device = device};
    opened++;
    return device;
}

static void *deliver(void *argument) {
    cam_device *device = argument;
    for (int next = 0; device->running;) {
        cam_buffer *buffer = NULL;
        usleep(device->pause);
        pthread_mutex_lock(&device->lock);
        for (int i = 0; i < device->count && buffer == NULL; i++, next = (next + 1) % device->count)
            if (!device->buffers[next].lent)
                buffer = &device->buffers[next];
        if (buffer != NULL) {
            buffer->number = device->frames++;
            memset(buffer->data, (int)(buffer->number & 0x7f), buffer->length);
            buffer->lent = 1;
            lent++;
        } else {
            device->dropped++;
        }
        pthread_mutex_unlock(&device->lock);
        if (buffer != NULL)
            device->callback(buffer, device->user);
    }
    return NULL;
}

int cam_start(cam_device *device, cam_callback callback, void *user) {
    if (device == NULL)
        return -1;
    if (device->closed || device->started || device->pid != getpid())
        return misuse();
    device->callback = callback;
    device->user = user;
    device->running = device->started = 1;
    return pthread_create(&device->thread, NULL, deliver, device) == 0 ? 0 : misuse();
}

/* No callback runs after it. Not to be called in one. */
int cam_stop(cam_device *device) {
    if (device->closed || device->pid != getpid())
        return misuse();
    if (!device->started)
        return 0;
    if (pthread_equal(device->thread, pthread_self()))
        return misuse();
    device->running = 0;
    pthread_join(device->thread, NULL);
    device->started = 0;
    return 0;
}

/* Give a buffer back. Callable on any thread. */
int cam_requeue(cam_buffer *buffer) {
    cam_device *device = buffer->device;
    if (device->closed || device->pid != getpid())
        return misuse();
    pthread_mutex_lock(&device->lock);
    int was_lent = buffer->lent;
    if (was_lent) {
        memset(buffer->data, 0xee, buffer->length);
        buffer->lent = 0;
        lent--;
    }
    pthread_mutex_unlock(&device->lock);
    return was_lent ? 0 : misuse();
}

int cam_close(cam_device *device) {
    if (device->closed || device->started || device->pid != getpid())
        return misuse();
    for (int i = 0; i < device->count; i++)
        if (device->buffers[i].lent)
            return misuse();
    device->closed = 1;
    munmap(device->memory, device->mapped);
    opened--;
    return write(device->events, "c", 1) == 1 ? 0 : misuse();
}

/* What pulling the plug does. */
int cam_unplug(cam_device *device) {
    device->running = 0;
    return write(device->events, "u", 1) == 1 ? 0 : misuse();
}

__attribute__((destructor)) static void report(void) {
    if (getenv("CAMERA_SDK_REPORT") != NULL)
        fprintf(stderr, "sdk: %d devices open, %d buffers lent, %d errors\n", opened, lent, errors);
}
