/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/**
 * Many threads look keys up in a real database, while somebody else
 * (t/integration/test_535_pg_races.py) changes them, notifies, and ends
 * connections. Each key is valid and says whose it is, so each answer can be
 * judged.
 *
 *   race_keystore_pg URL SECONDS KEYS SIZE [SECRET]
 *
 * SIZE is the cache's; where it has no room for all keys, cells go from key to
 * key. Key number N is "race-key-N", its id ends in N as twelve decimal digits.
 * Of three keys one has no limits, one a rate of N + 1 a minute, with a burst
 * of N + 7, and one a quota of N + 3 a day beside; to all of a key's counts the
 * same multiple of STEP may be added. It writes a line of JSON: answers that
 * were right, with another key's identity or limits (wrong), that the key isn't
 * there (refused), that it can't be checked (failed), and how many of the right
 * ones were stale.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <apr_general.h>

#include "keystore.h"
#include "metrics.h"
#include "thread.h"

#define THREADS 24
#define STEP 10000

static ue_keystore_t *store;
static int keys;
static _Atomic int stop;
static _Atomic long right, wrong, refused, failed, stale;

static ue_keystore_result_t look_up(const char *key, ue_keyrecord_t *record)
{
    const ue_asked_t asked = {NULL, "GET", "/", 1};
    ue_keystore_result_t result =
        store->vtable->recall(store, key, strlen(key), &asked, record);

    return result == UE_KEYSTORE_NONE
               ? store->vtable->lookup(store, key, strlen(key), &asked, record)
               : result;
}

static int has_its_limits(const ue_keyrecord_t *record, uint32_t number)
{
    const ue_rate_t *rate = &record->of_key.rate;
    const ue_quota_t *quota = &record->of_key.quota;
    int has_rate = number % 3 > 0, has_quota = number % 3 > 1;
    uint32_t added = rate->count - (number + 1);

    if (record->of_org.rate.count || record->of_org.quota.count) {
        return 0;
    }
    if (!has_rate) {
        return !rate->count && !quota->count;
    }
    return added % STEP == 0 && rate->burst == number + 7 + added
           && rate->period == apr_time_from_sec(60)
           && quota->count == (has_quota ? number + 3 + added : 0)
           && quota->period == (has_quota ? UE_QUOTA_DAY : UE_QUOTA_HOUR);
}

static void look_at(int number)
{
    ue_keyrecord_t record = {.revoked = 1};
    char key[32], id[16];

    snprintf(key, sizeof(key), "race-key-%d", number);
    snprintf(id, sizeof(id), "%012d", number);
    switch (look_up(key, &record)) {
    case UE_KEYSTORE_UNKNOWN:
    case UE_KEYSTORE_NEGATIVE:
        refused++;
        return;
    case UE_KEYSTORE_FAILED:
        failed++;
        return;
    case UE_KEYSTORE_STALE:
        stale++;
        break;
    default:
        break;
    }
    if (strcmp(record.api_key_text + UE_UUID_LEN - strlen(id), id) != 0
        || record.revoked || !has_its_limits(&record, (uint32_t)number)) {
        wrong++;
    }
    else {
        right++;
    }
}

static void *run(void *data)
{
    unsigned seed = (unsigned)(uintptr_t)data;

    while (!atomic_load(&stop)) {
        look_at(rand_r(&seed) % keys);
        if (rand_r(&seed) % 50 == 0) {
            usleep(100);
        }
    }
    return NULL;
}

int main(int argc, const char *const *argv)
{
    ue_keystore_options_t options = {.ttl = apr_time_from_sec(2),
                                     .negative = apr_time_from_sec(5),
                                     .stale = apr_time_from_sec(600)};
    ue_metrics_t *metrics;
    pthread_t threads[THREADS];
    const char *why = "";
    apr_pool_t *p;
    uintptr_t i;

    apr_initialize();
    apr_pool_create(&p, NULL);
    keys = argc > 4 ? atoi(argv[3]) : 0;
    options.size = argc > 4 ? (uint32_t)atoi(argv[4]) : 0;
    if (argc < 5
        || (argc > 5
            && ue_keysecret_read(&options.secret, argv[5], &why, p)
                   != APR_SUCCESS)
        || ue_metrics_create(&metrics, 8, p) != APR_SUCCESS
        || ue_keystore_open(&store, argv[1], &options, &why, p) != APR_SUCCESS
        || store->vtable->start(store, ue_metrics_sit(metrics), THREADS)
               != APR_SUCCESS) {
        fprintf(stderr, "race_keystore_pg URL SECONDS KEYS SIZE [SECRET] %s\n",
                why);
        return 2;
    }
    for (i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, run, (void *)(i + 1));
    }
    sleep((unsigned)atoi(argv[2]));
    atomic_store(&stop, 1);
    for (i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    while (store->vtable->stop(store)) {
        apr_sleep(apr_time_from_msec(1));
    }
    printf("{\"right\":%ld,\"wrong\":%ld,\"refused\":%ld,\"failed\":%ld,"
           "\"stale\":%ld}\n",
           right, wrong, refused, failed, stale);
    return 0;
}
