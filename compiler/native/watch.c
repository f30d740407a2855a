/* When each step of a call begins and ends, for `bench profile`: by the CPU's clock, or
   by events among the device's work. A plan is watched in one call at a time. */
#include <math.h>
#include <time.h>

#include "runtime.h"

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec * 1e-3;
}

/* The places of a step's two ends; behind the last step's, where the call begins. */
static int place_of(const Plan *plan, int step, bool end) {
    return step < plan->n_steps ? 2 * step + end : 2 * plan->n_steps;
}

static void mark(Call *call, int place) {
    Plan *plan = call->plan;
    bool known = !on_cuda(&call->home) ||
                 !cuda_mark(&plan->marks[place], call->home.stream);
    plan->times[place] = known ? now() : NAN;
}

void watch_start(Call *call) {
    Plan *plan = call->plan;
    if (!plan->watched) return;
    int count = place_of(plan, plan->n_steps, false);
    for (int i = 0; i < count; i++) plan->times[i] = NAN;
    mark(call, count);
}

void watch_begin(Call *call, int step) {
    if (call->plan->watched) mark(call, place_of(call->plan, step, false));
}

void watch_end(Call *call, int step) {
    if (call->plan->watched) mark(call, place_of(call->plan, step, true));
}

/* All times from the call's start on. */
void watch_finish(Call *call) {
    Plan *plan = call->plan;
    if (!plan->watched) return;
    int start = place_of(plan, plan->n_steps, false);
    for (int i = 0; i < start; i++) {
        float passed = 0;
        if (isnan(plan->times[i])) continue;
        plan->times[i] -= plan->times[start];
        if (!on_cuda(&call->home)) continue;
        int code = cuda_between(plan->marks[start], plan->marks[i], &passed);
        plan->times[i] = code ? NAN : 1e3 * (double)passed;
    }
}

/* Once it is on for the first time, all times are unknown. */
int watch_set(Plan *plan, bool on) {
    size_t count = 2 * (size_t)plan->n_steps + 1;
    if (on && !plan->marks) {
        plan->marks = plan_alloc(plan, count, sizeof(void *));
        plan->times = plan_alloc(plan, count, sizeof(double));
        if (!plan->marks || !plan->times) return -1;
        for (size_t i = 0; i < count; i++) plan->times[i] = NAN;
    }
    plan->watched = on;
    return 0;
}

PyObject *watch_times(const Plan *plan) {
    PyObject *found = PyList_New(0);
    for (int i = 0; found && plan->times && i < plan->n_steps; i++) {
        double begin = plan->times[2 * i], end = plan->times[2 * i + 1];
        if (isnan(begin) || isnan(end)) continue;
        PyObject *item = Py_BuildValue("(idd)", i, begin, end);
        if (!item || PyList_Append(found, item)) Py_CLEAR(found);
        Py_XDECREF(item);
    }
    return found;
}

void watch_clear(Plan *plan) {
    if (!plan->marks || !on_cuda(&plan->home) || !cuda_reenter(plan->home.device)) return;
    for (int i = 0; i <= place_of(plan, plan->n_steps, false); i++)
        cuda_unmark(&plan->marks[i]);
    cuda_leave();
}
