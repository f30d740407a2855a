// cufft.c - stands in for libcufft.so where there is no GPU: checks what it is given,
// against the live allocations of driver.c too, and transforms plainly, here and now. As
// the real one's, its complex-to-real transforms take imaginary parts for what they are
// of numbers that should have none: they would be wrong. What it does not know, or what
// does not fit, is INVALID.
//
// Also counts what a test wants to know: stand_in_transforms, stand_in_built ...
#define _GNU_SOURCE
#include <complex.h>
#include <math.h>

enum { INVALID = 8, NO_PLAN = 1, SETUP_FAILED = 7 };
#define REFUSED INVALID
#define BFLOAT16 14
#include "library.h"

enum { R2C = 0x2a, C2R = 0x2c, C2C = 0x29, D2Z = 0x6a, Z2D = 0x6c, Z2Z = 0x69 };
enum { MOST = 256, WORK = 64 };

typedef struct {
    int used, own, type;
    int64_t length, lines;
    void *area;
} Plan;

static Plan plans[MOST];
static long transforms, built;

static Plan *at(int plan) {
    return plan > 0 && plan < MOST && plans[plan].used ? &plans[plan] : NULL;
}

int cufftCreate(int *out) {
    if (refusing) return SETUP_FAILED;
    NEED(holds);
    for (int k = 1; k < MOST; k++)
        if (!plans[k].used) {
            plans[k] = (Plan){.used = 1, .own = 1};
            described++;
            *out = k;
            return 0;
        }
    return SETUP_FAILED;
}
int cufftDestroy(int plan) {
    NEED(at(plan));
    described--;
    plans[plan].used = 0;
    return 0;
}
int cufftSetAutoAllocation(int plan, int own) {
    NEED(at(plan) && !plans[plan].type);
    plans[plan].own = own;
    return 0;
}
int cufftMakePlanMany64(int plan, int rank, long long *n, long long *in, long long from,
                        long long next, long long *out, long long to, long long after,
                        int type, long long batch, size_t *work) {
    Plan *p = at(plan);
    (void)from, (void)next, (void)to, (void)after;
    NEED(p && !p->type && rank == 1 && n[0] > 0 && batch > 0 && !in && !out && work);
    NEED((type & 0x40) == 0 || (type & 0x40) == 0x40);
    *p = (Plan){1, p->own, type, n[0], batch, NULL};
    *work = WORK;
    built++;
    return 0;
}
int cufftSetStream(int plan, void *stream) {
    (void)stream;
    NEED(at(plan));
    return 0;
}
int cufftSetWorkArea(int plan, void *area) {
    NEED(at(plan) && !plans[plan].own && holds(area, WORK));
    plans[plan].area = area;
    return 0;
}

static double complex get(const void *x, int wide, int64_t k) {
    return wide ? ((const double complex *)x)[k] : ((const float complex *)x)[k];
}
static double real(const void *x, int wide, int64_t k) {
    return wide ? ((const double *)x)[k] : ((const float *)x)[k];
}
static void put(void *x, int wide, int64_t k, double complex z) {
    if (wide)
        ((double complex *)x)[k] = z;
    else
        ((float complex *)x)[k] = (float complex)z;
}
static void put_real(void *x, int wide, int64_t k, double z) {
    if (wide)
        ((double *)x)[k] = z;
    else
        ((float *)x)[k] = (float)z;
}

static int run(int plan, int type, const void *x, void *out, int way) {
    Plan *p = at(plan);
    NEED(p && p->type == type && x && out && x != out);
    NEED(p->own || (p->area && holds(p->area, WORK)));
    int wide = type >> 6 & 1, from_real = (type & 15) == 10, to_real = (type & 15) == 12;
    int64_t n = p->length, half = n / 2 + 1;
    int64_t given = to_real ? half : n, made = from_real ? half : n;
    size_t part = wide ? 8 : 4;
    NEED(holds(x, part * (from_real ? 1 : 2) * given * p->lines));
    NEED(holds(out, part * (to_real ? 1 : 2) * made * p->lines));
    double complex *line = malloc(n * sizeof *line);
    for (int64_t l = 0; l < p->lines; l++) {
        for (int64_t k = 0; k < n; k++) {
            int64_t at = l * given + k;
            line[k] = from_real ? real(x, wide, at)
                      : k < given ? get(x, wide, at) : conj(line[n - k]);
        }
        for (int64_t k = 0; k < made; k++) {
            double complex sum = 0;
            for (int64_t j = 0; j < n; j++)
                sum += line[j] * cexp(way * 2 * M_PI * I * (double)(j * k % n) / n);
            if (to_real)  // what should have no imaginary part counts with it
                put_real(out, wide, l * n + k, creal(sum) + cimag(sum));
            else
                put(out, wide, l * made + k, sum);
        }
    }
    free(line);
    transforms++;
    return 0;
}

int cufftExecC2C(int p, void *x, void *out, int way) { return run(p, C2C, x, out, way); }
int cufftExecZ2Z(int p, void *x, void *out, int way) { return run(p, Z2Z, x, out, way); }
int cufftExecR2C(int p, void *x, void *out) { return run(p, R2C, x, out, -1); }
int cufftExecD2Z(int p, void *x, void *out) { return run(p, D2Z, x, out, -1); }
int cufftExecC2R(int p, void *x, void *out) { return run(p, C2R, x, out, 1); }
int cufftExecZ2D(int p, void *x, void *out) { return run(p, Z2D, x, out, 1); }

// ---- for tests ----

long stand_in_transforms(void) { return transforms; }
long stand_in_built(void) { return built; }
