/* What NVIDIA's libraries, each found by dlopen, have in common: cuda.c, blas.c, dnn.c,
   attention.c, fft.c. */
#ifndef PIROL_LIBRARIES_H
#define PIROL_LIBRARIES_H

#include <dlfcn.h>

#include "runtime.h"

/* A function of a library, and where its address goes. */
typedef struct {
    const char *name;
    void **place;
} Named;

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* The first that the library has not; null where all were found. */
static inline const char *find_all(void *library, const Named *named, size_t count) {
    const char *missing = NULL;
    for (size_t i = 0; i < count; i++) {
        *named[i].place = dlsym(library, named[i].name);
        if (!*named[i].place && !missing) missing = named[i].name;
    }
    return missing;
}

/* Floats that libraries compute with; halves they add up in float32. */
typedef enum { F32, F64, F16, BF16, NO_FLOAT } Float;

static inline Float float_of(const TensorSpec *type) {
    if (type->code == DL_BFLOAT && type->bits == 16) return BF16;
    if (type->code != DL_FLOAT) return NO_FLOAT;
    switch (type->bits) {
        case 16: return F16;
        case 32: return F32;
        case 64: return F64;
        default: return NO_FLOAT;
    }
}

static inline bool is_half(Float kind) {
    return kind == F16 || kind == BF16;
}

enum { LIBRARY_NO_MEMORY = -1, LIBRARY_TOO_LARGE = -2, LIBRARY_NOT_OPEN = -3 };
enum { LIBRARY_HAS_NONE = -4 }; /* no way to do it */
enum { MAX_DEVICES = 64 };

static inline uint64_t hash_bytes(const void *data, size_t size) {
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ ((const unsigned char *)data)[i]) * 1099511628211u;
    return hash ^ hash >> 32;
}

/* ---- blas.c: products of matrices by cuBLASLt ---- */

/* Element [b, place, term] lies at b * batch + place * pitch + term; where it is
   turned, at b * batch + term * pitch + place. */
typedef struct {
    const void *data;
    bool turned;
    int64_t pitch, batch;
} Matrix;

/* out[b, row, column] = sum of left[b, row, term] right[b, column, term], and of
   added[column] where that is not null; of halves `to` may be F32, else it is as `of`;
   no size is 0. */
typedef struct {
    Float of, to;
    int64_t batch, rows, columns, terms;
    Matrix left, right;
    const void *added;
    void *out;
} Multiply;

PyObject *blas_open(PyObject *self, PyObject *args);
/* A status of the library, or LIBRARY_NO_MEMORY; in the context of the device. */
int blas_multiply(const Multiply *multiply, const Home *home, Workspace *space);
int blas_raise(int status);

/* ---- dnn.c: convolutions by cuDNN ---- */

/* A dense tensor; of weights [O, C / groups, ...], else [N, C, ...]. */
typedef struct {
    void *data;
    int64_t shape[2 + MAX_WINDOW];
} Image;

/* out[n, o, p] = sum of w[o, c, t] x[n, c, p * stride + t * dilation - padding] over
   the channels c of o's group and the window's places t, what lies outside x being 0;
   no size is 0. */
typedef struct {
    Float of;
    const Window *window;
    Image x, w, out;
} Convolve;

PyObject *dnn_open(PyObject *self, PyObject *args);
int dnn_convolve(const Convolve *convolve, const Home *home, Workspace *space);
int dnn_raise(int status);
void *dnn_reach(const char *library, int device); /* what dlopen gave, or null */
bool dnn_has_part(const char *library, const char *part);
void *dnn_handle(int device);
int dnn_on_stream(const Home *home);

/* ---- attention.c: attention by cuDNN ---- */

typedef struct {
    const void *data;
    int64_t steps[4]; /* in elements; 0: it repeats */
} Strided;

/* out[b, h, row, column] = sum over t of softmax(scale * q[b, h, row] k[b, h, t] +
   added[b, h, row, t]) v[b, h, t, column]; where it turns, out[b, row, h, column]; no
   size is 0. */
typedef struct {
    Float of, added_of; /* NO_FLOAT: nothing is added */
    int64_t batch, heads, rows, width, keys, terms;
    Strided operands[4];
    bool turns;
    double scale;
    void *out; /* dense */
} Attend;

PyObject *attention_open(PyObject *self, PyObject *args);
int attention_run(const Attend *attend, const Home *home, Workspace *space);

/* ---- fft.c: Fourier transforms by cuFFT ---- */

/* Of dense lines of `length` complex numbers, or of real ones on one side, in double
   precision where `wide`; unscaled; no size is 0. */
typedef struct {
    TransformKind kind;
    bool wide;
    int64_t lines, length;
    void *x, *out;
} Lines;

PyObject *fft_open(PyObject *self, PyObject *args);
int fft_run(const Lines *lines, const Home *home, Workspace *space);
int fft_raise(int status);

#endif
