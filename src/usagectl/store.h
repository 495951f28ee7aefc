/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_USAGECTL_STORE_H
#define UE_USAGECTL_STORE_H

/**
 * Where usagectl keeps plans, organizations and keys: a key file, or
 * PostgreSQL.
 *
 * Commands don't know which. They see each plan, organization and key as a JSON
 * object with the members that a key file has, which are the columns' names,
 * too: so that the file can take one over as it is, and PostgreSQL can read one
 * as a row. A change is an object with those members alone that change; null
 * takes one away.
 *
 * A store is opened for one command. To change something is one transaction: of
 * a file by its lock, of a database by BEGIN. It comes in two steps, prepare
 * and commit, so that a new key is shown after all that can fail, and before it
 * works. What isn't committed is undone when the pool ends.
 *
 * What a store finds has members beside its own:
 *   plan          organizations, keys (how many have it)
 *   organization  keys (how many it has), of_plan (an object; lacks without)
 *   key           organization (an object), of_plan (an object: its own plan or
 *                 its organization's), hash_kind ("sha256" or "hmac-sha256";
 *                 the hash itself stays where it is), and where one was looked
 *                 for by its id, replaced_by (the id of the key that it was
 *                 rotated to)
 * Members that are null may lack. However many are found, few are in memory at
 * a time, but for those of a file. Ids are lower case where they are given; a
 * file may have them in capitals.
 *
 * Functions return an exit status (usagectl.h) and have said what was wrong.
 */
#include "usagectl.h"

typedef enum { UE_CTL_PLAN, UE_CTL_ORGANIZATION, UE_CTL_KEY } ue_ctl_kind_t;

/** What a store is opened for. */
typedef enum {
    UE_CTL_LOOK,
    UE_CTL_CHANGE, /**< what is there: a missing file is an error */
    UE_CTL_ADD     /**< a missing file is made */
} ue_ctl_purpose_t;

typedef struct ue_ctl_store_t ue_ctl_store_t;

/** Takes one of many, which is gone when it returns. @return an exit status;
 * UE_CTL_DONE: go on */
typedef int ue_ctl_each_t(void *baton, struct json_object *found);

typedef struct {
    int (*open)(ue_ctl_store_t **store, const ue_ctl_t *ctl, const char *url,
                ue_ctl_purpose_t purpose);

    /**
     * All of a kind, in the order in which they were made.
     * @param organization of keys: whose; NULL: everybody's
     */
    int (*list)(ue_ctl_store_t *store, ue_ctl_kind_t kind,
                const char *organization, ue_ctl_each_t *each, void *baton);

    /**
     * One of them, by its id or name, as it was last committed. Where the store
     * was opened for a change, nobody else changes it until this one ends.
     * @param found receives an object to json_object_put(); NULL: there is none
     */
    int (*find)(ue_ctl_store_t *store, ue_ctl_kind_t kind, const char *id,
                struct json_object **found);

    /**
     * Add one. The store takes what it needs of the object, which the caller
     * keeps. A key has its organization_id, which must be there.
     * @param made receives 0 where one with its id or name is there already
     */
    int (*insert)(ue_ctl_store_t *store, ue_ctl_kind_t kind,
                  struct json_object *what, int *made);

    /** Change one that was found. */
    int (*update)(ue_ctl_store_t *store, ue_ctl_kind_t kind, const char *id,
                  struct json_object *changes);

    /** Take a plan away that was found. Refused while it is used. */
    int (*remove_plan)(ue_ctl_store_t *store, const char *name);

    /**
     * What was changed, oldest first: objects with id, at, who, what, plan,
     * organization_id, api_key_id, before, after.
     * @param key   NULL: everything
     * @param limit the newest so many, as text
     * @param more  receives whether there are older ones
     */
    int (*changes)(ue_ctl_store_t *store, const char *key, const char *limit,
                   ue_ctl_each_t *each, void *baton, int *more);

    int (*prepare)(ue_ctl_store_t *store);
    int (*commit)(ue_ctl_store_t *store);
} ue_ctl_store_vtable_t;

/** The part that both begin with. */
struct ue_ctl_store_t {
    const ue_ctl_store_vtable_t *vtable;
    const ue_ctl_t *ctl;
    const char *where; /**< a file's path, or "the database", for messages */
};

/* What both say. */
#define UE_CTL_NO_PLAN "there is no such plan (usagectl plan create makes one)"
#define UE_CTL_PLAN_USED \
    "the plan is that of organizations or keys (plan show says of how many)"

extern const ue_ctl_store_vtable_t ue_ctl_store_file;
extern const ue_ctl_store_vtable_t ue_ctl_store_pg;

/** Open the store that --store or DATABASE_URL names. */
int ue_ctl_store_open(const ue_ctl_t *ctl, ue_ctl_purpose_t purpose,
                      ue_ctl_store_t **store);

/** What is there, or a sentence that there is none. */
int ue_ctl_store_need(ue_ctl_store_t *store, ue_ctl_kind_t kind, const char *id,
                      struct json_object **found);

/** Both steps of a change of which nothing has to be shown between them. */
int ue_ctl_store_save(ue_ctl_store_t *store);

/* What plans, organizations and keys have (attribute.c) ------------------- */

/**
 * What the options say of attributes, checked as far as that can be done
 * without a store: "--rate 5/s --no-plan" is {"rate": "5/s", "plan": null}.
 * @param changes receives an object, empty where they say nothing;
 *                json_object_put() it
 */
int ue_ctl_changes(const ue_ctl_t *ctl, struct json_object **changes);

/** Change an object in memory. */
void ue_ctl_apply(struct json_object *to, struct json_object *changes);

/** Of an object with its changes applied: are its lists short enough? */
int ue_ctl_check_lists(const ue_ctl_t *ctl, struct json_object *o);

/** A plan's name that was given as the operand or with --plan. */
int ue_ctl_plan_name(const ue_ctl_t *ctl, const char *what, const char *name);

/** The operand, checked, in the form in which stores know it. */
int ue_ctl_operand(const ue_ctl_t *ctl, ue_ctl_kind_t kind, const char **id);

/** "plan", "organization" or "key". */
const char *ue_ctl_noun(ue_ctl_kind_t kind);

/* What lists show of them (row.c) ---------------------------------------- */

/** Of a list, and of one alone. */
extern const ue_ctl_column_t *const ue_ctl_columns[UE_CTL_KEY + 1];
extern const ue_ctl_column_t *const ue_ctl_whole_columns[UE_CTL_KEY + 1];

/** A row of what a store found. */
struct json_object *ue_ctl_row(ue_ctl_kind_t kind, struct json_object *found,
                               apr_time_t now);

/** The same, with all that bears on a key. */
struct json_object *ue_ctl_whole_row(ue_ctl_kind_t kind,
                                     struct json_object *found, apr_time_t now);

/** "active", "expired" or "revoked". */
const char *ue_ctl_key_state(struct json_object *key, apr_time_t now);

#endif /* UE_USAGECTL_STORE_H */
