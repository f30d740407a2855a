/* The steps of a call. Launches, libraries' steps, writes and checks in a row run
   without the GIL. */
#include <string.h>

#include "libraries.h"
#include "sort.h"

typedef enum {
    DONE,
    NO_MEMORY,
    SIZES_DIFFER,
    FALSE_CHECK,
    CUDA_FAILED,
    BLAS_FAILED,
    DNN_FAILED,
    FFT_FAILED,
    TOO_LONG
} Status;

static Status cuda_done(Call *call, int code) {
    call->code = code;
    return code ? CUDA_FAILED : DONE;
}

char *call_scratch(Call *call, size_t bytes) {
    if (!call->scratch || call->scratch->size < bytes) {
        block_give(call->plan->pool, call->scratch);
        call->scratch = block_take(call->plan->pool, bytes);
    }
    return call->scratch ? block_data(call->scratch) : NULL;
}

static Status give_scratch(Call *call, Job *job, int64_t bytes) {
    size_t all;
    if (bytes <= 0) return DONE;
    if ((uint64_t)bytes > SIZE_MAX / 4) return NO_MEMORY;
    job->scratch_step = aligned((size_t)bytes);
    if (__builtin_mul_overflow(job->scratch_step, (size_t)job->chunks, &all))
        return NO_MEMORY;
    job->scratch = call_scratch(call, all);
    return job->scratch ? DONE : NO_MEMORY;
}

static Status run_launch(Call *call, const LaunchStep *launch) {
    const int64_t *slots = call->slots;
    Job job = {.kernel = launch->kernel, .buffers = call->pointers, .dims = call->dims};
    job.rows = dim_value(launch->rows, slots);
    if (job.rows <= 0) return DONE;
    for (int i = 0; i < launch->buffers.count; i++)
        call->pointers[i] = call->buffers[launch->buffers.at[i]].data;
    for (int i = 0; i < launch->dims.count; i++)
        call->dims[i] = dim_value(launch->dims.at[i], slots);
    job.chunks = chunk_count(job.rows, dim_value(launch->grain, slots));
    Status status = give_scratch(call, &job, dim_value(launch->scratch, slots));
    if (status == DONE) run_job(&job);
    return status;
}

static int64_t count_items(const Call *call, const Dims *dims) {
    int64_t items = 1;
    for (int i = 0; i < dims->count; i++) items *= dim_value(dims->at[i], call->slots);
    return items;
}

static Status write_cuda(Call *call, const WriteStep *write, const char *from,
                         size_t bytes, size_t item) {
    const Input *input = &call->inputs[write->input];
    const Home *home = &call->home;
    int rank = call->plan->inputs[write->input].type.dims.count, code = 0;
    if (!input->contiguous)
        code = cuda_copy_strided(home->copies, rank, input->shape, item, input->data,
                                 input->strides, from, NULL, home->stream);
    if (!code && (input->contiguous || input->flat) && input->flat_data != from)
        code = cuda_copy(input->flat_data, from, bytes, home->stream);
    return cuda_done(call, code);
}

static Status run_write(Call *call, const WriteStep *write) {
    const BufferSpec *source = &call->plan->buffers[write->source];
    const Input *input = &call->inputs[write->input];
    const char *from = call->buffers[source->root].data;
    size_t item = source->type.bits / 8, bytes = (size_t)input->items * item;
    if (count_items(call, &source->type.dims) != input->items) return SIZES_DIFFER;
    if (bytes == 0) return DONE;
    if (on_cuda(&call->home)) return write_cuda(call, write, from, bytes, item);
    if (!input->contiguous)
        copy_strided(call->plan->inputs[write->input].type.dims.count, input->shape,
                     item, input->data, input->strides, from, NULL);
    /* The input itself, or the copy of it that later launches read. */
    if ((input->contiguous || input->flat) && input->flat_data != from)
        memmove(input->flat_data, from, bytes);
    return DONE;
}

static Status run_check(Call *call, const CheckStep *check) {
    const char *data = call->buffers[check->source].data;
    char ok;
    if (!on_cuda(&call->home)) return *data ? DONE : FALSE_CHECK;
    Status status = cuda_done(call, cuda_read(&ok, data, 1, call->home.stream));
    return status != DONE || ok ? status : FALSE_CHECK;
}

static Matrix matrix_at(const Call *call, int buffer, bool turned, Dim pitch,
                        Dim batch) {
    return (Matrix){call->buffers[buffer].data, turned, dim_value(pitch, call->slots),
                    dim_value(batch, call->slots)};
}

/* A product of no terms: zeros, or the same row everywhere. */
static Status write_nothing(Call *call, const Multiply *of, size_t item) {
    const Home *home = &call->home;
    const int64_t shape[] = {of->batch * of->rows, of->columns}, repeat[] = {0, 1};
    size_t items = (size_t)(shape[0] * shape[1]);
    if (!of->added)
        return cuda_done(call, cuda_zero(of->out, items * item, home->stream));
    return cuda_done(call,
                     cuda_copy_strided(home->copies, 2, shape, item, of->out, NULL,
                                       of->added, repeat, home->stream));
}

static Status run_product(Call *call, const ProductStep *step) {
    const int64_t *slots = call->slots;
    const BufferSpec *buffers = call->plan->buffers;
    const TensorSpec *out = &buffers[step->out].type;
    Multiply of = {
        .of = float_of(&buffers[step->left].type),
        .to = float_of(out),
        .batch = dim_value(step->batch, slots),
        .rows = dim_value(step->rows, slots),
        .columns = dim_value(step->columns, slots),
        .terms = dim_value(step->terms, slots),
        .left = matrix_at(call, step->left, step->left_turned, step->left_pitch,
                          step->left_batch),
        .right = matrix_at(call, step->right, step->right_turned, step->right_pitch,
                           step->right_batch),
        .added = step->added < 0 ? NULL : call->buffers[step->added].data,
        .out = call->buffers[step->out].data,
    };
    if (!of.batch || !of.rows || !of.columns) return DONE;
    if (!of.terms) return write_nothing(call, &of, (size_t)out->bits / 8);
    call->code = blas_multiply(&of, &call->home, &call->workspace);
    if (call->code == LIBRARY_NO_MEMORY) return NO_MEMORY;
    return call->code ? BLAS_FAILED : DONE;
}

static Image image_at(const Call *call, int buffer) {
    const BufferSpec *spec = &call->plan->buffers[buffer];
    Image image = {.data = call->buffers[spec->root].data};
    for (int i = 0; i < spec->type.dims.count; i++)
        image.shape[i] = dim_value(spec->type.dims.at[i], call->slots);
    return image;
}

static Status run_convolution(Call *call, const ConvolutionStep *step) {
    const BufferSpec *buffers = call->plan->buffers;
    const TensorSpec *out = &buffers[step->out].type;
    Convolve of = {
        .of = float_of(out),
        .window = &step->window,
        .x = image_at(call, step->x),
        .w = image_at(call, step->w),
        .out = image_at(call, step->out),
    };
    int64_t items = count_items(call, &out->dims);
    if (!items) return DONE;
    if (!count_items(call, &buffers[step->x].type.dims) ||
        !count_items(call, &buffers[step->w].type.dims)) /* sums of nothing */
        return cuda_done(call, cuda_zero(of.out.data, (size_t)items * out->bits / 8,
                                         call->home.stream));
    call->code = dnn_convolve(&of, &call->home, &call->workspace);
    if (call->code == LIBRARY_NO_MEMORY) return NO_MEMORY;
    return call->code ? DNN_FAILED : DONE;
}

static Strided strided_at(const Call *call, const Lies *lies) {
    const BufferSpec *spec = &call->plan->buffers[lies->buffer];
    const char *data = call->buffers[lies->buffer].data;
    int64_t from = dim_value(lies->from, call->slots) * spec->type.bits / 8;
    Strided found = {.data = data + from};
    for (int i = 0; i < 4; i++)
        found.steps[i] = dim_value(lies->steps[i], call->slots);
    return found;
}

static Status run_attention(Call *call, const AttentionStep *step) {
    const int64_t *slots = call->slots;
    const BufferSpec *buffers = call->plan->buffers;
    const TensorSpec *out = &buffers[step->out].type;
    Attend of = {
        .of = float_of(out),
        .added_of = NO_FLOAT,
        .batch = dim_value(step->batch, slots),
        .rows = dim_value(step->rows, slots),
        .heads = dim_value(step->heads, slots),
        .width = dim_value(step->width, slots),
        .keys = dim_value(step->keys, slots),
        .terms = dim_value(step->terms, slots),
        .turns = step->turns,
        .scale = step->scale,
        .out = call->buffers[step->out].data,
    };
    int64_t items = of.batch * of.rows * of.heads * of.width;
    if (!items) return DONE;
    if (!of.keys) /* sums of nothing */
        return cuda_done(call, cuda_zero(of.out, (size_t)items * out->bits / 8,
                                         call->home.stream));
    for (int i = 0; i <= (step->adds ? ADDED : VALUES); i++)
        of.operands[i] = strided_at(call, &step->operands[i]);
    if (step->adds) of.added_of = float_of(&buffers[step->operands[ADDED].buffer].type);
    call->code = attention_run(&of, &call->home, &call->workspace);
    if (call->code == LIBRARY_NO_MEMORY) return NO_MEMORY;
    return call->code ? DNN_FAILED : DONE;
}

static Status run_transform(Call *call, const TransformStep *step) {
    const int64_t *slots = call->slots;
    int bits = call->plan->buffers[step->x].type.bits;
    Lines of = {
        .kind = step->kind,
        .wide = bits == (step->kind == R2C ? 64 : 128),
        .lines = dim_value(step->lines, slots),
        .length = dim_value(step->length, slots),
        .x = call->buffers[step->x].data,
        .out = call->buffers[step->out].data,
    };
    if (!of.lines || !of.length) return DONE;
    call->code = fft_run(&of, &call->home, &call->workspace);
    if (call->code == LIBRARY_NO_MEMORY) return NO_MEMORY;
    return call->code ? FFT_FAILED : DONE;
}

static void *data_of(const Call *call, int buffer) {
    return buffer < 0 ? NULL : call->buffers[buffer].data;
}

static Status run_sort(Call *call, const SortStep *step) {
    const int64_t *slots = call->slots;
    const TensorSpec *type = &call->plan->buffers[step->x].type;
    Sort of = {
        .item = type->bits / 8,
        .lines = dim_value(step->lines, slots),
        .length = dim_value(step->length, slots),
        .count = dim_value(step->count, slots),
        .x = call->buffers[step->x].data,
        .values = data_of(call, step->values),
        .indices = data_of(call, step->indices),
    };
    keys_of(type, step->descending, &of.keys);
    if (!of.lines || !of.count) return DONE;
    if (of.count > of.length) return SIZES_DIFFER;
    call->code = on_cuda(&call->home) ? sort_on_device(&of, step->kernels, call)
                                      : sort_rows(&of, call);
    if (call->code == SORT_NO_MEMORY) return NO_MEMORY;
    if (call->code == SORT_TOO_LONG) return TOO_LONG;
    return cuda_done(call, call->code);
}

static int raise(const Call *call, Status status, int step) {
    if (status == DONE) return 0;
    if (status == CUDA_FAILED)
        cuda_raise(call->code);
    else if (status == BLAS_FAILED)
        blas_raise(call->code);
    else if (status == DNN_FAILED)
        dnn_raise(call->code);
    else if (status == FFT_FAILED)
        fft_raise(call->code);
    else if (status == NO_MEMORY)
        PyErr_NoMemory();
    else if (status == TOO_LONG)
        PyErr_Format(PyExc_ValueError, "step %d sorts rows of 2**32 elements or more",
                     step);
    else if (status == FALSE_CHECK)
        PyErr_SetObject(PyExc_RuntimeError,
                        call->plan->steps[step].check.message);
    else
        PyErr_Format(PyExc_RuntimeError, "step %d: another number of items than it is for",
                     step);
    return -1;
}

static bool is_native(StepKind kind) {
    return kind != OPAQUE && kind != BIND;
}

/* The tensors that steps [begin, end) are the first to use. */
static int make_tensors(Call *call, int begin, int end) {
    const Groups *makes = &call->plan->makes;
    for (int i = makes->begin[begin]; i < makes->begin[end]; i++)
        if (spare_take(call, makes->ids[i])) return -1;
    return 0;
}

/* Those that they are the last to use: the next may have their memory at once. */
static void drop_tensors(Call *call, int begin, int end) {
    const Groups *drops = &call->plan->drops;
    for (int i = drops->begin[begin]; i < drops->begin[end]; i++) {
        Buffer *buffer = &call->buffers[drops->ids[i]];
        if (call->plan->buffers[drops->ids[i]].as_tensor)
            spare_give(call, drops->ids[i]);
        Py_CLEAR(buffer->object);
        Py_CLEAR(buffer->flat);
    }
}


static Status run_step(Call *call, const Step *step) {
    switch (step->kind) {
        case LAUNCH: return run_launch(call, &step->launch);
        case CHECK: return run_check(call, &step->check);
        case PRODUCT: return run_product(call, &step->product);
        case CONVOLUTION: return run_convolution(call, &step->convolution);
        case ATTENTION: return run_attention(call, &step->attention);
        case TRANSFORM: return run_transform(call, &step->transform);
        case SORT: return run_sort(call, &step->sort);
        default: return run_write(call, &step->write);
    }
}

static Status run_one(Call *call, int at) {
    const Step *step = &call->plan->steps[at];
    if (step->kind == LAUNCH && on_cuda(&call->home))
        return cuda_done(call, run_launches(call, &call->plan->runs[step->launch.run]));
    watch_begin(call, at);
    Status status = run_step(call, step);
    watch_end(call, at);
    return status;
}

/* A watch takes it for its first step. */
static bool run_strip(Call *call, int at, const Strip *strip) {
    watch_begin(call, at);
    bool done = strip_run(call, strip);
    watch_end(call, at);
    return done;
}

/* What follows a step, or those that were run with it: on CUDA all launches in a row,
   else perhaps a strip. */
static int next_step(Call *call, int at, Status *status) {
    const Step *step = &call->plan->steps[at];
    if (step->kind == LAUNCH) {
        const Strip *strip = step->launch.strip;
        if (strip && run_strip(call, at, strip)) return strip->end;
    }
    *status = run_one(call, at);
    bool run = step->kind == LAUNCH && on_cuda(&call->home);
    return run ? call->plan->runs[step->launch.run].end : at + 1;
}

static int run_native(Call *call, int begin, int end) {
    Status status = DONE;
    int step = begin;
    Py_BEGIN_ALLOW_THREADS;
    for (int next; step < end; step = next) {
        next = next_step(call, step, &status);
        if (status != DONE) break;
    }
    Py_END_ALLOW_THREADS;
    return raise(call, status, step);
}

static int run_some(Call *call, int begin, int end) {
    StepKind kind = call->plan->steps[begin].kind;
    if (is_native(kind)) return run_native(call, begin, end);
    watch_begin(call, begin);
    int failed = kind == OPAQUE ? run_opaque(call, begin) : run_bind(call, begin);
    watch_end(call, begin);
    return failed;
}

/* Native steps in a row go together, any other alone. */
static int group_end(const Plan *plan, int begin) {
    int end = begin + 1;
    if (!is_native(plan->steps[begin].kind)) return end;
    while (end < plan->n_steps && is_native(plan->steps[end].kind)) end++;
    return end;
}

int run_steps(Call *call) {
    watch_start(call);
    for (int begin = 0, end; begin < call->plan->n_steps; begin = end) {
        end = group_end(call->plan, begin);
        if (make_tensors(call, begin, end)) return -1;
        if (run_some(call, begin, end)) return -1;
        drop_tensors(call, begin, end);
    }
    watch_finish(call);
    return 0;
}
