/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/**
 * limits_take SUBJECTS REQUESTS [FLOOD]
 *
 * What it costs to count a request of a limited subject: to find it and to let
 * the request in. SUBJECTS are put in, and REQUESTS come from them at random;
 * each is let in. With FLOOD, so many come from subjects that aren't there, and
 * the table is full: each makes another give up its slot. Prints nanoseconds a
 * request, nanoseconds of putting a subject in, and with FLOOD of one that
 * needs another's slot.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <apr_general.h>

#include "subjects.h"

#define BATCH 1024 /* subjects that are named before their requests come */

static ue_subjects_t *table;
static ue_subject_t subjects[BATCH];
static ue_gcra_t gcra;

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* splitmix64 */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static ue_subject_t make_subject(uint64_t n)
{
    ue_subject_t subject = {{n, ~n}, UE_BY_KEY, APR_USEC_PER_SEC};

    return subject;
}

/* What bench/limits lets callgrind count. */
static __attribute__((noinline)) int take(const ue_subject_t *subject,
                                          uint64_t now)
{
    ue_gcra_state_t state;
    ue_subjectref_t ref;

    return !ue_subjects_find(table, subject, now, &ref)
           && !ue_subjects_take(table, ref, &gcra, now, &state)
           && state.is_let_in;
}

static void must_be(uint64_t is, uint64_t all)
{
    if (is != all) {
        fprintf(stderr, "limits_take: %llu of %llu were let in\n",
                (unsigned long long)is, (unsigned long long)all);
        exit(1);
    }
}

static double ask(uint64_t count, uint64_t requests)
{
    uint64_t state = 1, n, began, took = 0, let_in = 0;
    int i;

    for (n = 0; n < requests; n += BATCH) {
        for (i = 0; i < BATCH; i++) {
            subjects[i] = make_subject(next_random(&state) % count);
        }
        began = now_ns();
        for (i = 0; i < BATCH; i++) {
            let_in += (uint64_t)take(&subjects[i], ue_gcra_time(began));
        }
        took += now_ns() - began;
    }
    must_be(let_in, n);
    return (double)took / (double)n;
}

/* Put subjects in. @return nanoseconds for one */
static double put_in(uint64_t from, uint64_t count, uint64_t after)
{
    uint64_t n, began = now_ns(), found = 0;
    ue_subjectref_t ref;

    for (n = 0; n < count; n++) {
        ue_subject_t subject = make_subject(from + n);

        found += !ue_subjects_find(table, &subject, ue_gcra_time(began + after),
                                   &ref);
    }
    must_be(found, count);
    return (double)(now_ns() - began) / (double)count;
}

int main(int argc, char **argv)
{
    /* a bucket that no run uses up */
    ue_rate_t rate = {1000000, APR_USEC_PER_SEC, UE_RATE_MAX};
    uint64_t count, requests, flood;
    double put_ns, ask_ns;
    apr_pool_t *p;

    if (argc < 3 || apr_initialize() != APR_SUCCESS) {
        return 2;
    }
    count = strtoull(argv[1], NULL, 10);
    requests = strtoull(argv[2], NULL, 10);
    flood = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;
    apr_pool_create(&p, NULL);
    ue_gcra_prepare(&gcra, &rate);
    if (ue_subjects_create(&table, (uint32_t)count, p)) {
        return 1;
    }
    put_ns = put_in(0, count, 0);
    ask(count, requests / 10); /* not the first ones */
    ask_ns = ask(count, requests);
    printf("%.1f %.1f", ask_ns, put_ns);
    if (flood) {
        /* a minute later, when all buckets are full */
        printf(" %.1f", put_in(count, flood, UINT64_C(60000000000)));
    }
    printf("\n");
    return 0;
}
