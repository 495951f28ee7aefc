/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_USAGECTL_H
#define UE_USAGECTL_H

/**
 * usagectl: what an administrator does with organizations, keys, topics and
 * spools.
 *
 * What was asked for goes to standard output, everything else to standard
 * error. A command is a row of a table in main.c: its words, the options that
 * it takes and needs, and a function, which finds them read and checked for
 * being there. One thread, and one pool that ends with the process.
 */
#include <apr_pools.h>
#include <apr_tables.h>
#include <apr_time.h>

struct json_object;

/** Exit status (docs/formats.md). */
enum {
    UE_CTL_DONE,
    UE_CTL_REFUSED,     /**< refused or not complete */
    UE_CTL_WRONG_USE,   /**< the command line is wrong */
    UE_CTL_OUT_OF_REACH /**< a server can't be reached */
};

typedef enum {
    UE_OPT_STORE,
    UE_OPT_ORG,
    UE_OPT_ID,
    UE_OPT_NAME,
    UE_OPT_ORG_NAME,
    UE_OPT_ENV,
    UE_OPT_EXPIRES,
    UE_OPT_PLAN,
    UE_OPT_RATE,
    UE_OPT_QUOTA,
    UE_OPT_NETWORK,
    UE_OPT_PATH,
    UE_OPT_METHOD,
    UE_OPT_BILLABLE,
    UE_OPT_NOT_BILLABLE,
    UE_OPT_NO_PLAN,
    UE_OPT_NO_RATE,
    UE_OPT_NO_QUOTA,
    UE_OPT_NO_NETWORKS,
    UE_OPT_NO_PATHS,
    UE_OPT_NO_METHODS,
    UE_OPT_NO_EXPIRES,
    UE_OPT_GRACE,
    UE_OPT_SECRET,
    UE_OPT_GROUP,
    UE_OPT_BROKERS,
    UE_OPT_TOPIC,
    UE_OPT_PARTITIONS,
    UE_OPT_REPLICATION,
    UE_OPT_RETENTION,
    UE_OPT_ADD_PARTITIONS,
    UE_OPT_KAFKA_OPTION,
    UE_OPT_KAFKA_OPTIONS,
    UE_OPT_LIMIT,
    UE_OPT_FORMAT,
    UE_OPT_ALL,
    UE_OPTS
} ue_ctl_option_t;

typedef struct {
    apr_pool_t *p;
    const char *command;         /**< its words, for messages */
    const char *option[UE_OPTS]; /**< values; NULL: not given */
    const char *operand;         /**< NULL: none */
    /** All values, in their order, of an option that may be there several
     * times; empty without it, NULL for other options. */
    apr_array_header_t *many[UE_OPTS];
} ue_ctl_t;

/** Say what went wrong. @return status, for the caller to return */
int ue_ctl_fail(const ue_ctl_t *ctl, int status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/** Say something on standard error. */
void ue_ctl_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Values (store.c). Functions that return int return an exit status and have
 * said what was wrong. ----------------------------------------------------- */

/** Check a UUID that was given, and make it lower case. */
int ue_ctl_uuid(const ue_ctl_t *ctl, const char *what, const char *given,
                const char **id);

/** Check a name that was given. */
int ue_ctl_name(const ue_ctl_t *ctl, const char *option, const char *name);

/** A time as RFC 3339, to the second where it is a whole one. */
const char *ue_ctl_time(apr_time_t when, apr_pool_t *p);

/** A time with a unit, "24h": d, h, min or s. @return APR_EINVAL for anything
 * else, which is the caller's to tell */
apr_status_t ue_ctl_duration(const char *s, apr_interval_time_t *time);

/** A member, or NULL where it isn't or is null. */
struct json_object *ue_ctl_member(struct json_object *o, const char *name);

/** Is an organization or key, by itself, billable? */
int ue_ctl_is_billable(struct json_object *o);

/* Lists (list.c) ------------------------------------------------------- */

typedef struct {
    const char *name; /**< of the member */
    const char *head; /**< in a table; NULL: not shown there */
} ue_ctl_column_t;

/**
 * Write rows in the format that --format names.
 * @param rows    an array of objects with all columns
 * @param columns ends with a name of NULL
 */
int ue_ctl_list(const ue_ctl_t *ctl, struct json_object *rows,
                const ue_ctl_column_t *columns);

/** The same row by row, of any number of them. */
typedef struct ue_ctl_writer_t ue_ctl_writer_t;

int ue_ctl_writer(const ue_ctl_t *ctl, const ue_ctl_column_t *columns,
                  ue_ctl_writer_t **writer);

/** @return UE_CTL_REFUSED: standard output can't be written, which main() says
 */
int ue_ctl_write(ue_ctl_writer_t *w, struct json_object *row);

/** @param status of all the rows; where it isn't UE_CTL_DONE, JSON stays
 *                 without its end, so that nobody takes it for whole */
void ue_ctl_writer_end(ue_ctl_writer_t *w, int status);

/** Is --format right? For those who would ask a server first. */
int ue_ctl_check_format(const ue_ctl_t *ctl);

/**
 * Write one row in the format that --format names: as a table, a line for each
 * member that is not null; in JSON, an object.
 */
int ue_ctl_show(const ue_ctl_t *ctl, struct json_object *row,
                const ue_ctl_column_t *columns);

/** Text for a terminal: control characters become question marks. */
const char *ue_ctl_harmless(const char *s, apr_pool_t *p);

/** Write all of it to standard output, now. */
int ue_ctl_put(const ue_ctl_t *ctl, const char *s, size_t len);

/* Commands ------------------------------------------------------------- */

int ue_ctl_plan_create(ue_ctl_t *ctl);
int ue_ctl_plan_list(ue_ctl_t *ctl);
int ue_ctl_plan_show(ue_ctl_t *ctl);
int ue_ctl_plan_set(ue_ctl_t *ctl);
int ue_ctl_plan_delete(ue_ctl_t *ctl);
int ue_ctl_org_create(ue_ctl_t *ctl);
int ue_ctl_org_list(ue_ctl_t *ctl);
int ue_ctl_org_show(ue_ctl_t *ctl);
int ue_ctl_org_set(ue_ctl_t *ctl);
int ue_ctl_key_create(ue_ctl_t *ctl);
int ue_ctl_key_list(ue_ctl_t *ctl);
int ue_ctl_key_show(ue_ctl_t *ctl);
int ue_ctl_key_set(ue_ctl_t *ctl);
int ue_ctl_key_revoke(ue_ctl_t *ctl);
int ue_ctl_key_rotate(ue_ctl_t *ctl);
int ue_ctl_key_check(ue_ctl_t *ctl);
int ue_ctl_key_changes(ue_ctl_t *ctl);
int ue_ctl_init_kafka(ue_ctl_t *ctl);
int ue_ctl_init_db(ue_ctl_t *ctl);
int ue_ctl_spool_ls(ue_ctl_t *ctl);
int ue_ctl_spool_dump(ue_ctl_t *ctl);
int ue_ctl_spool_verify(ue_ctl_t *ctl);

#endif /* UE_USAGECTL_H */
