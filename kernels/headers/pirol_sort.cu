// Sorting rows: compiler/native/sort_cuda.c launches these kernels. An entry is a key
// with the place that it had; all are different, so that there is one order of them. A
// thread has eight, which it sorts in registers (odd-even merges: Batcher, 1968). Runs of
// few threads are merged by shuffles (bitonic merges), longer ones two by two in shared
// memory, each thread making eight of the result from where its own begin (merge path:
// Odeh, Green, Mwassi, Shmueli, Birk, 2012). A tile is one row, or several short ones, or
// a part of a long one; such parts are runs, which pirol_merge_N merges.
enum { PR_EACH = 8, PR_BLOCK = 256, PR_TILE = PR_EACH * PR_BLOCK };
enum { PR_REGISTERS = 5 }; // as many entries, 1 << 5, threads sort in registers

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
PR_DEVICE unsigned pr_key_of(PrPacked e) { return (unsigned)(e >> 32); }
PR_DEVICE unsigned long long pr_key_of(PrWide e) { return e.key; }
PR_DEVICE void pr_entry(PrPacked *e, unsigned key, long long place) {
  *e = (unsigned long long)key << 32 | (unsigned)place;
}
PR_DEVICE void pr_entry(PrWide *e, unsigned long long key, long long place) {
  e->key = key, e->place = (unsigned long long)place;
}
// Behind all that are any.
PR_DEVICE void pr_nothing(PrPacked *e) { *e = ~0ull; }
PR_DEVICE void pr_nothing(PrWide *e) { e->key = e->place = ~0ull; }

PR_DEVICE PrPacked pr_exchanged(PrPacked e, int lanes) {
  return __shfl_xor_sync(~0u, e, lanes);
}
PR_DEVICE PrWide pr_exchanged(PrWide e, int lanes) {
  PrWide other;
  other.key = __shfl_xor_sync(~0u, e.key, lanes);
  other.place = __shfl_xor_sync(~0u, e.place, lanes);
  return other;
}

// As Keys in sort.h; of W, an unsigned type with as many bits as keys have, or more.
template <class W> struct PrKeys {
  W sign, infinity, mask, turned;
};

// As key_of in sort.h.
template <class W> PR_DEVICE W pr_key(W bits, PrKeys<W> keys) {
  if (keys.infinity) {
    const W size = bits & ~keys.sign;
    if (size > keys.infinity) return keys.mask ^ keys.turned;
    if (!size) bits = 0;
    bits ^= bits & keys.sign ? keys.mask : keys.sign;
  } else {
    bits ^= keys.sign;
  }
  return bits ^ keys.turned;
}

// The item of a key; of NaN and of zero, which are many, that which lies in the row.
template <class T, class E, class W>
PR_DEVICE T pr_item(E entry, PrKeys<W> keys, const T *row) {
  W bits = pr_key_of(entry) ^ keys.turned;
  if (keys.infinity) {
    const bool many = bits == keys.mask || bits == keys.sign;
    bits ^= bits & keys.sign ? keys.sign : keys.mask;
    return many ? row[pr_place(entry)] : (T)bits;
  }
  return (T)(bits ^ keys.sign);
}

// Where an entry of a tile lies in shared memory: what neighbouring threads have is not
// in one bank.
PR_DEVICE int pr_slot(int k) { return k + (k >> 3); }

template <class E> PR_DEVICE void pr_order(E *a, E *b) {
  const E one = *a, other = *b;
  const bool swap = pr_before(other, one);
  *a = swap ? other : one, *b = swap ? one : other;
}

#define PR_EVERY(k) _Pragma("unroll") for (int k = 0; k < PR_EACH; ++k)

// All numbers are known when this is compiled, so that `own` lies in registers.
#define PR_ORDER(i, j) pr_order(&own[i], &own[j]);

template <class E> PR_DEVICE void pr_sort_own(E *own) {
  PR_ORDER(0, 1) PR_ORDER(2, 3) PR_ORDER(4, 5) PR_ORDER(6, 7)
  PR_ORDER(0, 2) PR_ORDER(1, 3) PR_ORDER(4, 6) PR_ORDER(5, 7)
  PR_ORDER(1, 2) PR_ORDER(5, 6)
  PR_ORDER(0, 4) PR_ORDER(1, 5) PR_ORDER(2, 6) PR_ORDER(3, 7)
  PR_ORDER(2, 4) PR_ORDER(3, 5)
  PR_ORDER(1, 2) PR_ORDER(3, 4) PR_ORDER(5, 6)
}

// Of two threads `apart` the lower keeps what is less. Where both have runs, one is read
// backwards.
template <int apart, bool back, class E> PR_DEVICE void pr_halve(E *own, int thread) {
  const bool upper = thread & (back ? (apart + 1) / 2 : apart);
#pragma unroll
  for (int k = 0; k < PR_EACH / 2; ++k) {
    const int last = PR_EACH - 1 - k;
    const E to_last = pr_exchanged(own[back ? k : last], apart);
    const E to_k = pr_exchanged(own[back ? last : k], apart);
    if (pr_before(to_k, own[k]) != upper) own[k] = to_k;
    if (pr_before(to_last, own[last]) != upper) own[last] = to_last;
  }
}

// What rises and falls, as halves do, in order.
template <class E> PR_DEVICE void pr_sort_half(E *own) {
  PR_ORDER(0, 4) PR_ORDER(1, 5) PR_ORDER(2, 6) PR_ORDER(3, 7)
  PR_ORDER(0, 2) PR_ORDER(1, 3) PR_ORDER(4, 6) PR_ORDER(5, 7)
  PR_ORDER(0, 1) PR_ORDER(2, 3) PR_ORDER(4, 5) PR_ORDER(6, 7)
}

// Runs of eight become those of `team` threads, four at most.
template <class E> PR_DEVICE void pr_sort_team(E *own, int thread, int team) {
  if (team > 1) {
    pr_halve<1, true>(own, thread);
    pr_sort_half(own);
  }
  if (team > 2) {
    pr_halve<3, true>(own, thread);
    pr_halve<1, false>(own, thread);
    pr_sort_half(own);
  }
}

template <class E> PR_DEVICE void pr_put_own(E *memory, const E *own, int thread) {
#pragma unroll
  for (int k = 0; k < PR_EACH; ++k) memory[pr_slot(thread * PR_EACH + k)] = own[k];
}

// Entries that neighbouring threads write next to each other.
template <class E> PR_DEVICE void pr_get_all(const E *memory, E *own, int thread) {
  const E *first = memory + pr_slot(thread);
  PR_EVERY(k) own[k] = first[pr_slot(k * PR_BLOCK)];
}

// How many of the first `both` of two runs are of the left one; a warp looks for it.
template <class E> PR_DEVICE long long pr_split(
    const E *left, long long n_left, const E *right, long long n_right, long long both,
    int lane) {
  long long low = both > n_right ? both - n_right : 0;
  long long high = both < n_left ? both : n_left;
  while (low < high) {
    const long long step = (high - low + 31) / 32, at = low + step * (lane + 1) - 1;
    const bool before = at < high && pr_before(left[at], right[both - 1 - at]);
    const int found = __popc(__ballot_sync(~0u, before));
    const long long end = low + step * (found + 1) - 1;
    low += step * found;
    if (end < high) high = end;
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

// Parts of 1 << shift slots are sorted: of each the first `count` lie in memory, 1 << *of
// slots a part.
template <class E> PR_DEVICE void pr_sort_parts(
    E *memory, E *own, int thread, int shift, long long count, int *of) {
  const int slots = 1 << shift, begin = thread * PR_EACH;
  int digits = shift < PR_REGISTERS ? shift : PR_REGISTERS, all = PR_TILE;
  pr_sort_own(own);
  pr_sort_team(own, thread, slots / PR_EACH);
  for (int done = digits; done < shift; ++done) { // runs of 1 << digits
    const int run = 1 << digits, grows = run < count, made = digits + grows;
    const int pair = begin >> made, both = begin - (pair << made);
    if (begin < all) pr_put_own(memory, own, thread);
    __syncthreads();
    all >>= 1 - grows;
    if (begin < all) pr_merge(memory, pair * 2 * run, run, run, both, own);
    __syncthreads();
    digits = made;
  }
  if (begin < all) pr_put_own(memory, own, thread);
  __syncthreads();
  *of = digits;
}

// pirol_sort_N: rows of items of N bytes, T, in tiles that are parts of 1 << shift slots;
// `runs` of them are a line. The first `count` of each part go to `entries`, or, where
// that is null and a part is a line, to the results.
template <class T, class E, class W> PR_DEVICE void pr_sort(
    E *memory, const T *__restrict__ x, T *__restrict__ values,
    long long *__restrict__ indices, E *__restrict__ entries, long long lines,
    long long length, long long count, int shift, long long runs, PrKeys<W> keys) {
  const int thread = threadIdx.x, slots = 1 << shift, team = slots / PR_EACH;
  const int parts = PR_TILE >> shift, lane = thread & (team - 1);
  const int few = (int)count, width = (int)length;
  const long long all = lines * runs, blocks = (all + parts - 1) / parts;
  for (long long block = blockIdx.x; block < blocks; block += gridDim.x) {
    const long long tile = block * parts, part = tile + (thread * PR_EACH >> shift);
    const long long line = runs > 1 ? part / runs : part;
    const long long start = (part - line * runs) * slots;
    const long long left_over = part < all ? length - start : 0;
    const int rest = left_over < slots ? (int)left_over : slots;
    const int there = all - tile < parts ? (int)(all - tile) : parts;
    const T *own_x = x + (line * length + start), *tile_x = x + tile * length;
    T item[PR_EACH];
    E own[PR_EACH];
    int of;
    PR_EVERY(k) item[k] = lane + k * team < rest ? own_x[lane + k * team] : 0;
    PR_EVERY(k) {
      const int place = lane + k * team;
      E entry;
      pr_nothing(&own[k]);
      pr_entry(&entry, pr_key((W)item[k], keys), start + place);
      if (place < rest) own[k] = entry;
    }
    pr_sort_parts(memory, own, thread, shift, count, &of);
    pr_get_all(memory, own, thread);
    PR_EVERY(k) {
      const int slot = thread + k * PR_BLOCK, at = slot & ((1 << of) - 1);
      const int row = slot >> of, to = row * few + at;
      if (at >= few || row >= there) continue;
      if (entries) (entries + tile * few)[to] = own[k];
      else if (values)
        (values + tile * few)[to] = pr_item(own[k], keys, tile_x + row * width);
      if (indices && !entries) (indices + tile * few)[to] = pr_place(own[k]);
    }
    __syncthreads();
  }
}

// pirol_merge_N: runs of `run` entries, `runs` a line; of each two the first `count` go
// to `to`, or to the results. What is read from memory is read before any of it is used,
// so that it is on its way at once.
template <class T, class E, class W> PR_DEVICE void pr_merge_runs(
    E *memory, long long *ends, const T *__restrict__ x, T *__restrict__ values,
    long long *__restrict__ indices, const E *__restrict__ from, E *__restrict__ to,
    long long lines, long long length, long long runs, long long run, long long count,
    PrKeys<W> keys) {
  const int thread = threadIdx.x;
  const long long pairs = (runs + 1) / 2, tiles = (count + PR_TILE - 1) / PR_TILE;
  const long long blocks = lines * pairs * tiles;
  for (long long block = blockIdx.x; block < blocks; block += gridDim.x) {
    const long long pair = block / tiles, line = pair / pairs;
    const long long which = pair % pairs * 2, begin = block % tiles * PR_TILE;
    const long long end = begin + PR_TILE < count ? begin + PR_TILE : count;
    const E *left = from + (line * runs + which) * run, *right = left + run;
    const long long n_right = which + 1 < runs ? run : 0, some = run + n_right;
    const long long first = begin < some ? begin : some;
    const long long last = end < some ? end : some;
    if (thread < 64) {
      const int lane = thread % 32;
      const long long both = thread < 32 ? first : last;
      const long long at = pr_split(left, run, right, n_right, both, lane);
      if (lane == 0) ends[thread / 32] = at;
    }
    __syncthreads();
    const int n_left = (int)(ends[1] - ends[0]);
    const int both = (int)(last - first), wanted = (int)(end - begin);
    left += ends[0], right += first - ends[0] - n_left;
    E own[PR_EACH];
    PR_EVERY(k) {
      const int at = thread + k * PR_BLOCK;
      pr_nothing(&own[k]);
      if (at < both) own[k] = (at < n_left ? left : right)[at];
    }
    PR_EVERY(k) memory[pr_slot(thread + k * PR_BLOCK)] = own[k];
    __syncthreads();
    pr_merge(memory, 0, n_left, both - n_left, thread * PR_EACH, own);
    __syncthreads();
    pr_put_own(memory, own, thread);
    __syncthreads();
    pr_get_all(memory, own, thread);
    const long long first_result = line * count + begin;
    const T *row = x + line * length;
    PR_EVERY(k) {
      const int at = thread + k * PR_BLOCK;
      if (at >= wanted) continue;
      if (to) (to + pair * count + begin)[at] = own[k];
      else if (values) (values + first_result)[at] = pr_item(own[k], keys, row);
      if (indices && !to) (indices + first_result)[at] = pr_place(own[k]);
    }
    __syncthreads();
  }
}

#define PR_SORT(N, T, E, W, resident)                                          \
  extern "C" __global__ void __launch_bounds__(256, resident) pirol_sort_##N(  \
      const T *x, T *values, long long *indices, E *entries, long long lines,  \
      long long length, long long count, long long shift, long long runs,      \
      unsigned long long sign, unsigned long long infinity,                    \
      unsigned long long mask, unsigned long long turned) {                    \
    __shared__ E memory[PR_TILE + PR_BLOCK];                                   \
    const PrKeys<W> keys = {(W)sign, (W)infinity, (W)mask, (W)turned};         \
    pr_sort(memory, x, values, indices, entries, lines, length, count,         \
            (int)shift, runs, keys);                                           \
  }                                                                            \
  extern "C" __global__ void __launch_bounds__(256, resident + 1) pirol_merge_##N( \
      const T *x, T *values, long long *indices, const E *from, E *to,         \
      long long lines, long long length, long long runs, long long run,        \
      long long count, unsigned long long sign, unsigned long long infinity,   \
      unsigned long long mask, unsigned long long turned) {                    \
    __shared__ E memory[PR_TILE + PR_BLOCK];                                   \
    __shared__ long long ends[2];                                              \
    const PrKeys<W> keys = {(W)sign, (W)infinity, (W)mask, (W)turned};         \
    pr_merge_runs(memory, ends, x, values, indices, from, to, lines, length,   \
                  runs, run, count, keys);                                     \
  }
