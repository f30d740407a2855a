// cudnn_graph.c - stands in for cuDNN's backend interface: takes descriptors, checks them
// against each other, and where a plan is executed computes the graph's operations one
// after the other, in float, as its math precision says.
//
// Only an attention's graph has an engine; and only if it also has the logarithms of the
// sums as a result, as cuDNN's own flash kernels want it.
#define _GNU_SOURCE
#include <math.h>

enum { BAD_PARAM = 2000, NOT_SUPPORTED = 3000 };
#define REFUSED BAD_PARAM
#define BFLOAT16 9
#include "library.h"

enum { POINTWISE, ENGINE = 3, HEURISTIC, PLAN, RUN_POINTWISE = 13 };
enum { OPERATIONS = 15, PACK, TENSOR, MATMUL, RUN_MATMUL, REDUCTION = 21, RUN_REDUCTION };
enum { MOST = 48, HELD = 12, ALIGNED = 16 };

typedef struct {
    int name, type;
    int64_t count;
    char data[MOST * 8];
} Attribute;

typedef struct {
    int kind, finished, n;
    Attribute held[HELD];
} Descriptor;

static long attentions, masked, built;

size_t cudnnGetVersion(void) { return refusing == 3 ? 8907 : 91900; }

int cudnnBackendCreateDescriptor(int kind, Descriptor **out) {
    NEED(kind == POINTWISE || (kind >= ENGINE && kind <= RUN_REDUCTION));
    *out = calloc(1, sizeof **out);
    (*out)->kind = kind;
    described++;
    return 0;
}

int cudnnBackendDestroyDescriptor(Descriptor *d) {
    NEED(d && d->kind >= 0);
    memset(d, 0xDB, sizeof *d);
    free(d);
    described--;
    return 0;
}

static size_t size_of(int type) {
    return type == 2 ? 1 : type == 1 || type == 8 || type == 14 || type == 18 ? 4 : 8;
}

int cudnnBackendSetAttribute(Descriptor *d, int name, int type, int64_t count,
                             const void *data) {
    NEED(d && !d->finished && d->n < HELD && count > 0 && count <= MOST && data);
    Attribute *to = &d->held[d->n++];
    to->name = name;
    to->type = type;
    to->count = count;
    memcpy(to->data, data, (size_t)count * size_of(type));
    return 0;
}

static const Attribute *find(const Descriptor *d, int name) {
    for (int i = 0; i < d->n; i++)
        if (d->held[i].name == name) return &d->held[i];
    return NULL;
}
static int whole(const Descriptor *d, int name) {
    const Attribute *a = find(d, name);
    return a && size_of(a->type) == 4 ? *(const int *)a->data : -1;
}
static const int64_t *wide(const Descriptor *d, int name) {
    const Attribute *a = find(d, name);
    return a ? (const int64_t *)a->data : NULL;
}
static const Descriptor *other(const Descriptor *d, int name) {
    const Attribute *a = find(d, name);
    return a && a->type == 15 ? *(Descriptor *const *)a->data : NULL;
}
static int is_set(const Descriptor *d, int name) {
    const Attribute *a = find(d, name);
    return a && a->data[0];
}

// ---- tensors ----

static int has_tensor(const Descriptor *d, int name) {
    const Descriptor *t = other(d, name);
    return t && t->kind == TENSOR && t->finished;
}

static int finish_tensor(const Descriptor *d) {
    const Attribute *sizes = find(d, 902), *steps = find(d, 903);
    NEED(item_of(whole(d, 901)) && sizes && steps && find(d, 906) && find(d, 900));
    NEED(sizes->count == 4 && steps->count == 4 && *wide(d, 900) == ALIGNED);
    for (int i = 0; i < 4; i++)
        NEED(wide(d, 902)[i] > 0 && wide(d, 903)[i] > 0);
    NEED(!(is_set(d, 907) && is_set(d, 908)));
    return 0;
}

// Whether dims are those of another, or 1 where it may repeat.
static int as(const Descriptor *t, const Descriptor *of, int repeats) {
    for (int i = 0; i < 4; i++)
        NEED(wide(t, 902)[i] == wide(of, 902)[i] || (repeats && wide(t, 902)[i] == 1));
    return 0;
}

static int finish_pointwise(const Descriptor *d) {
    const Descriptor *how = other(d, 750);
    NEED(how && how->kind == POINTWISE && how->finished && whole(how, 1) == R32);
    NEED(has_tensor(d, 751) && has_tensor(d, 753));
    int mode = whole(how, 0), two = mode != 13 && mode != 15;
    NEED(two == has_tensor(d, 752));
    int status = as(other(d, 751), other(d, 753), 0);
    return status || !two ? status : as(other(d, 752), other(d, 753), 1);
}

static int finish_matmul(const Descriptor *d) {
    NEED(has_tensor(d, 1520) && has_tensor(d, 1521) && has_tensor(d, 1522));
    NEED(other(d, 1523) && whole(other(d, 1523), 1500) == R32);
    const int64_t *a = wide(other(d, 1520), 902), *b = wide(other(d, 1521), 902);
    const int64_t *c = wide(other(d, 1522), 902);
    NEED(a[0] == b[0] && a[1] == b[1] && a[3] == b[2]);
    NEED(c[0] == a[0] && c[1] == a[1] && c[2] == a[2] && c[3] == b[3]);
    NEED(is_half(whole(other(d, 1520), 901)));
    NEED(whole(other(d, 1520), 901) == whole(other(d, 1521), 901));
    return 0;
}

static int finish_reduction(const Descriptor *d) {
    NEED(has_tensor(d, 1610) && has_tensor(d, 1611));
    NEED(other(d, 1612) && whole(other(d, 1612), 1601) == R32);
    const int64_t *x = wide(other(d, 1610), 902), *y = wide(other(d, 1611), 902);
    NEED(x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && y[3] == 1);
    return 0;
}

// ---- graphs ----

static Descriptor *const *operations(const Descriptor *graph, int64_t *count) {
    const Attribute *a = find(graph, 801);
    *count = a ? a->count : 0;
    return a ? (Descriptor *const *)a->data : NULL;
}

// The operations in their order, p being pointwise ones.
static int is_attention(const Descriptor *graph) {
    char text[MOST] = "";
    int64_t count;
    Descriptor *const *all = operations(graph, &count);
    for (int64_t i = 0; i < count; i++)
        text[i] = all[i]->kind == RUN_MATMUL ? 'm' : all[i]->kind == REDUCTION + 1 ? 'r' : 'p';
    if (strcmp(text, "mprpprpppm") && strcmp(text, "mpprpprpppm")) return 0;
    const int64_t *q = wide(other(all[0], 1520), 902);
    const int64_t *out = wide(other(all[count - 1], 1522), 902);
    return q[3] % 8 == 0 && out[3] % 8 == 0 && q[3] <= 128 && out[3] <= 128;
}

int cudnnBackendFinalize(Descriptor *d) {
    int status = 0;
    NEED(d && !d->finished);
    if (d->kind == TENSOR) status = finish_tensor(d);
    if (d->kind == RUN_POINTWISE) status = finish_pointwise(d);
    if (d->kind == RUN_MATMUL) status = finish_matmul(d);
    if (d->kind == RUN_REDUCTION) status = finish_reduction(d);
    if (d->kind == OPERATIONS) NEED(find(d, 800));
    if (d->kind == HEURISTIC) NEED(whole(d, 200) == 3 && other(d, 201)->finished);
    if (d->kind == PACK) NEED(find(d, 1000)->count == find(d, 1001)->count);
    if (d->kind == PLAN) {
        NEED(find(d, 400) && other(d, 401)->finished);
        if (find(other(d, 401), -2)) return NOT_SUPPORTED;
        built++;
    }
    d->finished = !status;
    return status;
}

// Two engines for an attention; the first cannot be built.
int cudnnBackendGetAttribute(const Descriptor *d, int name, int type, int64_t most,
                             int64_t *count, void *out) {
    NEED(d && d->finished);
    if (d->kind == PLAN) {
        NEED(name == 402 && type == 3 && most == 1);
        *(int64_t *)out = 512;
        return 0;
    }
    NEED(d->kind == HEURISTIC && name == 202 && type == 15 && most >= 2);
    const Descriptor *graph = other(d, 201);
    *count = is_attention(graph) && !refusing ? 2 : 0;
    for (int64_t i = 0; i < *count; i++) {
        Descriptor *engine = ((Descriptor **)out)[i];
        NEED(engine->kind == ENGINE && !engine->finished);
        cudnnBackendSetAttribute(engine, -1, 15, 1, &graph);
        if (!i) cudnnBackendSetAttribute(engine, -2, 3, 1, &(int64_t){1});
        engine->finished = 1;
    }
    asked++;
    return 0;
}

// ---- execution ----

typedef struct {
    const Descriptor *of[32];
    void *data[32];
    int n;
} Memory;

static void *memory_of(Memory *memory, const Descriptor *t) {
    for (int i = 0; i < memory->n; i++)
        if (*wide(memory->of[i], 906) == *wide(t, 906)) return memory->data[i];
    return NULL;
}

static int64_t place(const Descriptor *t, const int64_t *at) {
    int64_t found = 0;
    for (int i = 0; i < 4; i++)
        found += wide(t, 902)[i] == 1 ? 0 : at[i] * wide(t, 903)[i];
    return found;
}

static double get(Memory *memory, const Descriptor *t, const int64_t *at) {
    return number_at(memory_of(memory, t), whole(t, 901), place(t, at));
}

static double combined(int mode, double x, double y) {
    switch (mode) {
        case 0: return x + y;
        case 1: return x * y;
        case 6: return x / y;
        case 9: return x - y;
        case 13: return exp(x);
        default: return log(x);
    }
}

static double element(Memory *memory, const Descriptor *op, int64_t *at) {
    int64_t b[4], total = 0;
    double sum = 0;
    if (op->kind == RUN_POINTWISE)
        return combined(whole(other(op, 750), 0), get(memory, other(op, 751), at),
                        find(op, 752) ? get(memory, other(op, 752), at) : 0);
    memcpy(b, at, sizeof b);
    if (op->kind == RUN_MATMUL) {
        int64_t a[4] = {at[0], at[1], at[2], 0};
        for (; total < wide(other(op, 1520), 902)[3]; total++) {
            a[3] = b[2] = total;
            sum += get(memory, other(op, 1520), a) * get(memory, other(op, 1521), b);
        }
        return sum;
    }
    int largest = whole(other(op, 1612), 1600) == 3;
    if (largest) sum = -INFINITY;
    for (; total < wide(other(op, 1610), 902)[3]; total++) {
        b[3] = total;
        double x = get(memory, other(op, 1610), b);
        sum = !largest ? sum + x : x > sum || x != x ? x : sum;
    }
    return sum;
}

static void compute(Memory *memory, const Descriptor *op) {
    int name = op->kind == RUN_MATMUL ? 1522 : op->kind == RUN_POINTWISE ? 753 : 1611;
    const Descriptor *to = other(op, name);
    const int64_t *n = wide(to, 902);
    int64_t at[4];
    for (at[0] = 0; at[0] < n[0]; at[0]++)
        for (at[1] = 0; at[1] < n[1]; at[1]++)
            for (at[2] = 0; at[2] < n[2]; at[2]++)
                for (at[3] = 0; at[3] < n[3]; at[3]++)
                    set_number(memory_of(memory, to), whole(to, 901), place(to, at),
                               element(memory, op, at));
}

static int64_t bytes_of(const Descriptor *t) {
    int64_t last = 0;
    for (int i = 0; i < 4; i++) last += (wide(t, 902)[i] - 1) * wide(t, 903)[i];
    return (last + 1) * (int64_t)item_of(whole(t, 901));
}

// A tensor's memory: given by the caller, or the graph's own.
static int take(Memory *memory, const Descriptor *t, const Descriptor *pack) {
    const Attribute *ids = find(pack, 1000);
    if (memory_of(memory, t)) return 0;
    void *data = is_set(t, 907) ? calloc(1, (size_t)bytes_of(t)) : NULL;
    for (int64_t i = 0; i < ids->count && !data; i++)
        if (wide(pack, 1000)[i] == *wide(t, 906)) data = ((void **)wide(pack, 1001))[i];
    NEED(data && memory->n < 32);
    if (!is_set(t, 907) && !is_set(t, 908)) {
        NEED(holds(data, (size_t)bytes_of(t)) && (uintptr_t)data % ALIGNED == 0);
        if (is_half(whole(t, 901)) && wide(t, 902)[2] > 1 && *wide(t, 906) < 3)
            NEED(wide(t, 903)[0] % 8 == 0 && wide(t, 903)[1] % 8 == 0);
    }
    memory->of[memory->n] = t;
    memory->data[memory->n++] = data;
    return 0;
}

int cudnnBackendExecute(void *handle, const Descriptor *plan, const Descriptor *pack) {
    static const int names[] = {751, 752, 753, 1520, 1521, 1522, 1610, 1611};
    Memory memory = {.n = 0};
    int64_t count;
    int status = 0;
    NEED(handle && plan->finished && pack->finished);
    Descriptor *const *all = operations(other(other(plan, 401), -1), &count);
    NEED(holds(*(void **)wide(pack, 1003), 512));
    memset(*(void **)wide(pack, 1003), 0xEE, 512);
    for (int64_t i = 0; i < count; i++)
        for (int k = 0; k < 8 && !status; k++)
            if (find(all[i], names[k])) status = take(&memory, other(all[i], names[k]), pack);
    for (int64_t i = 0; i < count && !status; i++) compute(&memory, all[i]);
    for (int i = 0; i < memory.n; i++)
        if (is_set(memory.of[i], 907)) free(memory.data[i]);
    attentions++;
    masked += count == 11;
    return status;
}

long stand_in_attentions(void) { return attentions; }
long stand_in_masked(void) { return masked; }
long stand_in_built(void) { return built; }
