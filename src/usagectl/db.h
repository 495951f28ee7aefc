/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_USAGECTL_DB_H
#define UE_USAGECTL_DB_H

/**
 * usagectl's connection to PostgreSQL.
 *
 * One a process, opened by the command that needs it and closed with its pool;
 * libpq finds what the URL leaves out in the environment, in PGSERVICE's file
 * and in .pgpass, as psql does. Once the connection is lost, or the server has
 * been silent for too long, the handle is of no more use: a command tells that
 * and ends.
 *
 * Functions that return int return an exit status (usagectl.h) and have said
 * what was wrong, unless they say otherwise here. What they say repeats neither
 * the URL nor any value of a query, so it holds no password and no hash.
 *
 * Statements are constants with $1, $2, … in them: nothing that somebody gave
 * ever becomes part of one.
 */
#include <libpq-fe.h>

#include "usagectl.h"

/** The version of conf/schema.sql that this usagectl works with. */
#define UE_CTL_SCHEMA_VERSION 2

/** How long a server may be silent, in seconds, before a command ends with
 * UE_CTL_OUT_OF_REACH; scripts take what time they need. (Connecting ends after
 * five, unless connect_timeout or PGCONNECT_TIMEOUT says otherwise.) */
#define UE_CTL_DB_SILENCE 8

/** conf/schema.sql, as it was when this was built (made by the Makefile). */
extern const char ue_ctl_schema[];

typedef struct ue_ctl_db_t ue_ctl_db_t;

/** Does a URL name a database, and not a key file? */
int ue_ctl_is_database(const char *url);

/**
 * Connect, tell the database who we are (usage.who, for api_key_changes), and
 * see that it has the tables, in the version that we know. The session is in
 * UTF-8, its times are in ISO format and in UTC.
 * @param url postgresql:// or postgres://, as --store or DATABASE_URL has it
 * @return UE_CTL_WRONG_USE: not such a URL; UE_CTL_OUT_OF_REACH: no connection,
 *         for whatever reason, a wrong password included; UE_CTL_REFUSED: the
 *         tables lack or are of another version
 */
int ue_ctl_db_open(const ue_ctl_t *ctl, const char *url, ue_ctl_db_t **db);

/** The same without a look at the tables. */
int ue_ctl_db_connect(const ue_ctl_t *ctl, const char *url, ue_ctl_db_t **db);

/**
 * Run one statement.
 * @param n      how many parameters
 * @param params as text; a NULL among them is NULL
 * @param result receives its result, text, which lives as long as the pool; may
 *               be NULL
 * @return UE_CTL_REFUSED: the server refused it; UE_CTL_OUT_OF_REACH: it can't
 *         be asked any more
 */
int ue_ctl_db_query(ue_ctl_db_t *db, const char *sql, int n,
                    const char *const *params, PGresult **result);

/**
 * The same, but the server's refusal is the caller's to tell: then UE_CTL_DONE
 * is returned, and *refusal is the SQLSTATE, such as UE_CTL_DB_UNIQUE. Else it
 * is NULL.
 */
int ue_ctl_db_attempt(ue_ctl_db_t *db, const char *sql, int n,
                      const char *const *params, PGresult **result,
                      const char **refusal);

/** Give a result back before the pool ends. */
void ue_ctl_db_clear(ue_ctl_db_t *db, PGresult *result);

/** Tell a refusal that ue_ctl_db_attempt() left to its caller.
 * @return UE_CTL_REFUSED */
int ue_ctl_db_refused(ue_ctl_db_t *db, const PGresult *result);

#define UE_CTL_DB_FOREIGN_KEY "23503"
#define UE_CTL_DB_UNIQUE "23505"
#define UE_CTL_DB_CHECK "23514"
#define UE_CTL_DB_NO_TABLE "42P01"
#define UE_CTL_DB_NO_RIGHT "42501"
#define UE_CTL_DB_DUPLICATE_TABLE "42P07"
#define UE_CTL_DB_DUPLICATE_OBJECT "42710"
#define UE_CTL_DB_LOCKED "55P03"

/** How long a statement waits for what somebody else is changing. Less than
 * UE_CTL_DB_SILENCE, so that it isn't done behind our back. */
#define UE_CTL_DB_LOCK_WAIT 7

/**
 * Why the server refused a statement, as the end of a sentence: in our words
 * where they help more than the server's.
 * @param refused the result of ue_ctl_db_attempt() that came with a refusal
 */
const char *ue_ctl_db_why(const ue_ctl_db_t *db, const PGresult *refused);

/** Run a script of ours: several statements, without parameters. It may take
 * long without a word of the server; that the server's machine is gone, TCP
 * finds out. */
int ue_ctl_db_script(ue_ctl_db_t *db, const char *sql);

/** A value of a result; NULL: it is NULL. */
const char *ue_ctl_db_value(const PGresult *result, int row, int column);

#endif /* UE_USAGECTL_DB_H */
