/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/**
 * Any credentials: the first line is what Authorization holds, the second what
 * the key header does; a line of a single "-" is a header that isn't there.
 * They go through a whole decision, over a store that knows some keys.
 */
#include "fuzz.h"

#include <ctype.h>
#include <strings.h>

#include "decision.h"

#define NOW INT64_C(1790000000000000)

typedef struct {
    ue_keystore_t base;
    const char *key; /* what was found in the headers */
    size_t len;
    int recalls;
    int lookups;
} fake_t;

static const ue_asked_t asked = {NULL, "GET", "/", 1};

/* What becomes of a key is in its first letter. */
static ue_keystore_result_t answer(fake_t *fake, const char *key, size_t len,
                                   const ue_asked_t *what,
                                   ue_keyrecord_t *record)
{
    CHECK(key == fake->key && len == fake->len && what == &asked);
    CHECK(len <= UE_APIKEY_MAX);
    memset(record, 0, sizeof(*record));
    record->organization_id.b[0] = 1;
    record->revoked = len > 0 && key[0] == 'r';
    record->expires = len > 0 && key[0] == 'e' ? NOW : 0;
    record->access = len > 0 && key[0] == 'n' ? UE_ACCESS_PATH : 0;
    if (len == 0 || key[0] == 'u') {
        return UE_KEYSTORE_UNKNOWN;
    }
    return key[0] == 'b' ? UE_KEYSTORE_FAILED : UE_KEYSTORE_MISS;
}

static ue_keystore_result_t fake_recall(ue_keystore_t *store, const char *key,
                                        size_t len, const ue_asked_t *what,
                                        ue_keyrecord_t *record)
{
    fake_t *fake = (fake_t *)store;

    fake->recalls++;
    /* what it recalls was found before, so it passed the checks */
    if (len == 0 || key[len - 1] != 'c'
        || ue_apikey_form(key, len) != UE_KEY_LOOKUP
        || answer(fake, key, len, what, record) != UE_KEYSTORE_MISS) {
        return UE_KEYSTORE_NONE;
    }
    return UE_KEYSTORE_HIT;
}

static ue_keystore_result_t fake_lookup(ue_keystore_t *store, const char *key,
                                        size_t len, const ue_asked_t *what,
                                        ue_keyrecord_t *record)
{
    fake_t *fake = (fake_t *)store;

    fake->lookups++;
    CHECK(ue_apikey_form(key, len) == UE_KEY_LOOKUP);
    return answer(fake, key, len, what, record);
}

static const ue_keystore_vtable_t fake_vtable = {.recall = fake_recall,
                                                 .lookup = fake_lookup};

/* The rules of docs/formats.md a second time. */
static ue_cred_t expected(const char *authorization, const char *header)
{
    const char *s = authorization;
    int bearer = 0;

    if (s && strchr(s, ',')) {
        return UE_CRED_TWO;
    }
    if (s) {
        s += strspn(s, " \t");
        bearer = strncasecmp(s, "bearer", 6) == 0
                 && strchr(" \t", s[6]) != NULL; /* or the end */
    }
    if (header && (bearer || strstr(header, ", "))) {
        return UE_CRED_TWO;
    }
    return bearer || header ? UE_CRED_ONE : UE_CRED_NONE;
}

static int is_within(const char *key, size_t len, const char *s)
{
    return s && key >= s && key + len <= s + strlen(s);
}

static void check_found(const char *authorization, const char *header,
                        fake_t *fake)
{
    ue_cred_t found =
        ue_apikey_find(authorization, header, &fake->key, &fake->len);

    CHECK(found == expected(authorization, header));
    if (found != UE_CRED_ONE) {
        return;
    }
    CHECK(is_within(fake->key, fake->len, header ? header : authorization));
    if (fake->len > 0) {
        CHECK(!isblank((unsigned char)fake->key[0]));
        CHECK(!isblank((unsigned char)fake->key[fake->len - 1]));
    }
    /* with the header, the key is all of it; with Authorization, all that is
     * behind the scheme: what follows it is blank */
    for (const char *s = fake->key + fake->len; *s; s++) {
        CHECK(isblank((unsigned char)*s));
    }
}

static ue_verdict_t expected_verdict(ue_cred_t found, int required,
                                     const fake_t *fake, int has_store)
{
    if (found == UE_CRED_TWO) {
        return UE_TWO_KEYS;
    }
    if (found == UE_CRED_NONE) {
        return required ? UE_NO_KEY : UE_ANONYMOUS;
    }
    if (ue_apikey_form(fake->key, fake->len) != UE_KEY_LOOKUP || !has_store) {
        return UE_BAD_KEY;
    }
    switch (fake->key[0]) {
    case 'u':
    case 'r':
        return UE_BAD_KEY;
    case 'e':
        return UE_EXPIRED_KEY;
    case 'n':
        return UE_NOT_ALLOWED;
    case 'b':
        return UE_UNAVAILABLE;
    }
    return UE_ALLOW;
}

static void check_decision(const char *authorization, const char *header,
                           fake_t *fake, int required, int has_store)
{
    static const ue_keyrecord_t nobody;
    static const ue_uuid_t id = {{1, 2, 3}};
    ue_keyrule_t rule = {has_store ? &fake->base : NULL, required};
    ue_cred_t found = expected(authorization, header);
    char json[UE_PROBLEM_JSON_MAX];
    const ue_problem_t *problem;
    ue_decision_t d;

    fake->recalls = fake->lookups = 0;
    memset(&d, 0xee, sizeof(d));
    ue_decide(&d, &rule, authorization, header, &asked, NOW);
    CHECK(d.verdict == expected_verdict(found, required, fake, has_store));
    CHECK(fake->recalls <= 1 && fake->lookups <= 1);
    CHECK(found == UE_CRED_ONE || (fake->recalls == 0 && fake->lookups == 0));
    CHECK(d.how <= UE_KEYSTORE_NONE);
    if (d.verdict == UE_ALLOW || d.verdict == UE_EXPIRED_KEY
        || d.verdict == UE_NOT_ALLOWED) {
        CHECK(d.who.organization_id.b[0] == 1);
        CHECK(d.how == UE_KEYSTORE_HIT || d.how == UE_KEYSTORE_MISS);
    }
    else {
        CHECK(memcmp(&d.who, &nobody, sizeof(nobody)) == 0);
    }
    problem = ue_problem(&d);
    CHECK((problem == NULL)
          == (d.verdict == UE_ALLOW || d.verdict == UE_ANONYMOUS));
    if (problem) {
        size_t n = ue_problem_json(problem, &id, json);

        CHECK(n < sizeof(json) && json[n] == '\0');
    }
}

/* A line of the input, or NULL for "-". */
static char *take_line(const uint8_t **data, size_t *size)
{
    const uint8_t *end = *size ? memchr(*data, '\n', *size) : NULL;
    size_t len = end ? (size_t)(end - *data) : *size;
    char *line = len == 1 && **data == '-' ? NULL : fuzz_string(*data, len);

    *size -= end ? len + 1 : len;
    *data += end ? len + 1 : len;
    return line;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fake_t fake = {.base = {&fake_vtable}};
    char *authorization = take_line(&data, &size);
    char *header = take_line(&data, &size);

    check_found(authorization, header, &fake);
    for (int i = 0; i < 4; i++) {
        check_decision(authorization, header, &fake, i & 1, i & 2);
    }
    free(header);
    free(authorization);
    return 0;
}
