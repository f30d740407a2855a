/* Shared declarations of the plan runner.

   read.c and check.c turn a spec into a Plan, which never changes afterwards save
   for its caches; call.c, steps.c, launches.c and opaque.c run it. All that one run
   needs lies in a Call, so that runs may nest and may overlap in time. */
#ifndef PIROL_RUNTIME_H
#define PIROL_RUNTIME_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dlpack.h"
#include "step.h"

enum { MAX_RANK = 16, MAX_LAYOUTS = 64, MAX_SPARES = 64 };
enum { ALIGNMENT = 64, VECTOR = 16 }; /* bytes; VECTOR: an access of a CUDA kernel */

static inline size_t aligned(size_t bytes) {
    return (bytes + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
}

/* ---- memory.c: aligned blocks, kept for the next call on a small free list ---- */

typedef struct Pool Pool;

typedef struct Block {
    size_t size;
} Block;

/* Both may be called without the GIL. */
Block *block_take(Pool *pool, size_t size); /* null: out of memory, no exception */
void block_give(Pool *pool, Block *block);  /* null is fine */
Pool *pool_new(void);
void pool_free(Pool *pool);

static inline char *block_data(Block *block) {
    return (char *)block + ALIGNMENT;
}

/* ---- pages.c ---- */

/* Large pages for large memory, also where small ones are there already: what these
   hold is moved, some 0.3 ms for each MB, once. */
void memory_large(void *data, size_t bytes);

/* ---- threads.c: chunks of rows over the OpenMP pool ---- */

typedef struct {
    Kernel kernel;
    void *const *buffers;
    const int64_t *dims;
    int64_t rows, chunks;
    char *scratch;
    size_t scratch_step; /* from one chunk's scratch to the next */
} Job;

typedef struct {
    int64_t begin, end;
} Rows;

typedef void RunChunk(const void *work, int64_t chunk);

int64_t chunk_count(int64_t rows, int64_t grain);
Rows chunk_rows(int64_t rows, int64_t chunks, int64_t chunk); /* alike but for one */
void run_chunks(RunChunk *run, const void *work, int64_t chunks);
void run_job(const Job *job);
bool threads_open(const char *library);
void threads_set(int count);
int threads_get(void);

/* ---- strided.c ---- */

bool is_contiguous(int rank, const int64_t *shape, const int64_t *strides);
/* Could two index tuples name the same item? May answer true where none do. */
bool overlaps_itself(int rank, const int64_t *shape, const int64_t *strides);
/* Strides in items; null stands for contiguous. Items of 1, 2, 4, 8 or 16 bytes. */
void copy_strided(int rank, const int64_t *shape, size_t item, char *to,
                  const int64_t *to_strides, const char *from,
                  const int64_t *from_strides);

/* ---- where tensors live ---- */

typedef struct {
    bool arrays;  /* they are Arrays, not Paddle's */
    int device;   /* of CUDA; -1: the CPU */
    void *stream; /* that all of a call is ordered by */
    const void *copies[4]; /* kernels that copy items of 1, 2, 4, 8 bytes on it */
} Home;

static inline bool on_cuda(const Home *home) {
    return home->device >= 0;
}

/* ---- cuda.c: the driver. Those that return a code give 0 on success ---- */

enum { CUDA_TOO_MANY_AXES = -2 };

typedef struct {
    void *function; /* CUfunction */
    unsigned blocks, threads;
    void **parameters;
} CudaLaunch;

/* Launches one after the other; zeros are an empty one. */
typedef struct {
    void *handle, *last; /* last: node */
} CudaGraph;

/* Kernels stride over the rows that the most blocks do not take. */
static inline unsigned blocks_of(int64_t rows, int64_t each) {
    if (rows <= 0) return 0;
    int64_t blocks = rows / each + (rows % each != 0);
    return blocks < INT32_MAX ? (unsigned)blocks : INT32_MAX;
}

extern PyTypeObject ModuleType;

int cuda_open(const char *library); /* this, cuda_enter, cuda_raise: -1, exception */
int cuda_enter(int device);         /* its context is the thread's until cuda_leave */
void cuda_leave(void);
bool cuda_reenter(int device);      /* again, raising nothing: could it? */
int cuda_raise(int code);
void *cuda_allocate(size_t bytes, void *stream); /* null: out of memory */
void cuda_release(void *data, void *stream);
int cuda_copy(void *to, const void *from, size_t bytes, void *stream);
int cuda_read(void *to, const void *from, size_t bytes, void *stream); /* waits */
int cuda_fill(void *to, const void *from, size_t bytes, void *stream); /* waits */
int cuda_zero(void *to, size_t bytes, void *stream);
int cuda_wait(void *stream);
/* Milliseconds of the stream's work that a few runs give it, after one that is not
   counted; -1: a run failed, or it is not known. */
float cuda_timed(void *stream, int (*run)(void *), void *context);
/* Events: made where there is none, and put behind the stream's work; milliseconds from
   one to another, which is waited for. Codes of CUDA's. */
int cuda_mark(void **event, void *stream);
int cuda_between(void *from, void *to, float *time);
void cuda_unmark(void **event);
int cuda_launch(const CudaLaunch *launch, void *stream);
int cuda_copy_strided(const void *const *kernels, int rank, const int64_t *shape,
                      size_t item, char *to, const int64_t *to_strides,
                      const char *from, const int64_t *from_strides, void *stream);
PyObject *cuda_arch(PyObject *self, PyObject *device);

/* Memory that only one step at a time uses, of a call's stream. */
typedef struct {
    void *data;
    size_t bytes;
} Workspace;

bool cuda_need(Workspace *space, size_t bytes, void *stream); /* false: out of memory */

/* ---- graphs of launches ---- */

/* Of what follows only if the driver has it, only within a context. */
bool cuda_has_graphs(void);
bool cuda_is_capturing(void *stream);
int cuda_graph_add(CudaGraph *graph, const CudaLaunch *launch);
int cuda_graph_instantiate(const CudaGraph *graph, void **exec);
void cuda_graph_drop(CudaGraph *graph); /* what was made of it stays */
int cuda_graph_launch(void *exec, void *stream);
void cuda_graph_free(void *exec);

/* ---- ranges.c: names for launches, where a profiler wants them ---- */

bool ranges_open(const char *library); /* of the profiler's; "": none. Is it there? */
bool ranges_wanted(void);
void range_push(const char *name);
void range_pop(void);

/* ---- the plan ---- */

typedef struct {
    uint8_t code, bits;
    Dims dims;
} TensorSpec;

static inline size_t bytes_of(const TensorSpec *type, const int64_t *shape) {
    size_t bytes = type->bits / 8;
    for (int i = 0; i < type->dims.count; i++) bytes *= (size_t)shape[i];
    return bytes;
}

typedef struct {
    TensorSpec type;
    bool *binds;    /* per axis: this axis gives its slot its value */
    bool written;   /* by the plan */
    bool read_flat; /* by native code, which wants it contiguous */
    int shape_at;   /* where a call keeps its shape and strides, if written */
    void *last;     /* where it was in the last call */
    int times;      /* in how many calls it was there, up to OFTEN */
} InputSpec;

typedef enum { ON_INPUT, ON_ARENA, ON_OUTPUT, ON_OPAQUE, ON_ALIAS } BufferKind;

typedef struct {
    TensorSpec type;
    BufferKind kind;
    int arg;
    int root;                /* whose memory it is: itself, unless an alias */
    int stage;               /* its extents are known after this many binds */
    int dims_at;             /* where a layout keeps its extents */
    int first, last;         /* steps; arena buffers only */
    int first_use, last_use; /* as the steps have it */
    bool read_flat;
    bool as_tensor; /* an arena buffer that opaque steps see: a tensor of its own */
    bool exposed;   /* a step that is not fresh saw it or made it */
    int shown;      /* as how many of the outputs */
} BufferSpec;

/* Ids in groups: group k is ids[begin[k]] .. ids[begin[k + 1] - 1]. */
typedef struct {
    int *begin, *ids;
} Groups;

typedef enum { SET, ADD, SUB, MUL, FLOORDIV, MOD, MAX, MIN } SlotOpKind;

typedef struct {
    SlotOpKind kind;
    int slot;
    int64_t a, b;
} SlotOp;

typedef struct {
    int count;
    SlotOp *ops;
} Segment;

typedef enum { EQ, NE, GE, LT } GuardKind;

typedef struct {
    GuardKind kind;
    Dim a, b;
    int stage; /* where both are known */
} Guard;

enum { MAX_GRAPHS = 8, RECENT = 16 };

typedef struct {
    uint64_t hash;
    int64_t *words; /* all that its launches were made from */
    void *exec;
} Graph;

/* Launches in a row on CUDA. What follows `busy` is the thread's that has set it. */
typedef struct {
    int begin, end; /* steps */
    int n_words;
    atomic_flag busy;
    bool off;                /* a graph failed: there are no more of them */
    uint64_t recent[RECENT]; /* hashes of words that no graph was built for yet */
    unsigned next_recent;
    Graph graphs[MAX_GRAPHS]; /* most recently used first */
    int n_graphs;
    int64_t calls, built, replays;
} Run;

/* Extents and arena offsets of one stage's buffers for one set of slot values. */
typedef struct {
    int holders; /* under the GIL */
    int stage;
    size_t arena_bytes;
    int64_t *slots, *extents;
    size_t *offsets; /* per buffer */
} Layout;

/* Launches that may run one after the other for each item of a batch in turn. */
struct Strip {
    int begin, end; /* steps */
    Dim items;
    Ids own;    /* arena buffers that only it uses: it needs but the items at hand */
    int *owned; /* of each launch's buffers in turn: which of `own`, or -1 */
    int n_buffers, n_dims;
};

/* An operand tensor that no call uses now. */
typedef struct {
    PyObject *object;
    size_t bytes;
    int64_t call; /* the last one that used it */
} Spare;

/* What a run had found out when it missed on its way: the slots of the stages up to its
   own, and the shape of the opaque buffer that was not as expected. */
typedef struct {
    int64_t *slots;
    int stage;        /* -1: nothing */
    int buffer, rank; /* buffer -1: none */
    int64_t shape[MAX_RANK];
} Learned;

typedef struct Plan {
    PyObject_HEAD void *owned; /* chain of the arrays below */
    int n_slots, n_inputs, n_contents, n_segments, n_guards, n_written, n_buffers;
    int n_steps;
    int n_stages; /* binds + 1 */
    InputSpec *inputs;
    Binding *contents; /* items of inputs, read before anything runs */
    Segment *segments;
    Guard *guards;
    int *written;
    BufferSpec *buffers;
    Step *steps;
    Strip *strips;
    int n_strips;
    Ids outputs;
    int *slot_stage;     /* slot -> the stage that sets it, -1: none */
    Groups stages;       /* buffers by stage */
    Groups makes, drops; /* tensors by first and last use */
    int n_extents, n_written_dims, max_launch_buffers, max_launch_dims, max_arguments;
    Run *runs;
    int n_runs, max_words;
    bool graphs;
    PyObject *keep; /* what owns the kernels */
    Home home;      /* of its tensors; of Arrays no step is Python's */
    Pool *pool;
    Layout *layouts[MAX_LAYOUTS]; /* most recently used first */
    int n_layouts;
    Spare spares[MAX_SPARES]; /* oldest first */
    int n_spares;
    size_t spare_bytes, spare_limit;
    int64_t calls, layouts_computed, strips_run;
    size_t arena_bytes;
    char miss[160];
    Learned learned; /* by the last run that missed on its way */
    bool watched;
    double *times; /* of the last watched call, in microseconds: watch.c */
    void **marks;  /* events on a device */
} Plan;

extern PyTypeObject PlanType;

void *plan_alloc(Plan *plan, size_t count, size_t size); /* zeroed, lives as plan */
int read_spec(Plan *plan, PyObject *spec);
int check_plan(Plan *plan);

/* ---- layout.c ---- */

void run_segment(const Segment *segment, int64_t *slots);
/* -1 with an exception where an extent is negative or the size overflows. */
int tensor_bytes(const TensorSpec *type, const int64_t *slots, size_t *bytes);
Layout *layout_get(Plan *plan, int stage, const int64_t *slots); /* held */
void layout_release(Layout *layout);

/* ---- tensor.c: Paddle's tensors, all made without launching a kernel; and Arrays ---- */

int paddle_set(PyObject *capsule);
bool paddle_ready(void);
bool tensor_possible(const TensorSpec *type);     /* has Paddle such a dtype? */
int tensor_view(PyObject *object, DLTensor *out); /* data includes byte_offset */
PyObject *tensor_new(const Home *home, const TensorSpec *type, const int64_t *shape,
                     void **data);
/* A contiguous copy, made without the GIL. */
PyObject *tensor_flat(const Home *home, const TensorSpec *type, const DLTensor *from,
                      void **data);
/* The memory of contiguous `base` (of type `from`) under another type and shape.
   Counted: in-place changes count for both, as with Paddle's own views; slow. */
PyObject *tensor_over(PyObject *base, const TensorSpec *from, const TensorSpec *to,
                      const int64_t *shape, bool counted);
bool tensor_is_private(PyObject *tensor);  /* does only its one owner see it? */
bool tensor_is_attached(PyObject *tensor); /* may a gradient want its operands? */
const char *dtype_name(int code);

/* ---- array.c: the same for plans that run without Paddle ---- */

extern PyTypeObject ArrayType;

bool is_array(PyObject *object);
void array_view(PyObject *object, DLTensor *out);
PyObject *array_new(const Home *home, const TensorSpec *type, const int64_t *shape,
                    void **data);
PyObject *array_over(PyObject *base, const TensorSpec *type, const int64_t *shape);

/* ---- exchange.c: tensors of libraries that have DLPack's C exchange API ---- */

/* The tensor, if nothing has to wait for the stream of its library; null without an
   exception: __dlpack__ must be asked. */
DLManaged *exchange_take(PyObject *object, const void *stream);
/* What `export` gives as a tensor of the library that `like` is from; None: it must
   ask for __dlpack__. */
PyObject *exchange_give(PyObject *like, DLDevice device, const void *stream,
                        DLManaged *(*export)(PyObject *array), PyObject *array);
PyObject *exchange_stream(PyObject *self, PyObject *args);

/* ---- one run of a plan ---- */

typedef struct {
    PyObject *object, *flat; /* flat: a contiguous copy, if one was needed */
    char *data, *flat_data;  /* flat_data: of the copy, else the input's own */
    char *low, *high;        /* the bytes that it spans, if the plan writes inputs */
    int64_t items;
    int64_t *shape, *strides; /* written inputs only */
    bool contiguous;
} Input;

/* Of a root buffer. The references are owned, save an input's. */
typedef struct {
    void *data;
    PyObject *object; /* the tensor, if it is one */
    PyObject *flat;   /* its contiguous copy, if one was needed */
    bool seen;        /* others may see its memory, whatever its step says */
} Buffer;

/* A stage's part of the arena: of a block, or on the device. */
typedef struct {
    Block *block;
    char *data;
} Region;

typedef struct {
    Plan *plan;
    int64_t *slots;
    Input *inputs;
    Buffer *buffers;
    Layout **layouts; /* per stage */
    Region *regions;
    Block *scratch;
    Home home;
    Workspace workspace;
    int code; /* of CUDA or the library, where a step failed */
    int stage;
    bool missed; /* on its way: the sizes are none that the plan was made for */
    int64_t number, strips;
    size_t arena_bytes, operand_bytes; /* operands: of distinct tensors */
    /* Room for the step at hand. */
    void **pointers;
    int64_t *dims;
    int64_t *words;    /* of a run of CUDA launches */
    void **parameters; /* of a CUDA kernel */
    PyObject **arguments;
    Input **by_address; /* if the plan writes inputs */
} Call;

PyObject *plan_run(Plan *plan, PyObject *tensors, void *stream);
int call_make(Call *call, int buffer); /* gives it a tensor */
char *call_scratch(Call *call, size_t bytes); /* until the next; null: no memory */
int call_enter_stage(Call *call, int stage);
PyObject *call_tensor(Call *call, int buffer, bool counted); /* a new reference */
int run_steps(Call *call);
int run_opaque(Call *call, int step);

/* ---- watch.c: when steps begin and end, in plans that are watched ---- */

int watch_set(Plan *plan, bool on);
void watch_start(Call *call);
void watch_begin(Call *call, int step);
void watch_end(Call *call, int step);
void watch_finish(Call *call);
PyObject *watch_times(const Plan *plan); /* (step, begin, end) from the call's start */
void watch_clear(Plan *plan);

/* ---- launches.c: runs of them on CUDA, replayed as graphs where they come again ---- */

int runs_find(Plan *plan);
int run_launches(Call *call, Run *run); /* a code of CUDA's */
void runs_clear(Plan *plan);

/* ---- strips.c ---- */

int strips_find(Plan *plan); /* for their first launches */
/* Runs one, if that is possible and good for sizes such as the call's. */
bool strip_run(Call *call, const Strip *strip);

/* ---- bind.c: numbers that only data tell, and the guards on all sizes ---- */

typedef enum { FAILED = -1, MISSED, PASSED } Verdict;

Verdict miss(Plan *plan, const char *format, ...); /* notes why; MISSED */
Verdict bind_contents(Call *call);
Verdict check_guards(Call *call); /* those of the call's stage */
int run_bind(Call *call, int step);
/* The result for a buffer has another shape than the plan is for; -1. */
int miss_shape(Call *call, int buffer, const DLTensor *tensor);
/* The first extent that differs from what is known by now; -1 if none does. */
int differing_axis(const Call *call, int buffer, const DLTensor *tensor);

/* ---- spare.c: operand tensors from one use to the next; all under the GIL ---- */

int spare_take(Call *call, int buffer);  /* gives it a tensor, if possible an old one */
void spare_give(Call *call, int buffer); /* takes its tensor away */
void spare_limit(Plan *plan, size_t bytes);
void spare_clear(Plan *plan);

#endif
