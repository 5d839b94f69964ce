/* A stand-in for libcuda.so.1 that follows the documented contract of the calls that the adapter makes, and
 * counts what breaks it: calls without a current context, natives destroyed twice, memory copied after it was
 * freed, calls in a forked child. Streams are threads; an event that was never recorded says that it is done;
 * freeing memory waits for the device; after a crash of a kernel its context answers nothing but 700.
 *
 * It shows that the adapter keeps to the contract as we read it. It says nothing of a device. */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, DEINITIALIZED = 4, INVALID_DEVICE = 101,
       INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_READY = 600, ILLEGAL_ADDRESS = 700 };
#define TOTAL ((size_t)8 << 30)

typedef struct event { int live, refs, recorded; uint64_t asked, done; } event_t;
typedef struct op {
    struct op *next;
    int kind;
    void *to, *from;
    size_t size;
    int byte;
    void (*fn)(void *);
    void *arg;
    event_t *event;
    uint64_t number;
} op_t;
typedef struct stream { struct stream *next; int live; op_t *head, *tail; int busy; pthread_t thread; } stream_t;
typedef struct block { struct block *next; char *at; size_t size; int device; } block_t;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static stream_t *streams, *legacy;
static block_t *blocks;
static size_t used;
static int initialized, crashed, context_object, misuses, events, ended;
static pid_t owner;
static __thread int stack;

enum { COPY, FILL, CALL, RECORD, WAIT, CRASH, FREE };

static int misuse(const char *what)
{
    misuses++;
    fprintf(stderr, "fake cuda: %s\n", what);
    return INVALID_HANDLE;
}

int fake_misuses(void) { return misuses; }
int fake_events(void) { return events; }
/* What the process does at its end before Python has gone: from then on every call says so. */
void fake_end(int now) { ended = now; }

static int enter(void)
{
    if (getpid() != owner) { misuse("called in a forked child"); return NOT_INITIALIZED; }
    if (!initialized) { misuse("called before cuInit"); return NOT_INITIALIZED; }
    if (!stack) { misuse("no context is current"); return INVALID_CONTEXT; }
    return crashed ? ILLEGAL_ADDRESS : OK;
}

static block_t *covers(void *at, size_t size)
{
    for (block_t *b = blocks; b; b = b->next)
        if ((char *)at >= b->at && (char *)at + size <= b->at + b->size) return b;
    return NULL;
}

static int forget(void *at)
{
    for (block_t **b = &blocks; *b; b = &(*b)->next)
        if ((*b)->at == at) {
            block_t *gone = *b;
            *b = gone->next;
            if (gone->device) used -= gone->size;
            memset(gone->at, 0xDD, gone->size);
            free(gone->at);
            free(gone);
            return OK;
        }
    return misuse("memory was freed twice, or is none");
}

static void drop(event_t *e) { if (--e->refs == 0) free(e); }

static void *run(void *arg)
{
    stream_t *s = arg;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!s->head) {
            if (!s->live) { pthread_mutex_unlock(&lock); return NULL; }
            pthread_cond_wait(&changed, &lock);
        }
        op_t *o = s->head;
        s->busy = 1;
        if (!crashed) switch (o->kind) {
        case COPY:
            if (covers(o->to, o->size) && covers(o->from, o->size)) memcpy(o->to, o->from, o->size);
            else misuse("a copy touches memory that was freed");
            break;
        case FILL:
            if (covers(o->to, o->size)) memset(o->to, o->byte, o->size);
            else misuse("a fill touches memory that was freed");
            break;
        case CALL:
            pthread_mutex_unlock(&lock);
            o->fn(o->arg);
            pthread_mutex_lock(&lock);
            break;
        case RECORD:
            if (o->number > o->event->done) o->event->done = o->number;
            drop(o->event);
            break;
        case WAIT:
            while (o->event->done < o->number && !crashed) pthread_cond_wait(&changed, &lock);
            drop(o->event);
            break;
        case CRASH: crashed = 1; break;
        case FREE: forget(o->to); break;
        }
        s->head = o->next;
        if (!s->head) s->tail = NULL;
        s->busy = 0;
        free(o);
        pthread_cond_broadcast(&changed);
    }
}

static stream_t *new_stream(void)
{
    stream_t *s = calloc(1, sizeof *s);
    s->live = 1;
    s->next = streams;
    streams = s;
    pthread_create(&s->thread, NULL, run, s);
    pthread_detach(s->thread);
    return s;
}

static stream_t *find(void *p)
{
    if ((uintptr_t)p <= 2) return legacy ? legacy : (legacy = new_stream());
    for (stream_t *s = streams; s; s = s->next)
        if (s == p && s->live) return s;
    misuse("a stream is used that was destroyed, or is none");
    return NULL;
}

static void push(stream_t *s, op_t given)
{
    op_t *o = malloc(sizeof *o);
    *o = given;
    o->next = NULL;
    if (s->tail) s->tail->next = o; else s->head = o;
    s->tail = o;
    pthread_cond_broadcast(&changed);
}

static void idle(stream_t *only)
{
    for (stream_t *s = streams; s; s = s->next)
        if (!only || s == only)
            while (s->head && !crashed) pthread_cond_wait(&changed, &lock);
}

#define BEGIN int code; pthread_mutex_lock(&lock); code = enter(); if (code) { pthread_mutex_unlock(&lock); return code; }
#define END pthread_mutex_unlock(&lock); return code;

int cuInit(unsigned flags) { (void)flags; owner = getpid(); initialized = 1; return OK; }
int cuDriverGetVersion(int *v) { *v = 12040; return OK; }
int cuGetErrorName(int code, const char **name)
{
    switch (code) {
    case INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; return OK;
    case OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; return OK;
    case ILLEGAL_ADDRESS: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; return OK;
    default: *name = NULL; return INVALID_VALUE;
    }
}
int cuDeviceGetCount(int *n) { *n = 1; return OK; }
int cuDeviceGet(int *d, int n) { *d = n; return n ? INVALID_DEVICE : OK; }
int cuDeviceGetName(char *name, int size, int d) { (void)d; snprintf(name, size, "a stand-in"); return OK; }
int cuDeviceGetAttribute(int *v, int which, int d) { (void)d; *v = which == 115; return OK; }
int cuDevicePrimaryCtxRetain(void **c, int d) { (void)d; *c = &context_object; return OK; }
int cuCtxGetCurrent(void **c) { *c = stack ? &context_object : NULL; return OK; }
int cuCtxPushCurrent_v2(void *c)
{
    if (getpid() != owner) { misuse("called in a forked child"); return NOT_INITIALIZED; }
    if (ended) return DEINITIALIZED;
    if (c != &context_object) return INVALID_CONTEXT;
    stack++;
    return OK;
}
int cuCtxPopCurrent_v2(void **c)
{
    if (!stack) { misuse("a pop without a push"); return INVALID_CONTEXT; }
    *c = &context_object;
    stack--;
    return OK;
}
int cuMemGetInfo_v2(size_t *left, size_t *total) { BEGIN *left = TOTAL - used; *total = TOTAL; END }

static int allocate(void **at, size_t size, int device)
{
    if (device && size > TOTAL - used) return OUT_OF_MEMORY;
    block_t *b = calloc(1, sizeof *b);
    b->at = malloc(size);
    b->size = size;
    b->device = device;
    b->next = blocks;
    blocks = b;
    if (device) used += size;
    *at = b->at;
    return OK;
}
int cuMemAlloc_v2(void **at, size_t size) { BEGIN code = allocate(at, size, 1); END }
int cuMemFree_v2(void *at) { BEGIN idle(NULL); code = forget(at); END }
int cuMemHostAlloc(void **at, size_t size, unsigned flags) { (void)flags; BEGIN code = allocate(at, size, 0); END }
int cuMemFreeHost(void *at) { BEGIN idle(NULL); code = forget(at); END }
int cuMemAllocAsync(void **at, size_t size, void *p)
{
    BEGIN
    code = find(p) ? allocate(at, size, 1) : INVALID_HANDLE;
    END
}
int cuMemFreeAsync(void *at, void *p)
{
    BEGIN
    stream_t *s = find(p);
    if (s) push(s, (op_t){.kind = FREE, .to = at}); else code = INVALID_HANDLE;
    END
}
int cuMemcpyAsync(void *to, void *from, size_t size, void *p)
{
    BEGIN
    stream_t *s = find(p);
    if (!s) code = INVALID_HANDLE;
    else if (!covers(to, size) || !covers(from, size)) { misuse("a copy beyond its memory"); code = INVALID_VALUE; }
    else push(s, (op_t){.kind = COPY, .to = to, .from = from, .size = size});
    END
}
int cuMemsetD8Async(void *to, unsigned char byte, size_t size, void *p)
{
    BEGIN
    stream_t *s = find(p);
    if (!s) code = INVALID_HANDLE;
    else if (!covers(to, size)) { misuse("a fill beyond its memory"); code = INVALID_VALUE; }
    else push(s, (op_t){.kind = FILL, .to = to, .byte = byte, .size = size});
    END
}
int cuStreamCreate(void **p, unsigned flags) { (void)flags; BEGIN *p = new_stream(); END }
int cuStreamDestroy_v2(void *p)
{
    BEGIN
    stream_t *s = find(p);
    if (s) { s->live = 0; pthread_cond_broadcast(&changed); } else code = INVALID_HANDLE;
    END
}
int cuStreamGetCtx(void *p, void **c) { (void)p; *c = &context_object; return OK; }
int cuStreamQuery(void *p)
{
    BEGIN
    stream_t *s = find(p);
    code = !s ? INVALID_HANDLE : s->head ? NOT_READY : OK;
    END
}
int cuStreamSynchronize(void *p)
{
    BEGIN
    stream_t *s = find(p);
    if (s) { idle(s); code = crashed ? ILLEGAL_ADDRESS : OK; } else code = INVALID_HANDLE;
    END
}
int cuStreamWaitEvent(void *p, event_t *e, unsigned flags)
{
    (void)flags;
    BEGIN
    stream_t *s = find(p);
    if (!s || !e->live) code = INVALID_HANDLE;
    else { e->refs++; push(s, (op_t){.kind = WAIT, .event = e, .number = e->asked}); }
    END
}
int cuEventCreate(event_t **e, unsigned flags)
{
    (void)flags;
    BEGIN
    *e = calloc(1, sizeof **e);
    (*e)->live = (*e)->refs = 1;
    events++;
    END
}
int cuEventRecord(event_t *e, void *p)
{
    BEGIN
    stream_t *s = find(p);
    if (!s || !e->live) code = INVALID_HANDLE;
    else { e->refs++; push(s, (op_t){.kind = RECORD, .event = e, .number = ++e->asked}); }
    END
}
int cuEventQuery(event_t *e)
{
    BEGIN
    code = !e->live ? misuse("an event is asked that was destroyed") : e->done >= e->asked ? OK : NOT_READY;
    END
}
int cuEventDestroy_v2(event_t *e)
{
    BEGIN
    if (!e->live) code = misuse("an event was destroyed twice");
    else { e->live = 0; events--; drop(e); }
    END
}
int cuLaunchHostFunc(void *p, void (*fn)(void *), void *arg)
{
    BEGIN
    stream_t *s = find(p);
    if (s) push(s, (op_t){.kind = CALL, .fn = fn, .arg = arg}); else code = INVALID_HANDLE;
    END
}
int cuModuleLoadData(void **m, const void *image) { BEGIN *m = (void *)image; END }
int cuModuleGetFunction(void **f, void *m, const char *name) { (void)name; BEGIN *f = m; END }
int cuLaunchKernel(void *f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g, unsigned h, void *p,
                   void **x, void **y)
{
    (void)f; (void)a; (void)b; (void)c; (void)d; (void)e; (void)g; (void)h; (void)x; (void)y;
    BEGIN
    stream_t *s = find(p);
    if (s) push(s, (op_t){.kind = CRASH}); else code = INVALID_HANDLE;
    END
}
