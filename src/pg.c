/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "pg.h"

#include <stdlib.h>
#include <string.h>

#include <apr_lib.h>
#include <apr_strings.h>

#include "thread.h"
#include "uuid.h"

#define OPTIONS_MAX 8
#define WHY_MAX 512
#define WHERE_MAX 256
#define LIST_MAX 1024

typedef enum {
    DOWN,       /* until again_at */
    CONNECTING, /* PQconnectPoll() */
    LISTENING,  /* LISTEN is sent */
    READY,
    ASKED,   /* the listener waits for rows */
    PROBING, /* nobody waits: is the server still there? */
} state_t;

struct ue_pg_t {
    const char *url;
    const char *listen; /* the statements */
    const char *name;
    const ue_pg_listener_t *listener;
    void *baton;

    PGconn *conn; /* NULL when down */
    state_t state;
    PostgresPollingStatusType wants; /* while connecting */
    int unsent;                      /* output is left for when it can go */
    int failed;                      /* an answer was an error */
    apr_time_t began;                /* the state; what its deadline is from */
    apr_time_t again_at;
    apr_interval_time_t pause;
    apr_interval_time_t patience; /* with connecting */

    /* The hosts as libpq has them from wherever; it begins with the one that
     * rotation says. */
    char host[LIST_MAX], hostaddr[LIST_MAX], port[LIST_MAX];
    unsigned rotation;

    char why[WHY_MAX];
    char refused[6]; /* the SQLSTATE, with failed */
    char where[WHERE_MAX];
};

/* In libpq's eyes all before the first "@" is the user, if no "/" comes before
 * it. A password with one of the two in it, or with a "?", that is not escaped
 * would come out as host, port or database, which messages name. */
static int is_ambiguous(const char *url)
{
    const char *rest = strstr(url, "://") + 3;
    size_t i = strcspn(rest, "@/?");

    if (rest[i] == '?') {
        rest += i;
        return rest[strcspn(rest, "@/")] == '@';
    }
    if (rest[i]) {
        rest += i + 1;
    }
    return rest[strcspn(rest, "@?")] == '@';
}

static int is_port_list(const char *s)
{
    const char *c;
    int n = 0;

    for (c = s; *c; c++) {
        n = *c == ',' ? 0 : n * 10 + (*c - '0');
        if ((*c != ',' && !apr_isdigit(*c)) || n > 65535) {
            return 0;
        }
    }
    return 1;
}

static int has_ports(const PQconninfoOption *options)
{
    for (; options && options->keyword; options++) {
        if (!strcmp(options->keyword, "port") && options->val
            && !is_port_list(options->val)) {
            return 0;
        }
    }
    return 1;
}

const char *ue_pg_check(const char *url)
{
    PQconninfoOption *options = NULL;
    int is_right = 0;

    if (strstr(url, "://") && !is_ambiguous(url)) {
        /* Its message is not asked for: it repeats parts of the URL. */
        options = PQconninfoParse(url, NULL);
        is_right = options && has_ports(options);
        PQconninfoFree(options);
    }
    return is_right ? NULL
                    : "a database is named as libpq has it, like postgresql://"
                      "gateway@db.example.com/usage?sslmode=verify-full; in a "
                      "password %40 stands for @, %3A for :, %2F for /, %3F "
                      "for ?";
}

ue_pg_t *ue_pg_create(const char *url, const char *channel, const char *name,
                      const ue_pg_listener_t *listener, void *baton,
                      apr_pool_t *p)
{
    ue_pg_t *pg = apr_pcalloc(p, sizeof(*pg));

    pg->url = apr_pstrdup(p, url);
    /* A question that waits for a lock would go on waiting after we have given
     * it up, and the next ones beside it. */
    pg->listen = apr_psprintf(p, "SET statement_timeout = %d; LISTEN %s",
                              (int)apr_time_as_msec(UE_PG_ANSWER), channel);
    pg->name = apr_pstrdup(p, name);
    pg->listener = listener;
    pg->baton = baton;
    pg->pause = UE_PG_AGAIN_LEAST;
    pg->patience = UE_PG_CONNECT;
    return pg;
}

/* ---- several hosts ---- */

static const char *nth(const char *list, unsigned n)
{
    while (n > 0 && (list = strchr(list, ',')) != NULL) {
        list++;
        n--;
    }
    return list;
}

static unsigned count(const char *list)
{
    unsigned n = *list != '\0';

    while ((list = strchr(list, ',')) != NULL) {
        list++;
        n++;
    }
    return n;
}

/** A list that begins with its nth entry. */
static void rotate(const char *list, unsigned n, char to[LIST_MAX])
{
    const char *tail = nth(list, n);
    size_t head = tail ? (size_t)(tail - list) : 0;

    apr_cpystrn(to, tail ? tail : list, LIST_MAX);
    if (head > 0 && strlen(to) + head < LIST_MAX) {
        strcat(to, ",");
        strncat(to, list, head - 1);
    }
}

static unsigned hosts(const ue_pg_t *pg)
{
    unsigned names = count(pg->host), addresses = count(pg->hostaddr);

    return addresses > names ? addresses : names;
}

static void remember(char to[LIST_MAX], const PQconninfoOption *option)
{
    /* A list that doesn't fit is left as it is, and not rotated. */
    if (option->val && strlen(option->val) < LIST_MAX) {
        apr_cpystrn(to, option->val, LIST_MAX);
    }
}

/** As libpq reads it: at least two seconds, and 0 is for ever. */
static void read_patience(ue_pg_t *pg, const char *seconds)
{
    apr_int64_t n = seconds ? apr_atoi64(seconds) : 0;

    if (n > 0 && n < apr_time_sec(UE_PG_CONNECT)) {
        pg->patience = apr_time_from_sec(n > 2 ? n : 2);
    }
}

/** See which hosts there are, in the order in which they were given. */
static void learn(ue_pg_t *pg)
{
    PQconninfoOption *options = PQconninfo(pg->conn);
    const PQconninfoOption *o;

    for (o = options; o && o->keyword; o++) {
        if (!strcmp(o->keyword, "host")) {
            remember(pg->host, o);
        }
        else if (!strcmp(o->keyword, "hostaddr")) {
            remember(pg->hostaddr, o);
        }
        else if (!strcmp(o->keyword, "port")) {
            remember(pg->port, o);
        }
        else if (!strcmp(o->keyword, "connect_timeout")) {
            read_patience(pg, o->val);
        }
    }
    PQconninfoFree(options);
}

/* ---- connecting ---- */

static void enter(ue_pg_t *pg, state_t state, apr_time_t now)
{
    pg->state = state;
    pg->began = now;
}

/** Anything up to how_long, so that those who fell together don't come back
 * together. */
static apr_interval_time_t part_of(apr_interval_time_t how_long)
{
    uint32_t any = 0;

    ue_random(&any, sizeof(any));
    return how_long / 2 + (apr_interval_time_t)any % (how_long / 2 + 1);
}

/** libpq's words on one line, without those that are indented: they guess, or
 * point at what is above them. */
static void flatten(char to[WHY_MAX], const char *from)
{
    size_t n = 0;

    while (*from && n + 3 < WHY_MAX) {
        size_t line = strcspn(from, "\n");

        if (*from != '\t' && *from != ' ' && line > 0) {
            if (n > 0) {
                to[n++] = ';';
                to[n++] = ' ';
            }
            line = line < WHY_MAX - 1 - n ? line : WHY_MAX - 1 - n;
            memcpy(to + n, from, line);
            n += line;
        }
        from += strcspn(from, "\n");
        from += *from == '\n';
    }
    to[n] = '\0';
}

static void fall(ue_pg_t *pg, const char *why, apr_time_t now)
{
    const char *refused = pg->failed ? pg->refused : NULL;

    flatten(pg->why, why);
    PQfinish(pg->conn);
    pg->conn = NULL;
    enter(pg, DOWN, now);
    pg->again_at = now + part_of(pg->pause);
    pg->pause =
        2 * pg->pause < UE_PG_AGAIN_MOST ? 2 * pg->pause : UE_PG_AGAIN_MOST;
    pg->failed = 0;
    pg->listener->down(pg->baton, pg->why, refused);
}

static void fall_by_libpq(ue_pg_t *pg, apr_time_t now)
{
    const char *why = PQerrorMessage(pg->conn);

    fall(pg, *why ? why : "the connection ended", now);
}

/** Whoever missed a deadline may be asleep for long: another host is next. */
static void fall_late(ue_pg_t *pg, apr_time_t now)
{
    const char *why = pg->state == CONNECTING || pg->state == LISTENING
                          ? "no connection was made in time"
                          : "no answer came in time";

    if (hosts(pg) > 1) {
        pg->rotation = (pg->rotation + 1) % hosts(pg);
    }
    fall(pg, why, now);
}

/** What isn't an answer would go to standard error. */
static void keep_quiet(void *unused, const char *message)
{
}

static void connect_to(ue_pg_t *pg, apr_time_t now)
{
    /* A standby takes no LISTEN. What the URL says counts instead, and so does
     * the variable where there is no URL to say it. */
    const char *attrs = getenv("PGTARGETSESSIONATTRS");
    const char *names[OPTIONS_MAX] = {"target_session_attrs", "dbname",
                                      "fallback_application_name"};
    const char *values[OPTIONS_MAX] = {attrs ? attrs : "primary", pg->url,
                                       pg->name};
    char host[LIST_MAX], hostaddr[LIST_MAX], port[LIST_MAX];
    int n = 3;

    if (pg->rotation > 0) {
        /* Behind the URL, so they count instead of what it says; but for empty
         * ones, which don't. */
        rotate(pg->host, pg->rotation, host);
        rotate(pg->hostaddr, pg->rotation, hostaddr);
        rotate(pg->port, count(pg->port) > 1 ? pg->rotation : 0, port);
        names[n] = "host";
        values[n++] = host;
        names[n] = "hostaddr";
        values[n++] = hostaddr;
        names[n] = "port";
        values[n++] = port;
    }
    pg->conn = PQconnectStartParams(names, values, 1);
    if (!pg->conn) {
        fall(pg, "no memory to connect", now);
        return;
    }
    if (PQstatus(pg->conn) == CONNECTION_BAD) {
        fall_by_libpq(pg, now);
        return;
    }
    PQsetNoticeProcessor(pg->conn, keep_quiet, NULL);
    if (pg->rotation == 0) {
        learn(pg);
    }
    pg->wants = PGRES_POLLING_WRITING;
    enter(pg, CONNECTING, now);
}

/* ---- asking ---- */

static void send_off(ue_pg_t *pg, state_t state, int sent, apr_time_t now)
{
    pg->failed = 0;
    enter(pg, state, now);
    if (!sent || (pg->unsent = PQflush(pg->conn)) < 0) {
        fall_by_libpq(pg, now);
    }
}

static void is_connected(ue_pg_t *pg, apr_time_t now)
{
    apr_snprintf(pg->where, sizeof(pg->where), "%s:%s/%s", PQhost(pg->conn),
                 PQport(pg->conn), PQdb(pg->conn));
    PQsetnonblocking(pg->conn, 1);
    send_off(pg, LISTENING, PQsendQuery(pg->conn, pg->listen), now);
}

static void go_on_connecting(ue_pg_t *pg, apr_time_t now)
{
    pg->wants = PQconnectPoll(pg->conn);
    if (pg->wants == PGRES_POLLING_FAILED) {
        fall_by_libpq(pg, now);
    }
    else if (pg->wants == PGRES_POLLING_OK) {
        is_connected(pg, now);
    }
}

void ue_pg_ask(ue_pg_t *pg, const char *sql, int n, const char *const *values,
               apr_time_t now)
{
    send_off(pg, ASKED,
             PQsendQueryParams(pg->conn, sql, n, NULL, values, NULL, NULL, 0),
             now);
}

static void probe(ue_pg_t *pg, apr_time_t now)
{
    send_off(pg, PROBING, PQsendQuery(pg->conn, ""), now);
}

/* ---- answers ---- */

static int is_right(const PGresult *result)
{
    switch (PQresultStatus(result)) {
    case PGRES_TUPLES_OK:
    case PGRES_COMMAND_OK:
    case PGRES_EMPTY_QUERY:
        return 1;
    default:
        return 0;
    }
}

static void take(ue_pg_t *pg, const PGresult *result)
{
    const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

    if (!is_right(result)) {
        apr_cpystrn(pg->refused, state ? state : "", sizeof(pg->refused));
        apr_cpystrn(pg->why, PQresultErrorMessage(result), sizeof(pg->why));
        pg->failed = 1;
    }
    else if (pg->state == ASKED && PQresultStatus(result) == PGRES_TUPLES_OK) {
        pg->listener->answer(pg->baton, result);
    }
}

/** The server has answered, and waits for the next question. */
static void settle(ue_pg_t *pg, apr_time_t now)
{
    int was = pg->state;

    if (pg->failed) {
        char why[WHY_MAX];

        apr_cpystrn(why, pg->why, sizeof(why));
        fall(pg, why, now);
        return;
    }
    enter(pg, READY, now);
    if (was == LISTENING) {
        pg->listener->up(pg->baton);
    }
    else {
        /* Not sooner: one that lets us in and refuses each question is no
         * better than one that doesn't. */
        pg->pause = UE_PG_AGAIN_LEAST;
    }
}

static void hear(ue_pg_t *pg)
{
    PGnotify *n;

    while ((n = PQnotifies(pg->conn)) != NULL) {
        pg->listener->heard(pg->baton, n->extra);
        PQfreemem(n);
    }
}

static void talk(ue_pg_t *pg, apr_time_t now)
{
    PGresult *result;

    if (!PQconsumeInput(pg->conn)
        || (pg->unsent && (pg->unsent = PQflush(pg->conn)) < 0)) {
        hear(pg); /* what came before the end */
        fall_by_libpq(pg, now);
        return;
    }
    while (pg->state != READY && !PQisBusy(pg->conn)) {
        result = PQgetResult(pg->conn);
        if (!result) {
            hear(pg); /* before the answer's owner may believe it is newer */
            settle(pg, now);
            return;
        }
        take(pg, result);
        PQclear(result);
    }
    hear(pg);
}

/* ---- for the thread ---- */

static apr_time_t deadline(const ue_pg_t *pg)
{
    switch (pg->state) {
    case DOWN:
        return pg->again_at;
    case CONNECTING:
        return pg->began + pg->patience;
    case READY:
        return pg->began + UE_PG_IDLE;
    default:
        return pg->began + UE_PG_ANSWER;
    }
}

apr_interval_time_t ue_pg_watch(const ue_pg_t *pg, apr_time_t now,
                                struct pollfd *fd)
{
    apr_time_t until = deadline(pg);

    fd->fd = pg->conn ? PQsocket(pg->conn) : -1;
    fd->events = POLLIN;
    fd->revents = 0;
    if (pg->state == CONNECTING) {
        fd->events = pg->wants == PGRES_POLLING_READING ? POLLIN : POLLOUT;
    }
    else if (pg->unsent > 0) {
        fd->events |= POLLOUT;
    }
    return until > now ? until - now : 0;
}

/** Has something come, or can something go? libpq's connecting asks for one of
 * the two, and must not be called before. */
static int is_moving(const ue_pg_t *pg, apr_time_t now)
{
    struct pollfd fd;

    ue_pg_watch(pg, now, &fd);
    return fd.fd >= 0 && poll(&fd, 1, 0) > 0;
}

void ue_pg_run(ue_pg_t *pg, apr_time_t now)
{
    if (pg->state == DOWN) {
        if (now >= pg->again_at) {
            connect_to(pg, now);
        }
        return;
    }
    if (is_moving(pg, now)) {
        if (pg->state == CONNECTING) {
            go_on_connecting(pg, now);
        }
        else {
            talk(pg, now);
        }
    }
    if (pg->state != DOWN && now >= deadline(pg)) {
        if (pg->state == READY) {
            probe(pg, now);
        }
        else {
            fall_late(pg, now);
        }
    }
}

int ue_pg_is_ready(const ue_pg_t *pg)
{
    return pg->state == READY;
}

apr_time_t ue_pg_asked(const ue_pg_t *pg)
{
    return pg->state == ASKED || pg->state == PROBING ? pg->began : 0;
}

const char *ue_pg_name(const ue_pg_t *pg)
{
    return pg->where;
}

void ue_pg_close(ue_pg_t *pg)
{
    PQfinish(pg->conn);
    pg->conn = NULL;
    pg->state = DOWN;
    pg->again_at = APR_INT64_MAX;
}
