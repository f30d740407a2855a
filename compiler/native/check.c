/* Do the parts of a plan fit together? Every slot is set once and before it is read,
   every buffer has memory when a step names it. Also finds the stage of each buffer:
   after how many binds its extents are known. */
#include "check.h"

int check_fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    PyErr_FormatV(PyExc_ValueError, format, arguments);
    va_end(arguments);
    return -1;
}

/* ---- slots ---- */

int need_dim(const Check *check, Dim dim, const char *what, int index) {
    if (dim >= 0) return 0;
    int stage = check->stage_of[dim_slot(dim)];
    if (stage >= 0 && stage <= check->stage) return 0;
    return check_fail("%s[%d]: slot %d is read before it is set", what, index, dim_slot(dim));
}

static int set_slot(Check *check, int slot, const char *what, int index) {
    if (check->stage_of[slot] >= 0)
        return check_fail("%s[%d]: slot %d is set twice", what, index, slot);
    check->stage_of[slot] = check->stage;
    return 0;
}

static int check_segment(Check *check, int index) {
    const Segment *segment = &check->plan->segments[index];
    for (int i = 0; i < segment->count; i++) {
        const SlotOp *op = &segment->ops[i];
        if (op->kind != SET && (need_dim(check, op->a, "segments", index) ||
                                need_dim(check, op->b, "segments", index)))
            return -1;
        if (set_slot(check, op->slot, "segments", index)) return -1;
    }
    return 0;
}

static void bind_inputs(Check *check) {
    for (int i = 0; i < check->plan->n_inputs; i++) {
        InputSpec *input = &check->plan->inputs[i];
        for (int axis = 0; axis < input->type.dims.count; axis++) {
            Dim dim = input->type.dims.at[axis];
            if (dim >= 0 || check->stage_of[dim_slot(dim)] >= 0) continue;
            check->stage_of[dim_slot(dim)] = 0;
            input->binds[axis] = true;
        }
    }
}

static int dim_stage(const Check *check, Dim dim) {
    return dim < 0 ? check->stage_of[dim_slot(dim)] : 0;
}

static int place_guards(Check *check) {
    for (int i = 0; i < check->plan->n_guards; i++) {
        Guard *guard = &check->plan->guards[i];
        if (need_dim(check, guard->a, "guards", i) ||
            need_dim(check, guard->b, "guards", i))
            return -1;
        int a = dim_stage(check, guard->a), b = dim_stage(check, guard->b);
        guard->stage = a > b ? a : b;
    }
    return 0;
}

/* Items are read of static integers only, so that the place can be checked here. */
static int check_item(const TensorSpec *type, const char *what, int index, int place) {
    int64_t items = 1;
    for (int i = 0; i < type->dims.count; i++) {
        if (type->dims.at[i] < 0) return check_fail("%s[%d]: of no fixed size", what, index);
        items *= type->dims.at[i];
    }
    bool whole = type->code == DL_INT || (type->code == DL_UINT && type->bits == 8);
    if (whole && place < items) return 0;
    return check_fail("%s[%d]: no integer item %d to read", what, index, place);
}

static int set_binding(Check *check, const char *what, int index, Binding *binding) {
    if (binding->slot < 0) return 0;
    binding->known = check->stage_of[binding->slot] >= 0;
    return binding->known ? 0 : set_slot(check, binding->slot, what, index);
}

static int check_contents(Check *check) {
    for (int i = 0; i < check->plan->n_contents; i++) {
        Binding *binding = &check->plan->contents[i];
        const TensorSpec *type = &check->plan->inputs[binding->source].type;
        if (check_item(type, "contents", i, binding->place) ||
            set_binding(check, "contents", i, binding))
            return -1;
    }
    return 0;
}

static int check_binding(Check *check, int step, Binding *binding) {
    const BufferSpec *buffer = &check->plan->buffers[binding->source];
    if (binding->item) {
        if (check_item(&buffer->type, "steps", step, binding->place)) return -1;
    } else if (buffer->kind != ON_OPAQUE) {
        return check_fail("steps[%d]: bind reads buffer %d, which no opaque step returns",
                    step, binding->source);
    } else if (binding->place >= buffer->type.dims.count) {
        return check_fail("steps[%d]: buffer %d has no axis %d", step, binding->source,
                    binding->place);
    }
    return set_binding(check, "steps", step, binding);
}

/* The slots that binds set, in order; the steps' own uses are looked at later. */
static int check_binds(Check *check) {
    Plan *plan = check->plan;
    for (int i = 0; i < plan->n_steps; i++) {
        if (plan->steps[i].kind != BIND) continue;
        BindStep *bind = &plan->steps[i].bind;
        check->stage++;
        for (int j = 0; j < bind->count; j++)
            if (check_binding(check, i, &bind->bindings[j])) return -1;
        if (bind->segment >= 0 && check_segment(check, bind->segment)) return -1;
    }
    plan->n_stages = check->stage + 1;
    return 0;
}

static int check_slots(Check *check) {
    bind_inputs(check);
    if (check_contents(check)) return -1;
    if (check->plan->n_segments && check_segment(check, 0)) return -1;
    return check_binds(check) || place_guards(check) ? -1 : 0;
}

/* ---- buffers ---- */

static int find_root(const Plan *plan, int id) {
    int root = id;
    for (int i = 0; plan->buffers[root].kind == ON_ALIAS; i++) {
        if (i > plan->n_buffers)
            return check_fail("buffers[%d]: aliases run in a circle", id);
        root = plan->buffers[root].arg;
    }
    return root;
}

static int dims_stage(const Check *check, int id) {
    const Dims *dims = &check->plan->buffers[id].type.dims;
    int stage = 0;
    for (int i = 0; i < dims->count; i++) {
        if (dims->at[i] >= 0) continue;
        int own = check->stage_of[dim_slot(dims->at[i])];
        if (own < 0)
            return check_fail("buffers[%d]: slot %d is never set", id, dim_slot(dims->at[i]));
        if (own > stage) stage = own;
    }
    return stage;
}

static int check_input(Plan *plan, int id) {
    const BufferSpec *buffer = &plan->buffers[id];
    const TensorSpec *input = &plan->inputs[buffer->arg].type;
    if (buffer->type.code == input->code && buffer->type.bits == input->bits &&
        buffer->type.dims.count == input->dims.count)
        return 0;
    return check_fail("buffers[%d]: not of the type and rank of input %d", id, buffer->arg);
}

static int check_lifetime(const Plan *plan, int id) {
    const BufferSpec *buffer = &plan->buffers[id];
    if (0 <= buffer->first && buffer->first <= buffer->last &&
        buffer->last < plan->n_steps)
        return 0;
    return check_fail("lifetimes[%d]: (%d, %d) is no range of the %d steps", id,
                buffer->first, buffer->last, plan->n_steps);
}

static int need_tensor(const Plan *plan, int id) {
    const TensorSpec *type = &plan->buffers[id].type;
    if (plan->home.arrays || tensor_possible(type)) return 0;
    return check_fail("buffers[%d]: Paddle has no tensors of DLPack type %d, %d bits", id,
                type->code, type->bits);
}

static int check_buffers(Check *check) {
    Plan *plan = check->plan;
    for (int id = 0; id < plan->n_buffers; id++) {
        BufferSpec *buffer = &plan->buffers[id];
        if ((buffer->root = find_root(plan, id)) < 0) return -1;
        buffer->first_use = buffer->last_use = -1;
        int own = dims_stage(check, id), root = dims_stage(check, buffer->root);
        if (own < 0 || root < 0) return -1;
        buffer->stage = own > root ? own : root;
        buffer->dims_at = plan->n_extents;
        plan->n_extents += buffer->type.dims.count;
        if (buffer->kind == ON_OUTPUT && need_tensor(plan, id)) return -1;
        if (buffer->kind == ON_INPUT && check_input(plan, id)) return -1;
        if (buffer->kind == ON_ARENA && check_lifetime(plan, id)) return -1;
        /* Views of an alias's shape are cut from contiguous memory only. */
        if (buffer->kind == ON_ALIAS) plan->buffers[buffer->root].read_flat = true;
    }
    return 0;
}

/* Buffers by a key in [0, count); those with a negative key are in no group. */
static int group(Plan *plan, int count, int (*key)(const BufferSpec *), Groups *out) {
    out->begin = plan_alloc(plan, (size_t)count + 2, sizeof(int));
    out->ids = plan_alloc(plan, (size_t)plan->n_buffers, sizeof(int));
    if (!out->begin || !out->ids) return -1;
    for (int id = 0; id < plan->n_buffers; id++)
        if (key(&plan->buffers[id]) >= 0) out->begin[key(&plan->buffers[id]) + 2]++;
    for (int i = 0; i < count; i++) out->begin[i + 2] += out->begin[i + 1];
    for (int id = 0; id < plan->n_buffers; id++) {
        int at = key(&plan->buffers[id]);
        if (at >= 0) out->ids[out->begin[at + 1]++] = id;
    }
    return 0;
}

static int by_stage(const BufferSpec *buffer) {
    return buffer->stage;
}

static int by_first_use(const BufferSpec *buffer) {
    return buffer->as_tensor ? buffer->first_use : -1;
}

/* Results of opaque steps go as soon as the last step has read them. */
static int by_last_use(const BufferSpec *buffer) {
    bool own = buffer->as_tensor || (buffer->kind == ON_OPAQUE && !buffer->shown);
    return own ? buffer->last_use : -1;
}

static int group_buffers(Plan *plan) {
    return group(plan, plan->n_stages, by_stage, &plan->stages) ||
                   group(plan, plan->n_steps, by_first_use, &plan->makes) ||
                   group(plan, plan->n_steps, by_last_use, &plan->drops)
               ? -1
               : 0;
}

/* ---- steps ---- */

int use_buffer(const Check *check, int id) {
    const BufferSpec *buffer = &check->plan->buffers[id];
    BufferSpec *root = &check->plan->buffers[buffer->root];
    if (root->first_use < 0) root->first_use = check->step;
    root->last_use = check->step;
    if (root->kind == ON_OPAQUE && !check->produced[buffer->root])
        return check_fail("steps[%d]: buffer %d is read before an opaque step returns it",
                    check->step, id);
    if (buffer->kind != ON_OPAQUE && buffer->stage > check->stage)
        return check_fail("steps[%d]: the size of buffer %d is not known yet", check->step,
                    id);
    if (root->kind == ON_ARENA &&
        (check->step < root->first || check->step > root->last))
        return check_fail("steps[%d]: buffer %d is used outside its lifetime (%d, %d)",
                    check->step, id, root->first, root->last);
    return 0;
}

/* Also turns the buffer ids into those of their roots. */
static int check_launch(Check *check, LaunchStep *launch) {
    Plan *plan = check->plan;
    for (int i = 0; i < launch->buffers.count; i++) {
        int id = launch->buffers.at[i];
        if (use_buffer(check, id)) return -1;
        launch->buffers.at[i] = plan->buffers[id].root;
        plan->buffers[plan->buffers[id].root].read_flat = true;
    }
    for (int i = 0; i < launch->dims.count; i++)
        if (need_dim(check, launch->dims.at[i], "steps", check->step)) return -1;
    if (need_dim(check, launch->rows, "steps", check->step) ||
        need_dim(check, launch->grain, "steps", check->step) ||
        need_dim(check, launch->scratch, "steps", check->step))
        return -1;
    if (launch->buffers.count > plan->max_launch_buffers)
        plan->max_launch_buffers = launch->buffers.count;
    if (launch->dims.count > plan->max_launch_dims)
        plan->max_launch_dims = launch->dims.count;
    return 0;
}

static int produce(Check *check, int id, bool fresh) {
    if (check->plan->buffers[id].kind != ON_OPAQUE)
        return check_fail("steps[%d]: result buffer %d is not opaque", check->step, id);
    if (check->produced[id])
        return check_fail("steps[%d]: buffer %d is returned twice", check->step, id);
    check->produced[id] = true;
    check->plan->buffers[id].last_use = check->step;
    check->plan->buffers[id].exposed |= !fresh;
    return 0;
}

static int check_opaque(Check *check, const OpaqueStep *opaque) {
    if (check->plan->home.arrays)
        return check_fail("steps[%d]: an opaque step in a plan over Arrays", check->step);
    for (int i = 0; i < opaque->inputs.count; i++) {
        if (use_buffer(check, opaque->inputs.at[i]) ||
            need_tensor(check->plan, opaque->inputs.at[i]))
            return -1;
        BufferSpec *buffer = &check->plan->buffers[opaque->inputs.at[i]];
        BufferSpec *root = &check->plan->buffers[buffer->root];
        root->exposed |= !opaque->fresh;
        if (root->kind != ON_ARENA || root->as_tensor) continue;
        if (need_tensor(check->plan, buffer->root)) return -1;
        root->as_tensor = true;
    }
    for (int i = 0; i < opaque->outputs.count; i++)
        if (opaque->outputs.at[i] >= 0 &&
            produce(check, opaque->outputs.at[i], opaque->fresh))
            return -1;
    if (opaque->inputs.count > check->plan->max_arguments)
        check->plan->max_arguments = opaque->inputs.count;
    return 0;
}

static int check_bind(Check *check, const BindStep *bind) {
    Plan *plan = check->plan;
    for (int i = 0; i < bind->count; i++) {
        const Binding *binding = &bind->bindings[i];
        if (use_buffer(check, binding->source)) return -1;
        if (binding->item)
            plan->buffers[plan->buffers[binding->source].root].read_flat = true;
    }
    check->stage++;
    return 0;
}

static int check_write(Check *check, const WriteStep *write) {
    Plan *plan = check->plan;
    BufferSpec *source = &plan->buffers[write->source];
    const InputSpec *input = &plan->inputs[write->input];
    if (use_buffer(check, write->source)) return -1;
    if (source->stage > check->stage)
        return check_fail("steps[%d]: the size of buffer %d is not known yet", check->step,
                    write->source);
    if (!input->written)
        return check_fail("steps[%d]: input %d is not listed as written", check->step,
                    write->input);
    if (source->type.code != input->type.code || source->type.bits != input->type.bits)
        return check_fail("steps[%d]: buffer %d and input %d differ in type", check->step,
                    write->source, write->input);
    plan->buffers[source->root].read_flat = true;
    return 0;
}

static int check_check(Check *check, const CheckStep *step) {
    const TensorSpec *type = &check->plan->buffers[step->source].type;
    if (use_buffer(check, step->source)) return -1;
    if (type->bits != 8 || type->dims.count != 0)
        return check_fail("steps[%d]: buffer %d is no bool scalar", check->step,
                    step->source);
    int root = check->plan->buffers[step->source].root;
    check->plan->buffers[root].read_flat = true;
    return 0;
}

static int check_step(Check *check, Step *step) {
    switch (step->kind) {
        case LAUNCH: return check_launch(check, &step->launch);
        case OPAQUE: return check_opaque(check, &step->opaque);
        case BIND: return check_bind(check, &step->bind);
        case WRITE: return check_write(check, &step->write);
        case PRODUCT: return check_product(check, &step->product);
        case CONVOLUTION: return check_convolution(check, &step->convolution);
        case ATTENTION: return check_attention(check, &step->attention);
        case TRANSFORM: return check_transform(check, &step->transform);
        case SORT: return check_sort(check, &step->sort);
        default: return check_check(check, &step->check);
    }
}

static int check_steps(Check *check) {
    check->stage = 0;
    for (check->step = 0; check->step < check->plan->n_steps; check->step++)
        if (check_step(check, &check->plan->steps[check->step])) return -1;
    return 0;
}

static int check_outputs(const Check *check) {
    const Plan *plan = check->plan;
    for (int i = 0; i < plan->outputs.count; i++) {
        int id = plan->outputs.at[i];
        const BufferSpec *buffer = &plan->buffers[id];
        BufferKind root = plan->buffers[buffer->root].kind;
        if (need_tensor(plan, id)) return -1;
        if (root == ON_ARENA || (buffer->kind == ON_ALIAS && root != ON_OPAQUE))
            return check_fail("outputs[%d]: buffer %d has no tensor of its own", i, id);
        if (root == ON_OPAQUE && !check->produced[buffer->root])
            return check_fail("outputs[%d]: no step returns buffer %d", i, id);
        plan->buffers[buffer->root].shown++;
    }
    return 0;
}

static int check_strip(const Check *check, int index) {
    Plan *plan = check->plan;
    Strip *strip = &plan->strips[index];
    for (int step = strip->begin; step < strip->end; step++)
        if (plan->steps[step].kind != LAUNCH)
            return check_fail("strips[%d]: step %d is no launch", index, step);
    for (int i = 0; i < strip->own.count; i++) {
        const BufferSpec *buffer = &plan->buffers[strip->own.at[i]];
        if (buffer->kind != ON_ARENA || buffer->first_use < strip->begin ||
            buffer->last_use >= strip->end)
            return check_fail("strips[%d]: buffer %d is not its own", index,
                        strip->own.at[i]);
    }
    return need_dim(check, strip->items, "strips", index);
}

static int check_strips(Check *check) {
    for (int i = 0; i < check->plan->n_strips; i++)
        if (check_strip(check, i)) return -1;
    return strips_find(check->plan);
}

static void pass_on_read_flat(Plan *plan) {
    for (int id = 0; id < plan->n_buffers; id++)
        if (plan->buffers[id].kind == ON_INPUT && plan->buffers[id].read_flat)
            plan->inputs[plan->buffers[id].arg].read_flat = true;
}

int check_plan(Plan *plan) {
    Check check = {.plan = plan};
    check.stage_of = plan_alloc(plan, (size_t)plan->n_slots, sizeof(int));
    check.produced = plan_alloc(plan, (size_t)plan->n_buffers, sizeof(bool));
    plan->learned.slots = plan_alloc(plan, (size_t)plan->n_slots, sizeof(int64_t));
    if (!check.stage_of || !check.produced || !plan->learned.slots) return -1;
    for (int i = 0; i < plan->n_slots; i++) check.stage_of[i] = -1;
    plan->slot_stage = check.stage_of;
    if (check_slots(&check) || check_buffers(&check) || check_steps(&check) ||
        check_outputs(&check) || check_strips(&check))
        return -1;
    pass_on_read_flat(plan);
    return group_buffers(plan);
}
