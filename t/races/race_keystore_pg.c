/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/**
 * Many threads look keys up in a real database, while somebody else
 * (t/integration/test_535_pg_races.py) changes them, notifies, and ends
 * connections. Each key is valid and says whose it is, so each answer can be
 * judged.
 *
 *   race_keystore_pg URL SECONDS KEYS [SECRET]
 *
 * Key number N is "race-key-N", its id ends in N as twelve decimal digits. It
 * writes a line of JSON: answers that were right, with another key's identity
 * (wrong), that the key isn't there (refused), that it can't be checked
 * (failed), and how many of the right ones were stale.
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
        || record.revoked) {
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
                                     .stale = apr_time_from_sec(600),
                                     .size = 100000};
    ue_metrics_t *metrics;
    pthread_t threads[THREADS];
    const char *why = "";
    apr_pool_t *p;
    uintptr_t i;

    apr_initialize();
    apr_pool_create(&p, NULL);
    if (argc < 4
        || (argc > 4
            && ue_keysecret_read(&options.secret, argv[4], &why, p)
                   != APR_SUCCESS)
        || ue_metrics_create(&metrics, 8, p) != APR_SUCCESS
        || ue_keystore_open(&store, argv[1], &options, &why, p) != APR_SUCCESS
        || store->vtable->start(store, ue_metrics_sit(metrics), THREADS)
               != APR_SUCCESS) {
        fprintf(stderr, "race_keystore_pg URL SECONDS KEYS [SECRET] %s\n", why);
        return 2;
    }
    keys = atoi(argv[3]);
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
