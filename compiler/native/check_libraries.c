/* Do the steps that are no launches, those of libraries and sorts, fit the plan? */
#include "check.h"
#include "sort.h"

static int check_factor(Check *check, int *id, const TensorSpec *type) {
    BufferSpec *buffer = &check->plan->buffers[*id];
    if (use_buffer(check, *id)) return -1;
    if (buffer->type.code != type->code || buffer->type.bits != type->bits)
        return check_fail("steps[%d]: buffer %d is of another type", check->step, *id);
    *id = buffer->root;
    check->plan->buffers[*id].read_flat = true;
    return 0;
}

int check_product(Check *check, ProductStep *step) {
    const Plan *plan = check->plan;
    const TensorSpec *to = &plan->buffers[step->out].type;
    const TensorSpec *of = &plan->buffers[step->left].type;
    Float kind = float_of(of), result = float_of(to);
    bool known = result == kind || (is_half(kind) && result == F32);
    const Dim sizes[] = {step->batch,       step->rows,       step->columns,
                         step->terms,       step->left_pitch, step->left_batch,
                         step->right_pitch, step->right_batch};
    if (!on_cuda(&plan->home) || kind == NO_FLOAT || !known)
        return check_fail("steps[%d]: no library multiplies these", check->step);
    for (int i = 0; i < 8; i++)
        if (need_dim(check, sizes[i], "steps", check->step)) return -1;
    if (step->added >= 0 && check_factor(check, &step->added, to)) return -1;
    return check_factor(check, &step->left, of) ||
                   check_factor(check, &step->right, of) ||
                   check_factor(check, &step->out, to)
               ? -1
               : 0;
}

int check_convolution(Check *check, const ConvolutionStep *step) {
    const BufferSpec *buffers = check->plan->buffers;
    const TensorSpec *type = &buffers[step->out].type;
    int ids[] = {step->x, step->w, step->out};
    if (!on_cuda(&check->plan->home) || float_of(type) == NO_FLOAT)
        return check_fail("steps[%d]: no library convolves these", check->step);
    for (int i = 0; i < 3; i++) {
        if (buffers[ids[i]].type.dims.count != step->window.rank + 2)
            return check_fail("steps[%d]: buffer %d is not of the window's rank", check->step,
                        ids[i]);
        if (check_factor(check, &ids[i], type)) return -1;
    }
    return 0;
}

int check_attention(Check *check, AttentionStep *step) {
    const TensorSpec *type = &check->plan->buffers[step->out].type;
    const Dim sizes[] = {step->batch, step->rows, step->heads,
                         step->width, step->keys, step->terms};
    if (!on_cuda(&check->plan->home) || !is_half(float_of(type)))
        return check_fail("steps[%d]: no library attends to these", check->step);
    for (int i = 0; i < 6; i++)
        if (need_dim(check, sizes[i], "steps", check->step)) return -1;
    for (int i = 0; i <= (step->adds ? ADDED : VALUES); i++) {
        Lies *lies = &step->operands[i];
        const TensorSpec *own = &check->plan->buffers[lies->buffer].type;
        if (need_dim(check, lies->from, "steps", check->step)) return -1;
        for (int k = 0; k < 4; k++)
            if (need_dim(check, lies->steps[k], "steps", check->step)) return -1;
        if (i == ADDED && float_of(own) == NO_FLOAT)
            return check_fail("steps[%d]: buffer %d is of no floats", check->step,
                        lies->buffer);
        if (check_factor(check, &lies->buffer, i == ADDED ? own : type)) return -1;
    }
    return check_factor(check, &step->out, type);
}

int check_transform(Check *check, TransformStep *step) {
    const BufferSpec *x = &check->plan->buffers[step->x];
    const BufferSpec *out = &check->plan->buffers[step->out];
    int real = step->kind == R2C, back = step->kind == C2R;
    int bits = x->type.bits << real;
    bool fits = x->type.code == (real ? DL_FLOAT : DL_COMPLEX) &&
                out->type.code == (back ? DL_FLOAT : DL_COMPLEX) &&
                out->type.bits << back == bits && (bits == 64 || bits == 128);
    if (!on_cuda(&check->plan->home) || !fits)
        return check_fail("steps[%d]: no library transforms these", check->step);
    if (need_dim(check, step->lines, "steps", check->step) ||
        need_dim(check, step->length, "steps", check->step))
        return -1;
    return check_factor(check, &step->x, &x->type) ||
                   check_factor(check, &step->out, &out->type)
               ? -1
               : 0;
}

int check_sort(Check *check, SortStep *step) {
    const TensorSpec *type = &check->plan->buffers[step->x].type;
    const TensorSpec places = {.code = DL_INT, .bits = 64};
    const Dim sizes[] = {step->lines, step->length, step->count};
    Keys keys;
    bool kernels = step->kernels[0] && step->kernels[1];
    if (!keys_of(type, step->descending, &keys))
        return check_fail("steps[%d]: nothing sorts these", check->step);
    if (on_cuda(&check->plan->home) && !kernels)
        return check_fail("steps[%d]: a sort without kernels", check->step);
    for (int i = 0; i < 3; i++)
        if (need_dim(check, sizes[i], "steps", check->step)) return -1;
    if (step->values >= 0 && check_factor(check, &step->values, type)) return -1;
    if (step->indices >= 0 && check_factor(check, &step->indices, &places)) return -1;
    return check_factor(check, &step->x, type);
}
