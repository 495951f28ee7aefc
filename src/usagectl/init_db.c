/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "db.h"

#include <stdlib.h>
#include <string.h>

#include <apr_strings.h>

/* One init-db at a time, on one database: any number that nobody else uses. */
#define LOCK "SELECT pg_advisory_xact_lock(8384002437619210101)"

#define VERSION_MARK "\n-- version "
#define ALWAYS_MARK "\n-- always"

static int lock(const ue_ctl_t *ctl, ue_ctl_db_t *db)
{
    PGresult *result;
    const char *refusal;
    int status = ue_ctl_db_attempt(db, LOCK, 0, NULL, &result, &refusal);

    if (status || !refusal) {
        return status;
    }
    return strcmp(refusal, UE_CTL_DB_LOCKED)
               ? ue_ctl_fail(ctl, UE_CTL_REFUSED, "the database refused it: %s",
                             ue_ctl_db_why(db, result))
               : ue_ctl_fail(ctl, UE_CTL_REFUSED,
                             "another init-db runs (waited %d s); try again",
                             UE_CTL_DB_LOCK_WAIT);
}

/* Which version the database has; 0: none. */
static int read_version(ue_ctl_db_t *db, int *version)
{
    PGresult *result;
    int status = ue_ctl_db_query(
        db, "SELECT to_regclass('usage_schema_version') IS NOT NULL", 0, NULL,
        &result);

    *version = 0;
    if (status || strcmp(ue_ctl_db_value(result, 0, 0), "t") != 0) {
        return status;
    }
    status = ue_ctl_db_query(
        db, "SELECT coalesce(max(version), 0) FROM usage_schema_version", 0,
        NULL, &result);
    if (!status) {
        *version = atoi(ue_ctl_db_value(result, 0, 0));
    }
    return status;
}

/* What is added goes where the rest is, whatever search_path names first by
 * now. */
static int go_home(ue_ctl_db_t *db)
{
    return ue_ctl_db_query(
        db,
        "SELECT set_config('search_path', quote_ident(n.nspname) || "
        "', pg_temp', true) FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.oid = to_regclass('usage_schema_version')",
        0, NULL, NULL);
}

/* Run a section: what begins at a mark, up to the next one. */
static int run_section(const ue_ctl_t *ctl, ue_ctl_db_t *db, const char *from)
{
    const char *version = strstr(from + 1, VERSION_MARK);
    const char *always = strstr(from + 1, ALWAYS_MARK);
    const char *end = version ? version : always;

    return ue_ctl_db_script(
        db,
        end ? apr_pstrmemdup(ctl->p, from, (apr_size_t)(end - from)) : from);
}

static int apply(const ue_ctl_t *ctl, ue_ctl_db_t *db, int version)
{
    const char *at = ue_ctl_schema;
    int n, status;

    while ((at = strstr(at, VERSION_MARK))) {
        n = atoi(at + sizeof VERSION_MARK - 1);
        if (n > version) {
            status = run_section(ctl, db, at);
            if (status) {
                ue_ctl_note("version %d could not be applied, so nothing was "
                            "changed",
                            n);
                return status;
            }
        }
        at++;
    }
    return run_section(ctl, db, strstr(ue_ctl_schema, ALWAYS_MARK));
}

static int store_url(const ue_ctl_t *ctl, const char **url)
{
    *url = ctl->option[UE_OPT_STORE];
    if (!*url) {
        *url = getenv("DATABASE_URL");
    }
    return *url && ue_ctl_is_database(*url)
               ? UE_CTL_DONE
               : ue_ctl_fail(ctl, UE_CTL_WRONG_USE,
                             "which database? Give --store postgresql://…, or "
                             "set DATABASE_URL");
}

/* Can gateways read? Why not, the script has said. */
static int read_complete(ue_ctl_db_t *db, int *complete)
{
    PGresult *result;
    int status = ue_ctl_db_query(
        db,
        "SELECT count(*) FROM pg_roles WHERE rolname = 'usage_gateway' "
        "AND has_database_privilege(oid, current_database(), 'CONNECT') "
        "AND has_schema_privilege(oid, current_schema(), 'USAGE') "
        "AND has_table_privilege(oid, 'usage_gateway_keys', 'SELECT')",
        0, NULL, &result);

    *complete = !status && atoi(ue_ctl_db_value(result, 0, 0));
    return status;
}

/* What was done, when it is certain. */
static int tell(const ue_ctl_t *ctl, int before, int complete)
{
    int n;

    if (before == UE_CTL_SCHEMA_VERSION) {
        ue_ctl_note("nothing to do, version %d", before);
    }
    for (n = before + 1; n <= UE_CTL_SCHEMA_VERSION; n++) {
        ue_ctl_note("version %d applied", n);
    }
    return complete ? UE_CTL_DONE
                    : ue_ctl_fail(ctl, UE_CTL_REFUSED,
                                  "not complete: no gateway can read keys "
                                  "until that is done");
}

int ue_ctl_init_db(ue_ctl_t *ctl)
{
    ue_ctl_db_t *db;
    const char *url;
    int version, complete, status = store_url(ctl, &url);

    if (status || (status = ue_ctl_db_connect(ctl, url, &db))
        || (status = ue_ctl_db_query(db, "BEGIN", 0, NULL, NULL))
        || (status = lock(ctl, db)) || (status = read_version(db, &version))) {
        return status;
    }
    if (version > UE_CTL_SCHEMA_VERSION) {
        return ue_ctl_fail(ctl, UE_CTL_REFUSED,
                           "the database has version %d, this usagectl knows "
                           "version %d: use a newer one",
                           version, UE_CTL_SCHEMA_VERSION);
    }
    status = go_home(db);
    if (!status) {
        status = apply(ctl, db, version);
    }
    if (!status) {
        status = read_complete(db, &complete);
    }
    if (!status) {
        status = ue_ctl_db_query(db, "COMMIT", 0, NULL, NULL);
    }
    return status ? status : tell(ctl, version, complete);
}
