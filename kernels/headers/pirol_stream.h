/* Stores past the caches. */
#ifndef PIROL_STREAM_H
#define PIROL_STREAM_H
#include <string.h>

#if defined(__AVX512F__)
#define PR_PAST_BYTES 64
#elif defined(__AVX__)
#define PR_PAST_BYTES 32
#else
#define PR_PAST_BYTES 16
#endif
typedef float pr_past_to __attribute__((vector_size(PR_PAST_BYTES), may_alias));
typedef float pr_past_of
    __attribute__((vector_size(PR_PAST_BYTES), aligned(4), may_alias));

static inline void pr_past(char *to, const char *from) {
#if defined(__clang__)
  __builtin_nontemporal_store(*(const pr_past_of *)from, (pr_past_to *)to);
#elif defined(__AVX512F__)
  __builtin_ia32_movntps512((float *)to, *(const pr_past_of *)from);
#elif defined(__AVX__)
  __builtin_ia32_movntps256((float *)to, *(const pr_past_of *)from);
#elif defined(__SSE2__)
  __builtin_ia32_movntps((float *)to, *(const pr_past_of *)from);
#else
  memcpy(to, from, PR_PAST_BYTES);
#endif
}

/* to[i] = from[i] for `bytes` bytes; whole lines of 64 go past the caches, in an order
   of the processor's own. */
static inline void pr_stream(void *to, const void *from, int64_t bytes) {
  char *y = (char *)to;
  const char *x = (const char *)from;
  int64_t done = pr_least(-(intptr_t)y & 63, bytes);
  memcpy(y, x, done);
  for (; done + 64 <= bytes; done += 64)
    for (int k = 0; k < 64; k += PR_PAST_BYTES)
      pr_past(y + done + k, x + done + k);
  memcpy(y + done, x + done, bytes - done);
}

/* What was streamed is in memory before what is stored from here on. */
static inline void pr_streamed(void) {
#if defined(__SSE2__)
  __builtin_ia32_sfence();
#else
  __sync_synchronize();
#endif
}

#endif
