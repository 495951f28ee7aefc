/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "limit.h"

#include <assert.h>
#include <string.h>

#include <apr_strings.h>

#define ATTEMPTS 3 /* at a slot that changes hands again and again */
#define TICKS_A_SECOND (UINT64_C(1000000000) / UE_GCRA_TICK)

/* A limit that bears on a request, and where its subject is. */
typedef struct {
    ue_subject_t subject;
    ue_gcra_t gcra;
    int is_found;
    int is_unknown; /* it can't say */
    ue_subjectref_t ref;
    ue_gcra_state_t state;
} bearing_t;

static uint32_t seconds(uint64_t ticks)
{
    uint64_t s = (ticks + TICKS_A_SECOND - 1) / TICKS_A_SECOND;

    return s < UINT32_MAX ? (uint32_t)s : UINT32_MAX;
}

static void add(bearing_t *bearing, const ue_subject_t *subject, uint16_t scope,
                const ue_rate_t *rate, const ue_gcra_t *gcra)
{
    bearing->subject = *subject;
    bearing->subject.scope = scope;
    bearing->subject.rate = *rate;
    bearing->gcra = *gcra;
    bearing->is_found = bearing->is_unknown = 0;
}

/* The limits by one kind: the subject's own rate, else the server's. */
static size_t add_kind(bearing_t *to, const ue_subject_t *subject,
                       const ue_rate_t *own, const ue_limitrule_t *rule)
{
    ue_gcra_t gcra;
    size_t i, n = 0;

    if (own && own->count) {
        ue_gcra_prepare(&gcra, own);
        add(to, subject, 0, own, &gcra);
        return 1;
    }
    for (i = 0; i < rule->count; i++) {
        const ue_limit_t *limit = &rule->limits[i];

        if (limit->by == subject->by) {
            add(&to[n++], subject, limit->scope, &limit->rate, &limit->gcra);
        }
    }
    return n;
}

static void name_by_id(ue_subject_t *subject, ue_limitby_t by,
                       const ue_uuid_t *id)
{
    static_assert(sizeof(subject->id) == sizeof(id->b), "a UUID fits");
    subject->by = by;
    memcpy(subject->id, id->b, sizeof(subject->id));
}

static size_t collect(bearing_t to[UE_LIMITS_MAX], const ue_limitrule_t *rule,
                      const ue_limited_t *request)
{
    const ue_keyrecord_t *who = request->who;
    ue_subject_t subject;
    size_t n = 0;

    if (who) {
        name_by_id(&subject, UE_BY_KEY, &who->api_key_id);
        n = add_kind(to, &subject, &who->of_key.rate, rule);
        name_by_id(&subject, UE_BY_ORG, &who->organization_id);
        n += add_kind(to + n, &subject, &who->of_org.rate, rule);
    }
    if (ue_subject_of_address(&subject, request->client)) {
        n += add_kind(to + n, &subject, NULL, rule);
    }
    return n;
}

typedef apr_status_t step_fn(ue_subjects_t *subjects, ue_subjectref_t ref,
                             const ue_gcra_t *gcra, uint64_t now,
                             ue_gcra_state_t *state);

/* Look at a subject, or charge it; find it again where its slot has been given
 * to another meanwhile. */
static apr_status_t visit(bearing_t *b, ue_subjects_t *subjects, uint64_t now,
                          step_fn *step)
{
    apr_status_t rv = APR_EAGAIN;
    int i;

    for (i = 0; i < ATTEMPTS; i++) {
        if (!b->is_found) {
            rv = ue_subjects_find(subjects, &b->subject, now, &b->ref);
            if (rv != APR_SUCCESS) {
                break;
            }
        }
        rv = step(subjects, b->ref, &b->gcra, now, &b->state);
        b->is_found = rv == APR_SUCCESS;
        if (b->is_found) {
            break;
        }
    }
    return rv;
}

static ue_limitresult_t say(bearing_t *b, ue_subjects_t *subjects, uint64_t now,
                            step_fn *step)
{
    if (b->is_unknown || visit(b, subjects, now, step) != APR_SUCCESS) {
        b->is_unknown = 1;
        return UE_LIMIT_UNKNOWN;
    }
    return b->state.is_let_in ? UE_LIMIT_LET_IN : UE_LIMIT_OVER;
}

/* What all of them look like. One that refuses outweighs one that can't say, or
 * who fills the table with addresses would be rid of all limits. */
static ue_limitresult_t look(bearing_t *all, size_t n, ue_subjects_t *subjects,
                             uint64_t now)
{
    ue_limitresult_t result = UE_LIMIT_LET_IN;
    size_t i;

    for (i = 0; i < n; i++) {
        ue_limitresult_t one = say(&all[i], subjects, now, ue_subjects_look);

        if (one != UE_LIMIT_LET_IN && result != UE_LIMIT_OVER) {
            result = one;
        }
    }
    return result;
}

/* Charge all, up to one that refuses: the request is not let in then, and owes
 * the others nothing. */
static ue_limitresult_t take(bearing_t *all, size_t n, ue_subjects_t *subjects,
                             uint64_t now)
{
    ue_limitresult_t result = UE_LIMIT_LET_IN;
    size_t i;

    for (i = 0; i < n; i++) {
        ue_limitresult_t one = say(&all[i], subjects, now, ue_subjects_take);

        if (one == UE_LIMIT_OVER) {
            return one;
        }
        if (one == UE_LIMIT_UNKNOWN) {
            result = one;
        }
    }
    return result;
}

static int lets_in(const ue_limitrule_t *rule, ue_limitresult_t result)
{
    return result == UE_LIMIT_LET_IN
           || (result == UE_LIMIT_UNKNOWN
               && (rule->is_dry || rule->failure != UE_LIMIT_CLOSED));
}

/* Of several that refuse, the one that does so for longest is named. To be let
 * in, one has to wait for those, too, that were charged in vain. */
static void tell(ue_limitverdict_t *verdict, const bearing_t *all, size_t n)
{
    uint64_t longest = 0, wait = 0;
    size_t i;

    for (i = 0; i < n; i++) {
        const bearing_t *b = &all[i];
        ue_limitstate_t *s = &verdict->states[verdict->count];

        if (b->is_unknown) {
            continue;
        }
        s->by = b->subject.by;
        s->count = b->subject.rate.count;
        s->window = (uint32_t)apr_time_sec(b->subject.rate.period);
        s->remaining = b->state.remaining;
        s->reset = seconds(b->state.full);
        if (!b->state.is_let_in && b->state.wait > longest) {
            longest = b->state.wait;
            verdict->over = s->by;
        }
        wait = b->state.wait > wait ? b->state.wait : wait;
        verdict->count++;
    }
    if (verdict->result == UE_LIMIT_OVER) {
        verdict->retry_after = wait > TICKS_A_SECOND ? seconds(wait) : 1;
    }
}

void ue_limit_judge(ue_limitverdict_t *verdict, ue_subjects_t *subjects,
                    const ue_limitrule_t *rule, const ue_limited_t *request,
                    int charge, uint64_t now)
{
    bearing_t all[UE_LIMITS_MAX];
    size_t n = collect(all, rule, request);

    verdict->count = 0;
    verdict->retry_after = 0;
    verdict->result = UE_LIMIT_NONE;
    if (n == 0) {
        return;
    }
    now = ue_gcra_time(now);
    /* One alone needs no look beforehand. */
    verdict->result =
        n == 1 && charge ? UE_LIMIT_LET_IN : look(all, n, subjects, now);
    if (charge && lets_in(rule, verdict->result)) {
        verdict->result = take(all, n, subjects, now);
    }
    tell(verdict, all, n);
}

/* ---- what an answer says ---- */

static char *put(char *to, const char *s)
{
    size_t len = strlen(s);

    memcpy(to, s, len);
    return to + len;
}

static char *put_number(char *to, uint32_t n)
{
    char digits[10];
    size_t len = 0;

    do {
        digits[len++] = (char)('0' + n % 10);
        n /= 10;
    } while (n);
    while (len) {
        *to++ = digits[--len];
    }
    return to;
}

static char *put_item(char *to, const ue_limitstate_t *s, size_t i,
                      const char *first, uint32_t a, const char *second,
                      uint32_t b)
{
    to = put(to, i ? ", \"" : "\"");
    to = put(to, ue_limitby_name(s->by));
    to = put(to, first);
    to = put_number(to, a);
    to = put(to, second);
    return put_number(to, b);
}

void ue_limit_policy(const ue_limitverdict_t *verdict, char *to)
{
    size_t i;

    for (i = 0; i < verdict->count; i++) {
        const ue_limitstate_t *s = &verdict->states[i];

        to = put_item(to, s, i, "\";q=", s->count, ";w=", s->window);
    }
    *to = '\0';
}

void ue_limit_field(const ue_limitverdict_t *verdict, char *to)
{
    size_t i;

    for (i = 0; i < verdict->count; i++) {
        const ue_limitstate_t *s = &verdict->states[i];

        to = put_item(to, s, i, "\";r=", s->remaining, ";t=", s->reset);
    }
    *to = '\0';
}

const ue_limitstate_t *ue_limit_tightest(const ue_limitverdict_t *verdict)
{
    const ue_limitstate_t *least = NULL;
    size_t i;

    for (i = 0; i < verdict->count; i++) {
        if (!least || verdict->states[i].remaining < least->remaining) {
            least = &verdict->states[i];
        }
    }
    return least;
}

/* ---- as it is configured ---- */

static int read_by(ue_limitby_t *by, const char *s)
{
    static const ue_limitby_t all[] = {UE_BY_KEY, UE_BY_ORG, UE_BY_IP};
    size_t i;

    for (i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (!strcmp(s, ue_limitby_name(all[i]))) {
            *by = all[i];
            return 1;
        }
    }
    return 0;
}

apr_status_t ue_limit_parse(ue_limit_t *limit, int argc, char *const argv[],
                            const char **why, apr_pool_t *p)
{
    const char *text = argc ? argv[0] : "", *burst = NULL, *by = NULL;
    int i;

    for (i = 1; i < argc; i++) {
        const char **to = !strncmp(argv[i], "burst=", 6) ? &burst
                          : !strncmp(argv[i], "by=", 3)  ? &by
                                                         : NULL;

        if (!to || *to) {
            *why = apr_psprintf(p, "\"%s\" can't stand there", argv[i]);
            return APR_EINVAL;
        }
        *to = argv[i];
    }
    limit->by = UE_BY_ORG;
    if (by && !read_by(&limit->by, by + 3)) {
        *why = apr_psprintf(p, "\"%s\" is none of by=key, by=org, by=ip", by);
        return APR_EINVAL;
    }
    text = burst ? apr_pstrcat(p, text, " ", burst, NULL) : text;
    if (ue_rate_parse(&limit->rate, text) != APR_SUCCESS) {
        *why = apr_psprintf(p, "\"%s\" is no rate, " UE_RATE_SYNTAX, text);
        return APR_EINVAL;
    }
    ue_gcra_prepare(&limit->gcra, &limit->rate);
    limit->scope = 0;
    return APR_SUCCESS;
}
