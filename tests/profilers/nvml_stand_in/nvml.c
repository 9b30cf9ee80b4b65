/* A stand-in for libnvidia-ml.so.1: the functions that are used, with the signatures of nvml.h.
 *
 * Two GPUs. 0: "Stand-in One", 16 GiB. 1: "Stand-in Two", 40 GiB, in MIG mode with instances in places 0 and 2 of 7.
 * Read from the environment once, by nvmlInit:
 *   NVML_FAIL       FUNCTION=CODE[@N],...: the function returns CODE, from its call number N on (from 0).
 *                   FUNCTION may be "device" (every function of a device), or NAME#I (device I alone).
 *   NVML_GPUS       how many of the two there are (2)
 *   NVML_NO_MIG     set: the second one is whole
 *   NVML_ENERGY_MJ  first value of the energy counter of a GPU (1000000), NVML_ENERGY_STEP_MJ its rise per reading (1234)
 *   NVML_POWER_MW, NVML_CLOCK_MHZ, NVML_TEMPERATURE_C   lists "a,b,c": given in turn, over again
 *   NVML_REASONS    bits of the clocks event reasons (0)
 *   NVML_PROCESSES  PID:BYTES,... on GPU 0; the PID may be "self", BYTES "na"; NVML_DRAWING the same for graphics
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int nvmlReturn_t;
enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7
};

typedef struct { const char *name, *uuid; unsigned long long bytes; int mig, index; } Device;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int gpu, memory; } Utilisation;
typedef struct { unsigned int pid; unsigned long long bytes; unsigned int gpu_instance, compute_instance; } Process;

#define GIB (1ULL << 30)
static Device gpus[] = {
    {"Stand-in One", "GPU-11111111-aaaa", 16 * GIB, 0, 0},
    {"Stand-in Two", "GPU-22222222-bbbb", 40 * GIB, 1, 1},
};
static Device instances[] = {
    {"Stand-in Two MIG 3g.20gb", "MIG-33333333-cccc", 20 * GIB, 2, 2},
    {NULL, NULL, 0, 2, 0},
    {"Stand-in Two MIG 1g.5gb", "MIG-44444444-dddd", 5 * GIB, 2, 3},
};

#define MOST 64
static struct { char name[96]; int code; long after, calls; } failures[MOST];
static int failure_count, open_count;
static unsigned long long energy[4], energy_step;

static const char *setting(const char *name, const char *otherwise) {
    const char *text = getenv(name);
    return text ? text : otherwise;
}

static void read_failures(void) {
    char *text = strdup(setting("NVML_FAIL", "")), *rest = text, *item;
    failure_count = 0;
    while ((item = strsep(&rest, ",")) != NULL && failure_count < MOST) {
        char *equals = strchr(item, '=');
        if (!equals) continue;
        *equals = '\0';
        char *at = strchr(equals + 1, '@');
        snprintf(failures[failure_count].name, sizeof failures[0].name, "%s", item);
        failures[failure_count].code = atoi(equals + 1);
        failures[failure_count].after = at ? atol(at + 1) : 0;
        failures[failure_count++].calls = 0;
    }
    free(text);
}

static int failure(const char *name, const Device *device) {
    char one[96];
    int code = SUCCESS;
    snprintf(one, sizeof one, "%s#%d", name, device ? device->index : -1);
    for (int i = 0; i < failure_count; i++) {
        const char *wanted = failures[i].name;
        int meant = !strcmp(wanted, name) || !strcmp(wanted, one) || (device && !strcmp(wanted, "device"));
        if (meant && failures[i].calls++ >= failures[i].after && code == SUCCESS) code = failures[i].code;
    }
    return code;
}

#define ASK(device) do { \
    if (open_count == 0) return UNINITIALIZED; \
    int failed_ = failure(__func__, device); \
    if (failed_ != SUCCESS) return failed_; \
} while (0)
#define WHOLE(device) do { if ((device)->mig == 2) return INVALID_ARGUMENT; } while (0)

/* The n-th of "a,b,c", over again. */
static unsigned int in_turn(const char *list, unsigned long n) {
    unsigned int values[32], count = 0;
    for (const char *at = list; at && count < 32; at = strchr(at, ',')) {
        if (*at == ',') at++;
        values[count++] = (unsigned int)strtoul(at, NULL, 10);
    }
    return values[n % count];
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    read_failures();
    int failed = failure(__func__, NULL);
    if (failed) return failed;
    for (int i = 0; i < 4; i++) energy[i] = strtoull(setting("NVML_ENERGY_MJ", "1000000"), NULL, 10);
    energy_step = strtoull(setting("NVML_ENERGY_STEP_MJ", "1234"), NULL, 10);
    gpus[1].mig = getenv("NVML_NO_MIG") ? 0 : 1;
    open_count++;
    return SUCCESS;
}

nvmlReturn_t nvmlShutdown(void) {
    if (open_count == 0) return UNINITIALIZED;
    open_count--;
    return SUCCESS;
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    ASK(NULL);
    snprintf(version, length, "575.51.03");
    return SUCCESS;
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) {
    ASK(NULL);
    *version = 12090;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) {
    ASK(NULL);
    *count = (unsigned int)atoi(setting("NVML_GPUS", "2"));
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, Device **device) {
    if (index >= (unsigned int)atoi(setting("NVML_GPUS", "2"))) return INVALID_ARGUMENT;
    ASK(&gpus[index]);
    *device = &gpus[index];
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetName(Device *device, char *name, unsigned int length) {
    ASK(device);
    snprintf(name, length, "%s", device->name);
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUUID(Device *device, char *uuid, unsigned int length) {
    ASK(device);
    snprintf(uuid, length, "%s", device->uuid);
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(Device *device, Memory *memory) {
    ASK(device);
    memory->total = device->bytes;
    memory->used = device->bytes / 4;
    memory->free = device->bytes - memory->used;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigMode(Device *device, unsigned int *current, unsigned int *pending) {
    ASK(device);
    WHOLE(device);
    if (device == &gpus[0]) return NOT_SUPPORTED;
    *current = *pending = (unsigned int)device->mig;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned int *count) {
    ASK(device);
    *count = device == &gpus[1] ? 7 : 0;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned int index, Device **instance) {
    ASK(device);
    if (index >= 3 || !instances[index].name) return NOT_FOUND;
    *instance = &instances[index];
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetClockInfo(Device *device, int type, unsigned int *clock_mhz) {
    static unsigned long calls;
    ASK(device);
    WHOLE(device);
    if (type != 1) return INVALID_ARGUMENT; /* the SM clock alone is asked for */
    *clock_mhz = in_turn(setting("NVML_CLOCK_MHZ", "1410"), calls++);
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMaxClockInfo(Device *device, int type, unsigned int *clock_mhz) {
    ASK(device);
    WHOLE(device);
    *clock_mhz = type == 1 ? 1980 : 0;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperature(Device *device, int sensor, unsigned int *temperature) {
    static unsigned long calls;
    ASK(device);
    WHOLE(device);
    *temperature = sensor == 0 ? in_turn(setting("NVML_TEMPERATURE_C", "47"), calls++) : 0;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPowerUsage(Device *device, unsigned int *milliwatts) {
    static unsigned long calls;
    ASK(device);
    WHOLE(device);
    *milliwatts = in_turn(setting("NVML_POWER_MW", "70500"), calls++);
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(Device *device, unsigned int *milliwatts) {
    ASK(device);
    WHOLE(device);
    *milliwatts = 300000;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(Device *device, unsigned long long *millijoules) {
    ASK(device);
    WHOLE(device);
    *millijoules = energy[device->index];
    energy[device->index] += energy_step;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(Device *device, Utilisation *rates) {
    ASK(device);
    WHOLE(device);
    rates->gpu = 25;
    rates->memory = 10;
    return SUCCESS;
}

#ifdef OLD_DRIVER
nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(Device *device, unsigned long long *reasons) {
#else
nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(Device *device, unsigned long long *reasons) {
#endif
    ASK(device);
    WHOLE(device);
    *reasons = strtoull(setting("NVML_REASONS", "0"), NULL, 0);
    return SUCCESS;
}

static nvmlReturn_t processes(const Device *device, const char *list, unsigned int *count, Process *found) {
    unsigned int n = 0, room = found ? *count : 0;
    char *text = strdup(device == &gpus[0] ? list : ""), *rest = text, *item;
    while ((item = strsep(&rest, ",")) != NULL) {
        char *colon = strchr(item, ':');
        if (!colon) continue;
        if (n < room) {
            found[n].pid = strncmp(item, "self:", 5) ? (unsigned int)strtoul(item, NULL, 10) : (unsigned int)getpid();
            found[n].bytes = strcmp(colon + 1, "na") ? strtoull(colon + 1, NULL, 10) : UINT64_MAX;
            found[n].gpu_instance = found[n].compute_instance = UINT32_MAX;
        }
        n++;
    }
    free(text);
    *count = n;
    return n > room ? INSUFFICIENT_SIZE : SUCCESS;
}

#ifdef OLD_DRIVER
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(Device *device, unsigned int *count, Process *found) {
#else
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(Device *device, unsigned int *count, Process *found) {
#endif
    ASK(device);
    return processes(device, setting("NVML_PROCESSES", ""), count, found);
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(Device *device, unsigned int *count, Process *found) {
    ASK(device);
    WHOLE(device);
    return processes(device, setting("NVML_DRAWING", ""), count, found);
}
