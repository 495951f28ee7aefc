/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_KEYSTORE_PG_INT_H
#define UE_KEYSTORE_PG_INT_H

/**
 * Keys from PostgreSQL: what its two halves share.
 *
 * keystore_pg.c is the requests' half. It answers from the cache (keycache.h),
 * and where it can't, it makes a *flight*: a key that is being looked up. One
 * key has one flight in a child, however many requests wait for it; and one
 * child asks for all of them, the one that claims the key in the cache. In the
 * others the flight is *deferred* until the claim is gone.
 *
 * keystore_pg_worker.c is the half of the one thread a child has for it. It
 * owns the connection (pg.h) and sends what is queued, many keys in one query.
 * A budget bounds how many queries that are: UE_PG_BURST at once,
 * UE_PG_QUERIES a second from then on. So a flood of unknown keys is a trickle
 * of long queries, and a new key is in one of them all the same.
 *
 * A query that finds at least half of its keys costs nothing of it: a gateway
 * that has just started has many keys to look up, and they are good ones.
 *
 * Requests wait at most UE_PG_PATIENCE, those whose key can be served stale
 * UE_PG_STALLED. For different keys no more than three quarters of a child's
 * threads wait while there is budget, a quarter when it is used up, and none
 * when an answer is late. The others are told at once that the key
 * can't be checked; it is looked up nevertheless, and found at the next
 * attempt.
 *
 * What is fresh:
 *   - A found key is looked up again in the background when three quarters of
 *     its ttl are over, or it is used after that; one that is older than ttl
 *     isn't served before it was looked up, unless the database can't be asked.
 *   - A notification casts doubt on a key: it is looked up again, and requests
 *     wait for that. It isn't served while the database can't be asked, since
 *     what is known of it is known to be wrong. '*' casts doubt on all, which
 *     are then walked through; they are served stale if it must be.
 *   - Nobody knows what was missed while nobody listened: so a child that comes
 *     back casts doubt on all keys; one that is new only if no other child is
 *     connected, since the cache is everybody's.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "keycache.h"
#include "keystore.h"
#include "log.h"
#include "pg.h"

#define UE_PG_FLIGHTS 4096 /* keys that a child looks up at a time */
#define UE_PG_BUCKETS 4096
#define UE_PG_BATCH 1000 /* keys in a query */
#define UE_PG_WALK 500   /* of them in doubt, at most */
#define UE_PG_QUERIES 20 /* a second */
#define UE_PG_BURST 5
#define UE_PG_PATIENCE apr_time_from_sec(1)
#define UE_PG_STALLED apr_time_from_msec(250) /* without an answer */
#define UE_PG_CLAIM 500                       /* milliseconds */
#define UE_PG_LISTENERS 2048

typedef enum {
    UE_FLIGHT_QUEUED,
    UE_FLIGHT_DEFERRED, /**< another child asks */
    UE_FLIGHT_SENT,
    UE_FLIGHT_LANDED
} ue_flight_state_t;

typedef enum {
    UE_ANSWER_FOUND,
    UE_ANSWER_UNKNOWN,
    UE_ANSWER_LOOK, /**< another child has the answer: it is in the cache */
    UE_ANSWER_NONE  /**< the database can't be asked */
} ue_answer_t;

typedef struct ue_flight_t {
    struct ue_flight_t *chain; /**< in its bucket, or of free ones */
    struct ue_flight_t *next;  /**< in a line */
    /** A presented key's own; or one from the cache, of unknown kind. */
    ue_keyhash_t hash;
    ue_keyhash_t plain; /**< its SHA-256, if hash is under a secret */
    ue_keytag_t tag;
    uint8_t has_tag;   /**< it was presented */
    uint8_t has_plain; /**< look for that, too */
    uint8_t state;     /**< ue_flight_state_t */
    uint8_t answer;    /**< ue_answer_t, when it has landed */
    uint8_t again;     /**< a change was notified since it was sent */
    uint8_t is_own;    /**< the answer is that to hash, not to plain */
    uint32_t waiters;
    pthread_cond_t done;
    ue_keyrecord_t record; /**< with UE_ANSWER_FOUND */
    uint8_t *block;        /**< what restricts it; malloc'd */
    size_t block_len;
} ue_flight_t;

typedef struct {
    ue_flight_t *first;
    ue_flight_t **last;
} ue_line_t;

/** What the log was told of the connection, by whichever child. */
enum { UE_PG_UNTOLD, UE_PG_TOLD_UP, UE_PG_TOLD_DOWN };

/** Which children listen; in shared memory. */
typedef struct {
    _Atomic int told;
    ue_log_limit_t limit; /**< of saying that it is down */
    struct {
        _Atomic int pid;
        _Atomic int is_up;
    } child[UE_PG_LISTENERS];
} ue_pg_shared_t;

struct ue_pg_child_t;

typedef struct {
    ue_keystore_t base;
    const char *url;
    apr_pool_t *pool;
    ue_keycache_t *cache;
    ue_pg_shared_t *shared;
    uint64_t ttl, negative, stale; /**< milliseconds */
    const ue_keysecret_t *secret;
    ue_keyhash_t secret_mark;    /**< tells one secret from another */
    struct ue_pg_child_t *child; /**< NULL in the parent */
} ue_pgstore_t;

/** A child's share. */
typedef struct ue_pg_child_t {
    ue_pgstore_t *store;
    ue_seat_t *seat;
    int threads;
    int wake_fd;
    _Atomic int stop;
    _Atomic int running;

    pthread_mutex_t lock; /**< of all down to the next blank line */
    ue_flight_t *bucket[UE_PG_BUCKETS];
    ue_flight_t *free;
    ue_line_t queued;
    ue_line_t deferred;
    int keys_waited_for;
    int budget;          /**< whole queries that may be sent now */
    apr_time_t down_at;  /**< 0: the connection is up */
    apr_time_t asked_at; /**< 0: no answer is due */
    ue_flight_t flights[UE_PG_FLIGHTS];

    /* of the thread */
    ue_pg_t *pg;
    int listener; /**< its place in shared; -1: none */
    int was_up;
    int is_up;
    int is_asking;  /**< a batch is out */
    int is_refused; /**< the last question was not answered */
    apr_pool_t *scratch;
    apr_time_t earned_at; /**< until when the budget was counted */
    ue_flight_t *batch[UE_PG_BATCH];
    uint32_t batch_count;
    uint64_t sent_at;    /**< ms */
    uint64_t doubted_at; /**< ms; what is asked in the same one is in doubt */
    int walking;
    uint32_t cursor;
    char *array; /**< the query's parameter */
} ue_pg_child_t;

/** Milliseconds of CLOCK_MONOTONIC, as coarse as the kernel's tick. */
uint64_t ue_pg_now_ms(void);

/** The flight of a key, or NULL. @locks lock is held */
ue_flight_t *ue_flight_find(const ue_pg_child_t *c, const ue_keyhash_t *hash);

/** Begin one, without tag, in no line. @locks lock is held
 * @return NULL: there are too many */
ue_flight_t *ue_flight_begin(ue_pg_child_t *c, const ue_keyhash_t *hash);

/** Put it into the queue of those to send. @locks lock is held */
void ue_flight_queue(ue_pg_child_t *c, ue_flight_t *f);

/** Put it into a line, at its end. @locks lock is held */
void ue_line_append(ue_line_t *line, ue_flight_t *f);

/** Take the first out of a line; NULL: there is none. @locks lock is held */
ue_flight_t *ue_line_pop(ue_line_t *line);

/** It is over: who comes now begins another. @locks lock is held */
void ue_flight_land(ue_pg_child_t *c, ue_flight_t *f, ue_answer_t answer);

/** Give it back, when it has landed and nobody waits for it any more.
 * @locks lock is held */
void ue_flight_free(ue_pg_child_t *c, ue_flight_t *f);

/** Wake the thread. */
void ue_pg_wake(const ue_pg_child_t *c);

/** The thread; its data is the child. */
void *ue_pg_work(void *data);

/* ---- the thread's own: keystore_pg_answer.c ---- */

/** The answer to a batch: tell the cache and those who wait. The baton is the
 * child. */
void ue_pg_take_answer(void *baton, const PGresult *rows);

/** A flight is over. @locks takes lock */
void ue_pg_land(ue_pg_child_t *c, ue_flight_t *f, ue_answer_t answer);

/** Look a key up again, since it has changed. @locks takes lock */
void ue_pg_ask_again(ue_pg_child_t *c, const ue_keyhash_t *hash);

/** Say, once for all children, that the database can be asked. */
void ue_pg_tell_up(ue_pg_child_t *c);

/** What ue_pg_take_answer() reads, in its order of columns. */
extern const char ue_pg_query[];

#endif /* UE_KEYSTORE_PG_INT_H */
