/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "kafka_ctl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <apr_lib.h>
#include <apr_strings.h>

#include "kafka_option.h"

/* @param where begins a sentence that says what is wrong with it */
static int add_property(const ue_ctl_t *ctl, apr_array_header_t *to,
                        const char *where, const char *name, const char *value)
{
    const char *why = ue_kafka_option_check(name, value, ctl->p);
    ue_kafka_option_t *option;

    if (why) {
        return ue_ctl_fail(ctl, UE_CTL_WRONG_USE, "%s%s", where, why);
    }
    option = apr_array_push(to);
    option->name = name;
    option->value = value;
    return UE_CTL_DONE;
}

/* "NAME=VALUE", spaces around both taken away. The text is not repeated in
 * messages: it may be a secret in the wrong place. */
static int add_assignment(const ue_ctl_t *ctl, apr_array_header_t *to,
                          const char *where, const char *text)
{
    char *name = apr_pstrdup(ctl->p, text);
    char *value = strchr(name, '=');

    if (!value) {
        return ue_ctl_fail(ctl, UE_CTL_WRONG_USE, "%sit must be NAME=VALUE",
                           where);
    }
    *value++ = '\0';
    apr_collapse_spaces(name, name);
    while (apr_isspace(*value)) {
        value++;
    }
    return add_property(ctl, to, where, name, value);
}

/* The next word as httpd reads it: in double or single quotes, where a
 * backslash goes before a quote, or up to a space. */
static char *next_word(char **line)
{
    char *from = *line, *to, *word;
    char quote = 0;

    while (apr_isspace(*from)) {
        from++;
    }
    if (*from == '"' || *from == '\'') {
        quote = *from++;
    }
    word = to = from;
    while (*from && (quote ? *from != quote : !apr_isspace(*from))) {
        if (quote && *from == '\\' && (from[1] == quote || from[1] == '\\')) {
            from++;
        }
        *to++ = *from++;
    }
    *line = *from ? from + 1 : from;
    *to = '\0';
    return word;
}

static int add_line(const ue_ctl_t *ctl, apr_array_header_t *to, char *line,
                    const char *where)
{
    static const char directive[] = "UsageKafkaOption";
    char *end = line + strlen(line), *name, *value;

    while (end > line && apr_isspace(end[-1])) {
        *--end = '\0';
    }
    while (apr_isspace(*line)) {
        line++;
    }
    if (!*line || *line == '#') {
        return UE_CTL_DONE;
    }
    if (strncasecmp(line, directive, sizeof directive - 1) != 0
        || !apr_isspace(line[sizeof directive - 1])) {
        return add_assignment(ctl, to, where, line);
    }
    line += sizeof directive;
    name = next_word(&line);
    value = next_word(&line);
    while (apr_isspace(*line)) {
        line++;
    }
    if (*line) {
        return ue_ctl_fail(ctl, UE_CTL_WRONG_USE,
                           "%sUsageKafkaOption takes a name and a value; "
                           "a value with spaces stands in quotes",
                           where);
    }
    return add_property(ctl, to, where, name, value);
}

static int add_file(const ue_ctl_t *ctl, apr_array_header_t *to,
                    const char *path)
{
    FILE *file = fopen(path, "r");
    int status = UE_CTL_DONE, number = 0, failed;
    char *line = NULL;
    size_t size = 0;

    if (!file) {
        return ue_ctl_fail(ctl, UE_CTL_WRONG_USE, "%s can't be read: %s", path,
                           strerror(errno));
    }
    while (!status && getline(&line, &size, file) >= 0) {
        number++;
        status = add_line(ctl, to, apr_pstrdup(ctl->p, line),
                          apr_psprintf(ctl->p, "%s, line %d: ", path, number));
    }
    failed = ferror(file);
    free(line);
    fclose(file);
    if (!status && failed) {
        status = ue_ctl_fail(ctl, UE_CTL_WRONG_USE, "%s can't be read", path);
    }
    return status;
}

/* The file first, so that the command line goes before it. */
int ue_ctl_kafka_options(const ue_ctl_t *ctl, apr_array_header_t **found)
{
    const char *path = ctl->option[UE_OPT_KAFKA_OPTIONS];
    apr_array_header_t *to =
        apr_array_make(ctl->p, 8, sizeof(ue_kafka_option_t));
    int status = path ? add_file(ctl, to, path) : UE_CTL_DONE;
    const apr_array_header_t *given = ctl->many[UE_OPT_KAFKA_OPTION];
    int i, from = to->nelts;

    for (i = 0; !status && i < given->nelts; i++) {
        status = add_assignment(
            ctl, to, "--option: ", APR_ARRAY_IDX(given, i, const char *));
    }
    for (i = from; !status && i < to->nelts; i++) {
        if (ue_kafka_option_is_secret(
                APR_ARRAY_IDX(to, i, ue_kafka_option_t).name)) {
            ue_ctl_note("note: others on this machine can see a command line; "
                        "%s had better come from a file of --options",
                        APR_ARRAY_IDX(to, i, ue_kafka_option_t).name);
        }
    }
    *found = to;
    return status;
}
