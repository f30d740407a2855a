/* What check.c and check_libraries.c share. */
#ifndef PIROL_CHECK_H
#define PIROL_CHECK_H

#include "libraries.h"

typedef struct {
    Plan *plan;
    int *stage_of;  /* slot -> stage, -1 while unset */
    bool *produced; /* buffer -> an opaque step has returned it */
    int stage, step;
} Check;

int check_fail(const char *format, ...); /* -1, with a ValueError */
int need_dim(const Check *check, Dim dim, const char *what, int index);
int use_buffer(const Check *check, int id);

/* ---- check_libraries.c ---- */

int check_product(Check *check, ProductStep *step);
int check_convolution(Check *check, const ConvolutionStep *step);
int check_attention(Check *check, AttentionStep *step);
int check_transform(Check *check, TransformStep *step);
int check_sort(Check *check, SortStep *step);

#endif
