/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "store.h"

#include <stdlib.h>
#include <string.h>

#include <apr_strings.h>

#include <json-c/json.h>

#include "db.h"
#include "keyfile.h"

typedef struct {
    ue_ctl_store_t base;
    ue_ctl_db_t *db;
    ue_ctl_purpose_t purpose;
    apr_pool_t *p; /* of the rows that are read */
} pgstore_t;

/* Statements. A row comes and goes as JSON, which PostgreSQL makes and reads:
 * what a change doesn't name stays as jsonb_populate_record() finds it. ---- */

#define ATTRIBUTES "rate, quota, networks, paths, methods, billable"
#define THEIRS "r.rate, r.quota, r.networks, r.paths, r.methods, r.billable"

static const struct {
    const char *list; /* $1: one of them, or NULL; of keys $2: whose, or NULL */
    const char *hold;
    const char *insert;
    const char *update;
} sql[] = {
    [UE_CTL_PLAN] =
        {"SELECT to_jsonb(p) || jsonb_build_object("
         "'organizations', coalesce(o.n, 0), 'keys', coalesce(k.n, 0)) "
         "FROM plans p "
         "LEFT JOIN (SELECT plan, count(*) AS n FROM organizations "
         "WHERE plan IS NOT NULL GROUP BY plan) o ON o.plan = p.name "
         "LEFT JOIN (SELECT plan, count(*) AS n FROM api_keys "
         "WHERE plan IS NOT NULL GROUP BY plan) k ON k.plan = p.name "
         "WHERE ($1::text IS NULL OR p.name = $1) ORDER BY p.created, p.name",
         "SELECT 1 FROM plans WHERE name = $1 FOR NO KEY UPDATE",
         "INSERT INTO plans (name, created, " ATTRIBUTES ") "
         "SELECT r.name, now(), " THEIRS " "
         "FROM jsonb_populate_record(NULL::plans, $1::jsonb) r "
         "ON CONFLICT DO NOTHING",
         "UPDATE plans t SET (" ATTRIBUTES ") = (SELECT " THEIRS " "
         "FROM jsonb_populate_record(t, $2::jsonb) r) WHERE name = $1"},
    [UE_CTL_ORGANIZATION] =
        {"SELECT to_jsonb(o) || jsonb_build_object("
         "'keys', (SELECT count(*) FROM api_keys k "
         "WHERE k.organization_id = o.id), 'of_plan', to_jsonb(p)) "
         "FROM organizations o LEFT JOIN plans p ON p.name = o.plan "
         "WHERE ($1::uuid IS NULL OR o.id = $1) ORDER BY o.created, o.id",
         "SELECT 1 FROM organizations WHERE id = $1 FOR NO KEY UPDATE",
         /* a key's organization may have no name in a file */
         "INSERT INTO organizations (id, name, created, plan, " ATTRIBUTES ") "
         "SELECT r.id, coalesce(nullif(r.name, ''), r.id::text), now(), "
         "r.plan, " THEIRS " "
         "FROM jsonb_populate_record(NULL::organizations, $1::jsonb) r "
         "ON CONFLICT DO NOTHING",
         "UPDATE organizations t SET (name, plan, " ATTRIBUTES ") = "
         "(SELECT r.name, r.plan, " THEIRS " "
         "FROM jsonb_populate_record(t, $2::jsonb) r) WHERE id = $1"},
    [UE_CTL_KEY] =
        /* Of a million, only what a list shows. Ids alone are sorted, which is
         * done in a second; whole rows would take the server longer than it
         * may be silent. */
    {"SELECT (SELECT jsonb_strip_nulls(to_jsonb(k) - 'hash' || "
     "jsonb_build_object("
     "'hash_kind', split_part(k.hash, ':', 1), "
     "'organization', CASE WHEN $1::uuid IS NOT NULL THEN to_jsonb(o) "
     "ELSE jsonb_build_object('name', o.name, 'billable', o.billable) END, "
     "'of_plan', CASE WHEN $1::uuid IS NOT NULL THEN to_jsonb(p) "
     "ELSE jsonb_build_object('billable', p.billable) END, "
     "'replaced_by', CASE WHEN $1::uuid IS NOT NULL THEN ("
     "SELECT s.id FROM api_keys s "
     "WHERE s.replaces = k.id LIMIT 1) END)) "
     "FROM api_keys k JOIN organizations o ON o.id = k.organization_id "
     "LEFT JOIN plans p ON p.name = coalesce(k.plan, o.plan) "
     "WHERE k.id = sorted.id) "
     "FROM (SELECT k.id FROM api_keys k "
     "JOIN organizations o ON o.id = k.organization_id "
     "WHERE ($1::uuid IS NULL OR k.id = $1) "
     "AND ($2::uuid IS NULL OR k.organization_id = $2) "
     "ORDER BY o.created, o.id, k.created, k.id OFFSET 0) sorted",
     "SELECT 1 FROM api_keys WHERE id = $1 FOR NO KEY UPDATE",
     "INSERT INTO api_keys (id, organization_id, hash, prefix, name, "
     "created, expires, revoked, replaces, plan, " ATTRIBUTES ") "
     "SELECT r.id, r.organization_id, r.hash, r.prefix, r.name, "
     "now(), r.expires, r.revoked, r.replaces, r.plan, " THEIRS " "
     "FROM jsonb_populate_record(NULL::api_keys, $1::jsonb) r "
     "ON CONFLICT DO NOTHING",
     "UPDATE api_keys t SET (name, expires, revoked, plan, " ATTRIBUTES
     ") = (SELECT r.name, r.expires, r.revoked, r.plan, " THEIRS " "
     "FROM jsonb_populate_record(t, $2::jsonb) r) WHERE id = $1"},
};

/* Reading -------------------------------------------------------------- */

/* As a file has it: 2030-01-31T12:00:00Z, not +00:00. */
static void mend_time(struct json_object *o, const char *name, apr_pool_t *p)
{
    struct json_object *v = ue_ctl_member(o, name);
    apr_time_t when;

    /* what can't be read is "infinity" */
    if (v && !ue_time_parse(&when, json_object_get_string(v))) {
        json_object_object_add(o, name,
                               json_object_new_string(ue_ctl_time(when, p)));
    }
}

static struct json_object *read_row(const char *text, apr_pool_t *p)
{
    static const char *const times[] = {"created", "expires", "revoked", "at"};
    struct json_object *o = json_tokener_parse(text);
    size_t i;

    for (i = 0; i < sizeof times / sizeof *times; i++) {
        mend_time(o, times[i], p);
    }
    return o;
}

/* @param rows receives how many came; may be NULL */
static int read_rows(pgstore_t *s, const char *statement, int n,
                     const char *const *params, ue_ctl_each_t *each,
                     void *baton, int *rows)
{
    PGresult *result;
    int i, status = ue_ctl_db_query(s->db, statement, n, params, &result);

    if (status) {
        return status;
    }
    for (i = 0; !status && i < PQntuples(result); i++) {
        struct json_object *row = read_row(ue_ctl_db_value(result, i, 0), s->p);

        status = each(baton, row);
        json_object_put(row);
    }
    if (rows) {
        *rows = PQntuples(result);
    }
    ue_ctl_db_clear(s->db, result);
    apr_pool_clear(s->p);
    return status;
}

#define PAGE 1000
#define NEXT_PAGE "FETCH 1000 FROM rows"

/* Page by page. A cursor sorts once, and sees one state of the database, since
 * the transaction does. */
static int read_pages(pgstore_t *s, const char *statement, int n,
                      const char *const *params, ue_ctl_each_t *each,
                      void *baton)
{
    int rows = PAGE;
    int status = ue_ctl_db_query(
        s->db,
        apr_pstrcat(s->base.ctl->p, "DECLARE rows NO SCROLL CURSOR FOR ",
                    statement, NULL),
        n, params, NULL);

    while (!status && rows == PAGE) {
        status = read_rows(s, NEXT_PAGE, 0, NULL, each, baton, &rows);
    }
    return status;
}

static int pg_list(ue_ctl_store_t *base, ue_ctl_kind_t kind,
                   const char *organization, ue_ctl_each_t *each, void *baton)
{
    const char *params[] = {NULL, organization};

    return read_pages((pgstore_t *)base, sql[kind].list,
                      kind == UE_CTL_KEY ? 2 : 1, params, each, baton);
}

static int keep(void *baton, struct json_object *found)
{
    *(struct json_object **)baton = json_object_get(found);
    return UE_CTL_DONE;
}

/* The row is held by one statement and read by another, which sees what those
 * have committed that the first had to wait for. */
static int pg_find(ue_ctl_store_t *base, ue_ctl_kind_t kind, const char *id,
                   struct json_object **found)
{
    pgstore_t *s = (pgstore_t *)base;
    const char *params[] = {id, NULL};
    int status = s->purpose == UE_CTL_LOOK
                     ? UE_CTL_DONE
                     : ue_ctl_db_query(s->db, sql[kind].hold, 1, params, NULL);

    *found = NULL;
    return status ? status
                  : read_rows(s, sql[kind].list, kind == UE_CTL_KEY ? 2 : 1,
                              params, keep, found, NULL);
}

#define CHANGES \
    "FROM api_key_changes c WHERE ($1::uuid IS NULL OR c.api_key_id = $1) "

/* First where to begin: behind the newest of those that are too many. */
static int pg_changes(ue_ctl_store_t *base, const char *key, const char *limit,
                      ue_ctl_each_t *each, void *baton, int *more)
{
    pgstore_t *s = (pgstore_t *)base;
    const char *params[] = {key, limit};
    PGresult *result;
    int status = ue_ctl_db_query(s->db,
                                 "SELECT c.id " CHANGES
                                 "ORDER BY c.id DESC OFFSET $2::bigint LIMIT 1",
                                 2, params, &result);

    if (status) {
        return status;
    }
    *more = PQntuples(result) > 0;
    params[1] = *more ? ue_ctl_db_value(result, 0, 0) : NULL;
    return read_pages(s,
                      "SELECT to_jsonb(c) " CHANGES
                      "AND ($2::bigint IS NULL OR c.id > $2) ORDER BY c.id",
                      2, params, each, baton);
}

/* Changing ------------------------------------------------------------- */

/* The one thing that the server may refuse by rights. */
static int change(pgstore_t *s, const char *statement, int n,
                  const char *const *params, const char *no_reference,
                  int *rows)
{
    const char *refusal;
    PGresult *result;
    int status =
        ue_ctl_db_attempt(s->db, statement, n, params, &result, &refusal);

    if (!status && refusal) {
        status =
            !strcmp(refusal, UE_CTL_DB_FOREIGN_KEY)
                ? ue_ctl_fail(s->base.ctl, UE_CTL_REFUSED, "%s", no_reference)
                : ue_ctl_db_refused(s->db, result);
    }
    if (!status && rows) {
        *rows = atoi(PQcmdTuples(result));
    }
    return status;
}

static int pg_insert(ue_ctl_store_t *base, ue_ctl_kind_t kind,
                     struct json_object *what, int *made)
{
    const char *params[] = {
        json_object_to_json_string_ext(what, JSON_C_TO_STRING_PLAIN)};

    return change((pgstore_t *)base, sql[kind].insert, 1, params,
                  UE_CTL_NO_PLAN, made);
}

static int pg_update(ue_ctl_store_t *base, ue_ctl_kind_t kind, const char *id,
                     struct json_object *changes)
{
    const char *params[] = {
        id, json_object_to_json_string_ext(changes, JSON_C_TO_STRING_PLAIN)};

    return change((pgstore_t *)base, sql[kind].update, 2, params,
                  UE_CTL_NO_PLAN, NULL);
}

static int pg_remove_plan(ue_ctl_store_t *base, const char *name)
{
    const char *params[] = {name};

    return change((pgstore_t *)base, "DELETE FROM plans WHERE name = $1", 1,
                  params, UE_CTL_PLAN_USED, NULL);
}

/* All constraints are judged by each statement, so only the commit itself is
 * left to fail. */
static int pg_prepare(ue_ctl_store_t *base)
{
    return UE_CTL_DONE;
}

/* Where something went wrong before, PostgreSQL answers COMMIT by ROLLBACK. */
static int pg_commit(ue_ctl_store_t *base)
{
    PGresult *result;
    int status =
        ue_ctl_db_query(((pgstore_t *)base)->db, "COMMIT", 0, NULL, &result);

    if (!status && strcmp(PQcmdStatus(result), "COMMIT") != 0) {
        status = ue_ctl_fail(base->ctl, UE_CTL_REFUSED,
                             "the database has undone it");
    }
    return status;
}

static int pg_open(ue_ctl_store_t **store, const ue_ctl_t *ctl, const char *url,
                   ue_ctl_purpose_t purpose)
{
    pgstore_t *s = apr_pcalloc(ctl->p, sizeof *s);
    int status;

    if (ctl->option[UE_OPT_GROUP]) {
        return ue_ctl_fail(ctl, UE_CTL_WRONG_USE,
                           "--group is of a new key file; who may read a "
                           "database is granted there");
    }
    s->base.where = "the database";
    s->purpose = purpose;
    if (apr_pool_create(&s->p, ctl->p)) {
        return ue_ctl_fail(ctl, UE_CTL_REFUSED, "no memory");
    }
    status = ue_ctl_db_open(ctl, url, &s->db);
    if (!status) {
        status = ue_ctl_db_query(
            s->db,
            purpose == UE_CTL_LOOK
                ? "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
                : "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
            0, NULL, NULL);
    }
    *store = &s->base;
    return status;
}

const ue_ctl_store_vtable_t ue_ctl_store_pg = {
    .open = pg_open,
    .list = pg_list,
    .find = pg_find,
    .insert = pg_insert,
    .update = pg_update,
    .remove_plan = pg_remove_plan,
    .changes = pg_changes,
    .prepare = pg_prepare,
    .commit = pg_commit,
};
