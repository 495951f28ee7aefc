/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_PG_H
#define UE_PG_H

/**
 * A connection to PostgreSQL that comes back by itself, for one thread that
 * never waits but in poll().
 *
 * The thread asks ue_pg_watch() what to poll for and how long at most, polls,
 * and calls ue_pg_run(), which connects, reads, writes, and tells by callbacks
 * what has come of it. Nothing takes longer than its deadline: a connection
 * that isn't made within UE_PG_CONNECT, or an answer that isn't there within
 * UE_PG_ANSWER, ends the connection, and so does an error of the server. After
 * each end it waits, from UE_PG_AGAIN_LEAST on twice as long each time up to
 * UE_PG_AGAIN_MOST, a random part of it, and connects again.
 *
 * The first thing on a new connection is LISTEN, and the same deadline for the
 * server's part; it is up once that is answered. When it has been idle for
 * UE_PG_IDLE, an empty query finds out whether somebody is still there: a
 * connection that is cut off silently would bring no notification, ever.
 *
 * Where the URL (or the environment, or the service file) names several hosts,
 * libpq tries them in their order, and goes by those that are standbys, since
 * they take no LISTEN (unless target_session_attrs says otherwise). One that
 * accepts and says nothing more would keep it from the next, so after each
 * missed deadline the list begins one further.
 *
 * libpq's own waits: names are looked up by getaddrinfo(), which blocks this
 * thread, as long as the resolver takes. (libpq, "Asynchronous Command
 * Processing" and "PQconnectStartParams".)
 */
#include <poll.h>

#include <apr_errno.h>
#include <apr_pools.h>
#include <apr_time.h>

#include <libpq-fe.h>

#define UE_PG_CONNECT apr_time_from_sec(10) /* or connect_timeout */
#define UE_PG_ANSWER apr_time_from_sec(5)
#define UE_PG_IDLE apr_time_from_sec(10)
#define UE_PG_AGAIN_LEAST apr_time_from_msec(50)
#define UE_PG_AGAIN_MOST apr_time_from_sec(5)

typedef struct ue_pg_t ue_pg_t;

/** Who is told. Called from ue_pg_run() only, in the thread that calls it. */
typedef struct {
    /** It is up: what is notified from now on is heard. */
    void (*up)(void *baton);
    /**
     * It is down, and what was asked is not answered.
     * @param why     libpq's words on one line, without a password; told at
     *                each attempt that fails
     * @param refused the SQLSTATE by which the server has refused what was
     *                asked; NULL: that is not why
     */
    void (*down)(void *baton, const char *why, const char *refused);
    /** The answer to ue_pg_ask(): rows. */
    void (*answer)(void *baton, const PGresult *rows);
    /** A notification. */
    void (*heard)(void *baton, const char *payload);
} ue_pg_listener_t;

/**
 * Check what names a database, without connecting.
 * @return NULL, or a sentence that says what is right and repeats nothing
 */
const char *ue_pg_check(const char *url);

/**
 * Make a connection, which is down at first.
 * @param url     "postgresql://…", as libpq takes it
 * @param channel to LISTEN to, an identifier
 * @param name    application_name, where nobody gives another
 * @param p       where it lives; ue_pg_close() it before that ends
 */
ue_pg_t *ue_pg_create(const char *url, const char *channel, const char *name,
                      const ue_pg_listener_t *listener, void *baton,
                      apr_pool_t *p);

/**
 * What to poll for.
 * @param now  ue_monotonic()
 * @param fd   receives descriptor and events; -1: none
 * @return     microseconds after which ue_pg_run() wants to be called at the
 *             latest
 */
apr_interval_time_t ue_pg_watch(const ue_pg_t *pg, apr_time_t now,
                                struct pollfd *fd);

/** Do what can be done without waiting. @param now ue_monotonic() */
void ue_pg_run(ue_pg_t *pg, apr_time_t now);

/** Is it up, with nothing asked that isn't answered? */
int ue_pg_is_ready(const ue_pg_t *pg);

/** Since when, by ue_monotonic(), an answer is due; 0: none is. */
apr_time_t ue_pg_asked(const ue_pg_t *pg);

/**
 * Ask for rows; the listener gets them. It must be ready.
 * @param sql    one statement
 * @param values its parameters, as text, which are sent at once
 */
void ue_pg_ask(ue_pg_t *pg, const char *sql, int count,
               const char *const *values, apr_time_t now);

/** What the connection is to, for a log: "HOST:PORT/DATABASE". */
const char *ue_pg_name(const ue_pg_t *pg);

/** End it, politely, without waiting. */
void ue_pg_close(ue_pg_t *pg);

#endif /* UE_PG_H */
