/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "db.h"

#include <errno.h>
#include <poll.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <apr_strings.h>

#include "pg.h"

#define URL_SHAPE \
    "postgresql://[USER[:PASSWORD]@][HOST[:PORT]][/DATABASE][?NAME=VALUE&…]"

/* How long connecting may take, in seconds, where nobody says. libpq gives each
 * host of a list that much, and takes no less than two. */
#define CONNECT_SECONDS 5
#define CONNECT_SECONDS_EACH 2

#define LOST "is out of reach: the connection was lost"

struct ue_ctl_db_t {
    const ue_ctl_t *ctl;
    PGconn *conn;
};

int ue_ctl_is_database(const char *url)
{
    return !strncmp(url, "postgresql://", 13)
           || !strncmp(url, "postgres://", 11);
}

const char *ue_ctl_db_value(const PGresult *result, int row, int column)
{
    return PQgetisnull(result, row, column) ? NULL
                                            : PQgetvalue(result, row, column);
}

static apr_status_t finish(void *data)
{
    PQfinish(data);
    return APR_SUCCESS;
}

static apr_status_t clear(void *data)
{
    PQclear(data);
    return APR_SUCCESS;
}

void ue_ctl_db_clear(ue_ctl_db_t *db, PGresult *result)
{
    apr_pool_cleanup_run(db->ctl->p, result, clear);
}

static const char *join(const apr_array_header_t *lines, apr_pool_t *p)
{
    const char *text = APR_ARRAY_IDX(lines, 0, const char *);
    int i;

    for (i = 1; i < lines->nelts; i++) {
        text = apr_pstrcat(p, text, "; ", APR_ARRAY_IDX(lines, i, const char *),
                           NULL);
    }
    return text;
}

/* What libpq or the server says, which may be several lines, as one. */
static const char *sentence(const char *said, apr_pool_t *p)
{
    apr_array_header_t *lines = apr_array_make(p, 2, sizeof(char *));
    char *last,
        *line = apr_strtok(apr_pstrdup(p, said ? said : ""), "\n", &last);

    for (; line; line = apr_strtok(NULL, "\n", &last)) {
        *(const char **)apr_array_push(lines) = line + strspn(line, "\t ");
    }
    return lines->nelts ? ue_ctl_harmless(join(lines, p), p)
                        : "no reason was given";
}

/* What the server says beside results. */
static void hear(void *data, const PGresult *result)
{
    const ue_ctl_t *ctl = data;
    const char *text = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

    if (text) {
        ue_ctl_note("the database says: %s", sentence(text, ctl->p));
    }
}

/* --- the URL -------------------------------------------------------------- */

static const char *found(const PQconninfoOption *options, const char *name)
{
    for (; options && options->keyword; options++) {
        if (!strcmp(options->keyword, name)) {
            return options->val && *options->val ? options->val : NULL;
        }
    }
    return NULL;
}

/* What holds in the end: of the URL, else of the environment and of the service
 * that either of them names. */
typedef struct {
    PQconninfoOption *url;
    PQconninfoOption *rest;
} settings_t;

static const char *setting(const settings_t *s, const char *name)
{
    const char *value = found(s->url, name);

    return value ? value : found(s->rest, name);
}

/* libpq's own complaint repeats parts of the URL, so it is not told. */
static int read_url(const ue_ctl_t *ctl, const char *url, settings_t *s)
{
    const char *service;

    s->rest = NULL;
    s->url = ue_ctl_is_database(url) && !ue_pg_check(url)
                 ? PQconninfoParse(url, NULL)
                 : NULL;
    if (!s->url) {
        return ue_ctl_fail(
            ctl, UE_CTL_WRONG_USE,
            "the URL of the database can't be read: it is " URL_SHAPE
            ", NAME is one of libpq's parameters; in a password "
            "%%40 stands for @, %%3A for :, "
            "%%2F for /, %%3F for ?");
    }
    service = found(s->url, "service");
    if (service) {
        setenv("PGSERVICE", service, 1);
    }
    s->rest = PQconndefaults();
    return UE_CTL_DONE;
}

/* --- connecting ----------------------------------------------------------- */

static int count_hosts(const char *list)
{
    int n = 1;

    for (; list && *list; list++) {
        n += *list == ',';
    }
    return n;
}

/* How soon TCP finds out that a server is gone which has nothing to say, where
 * nobody says: an idle time and four tries, in seconds, and as much, in
 * milliseconds, for what it doesn't acknowledge. */
static const char *const defaults[][2] = {{"keepalives_idle", "10"},
                                          {"keepalives_interval", "5"},
                                          {"keepalives_count", "4"},
                                          {"tcp_user_timeout", "30000"}};
#define DEFAULTS (sizeof defaults / sizeof *defaults)

static PGconn *connect_by(const char *url, const settings_t *s, apr_pool_t *p)
{
    const char *names[DEFAULTS + 6], *values[DEFAULTS + 6];
    const char *host = setting(s, "hostaddr");
    const char *attrs = setting(s, "target_session_attrs");
    int hosts = count_hosts(host ? host : setting(s, "host"));
    size_t i, n = 0;

    for (i = 0; i < DEFAULTS; i++) {
        if (!setting(s, defaults[i][0])) {
            names[n] = defaults[i][0];
            values[n++] = defaults[i][1];
        }
    }
    if (!setting(s, "connect_timeout")) {
        names[n] = "connect_timeout";
        values[n++] =
            apr_itoa(p, hosts > 1 ? CONNECT_SECONDS_EACH : CONNECT_SECONDS);
    }
    /* Of several servers the one that can be changed; "any" is libpq's own. */
    if (hosts > 1 && !found(s->url, "target_session_attrs")
        && (!attrs || !strcmp(attrs, "any"))) {
        names[n] = "target_session_attrs";
        values[n++] = "read-write";
    }
    names[n] = "dbname";
    values[n++] = url;
    /* Behind it, so that it can't be told otherwise. */
    names[n] = "client_encoding";
    values[n++] = "UTF8";
    names[n] = "fallback_application_name";
    values[n++] = "usagectl";
    names[n] = values[n] = NULL;
    return PQconnectdbParams(names, values, 1);
}

/* Who it was, as far as this machine knows, for api_key_changes. */
static const char *whoami(apr_pool_t *p)
{
    const struct passwd *pw = getpwuid(getuid());
    char host[256] = "";

    gethostname(host, sizeof host - 1);
    return apr_psprintf(p, "%s@%s",
                        pw ? pw->pw_name : apr_itoa(p, (int)getuid()), host);
}

static int set_session(ue_ctl_db_t *db)
{
    const char *params[] = {whoami(db->ctl->p),
                            apr_itoa(db->ctl->p, UE_CTL_DB_LOCK_WAIT * 1000)};

    return ue_ctl_db_query(db,
                           "SELECT set_config('usage.who', $1, false), "
                           "set_config('lock_timeout', $2, false), "
                           "set_config('TimeZone', 'UTC', false), "
                           "set_config('DateStyle', 'ISO', false)",
                           2, params, NULL);
}

int ue_ctl_db_connect(const ue_ctl_t *ctl, const char *url, ue_ctl_db_t **db)
{
    settings_t settings;
    int status = read_url(ctl, url, &settings);

    if (status) {
        return status;
    }
    *db = apr_palloc(ctl->p, sizeof **db);
    (*db)->ctl = ctl;
    (*db)->conn = connect_by(url, &settings, ctl->p);
    PQconninfoFree(settings.url);
    PQconninfoFree(settings.rest);
    apr_pool_cleanup_register(ctl->p, (*db)->conn, finish,
                              apr_pool_cleanup_null);
    if (PQstatus((*db)->conn) != CONNECTION_OK) {
        return ue_ctl_fail(ctl, UE_CTL_OUT_OF_REACH,
                           "the database can't be reached: %s",
                           sentence(PQerrorMessage((*db)->conn), ctl->p));
    }
    PQsetNoticeReceiver((*db)->conn, hear, (void *)ctl);
    PQsetnonblocking((*db)->conn, 1);
    return set_session(*db);
}

/* Is it the version that we know? */
static int check_version(const ue_ctl_t *ctl, int version)
{
    if (version > UE_CTL_SCHEMA_VERSION) {
        return ue_ctl_fail(ctl, UE_CTL_REFUSED,
                           "the database has version %d of the tables, this "
                           "usagectl knows version %d: use a newer one",
                           version, UE_CTL_SCHEMA_VERSION);
    }
    return version == UE_CTL_SCHEMA_VERSION
               ? UE_CTL_DONE
               : ue_ctl_fail(ctl, UE_CTL_REFUSED,
                             "the database has version %d of the tables, not "
                             "%d: run usagectl init-db",
                             version, UE_CTL_SCHEMA_VERSION);
}

int ue_ctl_db_open(const ue_ctl_t *ctl, const char *url, ue_ctl_db_t **db)
{
    const char *refusal;
    PGresult *result;
    int status = ue_ctl_db_connect(ctl, url, db);

    if (!status) {
        status = ue_ctl_db_attempt(
            *db, "SELECT coalesce(max(version), 0) FROM usage_schema_version",
            0, NULL, &result, &refusal);
    }
    if (status) {
        return status;
    }
    if (refusal) {
        return strcmp(refusal, UE_CTL_DB_NO_TABLE)
                   ? ue_ctl_fail(ctl, UE_CTL_REFUSED,
                                 "the tables of the database can't be read: %s",
                                 ue_ctl_db_why(*db, result))
                   : ue_ctl_fail(ctl, UE_CTL_REFUSED,
                                 "the database has none of the tables: run "
                                 "usagectl init-db");
    }
    return check_version(ctl, atoi(ue_ctl_db_value(result, 0, 0)));
}

/* --- statements ----------------------------------------------------------- */

/* Is it unknown what became of a statement whose answer never came? */
static int leaves_a_doubt(PGTransactionStatusType before, const char *sql)
{
    return !strncmp(sql, "COMMIT", 6)
           || (before == PQTRANS_IDLE && strncmp(sql, "SELECT", 6) != 0
               && strncmp(sql, "BEGIN", 5) != 0);
}

static int lost(const ue_ctl_db_t *db, int doubt, const char *why)
{
    return ue_ctl_fail(db->ctl, UE_CTL_OUT_OF_REACH, "the database %s%s", why,
                       doubt ? "; it isn't known whether it was done: look "
                               "before you do it again"
                             : "");
}

/* Send what is to be sent and wait for an answer. Each byte that comes gives
 * the server more time, silence being in milliseconds, -1: any. @return 0 if it
 * was silent for too long; a connection that was lost is an answer, which
 * PQgetResult() then has. */
static int await(PGconn *conn, int silence)
{
    struct pollfd fd = {PQsocket(conn), 0, 0};
    int unsent, n;

    while ((unsent = PQflush(conn)) >= 0 && PQisBusy(conn)) {
        fd.events = unsent ? POLLIN | POLLOUT : POLLIN;
        do {
            n = poll(&fd, 1, silence);
        } while (n < 0 && errno == EINTR);
        if (n == 0) {
            return 0;
        }
        if (n < 0 || ((fd.revents & ~POLLOUT) && !PQconsumeInput(conn))) {
            break;
        }
    }
    return 1;
}

/* Did the server end this for reasons of its own (being stopped, no room, time
 * over), so that asking again may help? */
static int is_outage(const char *sqlstate)
{
    return !strncmp(sqlstate, "08", 2) || !strncmp(sqlstate, "53", 2)
           || !strncmp(sqlstate, "57", 2) || !strncmp(sqlstate, "58", 2);
}

/* All results of what was sent: the last one, or the first failure. */
static int collect(ue_ctl_db_t *db, int silence, int doubt, PGresult **last)
{
    PGresult *one;

    *last = NULL;
    for (;;) {
        if (!await(db->conn, silence)) {
            return lost(db, doubt, "does not answer");
        }
        one = PQgetResult(db->conn);
        if (!one) {
            break;
        }
        apr_pool_cleanup_register(db->ctl->p, one, clear,
                                  apr_pool_cleanup_null);
        if (!*last || PQresultStatus(*last) != PGRES_FATAL_ERROR) {
            *last = one;
        }
    }
    return *last ? UE_CTL_DONE : lost(db, doubt, LOST);
}

/* The outcome of what was sent. */
static int finish_query(ue_ctl_db_t *db, int silence, int doubt,
                        PGresult **result, const char **refusal)
{
    PGresult *last;
    const char *sqlstate;
    int status = collect(db, silence, doubt, &last);

    *refusal = NULL;
    if (result) {
        *result = last;
    }
    if (status || PQresultStatus(last) == PGRES_COMMAND_OK
        || PQresultStatus(last) == PGRES_TUPLES_OK) {
        return status;
    }
    sqlstate = PQresultErrorField(last, PG_DIAG_SQLSTATE);
    if (!sqlstate) { /* libpq's own: the connection broke */
        return lost(db, doubt, LOST);
    }
    if (is_outage(sqlstate)) {
        return lost(db, doubt,
                    apr_pstrcat(db->ctl->p, "ended this: ",
                                sentence(PQresultErrorField(
                                             last, PG_DIAG_MESSAGE_PRIMARY),
                                         db->ctl->p),
                                NULL));
    }
    *refusal = apr_pstrdup(db->ctl->p, sqlstate);
    if (result) {
        *result = last;
    }
    return UE_CTL_DONE;
}

/* What a server's message has in its quotes; in languages that have others, all
 * of it. */
static const char *quoted(const char *said, apr_pool_t *p)
{
    const char *from = strchr(said, '"');
    const char *end = from ? strchr(from + 1, '"') : NULL;

    return end ? apr_pstrmemdup(p, from, (apr_size_t)(end + 1 - from)) : said;
}

const char *ue_ctl_db_why(const ue_ctl_db_t *db, const PGresult *refused)
{
    apr_pool_t *p = db->ctl->p;
    const char *sqlstate = PQresultErrorField(refused, PG_DIAG_SQLSTATE);
    const char *said =
        sentence(PQresultErrorField(refused, PG_DIAG_MESSAGE_PRIMARY), p);

    if (!strcmp(sqlstate, UE_CTL_DB_NO_RIGHT)) {
        return apr_psprintf(p,
                            "user %s has no right to (%s); usagectl works as "
                            "the tables' owner",
                            ue_ctl_harmless(PQuser(db->conn), p), said);
    }
    if (!strcmp(sqlstate, UE_CTL_DB_LOCKED)) {
        return apr_psprintf(p,
                            "somebody else is changing the same (waited %d s); "
                            "try again",
                            UE_CTL_DB_LOCK_WAIT);
    }
    if (!strcmp(sqlstate, UE_CTL_DB_DUPLICATE_TABLE)
        || !strcmp(sqlstate, UE_CTL_DB_DUPLICATE_OBJECT)) {
        return apr_psprintf(p,
                            "there is a table %s already that isn't ours: use "
                            "a database of its own, or a schema "
                            "(?options=-csearch_path%%3Dusage)",
                            quoted(said, p));
    }
    return said;
}

/* A server's own sentences repeat no row, but a trigger that somebody made may
 * say what it likes. */
int ue_ctl_db_refused(ue_ctl_db_t *db, const PGresult *result)
{
    const char *why = ue_ctl_db_why(db, result);

    if (strstr(why, "sha256:")) {
        return ue_ctl_fail(db->ctl, UE_CTL_REFUSED,
                           "the database refused it (SQLSTATE %s)",
                           PQresultErrorField(result, PG_DIAG_SQLSTATE));
    }
    return ue_ctl_fail(db->ctl, UE_CTL_REFUSED, "the database refused it: %s",
                       why);
}

int ue_ctl_db_attempt(ue_ctl_db_t *db, const char *sql, int n,
                      const char *const *params, PGresult **result,
                      const char **refusal)
{
    int doubt = leaves_a_doubt(PQtransactionStatus(db->conn), sql);

    if (!PQsendQueryParams(db->conn, sql, n, NULL, params, NULL, NULL, 0)) {
        return lost(db, 0, LOST);
    }
    return finish_query(db, UE_CTL_DB_SILENCE * 1000, doubt, result, refusal);
}

int ue_ctl_db_query(ue_ctl_db_t *db, const char *sql, int n,
                    const char *const *params, PGresult **result)
{
    PGresult *mine;
    const char *refusal;
    int status = ue_ctl_db_attempt(db, sql, n, params, &mine, &refusal);

    if (result) {
        *result = mine;
    }
    return status || !refusal ? status : ue_ctl_db_refused(db, mine);
}

int ue_ctl_db_script(ue_ctl_db_t *db, const char *sql)
{
    PGresult *result;
    const char *refusal;
    int status;

    if (!PQsendQuery(db->conn, sql)) {
        return lost(db, 0, LOST);
    }
    status = finish_query(db, -1, 0, &result, &refusal);
    return status || !refusal ? status : ue_ctl_db_refused(db, result);
}
