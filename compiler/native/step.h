/* The steps of a plan. */
#ifndef PIROL_STEP_H
#define PIROL_STEP_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

typedef void (*Kernel)(void *const *buffers, const int64_t *dims, int64_t begin,
                       int64_t end, void *scratch);

/* d >= 0 is the extent itself, d < 0 stands for slot -(d + 1) of the call. */
typedef int64_t Dim;

static inline int dim_slot(Dim dim) {
    return (int)-(dim + 1);
}

static inline int64_t dim_value(Dim dim, const int64_t *slots) {
    return dim >= 0 ? dim : slots[dim_slot(dim)];
}

typedef struct {
    int count;
    int *at;
} Ids;

typedef struct {
    int count;
    Dim *at;
} Dims;

typedef enum {
    LAUNCH,
    OPAQUE,
    BIND,
    WRITE,
    CHECK,
    PRODUCT,
    CONVOLUTION,
    ATTENTION,
    TRANSFORM,
    SORT
} StepKind;

/* On CUDA the kernel is a CUfunction, `grain` the threads of a block and `scratch` the
   rows that a block takes. */
typedef struct Strip Strip;

typedef struct {
    Kernel kernel;
    Ids buffers; /* after checking: the roots */
    Dims dims;
    Dim rows, grain, scratch;
    const char *label; /* for profilers */
    int run;           /* that it is in, on CUDA */
    const Strip *strip; /* that it begins, or null */
} LaunchStep;

typedef struct {
    PyObject *callable, *name;
    Ids inputs, outputs;
    bool fresh; /* nothing sees the operands' memory once the step is over */
} OpaqueStep;

/* One number that only data tell, taken when it is there. */
typedef struct {
    int source;      /* a buffer; of `contents` an input */
    int place, slot; /* the axis or item read; the slot to set, -1: none */
    bool item;       /* an item of the tensor (>= 0), not an extent */
    bool known;      /* compare with the slot, or with: */
    int64_t literal;
} Binding;

typedef struct {
    int count;
    Binding *bindings;
    int segment; /* or -1 */
} BindStep;

typedef struct {
    int source, input;
} WriteStep;

typedef struct {
    int source; /* a bool scalar; the call ends where it is false */
    PyObject *message;
} CheckStep;

/* Buffers: after checking, the roots. */
typedef struct {
    int left, right, added, out; /* added: -1, none */
    Dim batch, rows, columns, terms;
    bool left_turned, right_turned;
    Dim left_pitch, right_pitch, left_batch, right_batch;
} ProductStep;

enum { MAX_WINDOW = 3 };

typedef struct {
    int rank, groups;
    int strides[MAX_WINDOW], padding[MAX_WINDOW], dilation[MAX_WINDOW];
} Window;

/* Buffers: as the spec has them, since their own extents count. */
typedef struct {
    int x, w, out;
    Window window;
} ConvolutionStep;

/* Where an operand lies: its elements [batch, head, row, column] at `from` and these
   steps, in elements. */
typedef struct {
    int buffer; /* after checking: the root */
    Dim from, steps[4];
} Lies;

enum { QUERIES, KEYS, VALUES, ADDED };

typedef struct {
    Lies operands[4];
    int out; /* the root */
    bool adds; /* whether there is what is added */
    bool turns; /* the result is [batch, row, head, column], not [batch, head, ..] */
    double scale;
    Dim batch, heads, rows, width, keys, terms;
} AttentionStep;

typedef enum { C2C_FORWARD, C2C_BACKWARD, R2C, C2R } TransformKind;

/* Of lines of `length` numbers, of which C2R is given, and R2C gives, half. */
typedef struct {
    int x, out; /* after checking: the roots */
    TransformKind kind;
    Dim lines, length;
} TransformStep;

/* The first `count` of each row, in order, and where they were. */
typedef struct {
    int x, values, indices; /* after checking: the roots; -1: not wanted */
    bool descending;
    Dim lines, length, count;
    const void *kernels[2]; /* of CUDA */
} SortStep;

typedef struct {
    StepKind kind;
    union {
        LaunchStep launch;
        OpaqueStep opaque;
        BindStep bind;
        WriteStep write;
        CheckStep check;
        ProductStep product;
        ConvolutionStep convolution;
        AttentionStep attention;
        TransformStep transform;
        SortStep sort;
    };
} Step;

#endif
