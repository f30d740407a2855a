// cudnn.c - stands in for libcudnn.so where there is no GPU: checks what it is given,
// against the live allocations of driver.c too, and convolves plainly, here and now.
// What it does not know, or what does not fit, is BAD_PARAM.
//
// Also counts what a test wants to know: stand_in_convolutions, stand_in_asked ...
#define _GNU_SOURCE
#include <stddef.h>

enum { NOT_INITIALIZED = 1001, BAD_PARAM = 2000, NOT_SUPPORTED = 3000 };
#define REFUSED BAD_PARAM
#define BFLOAT16 9
#include "library.h"

enum { TENSOR_OPS = 1, FMA = 3, MOST_RANK = 5 };
enum { TENSOR = 0x74, FILTER = 0x66, WINDOW = 0x77, HANDLE = 0x68 };
enum { PRECOMPUTED = 1, EXPLICIT = 2, DIRECT = 3, WINOGRAD = 6 };

typedef struct {
    int what, type, rank, sizes[MOST_RANK];
} Tensor;

typedef struct {
    int what, type, rank, mode, groups, math, padding[3], strides[3], dilation[3];
} Window;

typedef struct {
    int algorithm, status;
    float time;
    size_t memory;
    int determinism, math, reserved[3];
} Answer;

_Static_assert(sizeof(Answer) == 48 && offsetof(Answer, memory) == 16, "as the header's");

static long convolutions, grouped, turned, used[8];
static void *stream;
static int stream_is_set;
static long on_stream[256];  // by its lowest byte

int cudnnCreate(void **handle) {
    static int one = HANDLE;
    *handle = &one;
    return holds ? 0 : NOT_INITIALIZED;
}
const char *cudnnGetErrorString(int status) {
    static char text[400];
    snprintf(text, sizeof text, "CUDNN_STATUS_%s %s",
             status == NOT_SUPPORTED ? "NOT_SUPPORTED" : "BAD_PARAM", finding);
    return text;
}
int cudnnSetStream(const int *handle, void *given) {
    NEED(*handle == HANDLE);
    stream = given;
    stream_is_set = 1;
    return 0;
}

// ---- descriptors ----

static int made(void **out, size_t size, int what) {
    *out = calloc(1, size);
    *(int *)*out = what;
    described++;
    return 0;
}
int cudnnCreateTensorDescriptor(void **out) { return made(out, sizeof(Tensor), TENSOR); }
int cudnnCreateFilterDescriptor(void **out) { return made(out, sizeof(Tensor), FILTER); }
int cudnnCreateConvolutionDescriptor(void **out) {
    return made(out, sizeof(Window), WINDOW);
}
int cudnnDestroyTensorDescriptor(void *p) { return gone(p, TENSOR); }
int cudnnDestroyFilterDescriptor(void *p) { return gone(p, FILTER); }
int cudnnDestroyConvolutionDescriptor(void *p) { return gone(p, WINDOW); }

static int set_sizes(Tensor *t, int type, int rank, const int *sizes) {
    int64_t items = 1;
    NEED(item_of(type));
    NEED(rank == 4 || rank == 5);
    t->type = type;
    t->rank = rank;
    for (int i = 0; i < rank; i++) {
        NEED(sizes[i] > 0);
        NEED((items *= sizes[i]) <= INT32_MAX);
        t->sizes[i] = sizes[i];
    }
    return 0;
}
int cudnnSetTensorNdDescriptor(Tensor *t, int type, int rank, const int *sizes,
                               const int *strides) {
    NEED(t->what == TENSOR);
    int status = set_sizes(t, type, rank, sizes);
    for (int i = rank - 1, step = 1; i >= 0 && !status; step *= sizes[i--])
        NEED(strides[i] == step);
    return status;
}
int cudnnSetFilterNdDescriptor(Tensor *t, int type, int layout, int rank,
                               const int *sizes) {
    NEED(t->what == FILTER && layout == 0);
    return set_sizes(t, type, rank, sizes);
}
int cudnnSetConvolutionNdDescriptor(Window *w, int rank, const int *padding,
                                    const int *strides, const int *dilation, int mode,
                                    int type) {
    NEED(w->what == WINDOW && (rank == 2 || rank == 3));
    NEED(type == R32 || type == R64);
    NEED(mode == 0 || mode == 1);
    w->type = type;
    w->rank = rank;
    w->mode = mode;
    w->groups = 1;
    w->math = 0;
    for (int i = 0; i < rank; i++) {
        NEED(padding[i] >= 0 && strides[i] > 0 && dilation[i] > 0);
        w->padding[i] = padding[i];
        w->strides[i] = strides[i];
        w->dilation[i] = dilation[i];
    }
    return 0;
}
int cudnnSetConvolutionGroupCount(Window *w, int groups) {
    NEED(w->what == WINDOW && groups > 0);
    w->groups = groups;
    return 0;
}
int cudnnSetConvolutionMathType(Window *w, int math) {
    NEED(w->what == WINDOW && math >= 0 && math <= FMA);
    w->math = math;
    return 0;
}

// ---- convolutions ----

static int fit(const Tensor *x, const Tensor *w, const Window *window,
               const Tensor *out) {
    NEED(x->what == TENSOR && w->what == FILTER && out->what == TENSOR);
    NEED(window->what == WINDOW && x->rank == window->rank + 2);
    NEED(w->rank == x->rank && out->rank == x->rank);
    NEED(w->type == x->type && out->type == x->type);
    NEED(window->type == (x->type == R64 ? R64 : R32));
    NEED(window->math == (x->type == R32 ? FMA : is_half(x->type) ? TENSOR_OPS : 0));
    NEED(w->sizes[1] * window->groups == x->sizes[1]);
    NEED(w->sizes[0] % window->groups == 0);
    NEED(out->sizes[0] == x->sizes[0] && out->sizes[1] == w->sizes[0]);
    for (int i = 0; i < window->rank; i++) {
        int reach = window->dilation[i] * (w->sizes[2 + i] - 1) + 1;
        int room = x->sizes[2 + i] + 2 * window->padding[i] - reach;
        NEED(room >= 0 && out->sizes[2 + i] == room / window->strides[i] + 1);
    }
    return 0;
}

static int64_t items(const Tensor *t) {
    int64_t count = 1;
    for (int i = 0; i < t->rank; i++) count *= t->sizes[i];
    return count;
}

static size_t bytes_of(const Tensor *t) {
    return (size_t)items(t) * item_of(t->type);
}

static size_t workspace_of(const Tensor *out, int algorithm) {
    if (algorithm == DIRECT) return (size_t)1 << 40;
    return out->sizes[1] % 2 ? 0 : 4096 * (size_t)(1 + algorithm);
}

int cudnnGetConvolutionForwardWorkspaceSize(const int *handle, const Tensor *x,
                                            const Tensor *w, const Window *window,
                                            const Tensor *out, int algorithm,
                                            size_t *bytes) {
    NEED(*handle == HANDLE && algorithm >= 0 && algorithm < 8);
    if (refusing > 1) return NOT_SUPPORTED;
    *bytes = workspace_of(out, algorithm);
    return fit(x, w, window, out);
}

// The best is none that may be taken: another rounding, not supported, tf32, no memory.
int cudnnGetConvolutionForwardAlgorithm_v7(const int *handle, const Tensor *x,
                                           const Tensor *w, const Window *window,
                                           const Tensor *out, int most, int *count,
                                           Answer *answers) {
    const Answer all[] = {
        {WINOGRAD, 0, 1, 0, 1, FMA, {0}},
        {EXPLICIT, NOT_SUPPORTED, 2, 0, 1, FMA, {0}},
        {EXPLICIT, 0, 3, 0, 1, 0, {0}},
        {DIRECT, 0, 4, workspace_of(out, DIRECT), 1, FMA, {0}},
        {PRECOMPUTED, 0, 5, workspace_of(out, PRECOMPUTED), 1, FMA, {0}},
    };
    *count = 0;
    NEED(*handle == HANDLE && stream_is_set && most >= 5);
    int status = fit(x, w, window, out);
    if (status) return status;
    asked++;
    if (refusing) return NOT_SUPPORTED;
    memcpy(answers, all, sizeof all);
    *count = 5;
    return 0;
}

// The sum over the window of one place, of one channel of x.
static double sum(const void *x, const Tensor *of_x, int64_t image, const void *w,
                  const Tensor *of_w, int64_t filter, const Window *window,
                  const int *place) {
    int taps = 1, rank = window->rank;
    double total = 0;
    for (int i = 0; i < rank; i++) taps *= of_w->sizes[2 + i];
    for (int tap = 0; tap < taps; tap++) {
        int64_t at = 0, inside = 1, rest = tap, step = 1;
        for (int i = rank - 1; i >= 0; i--) {
            int size = of_w->sizes[2 + i], t = (int)(rest % size);
            int64_t from = (int64_t)place[i] * window->strides[i] +
                           (int64_t)t * window->dilation[i] - window->padding[i];
            rest /= size;
            inside &= from >= 0 && from < of_x->sizes[2 + i];
            at += from * step;
            step *= of_x->sizes[2 + i];
        }
        int swap = turned != (window->mode == 0);
        if (inside)
            total +=
                number_at(x, of_x->type, image * step + at) *
                number_at(w, of_w->type, filter * taps + (swap ? taps - 1 - tap : tap));
    }
    return total;
}

static void convolve(const void *x, const Tensor *of_x, const void *w,
                     const Tensor *of_w, const Window *window, void *out,
                     const Tensor *of_out) {
    int each = of_w->sizes[0] / window->groups, channels = of_w->sizes[1];
    for (int64_t k = 0; k < items(of_out); k++) {
        int place[3];
        int64_t rest = k;
        for (int i = window->rank - 1; i >= 0; i--) {
            place[i] = (int)(rest % of_out->sizes[2 + i]);
            rest /= of_out->sizes[2 + i];
        }
        int64_t o = rest % of_out->sizes[1], n = rest / of_out->sizes[1];
        double total = 0;
        for (int64_t c = 0; c < channels; c++)
            total += sum(x, of_x, n * of_x->sizes[1] + o / each * channels + c, w, of_w,
                         o * channels + c, window, place);
        set_number(out, of_out->type, k, total);
    }
}

static int is(const void *number, int type, double value) {
    return (type == R32 ? *(const float *)number : *(const double *)number) == value;
}

static int apart(const char *a, size_t n, const char *b, size_t m) {
    return a + n <= b || b + m <= a;
}

int cudnnConvolutionForward(const int *handle, const void *alpha, const Tensor *of_x,
                            const void *x, const Tensor *of_w, const void *w,
                            const Window *window, int algorithm, void *workspace,
                            size_t bytes, const void *beta, const Tensor *of_out,
                            void *out) {
    size_t wanted = workspace_of(of_out, algorithm), n = bytes_of(of_out);
    NEED(*handle == HANDLE && stream_is_set);
    int status = fit(of_x, of_w, window, of_out);
    if (status) return status;
    NEED(algorithm >= 0 && algorithm <= EXPLICIT);
    NEED(is(alpha, window->type, 1) && is(beta, window->type, 0));
    NEED(holds(x, bytes_of(of_x)) && holds(w, bytes_of(of_w)) && holds(out, n));
    NEED(apart(x, bytes_of(of_x), out, n) && apart(w, bytes_of(of_w), out, n));
    NEED(bytes >= wanted);
    if (wanted) {
        NEED(holds(workspace, bytes) && (uintptr_t)workspace % 256 == 0);
        memset(workspace, 0xEE, bytes);
    }
    convolve(x, of_x, w, of_w, window, out, of_out);
    convolutions++;
    on_stream[(uintptr_t)stream & 255]++;
    grouped += window->groups > 1;
    used[algorithm]++;
    spend((float)(1 + EXPLICIT - algorithm));
    return 0;
}

// ---- for tests ----

long stand_in_convolutions(void) { return convolutions; }
long stand_in_grouped(void) { return grouped; }
long stand_in_simplest(void) { return used[0]; }
long stand_in_explicit(void) { return used[EXPLICIT]; }
long stand_in_on_stream(long number) { return on_stream[number & 255]; }
void stand_in_turn(long on) { turned = on; }
