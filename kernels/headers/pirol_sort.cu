// Sorting rows: compiler/native/sort_cuda.c launches these kernels. An entry is a key
// with the place that it had; all are different, so that there is one order of them. A
// thread has eight, which it sorts in registers; then runs are merged two by two in
// shared memory, each thread making eight of the result from where its own begin (merge
// path: Odeh, Green, Mwassi, Shmueli, Birk, 2012). A tile is one row, or several short
// ones, or a part of a long one; such parts are runs, which pirol_merge_N merges.
enum { PR_EACH = 8, PR_BLOCK = 256, PR_TILE = PR_EACH * PR_BLOCK };

typedef unsigned long long PrPacked; // the key above 32 bits of the place

struct __align__(16) PrWide {
  unsigned long long key, place;
};

PR_DEVICE bool pr_before(PrPacked a, PrPacked b) { return a < b; }
PR_DEVICE bool pr_before(PrWide a, PrWide b) {
  return a.key < b.key || (a.key == b.key && a.place < b.place);
}
PR_DEVICE long long pr_place(PrPacked e) { return (long long)(e & 0xffffffffu); }
PR_DEVICE long long pr_place(PrWide e) { return (long long)e.place; }
PR_DEVICE void pr_entry(PrPacked *e, unsigned long long key, long long place) {
  *e = key << 32 | (unsigned long long)place;
}
PR_DEVICE void pr_entry(PrWide *e, unsigned long long key, long long place) {
  e->key = key, e->place = (unsigned long long)place;
}
// Behind all that are any.
PR_DEVICE void pr_nothing(PrPacked *e) { *e = ~0ull; }
PR_DEVICE void pr_nothing(PrWide *e) { e->key = e->place = ~0ull; }

// As key_of in sort.h.
PR_DEVICE unsigned long long pr_key(
    unsigned long long bits, unsigned long long sign, unsigned long long infinity,
    unsigned long long mask, unsigned long long turned) {
  if (infinity) {
    const unsigned long long size = bits & ~sign;
    if (size > infinity) return mask ^ turned;
    if (!size) bits = 0;
    bits ^= bits & sign ? mask : sign;
  } else {
    bits ^= sign;
  }
  return bits ^ turned;
}

// Where an entry of a tile lies in shared memory: what neighbouring threads have is not
// in one bank.
PR_DEVICE int pr_slot(int k) { return k + (k >> 3); }

template <class E> PR_DEVICE void pr_sort_own(E *own) {
#pragma unroll
  for (int turn = 0; turn < PR_EACH; ++turn)
#pragma unroll
    for (int k = turn % 2; k + 1 < PR_EACH; k += 2) {
      const E a = own[k], b = own[k + 1];
      const bool swap = pr_before(b, a);
      own[k] = swap ? b : a, own[k + 1] = swap ? a : b;
    }
}

template <class E> PR_DEVICE void pr_put_own(E *memory, const E *own, int thread) {
#pragma unroll
  for (int k = 0; k < PR_EACH; ++k) memory[pr_slot(thread * PR_EACH + k)] = own[k];
}

// How many of the first `both` of two runs are of the left one.
template <class E> PR_DEVICE long long pr_split(
    const E *left, long long n_left, const E *right, long long n_right, long long both) {
  long long low = both > n_right ? both - n_right : 0;
  long long high = both < n_left ? both : n_left;
  while (low < high) {
    const long long middle = (low + high) / 2;
    if (pr_before(left[middle], right[both - 1 - middle])) low = middle + 1;
    else high = middle;
  }
  return low;
}

// The eight from `both` on of two runs in shared memory, of which the right one lies
// behind the left one.
template <class E> PR_DEVICE void pr_merge(
    const E *memory, int left, int n_left, int n_right, int both, E *own) {
  const int right = left + n_left, end = right + n_right;
  both = both < n_left + n_right ? both : n_left + n_right;
  int low = both > n_right ? both - n_right : 0, high = both < n_left ? both : n_left;
  while (low < high) {
    const int middle = (low + high) / 2;
    const E other = memory[pr_slot(right + both - 1 - middle)];
    if (pr_before(memory[pr_slot(left + middle)], other)) low = middle + 1;
    else high = middle;
  }
  int i = left + low, j = right + both - low;
  E a, b, next;
  pr_nothing(&a), pr_nothing(&b);
  if (i < right) a = memory[pr_slot(i)];
  if (j < end) b = memory[pr_slot(j)];
#pragma unroll
  for (int k = 0; k < PR_EACH; ++k) {
    const bool first = pr_before(a, b);
    const int at = first ? ++i : ++j;
    own[k] = first ? a : b;
    pr_nothing(&next);
    if (at < (first ? right : end)) next = memory[pr_slot(at)];
    if (first) a = next;
    else b = next;
  }
}

// pirol_sort_N: rows of items of N bytes, T, in tiles that are parts of 1 << shift slots;
// `runs` of them are a line. The first `count` of each part go to `entries`, or, where
// that is null and a part is a line, to the results. pirol_merge_N: runs of `run` entries, `runs` a line; of
// each two the first `count` go to `to`, or to the results. What is read from memory is
// read before any of it is used, so that it is on its way at once.
#define PR_EVERY(k) _Pragma("unroll") for (int k = 0; k < PR_EACH; ++k)
#define PR_SORT(N, T, E, resident)                                             \
  extern "C" __global__ void __launch_bounds__(256, resident) pirol_sort_##N(  \
      const T *__restrict__ x, T *__restrict__ values,                         \
      long long *__restrict__ indices, E *__restrict__ entries,                \
      long long lines, long long length, long long count, long long shift,     \
      long long runs, unsigned long long sign, unsigned long long infinity,    \
      unsigned long long mask, unsigned long long turned) {                    \
    __shared__ E memory[PR_TILE + PR_BLOCK];                                   \
    const int thread = threadIdx.x, slots = 1 << shift, team = slots / PR_EACH; \
    const int parts = PR_TILE >> shift, lane = thread % team;                  \
    const int begin = thread * PR_EACH, few = (int)count, width = (int)length; \
    const long long all = lines * runs, blocks = (all + parts - 1) / parts;    \
    for (long long block = blockIdx.x; block < blocks; block += gridDim.x) {   \
      const long long tile = block * parts, part = tile + thread / team;       \
      const long long line = part / runs, start = part % runs * slots;         \
      const long long left_over = part < all ? length - start : 0;             \
      const int rest = left_over < slots ? (int)left_over : slots;             \
      const int there = all - tile < parts ? (int)(all - tile) : parts;        \
      const T *own_x = x + (line * length + start);                            \
      const T *tile_x = x + tile * length;                                     \
      T item[PR_EACH];                                                         \
      E own[PR_EACH];                                                          \
      PR_EVERY(k) item[k] = lane + k * team < rest ? own_x[lane + k * team] : 0; \
      PR_EVERY(k) {                                                            \
        const int place = lane + k * team;                                     \
        E entry;                                                               \
        pr_nothing(&own[k]);                                                   \
        pr_entry(&entry, pr_key(item[k], sign, infinity, mask, turned),        \
                 start + place);                                               \
        if (place < rest) own[k] = entry;                                      \
      }                                                                        \
      pr_sort_own(own);                                                        \
      for (int run = PR_EACH; run < slots; run *= 2) {                         \
        const int left = begin & -(2 * run);                                   \
        pr_put_own(memory, own, thread);                                       \
        __syncthreads();                                                       \
        pr_merge(memory, left, run, run, begin - left, own);                   \
        __syncthreads();                                                       \
      }                                                                        \
      pr_put_own(memory, own, thread);                                         \
      __syncthreads();                                                         \
      PR_EVERY(k) {                                                            \
        const int slot = thread + k * PR_BLOCK, at = slot & (slots - 1);       \
        const int of = slot >> shift;                                          \
        const bool here = at < few && of < there;                              \
        own[k] = memory[pr_slot(slot)];                                        \
        if (entries && here) entries[tile * few + at] = own[k];                \
        const bool moves = here && values && !entries;                         \
        item[k] = moves ? tile_x[of * width + (int)pr_place(own[k])] : 0;      \
      }                                                                        \
      PR_EVERY(k) {                                                            \
        const int slot = thread + k * PR_BLOCK, at = slot & (slots - 1);       \
        const int of = slot >> shift, to = of * few + at;                      \
        if (at >= few || of >= there || entries) continue;                     \
        if (values) values[tile * few + to] = item[k];                         \
        if (indices) indices[tile * few + to] = pr_place(own[k]);              \
      }                                                                        \
      __syncthreads();                                                         \
    }                                                                          \
  }                                                                            \
  extern "C" __global__ void __launch_bounds__(256, resident + 1) pirol_merge_##N( \
      const T *__restrict__ x, T *__restrict__ values,                         \
      long long *__restrict__ indices, const E *__restrict__ from,             \
      E *__restrict__ to, long long lines, long long length, long long runs,   \
      long long run, long long count) {                                        \
    __shared__ E memory[PR_TILE + PR_BLOCK];                                   \
    __shared__ long long ends[2];                                              \
    const int thread = threadIdx.x;                                            \
    const long long pairs = (runs + 1) / 2;                                    \
    const long long tiles = (count + PR_TILE - 1) / PR_TILE;                   \
    const long long blocks = lines * pairs * tiles;                            \
    for (long long block = blockIdx.x; block < blocks; block += gridDim.x) {   \
      const long long pair = block / tiles, line = pair / pairs;               \
      const long long which = pair % pairs * 2, begin = block % tiles * PR_TILE; \
      const long long end = begin + PR_TILE < count ? begin + PR_TILE : count; \
      const E *left = from + (line * runs + which) * run, *right = left + run; \
      const long long n_right = which + 1 < runs ? run : 0, some = run + n_right; \
      const long long first = begin < some ? begin : some;                     \
      const long long last = end < some ? end : some;                          \
      if (thread < 2)                                                          \
        ends[thread] = pr_split(left, run, right, n_right, thread ? last : first); \
      __syncthreads();                                                         \
      const int n_left = (int)(ends[1] - ends[0]);                             \
      const int both = (int)(last - first), wanted = (int)(end - begin);       \
      left += ends[0], right += first - ends[0] - n_left;                      \
      T item[PR_EACH];                                                         \
      E own[PR_EACH];                                                          \
      PR_EVERY(k) {                                                            \
        const int at = thread + k * PR_BLOCK;                                  \
        pr_nothing(&own[k]);                                                   \
        if (at < both) own[k] = (at < n_left ? left : right)[at];              \
      }                                                                        \
      PR_EVERY(k) memory[pr_slot(thread + k * PR_BLOCK)] = own[k];             \
      __syncthreads();                                                         \
      pr_merge(memory, 0, n_left, both - n_left, thread * PR_EACH, own);       \
      __syncthreads();                                                         \
      pr_put_own(memory, own, thread);                                         \
      __syncthreads();                                                         \
      PR_EVERY(k) {                                                            \
        const int at = thread + k * PR_BLOCK;                                  \
        own[k] = memory[pr_slot(at)];                                          \
        if (to && at < wanted) to[pair * count + begin + at] = own[k];         \
        const bool moves = at < wanted && values && !to;                       \
        item[k] = moves ? x[line * length + pr_place(own[k])] : 0;             \
      }                                                                        \
      PR_EVERY(k) {                                                            \
        const int at = thread + k * PR_BLOCK;                                  \
        if (at >= wanted || to) continue;                                      \
        if (values) values[line * count + begin + at] = item[k];               \
        if (indices) indices[line * count + begin + at] = pr_place(own[k]);    \
      }                                                                        \
      __syncthreads();                                                         \
    }                                                                          \
  }
