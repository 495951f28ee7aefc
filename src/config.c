/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "config.h"

#include <stdlib.h>

#include <apr_strings.h>

#define BATCH_SIZE 100
#define BUFFER_SIZE 1000
#define SLOTS 16384
#define FLUSH_INTERVAL (APR_USEC_PER_SEC / 2)
#define DRAIN_TIMEOUT (4 * APR_USEC_PER_SEC)

static const ue_keyheader_t default_key_header = {1, "X-API-Key"};

void *ue_config_create(apr_pool_t *p, server_rec *s)
{
    ue_conf_t *conf = apr_pcalloc(p, sizeof(*conf));

    conf->enabled = UE_UNSET;
    conf->exempt_preflight = UE_UNSET;
    conf->trust_request_id = UE_UNSET;
    conf->key_required = UE_UNSET;
    conf->key_hide = UE_UNSET;
    conf->overflow = UE_UNSET;
    conf->batch_size = UE_UNSET;
    conf->buffer_size = UE_UNSET;
    conf->slots = UE_UNSET;
    conf->flush_interval = UE_UNSET;
    conf->drain_timeout = UE_UNSET;
    return conf;
}

#define PICK(field) \
    conf->field = add->field != UE_UNSET ? add->field : base->field
#define PICK_POINTER(field) conf->field = add->field ? add->field : base->field

void *ue_config_merge(apr_pool_t *p, void *base_conf, void *add_conf)
{
    const ue_conf_t *base = base_conf;
    const ue_conf_t *add = add_conf;
    ue_conf_t *conf = apr_pcalloc(p, sizeof(*conf));

    PICK(enabled);
    PICK(exempt_preflight);
    PICK(trust_request_id);
    PICK(key_required);
    PICK(key_hide);
    PICK(overflow);
    PICK(batch_size);
    PICK(buffer_size);
    PICK(slots);
    PICK(flush_interval);
    PICK(drain_timeout);
    PICK_POINTER(billable);
    PICK_POINTER(keystore_url);
    PICK_POINTER(key_header);
    PICK_POINTER(event_file);
    /* What the main server exempts is exempt everywhere. */
    PICK_POINTER(exempt);
    if (base->exempt && add->exempt) {
        conf->exempt = apr_array_append(p, base->exempt, add->exempt);
    }
    return conf;
}

/** An empty variable counts as unset. */
static const char *variable(const char *name)
{
    const char *value = name ? getenv(name) : NULL;

    return value && *value ? value : NULL;
}

static const char *number(uint32_t *to, int set, const ue_number_rule_t *rule,
                          int otherwise, apr_pool_t *p)
{
    const char *text = variable(rule->variable);
    const char *error = NULL;

    if (set == UE_UNSET && text) {
        error = ue_number_parse(
            &set, rule,
            apr_pstrcat(p, rule->directive, " (", rule->variable, ")", NULL),
            text, p);
    }
    *to = (uint32_t)(set == UE_UNSET ? otherwise : set);
    return error;
}

static const char *span(apr_interval_time_t *to, apr_interval_time_t set,
                        const ue_time_rule_t *rule,
                        apr_interval_time_t otherwise, apr_pool_t *p)
{
    const char *text = variable(rule->variable);
    const char *error = NULL;

    if (set == UE_UNSET && text) {
        error = ue_time_span_parse(
            &set, rule,
            apr_pstrcat(p, rule->directive, " (", rule->variable, ")", NULL),
            text, p);
    }
    *to = set == UE_UNSET ? otherwise : set;
    return error;
}

static const char *plan_settings(ue_producer_config_t *config,
                                 const ue_conf_t *conf, apr_pool_t *p)
{
    const char *error = number(&config->batch_size, conf->batch_size,
                               &ue_rule_batch_size, BATCH_SIZE, p);

    if (!error) {
        error = number(&config->buffer_size, conf->buffer_size,
                       &ue_rule_buffer_size, BUFFER_SIZE, p);
    }
    if (!error) {
        /* Left alone, slots grow with the buffer: each event in it has one. */
        error = number(&config->slots, conf->slots, &ue_rule_slots,
                       (int)config->buffer_size > SLOTS / 2
                           ? (int)config->buffer_size * 2
                           : SLOTS,
                       p);
    }
    if (!error) {
        error = span(&config->flush_interval, conf->flush_interval,
                     &ue_rule_flush_interval, FLUSH_INTERVAL, p);
    }
    if (!error) {
        error = span(&config->drain_timeout, conf->drain_timeout,
                     &ue_rule_drain_timeout, DRAIN_TIMEOUT, p);
    }
    if (!error && config->slots < config->buffer_size) {
        error = apr_psprintf(p,
                             "UsageJournalSlots is %u and UsageKafkaBufferSize "
                             "%u: each event in the buffer has a slot, so make "
                             "it UsageJournalSlots %u or more",
                             config->slots, config->buffer_size,
                             config->buffer_size);
    }
    return error;
}

static int same_settings(const ue_producer_config_t *a,
                         const ue_producer_config_t *b)
{
    return a->batch_size == b->batch_size && a->buffer_size == b->buffer_size
           && a->slots == b->slots && a->flush_interval == b->flush_interval
           && a->drain_timeout == b->drain_timeout;
}

/** Find the plan with these sinks and settings, or make it. */
static const char *plan_producer(ue_setup_t *setup, ue_server_t *server,
                                 const ue_conf_t *conf, apr_pool_t *p)
{
    ue_producer_plan_t plan;
    const char *error;
    int i;

    memset(&plan, 0, sizeof(plan));
    error = plan_settings(&plan.config, conf, p);
    if (error) {
        return error;
    }
    plan.event_file = conf->event_file;
    for (i = 0; i < setup->plans->nelts; i++) {
        const ue_producer_plan_t *old =
            &APR_ARRAY_IDX(setup->plans, i, ue_producer_plan_t);

        if (strcmp(old->event_file, plan.event_file)) {
            continue;
        }
        if (!same_settings(&old->config, &plan.config)) {
            return apr_psprintf(p,
                                "UsageEventFile %s is named by two servers "
                                "with different UsageKafka... or "
                                "UsageJournalSlots; give both the same, or "
                                "each a file of its own, such as %s.2",
                                plan.event_file, plan.event_file);
        }
        server->producer = i;
        return NULL;
    }
    server->producer = setup->plans->nelts;
    APR_ARRAY_PUSH(setup->plans, ue_producer_plan_t) = plan;
    return NULL;
}

static const char *find_store(ue_setup_t *setup, ue_server_t *server,
                              const ue_conf_t *conf, apr_pool_t *p)
{
    const char *text = variable("DATABASE_URL");
    const char *error = NULL;
    int i;

    server->keystore_url = conf->keystore_url;
    if (!server->keystore_url && text) {
        error = ue_keystore_url_parse(&server->keystore_url,
                                      "UsageKeyStore (DATABASE_URL)", text, p);
    }
    if (error || !server->keystore_url) {
        return error || !server->rule.required
                   ? error
                   : "UsageKeyRequired On needs UsageKeyStore, such as "
                     "file:conf/keys.json (made by usagectl key create), or "
                     "UsageKeyRequired Off";
    }
    for (i = 0; i < setup->stores->nelts; i++) {
        if (!strcmp(APR_ARRAY_IDX(setup->stores, i, const char *),
                    server->keystore_url)) {
            return NULL;
        }
    }
    APR_ARRAY_PUSH(setup->stores, const char *) = server->keystore_url;
    return NULL;
}

#define OR(value, otherwise) ((value) != UE_UNSET ? (value) : (otherwise))

static const char *resolve_server(ue_setup_t *setup, ue_conf_t *conf,
                                  apr_pool_t *p)
{
    ue_server_t *server = apr_pcalloc(p, sizeof(*server));
    const char *why;
    const char *error;

    conf->server = server;
    server->enabled = OR(conf->enabled, 0);
    if (!server->enabled) {
        return NULL;
    }
    setup->enabled = 1;
    if (conf->exempt) {
        server->exempt = (const char *const *)conf->exempt->elts;
        server->exempt_count = (size_t)conf->exempt->nelts;
    }
    server->exempt_preflight = OR(conf->exempt_preflight, 0);
    server->trust_request_id = OR(conf->trust_request_id, 0);
    server->rule.required = OR(conf->key_required, 1);
    server->key_hide = OR(conf->key_hide, 1);
    server->key_header =
        conf->key_header ? *conf->key_header : default_key_header;
    server->overflow = (ue_overflow_t)OR(conf->overflow, UE_OVERFLOW_DROP);
    if (conf->billable) {
        server->billable = *conf->billable;
    }
    else {
        ue_statusset_parse(&server->billable, UE_BILLABLE_STATUS_DEFAULT, &why);
    }
    if (!conf->event_file) {
        return "UsageEvents On needs a place for the events: UsageEventFile, "
               "such as UsageEventFile logs/usage-events.jsonl";
    }
    error = find_store(setup, server, conf, p);
    return error ? error : plan_producer(setup, server, conf, p);
}

const char *ue_config_resolve(ue_setup_t **result, apr_pool_t *p,
                              apr_pool_t *ptemp, server_rec *main_server)
{
    ue_setup_t *setup = apr_pcalloc(p, sizeof(*setup));
    server_rec *s;

    setup->plans = apr_array_make(p, 2, sizeof(ue_producer_plan_t));
    setup->stores = apr_array_make(p, 2, sizeof(const char *));
    for (s = main_server; s; s = s->next) {
        ue_conf_t *conf =
            ap_get_module_config(s->module_config, &usage_events_module);
        const char *error = resolve_server(setup, conf, p);

        if (error) {
            return s->is_virtual
                       ? apr_psprintf(p, "%s (virtual host at %s:%u)", error,
                                      s->defn_name ? s->defn_name : "?",
                                      s->defn_line_number)
                       : error;
        }
    }
    *result = setup;
    return NULL;
}

const ue_server_t *ue_config_server(const server_rec *s)
{
    const ue_conf_t *conf =
        ap_get_module_config(s->module_config, &usage_events_module);

    return conf->server;
}
