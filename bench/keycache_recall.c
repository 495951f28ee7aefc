/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */

/**
 * keycache_recall KEYS LOOKUPS [NETWORK|- [RATE]]
 *
 * What it costs to recall a key from the cache of a database's keys: SipHash of
 * the presented key, then the look-up. KEYS are put in, and LOOKUPS of them are
 * looked up at random; with NETWORK, clients are restricted to that one, and
 * come from 192.0.2.1; with RATE, each key has it. Prints nanoseconds a
 * look-up, the bytes in memory that the cache took for a key, what lies in
 * chunks included, and nanoseconds of putting one in.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <apr_general.h>

#include "keycache.h"

#define BATCH 1024 /* keys that are made before they are looked up */

static ue_keycache_t *cache;
static ue_rate_t rate;
static ue_asked_t asked = {.method = "GET", .path = "/v1", .path_len = 3};
static char keys[BATCH][UE_APIKEY_LEN + 1];

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

static void make_key(char *key, uint64_t n)
{
    snprintf(key, UE_APIKEY_LEN + 1, "sk_live_%036llu", (unsigned long long)n);
}

static void put(uint64_t n, const uint8_t *block, size_t len)
{
    uint64_t state = n;
    ue_keyrecord_t record = {.billable = 1, .of_key = {.rate = rate}};
    ue_keyhash_t hash;
    ue_keytag_t tag;
    int i;

    for (i = 0; i < 4; i++) {
        uint64_t word = next_random(&state);

        memcpy(hash.b + 8 * i, &word, sizeof(word));
    }
    memset(record.organization_text, '0', UE_UUID_LEN);
    memset(record.api_key_text, '0', UE_UUID_LEN);
    make_key(keys[0], n);
    ue_keycache_tag(cache, keys[0], UE_APIKEY_LEN, &tag);
    ue_keycache_put(cache, &tag, &hash, &record, block, len, 1);
}

/* What bench/keycache lets callgrind count. */
static __attribute__((noinline)) int recall(const char *key)
{
    ue_keyrecord_t record;
    ue_keyage_t age;
    ue_keytag_t tag;

    ue_keycache_tag(cache, key, UE_APIKEY_LEN, &tag);
    return ue_keycache_get(cache, &tag, &asked, &record, &age)
               == UE_KEYCACHE_FOUND
           && record.access == UE_ACCESS_GRANTED
           && record.of_key.rate.count == rate.count;
}

static double look_up(uint64_t count, uint64_t lookups)
{
    uint64_t state = 1, n, began, took = 0, found = 0;
    int i;

    for (n = 0; n < lookups; n += BATCH) {
        for (i = 0; i < BATCH; i++) {
            make_key(keys[i], next_random(&state) % count);
        }
        began = now_ns();
        for (i = 0; i < BATCH; i++) {
            found += (uint64_t)recall(keys[i]);
        }
        took += now_ns() - began;
    }
    if (found != n) {
        fprintf(stderr, "keycache_recall: %llu of %llu were found\n",
                (unsigned long long)found, (unsigned long long)n);
        exit(1);
    }
    return (double)took / (double)n;
}

/* Bytes of this process that are in memory and shared: the cache. */
static double resident(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    double kb = 0;

    while (f && fgets(line, sizeof(line), f)) {
        sscanf(line, "RssShmem: %lf", &kb);
    }
    if (f) {
        fclose(f);
    }
    return kb * 1024;
}

static size_t restrict_to(const char *network, uint8_t block[UE_ACCESS_MAX],
                          apr_pool_t *p)
{
    const char *networks[] = {network, NULL}, *why = "";
    ue_access_lists_t lists = {.networks = networks};
    apr_sockaddr_t *client;
    size_t len = 0;

    if (network
        && (ue_access_compile(&lists, 1, block, &len, &why, p)
            || apr_sockaddr_info_get(&client, "192.0.2.1", APR_INET, 0, 0,
                                     p))) {
        fprintf(stderr, "keycache_recall: %s\n", why);
        exit(1);
    }
    asked.client = network ? client : NULL;
    return len;
}

int main(int argc, char **argv)
{
    uint8_t block[UE_ACCESS_MAX];
    uint64_t count, lookups, n, began;
    double put_ns, bytes;
    apr_pool_t *p;
    size_t len;

    if (argc < 3 || apr_initialize() != APR_SUCCESS) {
        return 2;
    }
    count = strtoull(argv[1], NULL, 10);
    lookups = strtoull(argv[2], NULL, 10);
    apr_pool_create(&p, NULL);
    len = restrict_to(argc > 3 && *argv[3] != '-' ? argv[3] : NULL, block, p);
    if (argc > 4 && ue_rate_parse(&rate, argv[4]) != APR_SUCCESS) {
        return 2;
    }
    if (ue_keycache_create(&cache, (uint32_t)count, p)) {
        return 1;
    }
    bytes = resident();
    began = now_ns();
    for (n = 0; n < count; n++) {
        put(n, block, len);
    }
    put_ns = (double)(now_ns() - began) / (double)count;
    bytes = (resident() - bytes) / (double)count;
    look_up(count, lookups / 10); /* not the first ones */
    printf("%.1f %.1f %.1f\n", look_up(count, lookups), bytes, put_ns);
    return 0;
}
