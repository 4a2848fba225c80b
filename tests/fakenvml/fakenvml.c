/*
 * A fake of libnvidia-ml.so.1, controlled by a test while a program uses it.
 *
 * All results are computed from one memory-mapped control page (the file named by FAKENVML_CONTROL), which tests write
 * from Python (see __init__.py: it has the same structs, and the page holds its own size). The power of a GPU is a list
 * of segments, each a square wave with a closed-form integral. So the energy counter, the instantaneous power and the
 * one-second mean follow from one exact function of time: CLOCK_MONOTONIC, or the instant that the test has written to
 * the page (manual clock).
 *
 * Readers are consistent without locks: the writer makes `sequence` odd while it writes, and a reader repeats when it
 * has read an odd or a changed sequence.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAGIC 0x4c4d564e454b4146ULL
#define MAX_GPUS 72
#define MAX_SEGMENTS 128
#define MAX_PIDS 32
#define MAX_INSTANCES 8
#define MAX_SYMBOLS 64

enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7, ARGUMENT_VERSION_MISMATCH = 25, LOST = 15, UNKNOWN = 999
};

enum {
    FLAG_NO_ENERGY = 1 << 0, FLAG_NO_AVERAGE = 1 << 1, FLAG_NO_INSTANT = 1 << 2, FLAG_NO_USAGE = 1 << 3,
    FLAG_ZERO_WATTS = 1 << 4, FLAG_FROZEN = 1 << 5, FLAG_NO_UTILIZATION = 1 << 6, FLAG_NO_MEMORY = 1 << 7,
    FLAG_NO_LIMIT = 1 << 8, FLAG_NO_TEMPERATURE = 1 << 9, FLAG_NO_PROCESSES = 1 << 10, FLAG_NO_ACCESS = 1 << 11,
    FLAG_NO_FIELDS = 1 << 12, FLAG_MIG = 1 << 13, FLAG_MODULE = 1 << 14, FLAG_NO_GPU_SCOPE = 1 << 15,
    FLAG_NO_THROTTLE = 1 << 16, FLAG_NO_USAGE_BY_PROCESS = 1 << 17, FLAG_OLD_USAGE_BY_PROCESS = 1 << 18,
    FLAG_NO_GPM = 1 << 19
};

struct segment {
    double start_seconds;
    double joules_before;
    double low_watts;
    double high_watts;
    double period_seconds; /* 0: constant at high_watts */
    double duty;
    double phase_seconds;
};

struct instance {
    char uuid[96];
    unsigned int pid_count;
    unsigned int pids[MAX_PIDS];
    char profile[32];
    unsigned int gpu_instance;
    unsigned int slices; /* compute slices */
    double busy_percent; /* relative to its own multiprocessors */
};

struct gpu {
    char uuid[96];
    char name[96];
    unsigned int architecture;
    unsigned int pci_device_id;
    unsigned int pci_bus;
    unsigned int flags;
    int error; /* returned by every call for this GPU; 0: none */
    unsigned int flicker; /* number of energy and power values that return NOT_SUPPORTED next */
    unsigned int utilization_percent;
    int temperature_celsius;
    unsigned int limit_mw;
    unsigned int min_limit_mw;
    unsigned int max_limit_mw;
    unsigned int module_limit_mw;
    unsigned long long memory_total;
    unsigned long long memory_used;
    unsigned long long memory_reserved;
    unsigned long long throttle_ns[4]; /* fields 74 and three of events, by driver version */
    unsigned int smoothing; /* enabled: 0 unsupported, 1 off, 2 on */
    unsigned int floor_watts; /* applied floor */
    unsigned int preset; /* active preset profile of power smoothing */
    unsigned int stuck_mw; /* every power reads as this; 0: none is stuck */
    unsigned int persistence;
    unsigned long long frozen_mj;
    double hang_until_seconds;
    double offset_joules;
    double refresh_seconds;
    double module_factor; /* module watts / GPU watts */
    unsigned int pid_count;
    unsigned int pids[MAX_PIDS];
    unsigned int usage_count;
    unsigned int usage_pids[MAX_PIDS];
    unsigned int usage_percent[MAX_PIDS];
    unsigned long long usage_us; /* their time stamp */
    unsigned int total_slices;
    unsigned int instance_count;
    struct instance instances[MAX_INSTANCES];
    unsigned int segment_count;
    unsigned int spare;
    struct segment segments[MAX_SEGMENTS];
};

struct symbol {
    char name[56];
    unsigned long long calls;
};

struct control {
    unsigned long long magic;
    unsigned long long size;
    unsigned int sequence;
    int init_error;
    unsigned int driver_epoch; /* raised when the driver is reloaded: older initialisations get UNINITIALIZED */
    unsigned int count;
    unsigned int order[MAX_GPUS]; /* index -> GPU */
    unsigned int delay_us;
    unsigned int busy_us;
    int gpm_samples; /* allocated and not freed */
    unsigned int hanging; /* calls that hang now */
    double now_seconds; /* 0: CLOCK_MONOTONIC */
    char driver_version[80];
    struct symbol symbols[MAX_SYMBOLS];
    struct gpu gpus[MAX_GPUS];
};

struct handle {
    unsigned int slot;
    int instance; /* -1: the GPU itself */
};

static struct control *page;
static int initialised;
static unsigned int epoch;
static struct handle gpu_handles[MAX_GPUS];
static struct handle instance_handles[MAX_GPUS][MAX_INSTANCES];

static double monotonic_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double now_seconds(void)
{
    double kept = page ? *(volatile const double *)&page->now_seconds : 0.0;
    return kept > 0.0 ? kept : monotonic_seconds();
}

/* ---------------------------------------------------------------------------------------------------- consistency */

static unsigned int read_begin(const struct control *c)
{
    unsigned int seen;
    for (int tries = 0; ((seen = __atomic_load_n(&c->sequence, __ATOMIC_ACQUIRE)) & 1) && tries < 1000000; tries++)
        sched_yield();
    return seen;
}

static int read_retry(const struct control *c, unsigned int seen)
{
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return __atomic_load_n(&c->sequence, __ATOMIC_RELAXED) != seen;
}

#define READING(c)                                                                                                     \
    for (unsigned int seen_ = read_begin(c), once_ = 1; once_ || (read_retry(c, seen_) && (seen_ = read_begin(c), 1)); \
         once_ = 0)

/* --------------------------------------------------------------------------------------------------------- physics */

/* Integral of the wave from 0 to x (x may be negative). */
static double wave_integral(const struct segment *s, double x)
{
    if (s->period_seconds <= 0)
        return s->high_watts * x;
    double whole = floor(x / s->period_seconds);
    double rest = x - whole * s->period_seconds;
    double on = s->duty * s->period_seconds;
    double part = rest < on ? s->high_watts * rest : s->high_watts * on + s->low_watts * (rest - on);
    return whole * (s->high_watts * on + s->low_watts * (s->period_seconds - on)) + part;
}

static const struct segment *segment_at(const struct gpu *g, double at)
{
    unsigned int n = g->segment_count < MAX_SEGMENTS ? g->segment_count : MAX_SEGMENTS;
    unsigned int i = n ? n - 1 : 0;
    while (i > 0 && g->segments[i].start_seconds > at)
        i--;
    return &g->segments[i];
}

static double joules_at(const struct gpu *g, double at)
{
    const struct segment *s = segment_at(g, at);
    return s->joules_before + wave_integral(s, at - s->start_seconds + s->phase_seconds) -
           wave_integral(s, s->phase_seconds);
}

static double watts_at(const struct gpu *g, double at)
{
    const struct segment *s = segment_at(g, at);
    if (s->period_seconds <= 0)
        return s->high_watts;
    double x = at - s->start_seconds + s->phase_seconds;
    double rest = x - floor(x / s->period_seconds) * s->period_seconds;
    return rest < s->duty * s->period_seconds ? s->high_watts : s->low_watts;
}

static unsigned long long energy_mj(const struct gpu *g, double at)
{
    if (g->flags & FLAG_FROZEN)
        return g->frozen_mj;
    double when = g->refresh_seconds > 0 ? floor(at / g->refresh_seconds) * g->refresh_seconds : at;
    double factor = g->flags & FLAG_MODULE ? g->module_factor : 1.0;
    double joules = joules_at(g, when) * factor + g->offset_joules;
    return joules > 0 ? (unsigned long long)(joules * 1000.0) : 0;
}

static unsigned int power_mw(const struct gpu *g, double at, int average, int module)
{
    if (g->flags & FLAG_ZERO_WATTS)
        return 0;
    if (g->stuck_mw)
        return g->stuck_mw;
    double watts = average ? joules_at(g, at) - joules_at(g, at - 1.0) : watts_at(g, at);
    return (unsigned int)(watts * (module ? g->module_factor : 1.0) * 1000.0 + 0.5);
}

/* ---------------------------------------------------------------------------------------------------- entry points */

static int map_page(void)
{
    const char *path = getenv("FAKENVML_CONTROL");
    if (!path) {
        fprintf(stderr, "fakenvml: FAKENVML_CONTROL names no control file\n");
        return UNKNOWN;
    }
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        perror(path);
        return UNKNOWN;
    }
    struct stat st;
    if (fstat(fd, &st) || (size_t)st.st_size < sizeof(struct control)) {
        fprintf(stderr, "fakenvml: %s has %ld bytes, %zu are needed\n", path, (long)st.st_size, sizeof(struct control));
        close(fd);
        return UNKNOWN;
    }
    struct control *c = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (c == MAP_FAILED || c->magic != MAGIC || c->size != sizeof(struct control)) {
        fprintf(stderr, "fakenvml: %s is not a control page of this library\n", path);
        return UNKNOWN;
    }
    /* An older mapping stays: a hung call may still read it. */
    page = c;
    return SUCCESS;
}

static void count_call(struct control *c, int index, const char *name)
{
    if (!c->symbols[index].name[0])
        strncpy(c->symbols[index].name, name, sizeof(c->symbols[index].name) - 1);
    __atomic_fetch_add(&c->symbols[index].calls, 1, __ATOMIC_RELAXED);
}

static void spend_time(const struct control *c)
{
    unsigned int delay = c->delay_us, busy = c->busy_us;
    if (delay) {
        struct timespec t = {delay / 1000000, (long)(delay % 1000000) * 1000};
        nanosleep(&t, NULL);
    }
    if (busy) {
        double end = monotonic_seconds() + busy * 1e-6;
        while (monotonic_seconds() < end)
            ;
    }
}

static int alive(const struct control *c)
{
    if (!c || !initialised)
        return UNINITIALIZED;
    return c->driver_epoch == epoch ? SUCCESS : UNINITIALIZED;
}

/* Whether the GPU is present, and the error of every call for it. Blocks while it hangs. */
static int gpu_state(struct control *c, const struct handle *h)
{
    if (!h || h->slot >= MAX_GPUS)
        return INVALID_ARGUMENT;
    const struct gpu *g = &c->gpus[h->slot];
    volatile const double *until = &g->hang_until_seconds;
    if (*until > now_seconds()) {
        __atomic_fetch_add(&c->hanging, 1, __ATOMIC_RELAXED);
        while (*until > now_seconds()) {
            struct timespec t = {0, 2000000};
            nanosleep(&t, NULL);
        }
        __atomic_fetch_sub(&c->hanging, 1, __ATOMIC_RELAXED);
    }
    int answer = LOST;
    READING(c)
    {
        answer = LOST;
        unsigned int n = c->count < MAX_GPUS ? c->count : MAX_GPUS;
        for (unsigned int i = 0; i < n; i++)
            if (c->order[i] == h->slot)
                answer = g->error;
    }
    return answer;
}

enum symbol_index { SYMBOL_NONE = __COUNTER__ };
#define COUNTED count_call(page, __COUNTER__ - SYMBOL_NONE, __func__)

/* The first lines of every call for a GPU. */
#define ON_GPU(device)                                                                                                 \
    int state_ = alive(page);                                                                                          \
    if (state_)                                                                                                        \
        return state_;                                                                                                 \
    struct control *c = page;                                                                                          \
    COUNTED;                                                                                                           \
    spend_time(c);                                                                                                     \
    const struct handle *h = device;                                                                                   \
    if ((state_ = gpu_state(c, h)))                                                                                    \
        return state_;                                                                                                 \
    struct gpu *g = &c->gpus[h->slot];                                                                                 \
    (void)g

#define GPU_ONLY                                                                                                       \
    if (h->instance >= 0)                                                                                              \
    return NOT_SUPPORTED

#define REFUSE_IF(flag)                                                                                                \
    if (g->flags & (flag))                                                                                             \
    return NOT_SUPPORTED

/* True while values of energy and power flicker; counts down. */
static int flickers(struct gpu *g)
{
    unsigned int left = __atomic_load_n(&g->flicker, __ATOMIC_RELAXED);
    while (left)
        if (__atomic_compare_exchange_n(&g->flicker, &left, left - 1, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            return 1;
    return 0;
}

int nvmlInitWithFlags(unsigned int flags)
{
    (void)flags;
    if (!initialised) {
        int mapped = map_page();
        if (mapped)
            return mapped;
    }
    COUNTED;
    if (page->init_error)
        return page->init_error;
    if (initialised && page->driver_epoch != epoch)
        initialised = 0;
    epoch = page->driver_epoch;
    initialised++;
    for (unsigned int i = 0; i < MAX_GPUS; i++) {
        gpu_handles[i] = (struct handle){i, -1};
        for (int j = 0; j < MAX_INSTANCES; j++)
            instance_handles[i][j] = (struct handle){i, j};
    }
    return SUCCESS;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void)
{
    if (!initialised)
        return UNINITIALIZED;
    COUNTED;
    initialised--;
    return SUCCESS;
}

const char *nvmlErrorString(int code)
{
    static char text[40];
    snprintf(text, sizeof text, "fake error %d", code);
    return text;
}

static int copy_text(char *to, unsigned int length, const char *from)
{
    if (strlen(from) + 1 > length)
        return INSUFFICIENT_SIZE;
    strcpy(to, from);
    return SUCCESS;
}

int nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
    int state = alive(page);
    if (state)
        return state;
    COUNTED;
    return copy_text(version, length, page->driver_version);
}

int nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
    int state = alive(page);
    return state ? state : copy_text(version, length, "13.0");
}

int nvmlDeviceGetCount_v2(unsigned int *count)
{
    int state = alive(page);
    if (state)
        return state;
    COUNTED;
    spend_time(page);
    *count = page->count;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device)
{
    int state = alive(page);
    if (state)
        return state;
    COUNTED;
    spend_time(page);
    unsigned int slot = MAX_GPUS;
    READING(page) slot = index < page->count && index < MAX_GPUS ? page->order[index] : MAX_GPUS;
    if (slot >= MAX_GPUS)
        return INVALID_ARGUMENT;
    if (page->gpus[slot].flags & FLAG_NO_ACCESS)
        return NO_PERMISSION;
    if ((state = gpu_state(page, &gpu_handles[slot])))
        return state;
    *device = &gpu_handles[slot];
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device)
{
    int state = alive(page);
    if (state)
        return state;
    COUNTED;
    spend_time(page);
    unsigned int n = page->count < MAX_GPUS ? page->count : MAX_GPUS;
    for (unsigned int i = 0; i < n; i++) {
        unsigned int slot = page->order[i];
        if (slot < MAX_GPUS && !strcmp(page->gpus[slot].uuid, uuid)) {
            if ((state = gpu_state(page, &gpu_handles[slot])))
                return state;
            *device = &gpu_handles[slot];
            return SUCCESS;
        }
    }
    return NOT_FOUND;
}

int nvmlDeviceGetIndex(void *device, unsigned int *index)
{
    ON_GPU(device);
    for (unsigned int i = 0; i < c->count && i < MAX_GPUS; i++)
        if (c->order[i] == h->slot)
            *index = i;
    return SUCCESS;
}

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned int length)
{
    ON_GPU(device);
    if (h->instance >= 0)
        return copy_text(uuid, length, g->instances[h->instance].uuid);
    return copy_text(uuid, length, g->uuid);
}

int nvmlDeviceGetName(void *device, char *name, unsigned int length)
{
    ON_GPU(device);
    if (h->instance < 0)
        return copy_text(name, length, g->name);
    char whole[160];
    snprintf(whole, sizeof whole, "%s MIG %s", g->name, g->instances[h->instance].profile);
    return copy_text(name, length, whole);
}

struct pci_info {
    char bus_id_legacy[16];
    unsigned int domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
};

int nvmlDeviceGetPciInfo_v3(void *device, struct pci_info *info)
{
    ON_GPU(device);
    GPU_ONLY;
    memset(info, 0, sizeof *info);
    info->bus = g->pci_bus;
    info->pci_device_id = g->pci_device_id;
    snprintf(info->bus_id_legacy, sizeof info->bus_id_legacy, "0000:%02X:00.0", g->pci_bus & 0xff);
    snprintf(info->bus_id, sizeof info->bus_id, "00000000:%02X:00.0", g->pci_bus & 0xff);
    return SUCCESS;
}

int nvmlDeviceGetArchitecture(void *device, unsigned int *architecture)
{
    ON_GPU(device);
    *architecture = g->architecture;
    return SUCCESS;
}

int nvmlDeviceGetPersistenceMode(void *device, unsigned int *mode)
{
    ON_GPU(device);
    *mode = g->persistence;
    return SUCCESS;
}

/* ------------------------------------------------------------------------------------------------ power and energy */

/* The one-second mean everywhere from Ampere on except GA100, whose device ids are 0x2080 to 0x20ff. */
static int usage_is_average(const struct gpu *g)
{
    unsigned int id = g->pci_device_id >> 16;
    return g->architecture >= 7 && !(id >= 0x2080 && id <= 0x20ff);
}

int nvmlDeviceGetPowerUsage(void *device, unsigned int *power)
{
    ON_GPU(device);
    GPU_ONLY;
    REFUSE_IF(FLAG_NO_USAGE);
    if (flickers(g))
        return NOT_SUPPORTED;
    READING(c) *power = power_mw(g, now_seconds(), usage_is_average(g), g->flags & FLAG_NO_GPU_SCOPE);
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *energy)
{
    ON_GPU(device);
    GPU_ONLY;
    REFUSE_IF(FLAG_NO_ENERGY);
    if (flickers(g))
        return NOT_SUPPORTED;
    READING(c) *energy = energy_mj(g, now_seconds());
    return SUCCESS;
}

struct field_value {
    unsigned int field_id;
    unsigned int scope_id;
    long long timestamp;
    long long latency_us;
    unsigned int value_type; /* 1 unsigned int, 3 unsigned long long */
    int answer;
    union {
        double d;
        unsigned int ui;
        unsigned long long ull;
    } value;
};

/* Number of the first field of throttle events (three of them) and of power smoothing in this driver's nvml.h: 0 for a
 * driver that has none. From 575 to 580.65 the events come first, at 251, and smoothing at 256. */
static unsigned int first_event(const struct control *c)
{
    double version = atof(c->driver_version);
    return version < 575.0 ? 0 : version < 580.82 ? 251 : 269;
}

static unsigned int first_smoothing(const struct control *c)
{
    double version = atof(c->driver_version);
    return version < 575.0 || version >= 580.82 ? 251 : 256;
}

static void one_field(struct control *c, struct gpu *g, double at, struct field_value *v)
{
    int module = v->scope_id == 1;
    unsigned long long wide = 0;
    unsigned int narrow = 0;
    int answer = NOT_SUPPORTED, is_wide = 0;
    int fickle = v->field_id == 83 || v->field_id == 191 || v->field_id == 185 || v->field_id == 186;

    READING(c)
    {
        int scope_ok = module ? !!(g->flags & FLAG_MODULE)
                              : v->scope_id == 0 && !(g->flags & FLAG_NO_GPU_SCOPE);
        answer = NOT_SUPPORTED;
        is_wide = 0;
        switch (v->field_id) {
        case 83:
        case 191:
            /* The scoped field exists for the module only on superchips; for the GPU it equals field 83. */
            if (!(g->flags & FLAG_NO_ENERGY) && (v->field_id == 83 || v->scope_id == 0 || scope_ok)) {
                is_wide = 1;
                wide = energy_mj(g, at);
                answer = SUCCESS;
            }
            break;
        case 185:
        case 186:
            if (scope_ok && !(g->flags & (v->field_id == 185 ? FLAG_NO_AVERAGE : FLAG_NO_INSTANT))) {
                narrow = power_mw(g, at, v->field_id == 185, module);
                answer = SUCCESS;
            }
            break;
        case 187:
        case 188:
        case 190:
            if (scope_ok && !(g->flags & FLAG_NO_LIMIT)) {
                narrow = module ? g->module_limit_mw
                                : v->field_id == 187 ? g->min_limit_mw
                                                     : v->field_id == 188 ? g->max_limit_mw : g->limit_mw;
                answer = SUCCESS;
            }
            break;
        case 74:
            if (!(g->flags & FLAG_NO_THROTTLE)) {
                is_wide = 1;
                wide = g->throttle_ns[0];
                answer = SUCCESS;
            }
            break;
        default: {
            unsigned int event = v->field_id - first_event(c), smoothing = v->field_id - first_smoothing(c);
            if (first_event(c) && event < 3 && !(g->flags & FLAG_NO_THROTTLE)) {
                is_wide = 1;
                wide = g->throttle_ns[1 + event];
                answer = SUCCESS;
            } else if (smoothing == 0 && g->smoothing) {
                narrow = g->smoothing - 1;
                answer = SUCCESS;
            } else if (smoothing == 4 && g->smoothing == 2) {
                narrow = g->floor_watts;
                answer = SUCCESS;
            } else if (smoothing == 13 && g->smoothing) {
                narrow = g->preset;
                answer = SUCCESS;
            } else if (smoothing > 4 && smoothing < 18 && smoothing != 13 && g->smoothing) {
                answer = SUCCESS; /* settings, all 0 */
            }
        }
        }
    }
    if (answer == SUCCESS && fickle && flickers(g))
        answer = NOT_SUPPORTED;
    struct timespec wall;
    clock_gettime(CLOCK_REALTIME, &wall);
    v->timestamp = (long long)wall.tv_sec * 1000000 + wall.tv_nsec / 1000;
    v->latency_us = 1;
    v->answer = answer;
    v->value.ull = 0xdeadbeefdeadbeefULL; /* for a caller that ignores `answer` */
    if (answer == SUCCESS) {
        v->value_type = is_wide ? 3 : 1;
        if (is_wide)
            v->value.ull = wide;
        else
            v->value.ui = narrow; /* the upper half stays undefined: the union must be read by its type */
    }
}

int nvmlDeviceGetFieldValues(void *device, int count, struct field_value *values)
{
    ON_GPU(device);
    GPU_ONLY;
    REFUSE_IF(FLAG_NO_FIELDS);
    double at = now_seconds();
    for (int i = 0; i < count; i++)
        one_field(c, g, at, &values[i]);
    return SUCCESS;
}

int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned int *limit)
{
    ON_GPU(device);
    GPU_ONLY;
    REFUSE_IF(FLAG_NO_LIMIT);
    *limit = g->limit_mw;
    return SUCCESS;
}

int nvmlDeviceGetPowerManagementLimit(void *device, unsigned int *limit)
{
    return nvmlDeviceGetEnforcedPowerLimit(device, limit);
}

int nvmlDeviceGetPowerManagementLimitConstraints(void *device, unsigned int *low, unsigned int *high)
{
    ON_GPU(device);
    GPU_ONLY;
    REFUSE_IF(FLAG_NO_LIMIT);
    *low = g->min_limit_mw;
    *high = g->max_limit_mw;
    return SUCCESS;
}

/* --------------------------------------------------------------------------------------------------- other telemetry */

struct temperature {
    unsigned int version;
    unsigned int sensor;
    int temperature;
};

int nvmlDeviceGetTemperatureV(void *device, struct temperature *t)
{
    ON_GPU(device);
    GPU_ONLY;
    REFUSE_IF(FLAG_NO_TEMPERATURE);
    if (t->version != 0x100000C)
        return ARGUMENT_VERSION_MISMATCH;
    t->temperature = g->temperature_celsius;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(void *device, unsigned int sensor, unsigned int *temperature)
{
    ON_GPU(device);
    GPU_ONLY;
    REFUSE_IF(FLAG_NO_TEMPERATURE);
    (void)sensor;
    *temperature = (unsigned int)g->temperature_celsius;
    return SUCCESS;
}

struct utilization {
    unsigned int gpu, memory;
};

int nvmlDeviceGetUtilizationRates(void *device, struct utilization *u)
{
    ON_GPU(device);
    GPU_ONLY;
    REFUSE_IF(FLAG_NO_UTILIZATION | FLAG_MIG);
    u->gpu = g->utilization_percent;
    u->memory = g->utilization_percent / 2;
    return SUCCESS;
}

struct memory {
    unsigned long long total, free, used;
};

int nvmlDeviceGetMemoryInfo(void *device, struct memory *m)
{
    ON_GPU(device);
    GPU_ONLY;
    REFUSE_IF(FLAG_NO_MEMORY);
    *m = (struct memory){g->memory_total, g->memory_total - g->memory_used - g->memory_reserved,
                         g->memory_used + g->memory_reserved};
    return SUCCESS;
}

struct memory_v2 {
    unsigned int version;
    unsigned long long total, reserved, free, used;
};

int nvmlDeviceGetMemoryInfo_v2(void *device, struct memory_v2 *m)
{
    ON_GPU(device);
    GPU_ONLY;
    REFUSE_IF(FLAG_NO_MEMORY);
    if (m->version != 0x02000028)
        return ARGUMENT_VERSION_MISMATCH;
    m->total = g->memory_total;
    m->reserved = g->memory_reserved;
    m->used = g->memory_used;
    m->free = g->memory_total - g->memory_used - g->memory_reserved;
    return SUCCESS;
}

/* ------------------------------------------------------------------------------------------------ sharing, processes */

int nvmlDeviceGetMigMode(void *device, unsigned int *current, unsigned int *pending)
{
    ON_GPU(device);
    GPU_ONLY;
    if (g->architecture < 7)
        return NOT_SUPPORTED;
    *current = *pending = g->flags & FLAG_MIG ? 1 : 0;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned int *count)
{
    ON_GPU(device);
    GPU_ONLY;
    *count = g->flags & FLAG_MIG ? MAX_INSTANCES : 0;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned int index, void **instance)
{
    ON_GPU(device);
    GPU_ONLY;
    if (!(g->flags & FLAG_MIG) || index >= g->instance_count || index >= MAX_INSTANCES)
        return NOT_FOUND;
    *instance = &instance_handles[h->slot][index];
    return SUCCESS;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *instance, void **device)
{
    ON_GPU(instance);
    *device = &gpu_handles[h->slot];
    return SUCCESS;
}

struct process {
    unsigned int pid;
    unsigned long long used_memory;
    unsigned int gpu_instance, compute_instance;
};

static int list_processes(const struct handle *h, const struct gpu *g, unsigned int *count, struct process *out)
{
    const unsigned int *pids = g->pids;
    unsigned int n = g->pid_count;
    if (g->flags & FLAG_NO_PROCESSES)
        return NOT_SUPPORTED;
    if (h->instance >= 0) {
        pids = g->instances[h->instance].pids;
        n = g->instances[h->instance].pid_count;
    } else if (g->flags & FLAG_MIG) {
        return NO_PERMISSION; /* the aggregate over all instances needs privileges */
    }
    if (n > MAX_PIDS)
        n = MAX_PIDS;
    if (*count < n || (n && !out)) {
        *count = n;
        return INSUFFICIENT_SIZE;
    }
    *count = n;
    for (unsigned int i = 0; i < n; i++)
        out[i] = (struct process){pids[i], 1ULL << 30, h->instance >= 0 ? (unsigned)h->instance : 0xFFFFFFFFu,
                                  h->instance >= 0 ? 0 : 0xFFFFFFFFu};
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned int *count, struct process *out)
{
    ON_GPU(device);
    return list_processes(h, g, count, out);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned int *count, struct process *out)
{
    ON_GPU(device);
    (void)out;
    REFUSE_IF(FLAG_NO_PROCESSES);
    *count = 0;
    return SUCCESS;
}

int nvmlDeviceGetMPSComputeRunningProcesses_v3(void *device, unsigned int *count, struct process *out)
{
    ON_GPU(device);
    (void)out;
    REFUSE_IF(FLAG_NO_PROCESSES);
    *count = 0;
    return SUCCESS;
}

/* Use by process: rows newer than a time stamp; NOT_FOUND where there are none, as of an idle driver. */

struct usage_row {
    unsigned int pid;
    unsigned long long time_stamp;
    unsigned int sm, memory, encoder, decoder;
};

struct usage_row_v1 {
    unsigned long long time_stamp;
    unsigned int pid, sm, memory, encoder, decoder, jpeg, optical_flow;
};

struct usage_info {
    unsigned int version, count;
    unsigned long long last_seen;
    struct usage_row_v1 *rows;
};

/* The time stamp of the samples: fixed, or that of the call where they are lasting. */
static unsigned long long usage_us(const struct gpu *g)
{
    return g->usage_us == ~0ULL ? (unsigned long long)(now_seconds() * 1e6) : g->usage_us;
}

static unsigned int usage_count(const struct gpu *g, unsigned long long since)
{
    return usage_us(g) > since && g->usage_count <= MAX_PIDS ? g->usage_count : 0;
}

int nvmlDeviceGetProcessUtilization(void *device, struct usage_row *rows, unsigned int *count, unsigned long long since)
{
    ON_GPU(device);
    GPU_ONLY;
    REFUSE_IF(FLAG_NO_USAGE_BY_PROCESS | FLAG_OLD_USAGE_BY_PROCESS | FLAG_MIG);
    unsigned int n = usage_count(g, since);
    if (!n)
        return NOT_FOUND;
    if (!rows || *count < n) {
        *count = n;
        return INSUFFICIENT_SIZE;
    }
    *count = n;
    for (unsigned int i = 0; i < n; i++)
        rows[i] = (struct usage_row){g->usage_pids[i], usage_us(g), g->usage_percent[i], 0, 0, 0};
    return SUCCESS;
}

int nvmlDeviceGetProcessesUtilizationInfo(void *device, struct usage_info *info)
{
    ON_GPU(device);
    GPU_ONLY;
    REFUSE_IF(FLAG_NO_USAGE_BY_PROCESS | FLAG_MIG);
    if (info->version != 0x01000018)
        return ARGUMENT_VERSION_MISMATCH;
    unsigned int n = usage_count(g, info->last_seen);
    if (!n)
        return NOT_FOUND;
    if (!info->rows || info->count < n) {
        info->count = n;
        return INSUFFICIENT_SIZE;
    }
    info->count = n;
    for (unsigned int i = 0; i < n; i++)
        info->rows[i] = (struct usage_row_v1){usage_us(g), g->usage_pids[i], g->usage_percent[i], 0, 0, 0, 0, 0};
    return SUCCESS;
}

/* ---------------------------------------------------------------------------------------------- instances, their GPM */

#define INSTANCE_ONLY                                                                                                  \
    if (h->instance < 0)                                                                                               \
    return INVALID_ARGUMENT

int nvmlDeviceGetGpuInstanceId(void *device, unsigned int *id)
{
    ON_GPU(device);
    INSTANCE_ONLY;
    *id = g->instances[h->instance].gpu_instance;
    return SUCCESS;
}

int nvmlDeviceGetComputeInstanceId(void *device, unsigned int *id)
{
    ON_GPU(device);
    INSTANCE_ONLY;
    *id = (unsigned int)h->instance;
    return SUCCESS;
}

struct attributes {
    unsigned int multiprocessors, copy_engines, decoders, encoders, jpeg, optical_flow, gpu_slices, compute_slices;
    unsigned long long memory_mb;
};

int nvmlDeviceGetAttributes_v2(void *device, struct attributes *a)
{
    ON_GPU(device);
    INSTANCE_ONLY;
    memset(a, 0, sizeof *a);
    a->compute_slices = g->instances[h->instance].slices;
    a->gpu_slices = a->compute_slices;
    return SUCCESS;
}

struct profile_info_v2 {
    unsigned int version, id, is_p2p, slices, instances, multiprocessors, copy_engines, decoders, encoders, jpeg, ofa;
    unsigned long long memory_mb;
    char name[96];
};

int nvmlDeviceGetGpuInstanceProfileInfoV(void *device, unsigned int profile, struct profile_info_v2 *info)
{
    static const unsigned int slices[] = {1, 2, 3, 4, 7, 8, 6};
    ON_GPU(device);
    GPU_ONLY;
    if (profile >= sizeof slices / sizeof *slices || slices[profile] > g->total_slices)
        return NOT_SUPPORTED;
    info->slices = slices[profile];
    return SUCCESS;
}

struct gpm_support {
    unsigned int version, supported;
};

int nvmlGpmQueryDeviceSupport(void *device, struct gpm_support *support)
{
    ON_GPU(device);
    GPU_ONLY;
    support->supported = g->architecture >= 9 && !(g->flags & FLAG_NO_GPM);
    return SUCCESS;
}

struct gpm_sample {
    int taken;
    unsigned int slot, gpu_instance;
    double at;
};

int nvmlGpmSampleAlloc(struct gpm_sample **sample)
{
    COUNTED;
    *sample = calloc(1, sizeof **sample);
    page->gpm_samples++;
    return *sample ? SUCCESS : UNKNOWN;
}

int nvmlGpmSampleFree(struct gpm_sample *sample)
{
    COUNTED;
    page->gpm_samples--;
    free(sample);
    return SUCCESS;
}

int nvmlGpmMigSampleGet(void *device, unsigned int gpu_instance, struct gpm_sample *sample)
{
    ON_GPU(device);
    GPU_ONLY;
    if (!(g->flags & FLAG_MIG) || g->architecture < 9 || g->flags & FLAG_NO_GPM)
        return NOT_SUPPORTED;
    *sample = (struct gpm_sample){1, h->slot, gpu_instance, now_seconds()};
    return SUCCESS;
}

struct gpm_metric {
    unsigned int id;
    int answer;
    double value;
    const char *names[3];
};

struct gpm_metrics {
    unsigned int version, count;
    struct gpm_sample *before, *after;
    struct gpm_metric rows[];
};

/* Metric 2 (busy multiprocessors) of the instance; no other metric is supported. */
int nvmlGpmMetricsGet(struct gpm_metrics *m)
{
    COUNTED;
    if (m->version != 1 || !m->before || !m->after || !m->before->taken || !m->after->taken)
        return INVALID_ARGUMENT;
    if (m->before->slot != m->after->slot || m->before->gpu_instance != m->after->gpu_instance ||
        m->after->at - m->before->at < 0.1)
        return INVALID_ARGUMENT;
    const struct gpu *g = &page->gpus[m->after->slot];
    for (unsigned int i = 0; i < m->count; i++) {
        m->rows[i].answer = NOT_SUPPORTED;
        for (unsigned int j = 0; m->rows[i].id == 2 && j < g->instance_count && j < MAX_INSTANCES; j++)
            if (g->instances[j].gpu_instance == m->after->gpu_instance) {
                m->rows[i].answer = SUCCESS;
                m->rows[i].value = g->instances[j].busy_percent;
            }
    }
    return SUCCESS;
}
