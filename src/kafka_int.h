/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_KAFKA_INT_H
#define UE_KAFKA_INT_H

/**
 * Inside Kafka: kafka.c keeps the cluster, sink_kafka.c a topic of it.
 *
 * Threads. Each topic belongs to the worker of one producer of ours. The
 * workers of a cluster's topics share its librdkafka producer: whoever finds
 * nobody polling polls, reports what is his, and puts what is another's into
 * the other's inbox. One more thread, usage-kafka, asks for metadata, since the
 * asking waits, and sees to the topics of the ledgers (kafka_ledger.c).
 * librdkafka's own threads only log.
 *
 * The librdkafka producer is replaced after a fatal error. Whoever uses it
 * holds the lock for reading, which nobody but the replacing thread can make
 * him wait for; that one waits until it gets the lock at once. No request
 * thread comes here.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "kafka.h"
#include "log.h"
#include "thread.h"

#define UE_KAFKA_TOPICS_MAX 256
#define UE_KAFKA_BROKERS 256 /* credits; brokers beyond them share */

/** What one broker may have under way: more would wait inside librdkafka, at
 * the cost of a core (docs/design.md, section 8). */
#define UE_KAFKA_CREDIT 5

/** librdkafka's words about a failure: it cuts its own at 511. */
#define REASON_MAX 512

/** Lines that come again and again, counted for all children together. */
typedef struct {
    _Atomic int down; /* no broker is within reach, and it has been said */
    ue_log_limit_t reach;
    ue_log_limit_t authentication;
    ue_log_limit_t tls;
    ue_log_limit_t fatal;
    ue_log_limit_t topic;
    ue_log_limit_t other;
    ue_log_limit_t retried;
    ue_log_limit_t refused;
    ue_log_limit_t notes;
    /* By topic, since each is to be mended. */
    ue_log_limit_t no_ledger[UE_KAFKA_TOPICS_MAX];
    ue_log_limit_t forgetful[UE_KAFKA_TOPICS_MAX];
} kafka_limits_t;

/** What a message carries to its delivery report. The partition is in it since
 * librdkafka forgets it where a topic is deleted. */
#define UE_WHOSE(topic, lane, ref) \
    ((uint64_t)(topic) << 56 | (uint64_t)(lane) << 32 | (ref))
#define UE_WHOSE_TOPIC(whose) ((whose) >> 56)
#define UE_WHOSE_LANE(whose) ((uint32_t)((whose) >> 32) & 0xffffff)
#define UE_WHOSE_SLOT(whose) ((ue_slot_ref_t)(whose))

/** The lane of a ledger's records, which have a cookie for a slot. */
#define UE_NOTE_LANE 0xffffffu

/** What a topic's ledger may have under way. */
#define UE_NOTES_MAX 64

/** What became of a message, on its way to its topic's worker. */
typedef struct {
    ue_slot_ref_t ref;
    uint32_t partition;
    rd_kafka_resp_err_t error;
    rd_kafka_msg_status_t status;
} kafka_report_t;

/** What is known of a partition, and of our batch in it. */
typedef struct {
    int32_t leader;  /* -1: none */
    uint32_t size;   /* messages of the batch under way */
    uint32_t left;   /* of these, not reported */
    uint32_t credit; /* index of the broker's that the batch holds */
    char *json;      /* the batch's, until all of it is reported */
} kafka_partition_t;

/** What is done next for the topic of a ledger. */
typedef enum {
    LEDGER_LOOK,   /* ask for its settings */
    LEDGER_COPIES, /* ask how many copies Kafka makes of a new topic */
    LEDGER_MAKE,
    LEDGER_LIST /* look for it in the list of all topics */
} ledger_step_t;

/** The topic of a ledger, and what is under way to it. */
typedef struct {
    const char *name;
    _Atomic int is_there; /* it was seen; Kafka may tell the worker otherwise */

    /* The thread's that asks, under the cluster's lock. */
    ledger_step_t step;
    int is_asked; /* an answer is to come */
    int min_insync;
    uint32_t failures; /* in a row */
    apr_time_t looked_at;
    rd_kafka_resp_err_t error; /* why it was not made */
    char why[REASON_MAX];      /* the same, in words */

    /* The worker's. */
    uint32_t under_way;
    apr_time_t since; /* the first of them */
    uint32_t failed;  /* since the last line about it */
    rd_kafka_resp_err_t why_failed;
} kafka_ledger_t;

typedef struct kafka_topic_t kafka_topic_t;
struct kafka_topic_t {
    ue_sink_t base;
    ue_kafka_t *kafka;
    uint32_t index; /* in the cluster's topics */
    const char *name;
    rd_kafka_topic_t *rkt; /* under the cluster's lock */
    ue_sink_owner_t owner;

    /* Written by the thread that asks for metadata, under the mutex. */
    pthread_mutex_t mutex;
    _Atomic uint32_t version; /* grows when the rest changes */
    int32_t *leaders;
    uint32_t leader_count;
    int usable; /* the topic is there, and we may write to it */
    /* Written by whoever polls. */
    kafka_report_t *inbox;
    uint32_t inbox_count, inbox_room;
    _Atomic int has_mail;

    /* The worker's. */
    uint32_t seen; /* version */
    int is_usable;
    uint32_t lane_count;      /* partitions that there are */
    uint32_t partition_count; /* that there have ever been */
    kafka_partition_t *partitions;
    uint32_t under_way;
    uint32_t failed; /* since the last line about it */
    uint32_t lost;
    rd_kafka_resp_err_t why_failed, why_lost;
    int was_connected;
    int has_ended; /* flushed for good */
    int is_last;   /* of the cluster's topics to do so */

    kafka_ledger_t ledger;
};

struct ue_kafka_t {
    const char *brokers;
    rd_kafka_conf_t *conf; /* the parent's, copied for each librdkafka one */
    int expires;           /* message.timeout.ms is set */
    apr_interval_time_t refresh;
    kafka_limits_t *limits; /* shared by all children */
    kafka_topic_t *topics[UE_KAFKA_TOPICS_MAX];
    uint32_t topic_count;

    pthread_rwlock_t lock;
    rd_kafka_t *rk;
    apr_time_t made_at; /* monotonic */
    atomic_flag polling;
    kafka_topic_t *poller;
    _Atomic int broken;      /* a fatal error: to be replaced */
    _Atomic int connected;   /* metadata was answered */
    _Atomic int hurry;       /* ask for metadata soon */
    _Atomic uint32_t ended;  /* topics */
    _Atomic int ending;      /* all topics have ended */
    _Atomic int certificate; /* why the last one was refused, by X.509 */
    char reason[REASON_MAX]; /* the last error; only who polls writes and
                                reads */
    /* The thread's that asks, under the lock. */
    rd_kafka_queue_t *answers; /* about topics of ledgers; NULL: none yet */
    int broker_count;
    int32_t some_broker;
    _Atomic int32_t credits[UE_KAFKA_BROKERS]; /* batches under way */
};

/**
 * Say something, for all children together once in an interval.
 * @param number the line's, such as "UE0405"
 */
void ue_kafka_say(const ue_kafka_t *kafka, ue_log_limit_t *limit,
                  apr_interval_time_t every, ue_log_level_t level,
                  const char *number, const char *reason);

/** Make the librdkafka producer where it isn't there yet. @locality child */
apr_status_t ue_kafka_start(ue_kafka_t *kafka);

/**
 * Take delivery reports and errors, unless another worker is at it; mend what
 * is broken.
 * @param topic whose worker calls
 */
void ue_kafka_poll(ue_kafka_t *kafka, kafka_topic_t *topic);

/** A topic has come to its end; with the last one, the cluster has.
 * @return whether it was the last */
int ue_kafka_end(ue_kafka_t *kafka);

/** Call home all that librdkafka holds, without waiting. */
void ue_kafka_purge(ue_kafka_t *kafka);

/** A delivery report that is the poller's own. sink_kafka.c */
void ue_kafka_settle(kafka_topic_t *topic, const kafka_report_t *report);

/**
 * Do the next step for the topics of the ledgers, if one is due. Waits for one
 * answer at most, the list of topics, as the asking about topics does.
 * @locality usage-kafka
 */
void ue_kafka_ledger_tend(ue_kafka_t *kafka);

/** What was asked won't be answered: the librdkafka producer is replaced.
 * @locks the cluster's, for writing */
void ue_kafka_ledger_forget(ue_kafka_t *kafka);

#endif /* UE_KAFKA_INT_H */
