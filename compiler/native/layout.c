/* Slot programs, and where the arena buffers of a stage lie. */
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

/* ---- slot programs; sums wrap, since a wrong size is caught where it is used ---- */

static int64_t floor_div(int64_t a, int64_t b) {
    if (b == 0) return 0;
    if (b == -1) return (int64_t)(0 - (uint64_t)a);
    int64_t quotient = a / b;
    return quotient - (a % b != 0 && (a < 0) != (b < 0));
}

static int64_t floor_mod(int64_t a, int64_t b) {
    return (int64_t)((uint64_t)a - (uint64_t)floor_div(a, b) * (uint64_t)b);
}

static int64_t slot_op(SlotOpKind kind, int64_t a, int64_t b) {
    switch (kind) {
        case ADD: return (int64_t)((uint64_t)a + (uint64_t)b);
        case SUB: return (int64_t)((uint64_t)a - (uint64_t)b);
        case MUL: return (int64_t)((uint64_t)a * (uint64_t)b);
        case FLOORDIV: return floor_div(a, b);
        case MOD: return floor_mod(a, b);
        case MAX: return a > b ? a : b;
        case MIN: return a < b ? a : b;
        default: return a;
    }
}

void run_segment(const Segment *segment, int64_t *slots) {
    for (int i = 0; i < segment->count; i++) {
        const SlotOp *op = &segment->ops[i];
        slots[op->slot] = op->kind == SET ? op->a
                                          : slot_op(op->kind, dim_value(op->a, slots),
                                                    dim_value(op->b, slots));
    }
}

/* ---- sizes ---- */

int tensor_bytes(const TensorSpec *type, const int64_t *slots, size_t *bytes) {
    int64_t size = type->bits / 8;
    bool empty = false, overflow = false;
    for (int i = 0; i < type->dims.count; i++) {
        int64_t extent = dim_value(type->dims.at[i], slots);
        if (extent < 0) {
            PyErr_Format(PyExc_RuntimeError, "axis %d has the extent %lld", i,
                         (long long)extent);
            return -1;
        }
        empty |= extent == 0;
        overflow |= __builtin_mul_overflow(size, extent, &size);
    }
    *bytes = empty ? 0 : (size_t)size;
    if (!overflow || empty) return 0;
    PyErr_SetString(PyExc_MemoryError, "the size of a buffer overflows");
    return -1;
}

/* ---- one stage's buffers ---- */

static int check_alias(Plan *plan, int id, const int64_t *slots) {
    size_t bytes, room;
    if (tensor_bytes(&plan->buffers[id].type, slots, &bytes)) return -1;
    if (tensor_bytes(&plan->buffers[plan->buffers[id].root].type, slots, &room))
        return -1;
    if (bytes <= room) return 0;
    PyErr_Format(PyExc_RuntimeError, "alias buffer %d takes %zu bytes of %zu", id,
                 bytes, room);
    return -1;
}

static int check_input(Plan *plan, int id, const int64_t *slots) {
    const BufferSpec *buffer = &plan->buffers[id];
    const TensorSpec *input = &plan->inputs[buffer->arg].type;
    for (int i = 0; i < input->dims.count; i++) {
        int64_t want = dim_value(buffer->type.dims.at[i], slots);
        int64_t have = dim_value(input->dims.at[i], slots);
        if (want == have) continue;
        PyErr_Format(PyExc_RuntimeError,
                     "buffer %d: axis %d is %lld, but input %d has %lld", id, i,
                     (long long)want, buffer->arg, (long long)have);
        return -1;
    }
    return 0;
}

static int check_buffer(Plan *plan, int id, const int64_t *slots, size_t *bytes) {
    if (tensor_bytes(&plan->buffers[id].type, slots, bytes)) return -1;
    if (plan->buffers[id].kind == ON_ALIAS) return check_alias(plan, id, slots);
    if (plan->buffers[id].kind == ON_INPUT) return check_input(plan, id, slots);
    return 0;
}

/* ---- placement ---- */

typedef struct {
    int id;
    size_t size, offset;
} Placed;

static int larger_first(const void *a, const void *b) {
    const Placed *x = a, *y = b;
    if (x->size != y->size) return x->size < y->size ? 1 : -1;
    return x->id - y->id;
}

static bool live_together(const BufferSpec *a, const BufferSpec *b) {
    return a->first <= b->last && b->first <= a->last;
}

/* The tightest gap between the buffers alive at the same time, else after them all.
   `placed` lies in order of offsets. */
static size_t best_gap(const Plan *plan, const Placed *placed, int count,
                       const Placed *item) {
    size_t cursor = 0, best = SIZE_MAX, best_size = SIZE_MAX;
    for (int i = 0; i < count; i++) {
        const Placed *other = &placed[i];
        if (!live_together(&plan->buffers[item->id], &plan->buffers[other->id]))
            continue;
        if (other->offset > cursor) {
            size_t gap = other->offset - cursor;
            if (gap >= item->size && gap < best_size) best = cursor, best_size = gap;
        }
        size_t end = other->offset + other->size;
        if (end > cursor) cursor = end;
    }
    return best == SIZE_MAX ? cursor : best;
}

static void insert(Placed *placed, int count, Placed item) {
    int at = count;
    for (; at > 0 && placed[at - 1].offset > item.offset; at--)
        placed[at] = placed[at - 1];
    placed[at] = item;
}

/* `items` is sorted in place; the second half of its memory takes the placed ones. */
static size_t place(const Plan *plan, Placed *items, int count, size_t *offsets) {
    Placed *placed = items + count;
    size_t total = 0;
    qsort(items, (size_t)count, sizeof *items, larger_first);
    for (int i = 0; i < count; i++) {
        items[i].offset = best_gap(plan, placed, i, &items[i]);
        insert(placed, i, items[i]);
        offsets[items[i].id] = items[i].offset;
        size_t end = items[i].offset + items[i].size;
        if (end > total) total = end;
    }
    return total;
}

static int fill(Plan *plan, Layout *layout, Placed *items) {
    int count = 0;
    size_t all = 0;
    const Groups *stages = &plan->stages;
    for (int i = stages->begin[layout->stage]; i < stages->begin[layout->stage + 1];
         i++) {
        int id = stages->ids[i];
        const BufferSpec *buffer = &plan->buffers[id];
        size_t bytes;
        if (check_buffer(plan, id, layout->slots, &bytes)) return -1;
        for (int axis = 0; axis < buffer->type.dims.count; axis++)
            layout->extents[buffer->dims_at + axis] =
                dim_value(buffer->type.dims.at[axis], layout->slots);
        if (buffer->kind != ON_ARENA || buffer->as_tensor || !bytes) continue;
        if (bytes > SIZE_MAX / 4 || (all += aligned(bytes)) > SIZE_MAX / 4) {
            PyErr_NoMemory();
            return -1;
        }
        items[count++] = (Placed){.id = id, .size = aligned(bytes)};
    }
    layout->arena_bytes = place(plan, items, count, layout->offsets);
    return 0;
}

static Layout *layout_alloc(const Plan *plan, int stage, const int64_t *slots) {
    size_t slot_bytes = (size_t)plan->n_slots * sizeof(int64_t);
    size_t extent_bytes = (size_t)plan->n_extents * sizeof(int64_t);
    size_t offset_bytes = (size_t)plan->n_buffers * sizeof(size_t);
    Layout *layout =
        PyMem_RawCalloc(1, sizeof *layout + slot_bytes + extent_bytes + offset_bytes);
    if (!layout) return NULL;
    layout->holders = 1;
    layout->stage = stage;
    layout->slots = (int64_t *)(layout + 1);
    layout->extents = layout->slots + plan->n_slots;
    layout->offsets = (size_t *)(layout->extents + plan->n_extents);
    if (slot_bytes) memcpy(layout->slots, slots, slot_bytes);
    return layout;
}

static Layout *layout_new(Plan *plan, int stage, const int64_t *slots) {
    int count = plan->stages.begin[stage + 1] - plan->stages.begin[stage];
    Placed *items = PyMem_RawCalloc(2 * (size_t)count + 1, sizeof *items);
    Layout *layout = items ? layout_alloc(plan, stage, slots) : NULL;
    if (!layout) {
        PyErr_NoMemory();
    } else if (fill(plan, layout, items)) {
        layout_release(layout);
        layout = NULL;
    }
    PyMem_RawFree(items);
    return layout;
}

/* ---- the cache ---- */

void layout_release(Layout *layout) {
    if (layout && --layout->holders == 0) PyMem_RawFree(layout);
}

static void to_front(Plan *plan, int at, Layout *layout) {
    memmove(plan->layouts + 1, plan->layouts, (size_t)at * sizeof *plan->layouts);
    plan->layouts[0] = layout;
}

static Layout *find(Plan *plan, int stage, const int64_t *slots) {
    size_t bytes = (size_t)plan->n_slots * sizeof(int64_t);
    for (int i = 0; i < plan->n_layouts; i++) {
        Layout *layout = plan->layouts[i];
        if (layout->stage != stage) continue;
        if (bytes && memcmp(layout->slots, slots, bytes)) continue;
        if (i) to_front(plan, i, layout);
        return layout;
    }
    return NULL;
}

static void remember(Plan *plan, Layout *layout) {
    if (plan->n_layouts == MAX_LAYOUTS)
        layout_release(plan->layouts[--plan->n_layouts]);
    to_front(plan, plan->n_layouts++, layout);
    plan->layouts_computed++;
}

Layout *layout_get(Plan *plan, int stage, const int64_t *slots) {
    Layout *layout = find(plan, stage, slots);
    if (!layout) {
        layout = layout_new(plan, stage, slots);
        if (!layout) return NULL;
        remember(plan, layout);
    }
    layout->holders++;
    return layout;
}
