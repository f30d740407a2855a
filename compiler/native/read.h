/* What read.c and read_steps.c share: values of a spec. Each gives -1, or null, and an
   exception that names the place where a value is not as it must be. */
#ifndef PIROL_READ_H
#define PIROL_READ_H

#include "runtime.h"

enum { MOST = 1 << 24 }; /* of anything: far above any program, far below overflow */

/* "steps[3]", or "slots" where the index is -1. */
typedef struct {
    const char *key;
    int index;
} Where;

int read_fail(Where where, const char *what);
int read_fail_object(Where where, const char *want, PyObject *object);
int read_int(Where where, PyObject *object, const char *what, int64_t low,
             int64_t high, int *out);
int read_dim(Plan *plan, Where where, PyObject *object, Dim *out);
PyObject **read_items(Where where, PyObject *object, int *count);
PyObject **read_tuple(Where where, PyObject *object, int size);
int read_dims(Plan *plan, Where where, PyObject *object, Dims *out);
int read_ids(Plan *plan, Where where, PyObject *object, const char *what,
             int low, int high, Ids *out);
int read_kind(Where where, PyObject *object, const char *const *names, int count,
              int *out);
int read_place(Plan *plan, Where where, PyObject **items, Binding *binding);

/* ---- read_steps.c ---- */

int read_step(Plan *plan, Where where, PyObject *object);

#endif
