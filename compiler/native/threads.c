/* Rows of a launch over the OpenMP runtime that Paddle's own libraries use: a second
   pool of threads would fight theirs for the cores. Found by dlopen, so that nothing
   here is built against OpenMP; without it all runs in the calling thread. */
#include "runtime.h" /* first: Python.h asks for the GNU functions used below */

#include <dlfcn.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#endif

static struct {
    void (*parallel)(void (*body)(void *), void *data, unsigned threads,
                     unsigned flags);
    int (*thread)(void);
    int (*threads)(void);
} omp;

static atomic_int wanted; /* 0: as many as there are cores */

static int cores(void) {
#ifdef __linux__
    cpu_set_t set;
    if (!sched_getaffinity(0, sizeof set, &set)) return CPU_COUNT(&set);
#endif
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    return count > 0 ? (int)count : 1;
}

void threads_set(int count) {
    atomic_store(&wanted, count);
}

int threads_get(void) {
    int count = atomic_load(&wanted);
    if (count) return count;
    count = cores();
    atomic_store(&wanted, count);
    return count;
}

bool threads_open(const char *library) {
    void *handle = dlopen(library, RTLD_NOW | RTLD_NOLOAD);
    if (!handle) handle = dlopen(library, RTLD_NOW);
    if (!handle) return false;
    *(void **)&omp.thread = dlsym(handle, "omp_get_thread_num");
    *(void **)&omp.threads = dlsym(handle, "omp_get_num_threads");
    void *parallel = dlsym(handle, "GOMP_parallel");
    if (!omp.thread || !omp.threads || !parallel) return false;
    *(void **)&omp.parallel = parallel;
    return true;
}

int64_t chunk_count(int64_t rows, int64_t grain) {
    if (!omp.parallel || rows <= 1) return 1;
    int64_t most = grain > 1 ? rows / grain : rows;
    int64_t threads = threads_get();
    if (most < 1) return 1;
    return most < threads ? most : threads;
}

Rows chunk_rows(int64_t rows, int64_t chunks, int64_t chunk) {
    int64_t each = rows / chunks, more = rows % chunks;
    int64_t begin = chunk * each + (chunk < more ? chunk : more);
    return (Rows){begin, begin + each + (chunk < more)};
}

typedef struct {
    RunChunk *run;
    const void *work;
    int64_t chunks;
} Share;

/* The runtime may give fewer threads than asked. Chunk i always goes to thread i of
   the team, whose caches may still hold those rows from the launch before. */
static void run_share(void *data) {
    const Share *share = data;
    for (int64_t i = omp.thread(); i < share->chunks; i += omp.threads())
        share->run(share->work, i);
}

void run_chunks(RunChunk *run, const void *work, int64_t chunks) {
    Share share = {run, work, chunks};
    if (chunks == 1)
        run(work, 0);
    else
        omp.parallel(run_share, &share, (unsigned)chunks, 0);
}

static void run_part(const void *work, int64_t chunk) {
    const Job *job = work;
    Rows rows = chunk_rows(job->rows, job->chunks, chunk);
    char *scratch = job->scratch ? job->scratch + chunk * job->scratch_step : NULL;
    job->kernel(job->buffers, job->dims, rows.begin, rows.end, scratch);
}

void run_job(const Job *job) {
    run_chunks(run_part, job, job->chunks);
}
