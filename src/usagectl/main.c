/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "usagectl.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <apr_general.h>
#include <apr_strings.h>

#include "apikey.h"
#include "version.h"

#define BIT(option) (UINT64_C(1) << (option))
#define OPERAND BIT(UE_OPTS) /* not an option, but as needed as one */

static const struct {
    const char *name;
    const char *value; /* what it is called in the help; NULL: takes none */
    const char *help;
} options[UE_OPTS] = {
    [UE_OPT_STORE] = {"store", "URL",
                      "the key store, file:PATH or postgresql://…\n"
                      "                             (default: $DATABASE_URL)"},
    [UE_OPT_ORG] = {"org", "UUID", "the organization"},
    [UE_OPT_ID] = {"id", "UUID", "the new organization's id"},
    [UE_OPT_NAME] = {"name", "NAME", "a name for people to know it by"},
    [UE_OPT_ORG_NAME] = {"org-name", "NAME",
                         "the organization's name, if it is a new one"},
    [UE_OPT_ENV] = {"env", "live|test", "how the key begins (default: live)"},
    [UE_OPT_EXPIRES] = {"expires", "TIME",
                        "when it ends to work, like 2030-01-31T12:00:00Z"},
    [UE_OPT_PLAN] = {"plan", "NAME",
                     "the plan (of a key: instead of its\n"
                     "                             organization's)"},
    [UE_OPT_RATE] = {"rate", "RATE", "like 100/s, or '100/s burst=200'"},
    [UE_OPT_QUOTA] = {"quota", "QUOTA", "like 10000/month, /day or /hour"},
    [UE_OPT_NETWORK] = {"network", "CIDR",
                        "where it may be used from, like 192.0.2.0/24;\n"
                        "                             may be there again"},
    [UE_OPT_PATH] =
        {"path", "PATH",
         "what it may be used for, /v1/charge or a prefix\n"
         "                             like /v1/; may be there again"},
    [UE_OPT_METHOD] = {"method", "NAME",
                       "how it may be used, like GET (and so HEAD);\n"
                       "                             may be there again"},
    [UE_OPT_BILLABLE] = {"billable", NULL, "what is done with it is billed"},
    [UE_OPT_NOT_BILLABLE] = {"not-billable", NULL,
                             "what is done with it is recorded, not billed"},
    [UE_OPT_NO_PLAN] = {"no-plan", NULL, "take the plan away"},
    [UE_OPT_NO_RATE] = {"no-rate", NULL, "take the rate away"},
    [UE_OPT_NO_QUOTA] = {"no-quota", NULL, "take the quota away"},
    [UE_OPT_NO_NETWORKS] = {"no-networks", NULL, "let every address use it"},
    [UE_OPT_NO_PATHS] = {"no-paths", NULL, "let it be used for every path"},
    [UE_OPT_NO_METHODS] = {"no-methods", NULL, "let it be used in every way"},
    [UE_OPT_NO_EXPIRES] = {"no-expires", NULL, "let it work for ever"},
    [UE_OPT_GRACE] =
        {"grace", "TIME",
         "how long the old key goes on to work, like 30min;\n"
         "                             0s: not at all (default: 24h)"},
    [UE_OPT_SECRET] = {"secret", "FILE",
                       "the one that UsageKeySecret names, where it does"},
    [UE_OPT_GROUP] =
        {"group", "GROUP",
         "who may read a new key file\n"
         "                             (default for root: www-data)"},
    [UE_OPT_BROKERS] = {"brokers", "LIST",
                        "Kafka's, HOST[:PORT],… (default: $KAFKA_BROKERS)"},
    [UE_OPT_TOPIC] = {"topic", "NAME",
                      "of the events (default: $KAFKA_TOPIC, else "
                      "usage-events)"},
    [UE_OPT_PARTITIONS] = {"partitions", "N",
                           "at least so many for the events (default: 12)"},
    [UE_OPT_REPLICATION] = {"replication", "N",
                            "copies of each (default: what Kafka is set to)"},
    [UE_OPT_RETENTION] = {"retention", "TIME",
                          "how long events are kept, like 7d, 12h or "
                          "unlimited\n"
                          "                             (default: 7d)"},
    [UE_OPT_ADD_PARTITIONS] = {"add-partitions", NULL,
                               "where there are fewer, add those that lack"},
    [UE_OPT_KAFKA_OPTION] = {"option", "NAME=VALUE",
                             "a property of librdkafka; may be there again"},
    [UE_OPT_KAFKA_OPTIONS] = {"options", "FILE",
                              "such properties from a file, which may hold "
                              "secrets"},
    [UE_OPT_LIMIT] = {"limit", "N", "the newest so many (default: 1000)"},
    [UE_OPT_FORMAT] = {"format", "table|json|csv",
                       "how to write what is shown (default: table)"},
    [UE_OPT_ALL] = {"all", NULL, "those too that were delivered"},
};

#define STORE BIT(UE_OPT_STORE)
/* of plans, organizations and keys alike */
#define ATTRIBUTES                                                  \
    (BIT(UE_OPT_RATE) | BIT(UE_OPT_QUOTA) | BIT(UE_OPT_NETWORK)     \
     | BIT(UE_OPT_PATH) | BIT(UE_OPT_METHOD) | BIT(UE_OPT_BILLABLE) \
     | BIT(UE_OPT_NOT_BILLABLE))
#define NO_ATTRIBUTES                                                     \
    (BIT(UE_OPT_NO_RATE) | BIT(UE_OPT_NO_QUOTA) | BIT(UE_OPT_NO_NETWORKS) \
     | BIT(UE_OPT_NO_PATHS) | BIT(UE_OPT_NO_METHODS))

static const struct {
    const char *noun;
    const char *verb;
    const char *operand;
    uint64_t needs;
    uint64_t takes;
    int (*run)(ue_ctl_t *ctl);
    const char *phrase; /* of a list of commands */
    const char *help;
} commands[] = {
    {"plan", "create", "NAME", OPERAND, STORE | ATTRIBUTES | BIT(UE_OPT_GROUP),
     ue_ctl_plan_create, "make a plan",
     "Make a plan: attributes that organizations and keys can have by its "
     "name."},
    {"plan", "list", NULL, 0, STORE | BIT(UE_OPT_FORMAT), ue_ctl_plan_list,
     "list plans",
     "List plans, with how many organizations and keys have them by name."},
    {"plan", "show", "NAME", OPERAND, STORE | BIT(UE_OPT_FORMAT),
     ue_ctl_plan_show, "show all of one", "Show all of a plan."},
    {"plan", "set", "NAME", OPERAND, STORE | ATTRIBUTES | NO_ATTRIBUTES,
     ue_ctl_plan_set, "change one",
     "Change a plan, and so what all may do who have it. What isn't named "
     "stays;\n"
     "a list is replaced by the one that is given."},
    {"plan", "delete", "NAME", OPERAND, STORE, ue_ctl_plan_delete,
     "take one away",
     "Take a plan away. Refused while an organization or key has it."},
    {"org", "create", NULL, BIT(UE_OPT_ID) | BIT(UE_OPT_NAME),
     STORE | BIT(UE_OPT_PLAN) | ATTRIBUTES | BIT(UE_OPT_GROUP),
     ue_ctl_org_create, "make an organization", "Make an organization."},
    {"org", "list", NULL, 0, STORE | BIT(UE_OPT_FORMAT), ue_ctl_org_list,
     "list organizations", "List organizations."},
    {"org", "show", "ID", OPERAND, STORE | BIT(UE_OPT_FORMAT), ue_ctl_org_show,
     "show all of one", "Show all of an organization."},
    {"org", "set", "ID", OPERAND,
     STORE | BIT(UE_OPT_NAME) | BIT(UE_OPT_PLAN) | BIT(UE_OPT_NO_PLAN)
         | ATTRIBUTES | NO_ATTRIBUTES,
     ue_ctl_org_set, "change one",
     "Change an organization, and so what its keys may do. What isn't named\n"
     "stays; a list is replaced by the one that is given."},
    {"key", "create", NULL, BIT(UE_OPT_ORG),
     STORE | BIT(UE_OPT_NAME) | BIT(UE_OPT_ORG_NAME) | BIT(UE_OPT_ENV)
         | BIT(UE_OPT_EXPIRES) | BIT(UE_OPT_PLAN) | ATTRIBUTES
         | BIT(UE_OPT_SECRET) | BIT(UE_OPT_GROUP),
     ue_ctl_key_create, "make a key and show it, once",
     "Make a key and write it, alone and this once, to standard output. A\n"
     "missing organization or key file is made. If the key can't be written\n"
     "out, none is made."},
    {"key", "list", NULL, 0, STORE | BIT(UE_OPT_ORG) | BIT(UE_OPT_FORMAT),
     ue_ctl_key_list, "list keys", "List keys, of one organization or of all."},
    {"key", "show", "ID", OPERAND, STORE | BIT(UE_OPT_FORMAT), ue_ctl_key_show,
     "show all of one but itself",
     "Show all of a key but itself: whose it is, what it may do by itself, "
     "and\n"
     "(effective_…) what it may do with all that bears on it. Of several "
     "lists\n"
     "with \"and\" between them, all must let a request in."},
    {"key", "set", "ID", OPERAND,
     STORE | BIT(UE_OPT_NAME) | BIT(UE_OPT_EXPIRES) | BIT(UE_OPT_NO_EXPIRES)
         | BIT(UE_OPT_PLAN) | BIT(UE_OPT_NO_PLAN) | ATTRIBUTES | NO_ATTRIBUTES,
     ue_ctl_key_set, "change what one may do",
     "Change what a key may do. What isn't named stays; a list is replaced by\n"
     "the one that is given."},
    {"key", "revoke", "ID", OPERAND, STORE, ue_ctl_key_revoke,
     "end one for good",
     "End a key for good. One that was revoked before stays as it is."},
    {"key", "rotate", "ID", OPERAND,
     STORE | BIT(UE_OPT_GRACE) | BIT(UE_OPT_SECRET), ue_ctl_key_rotate,
     "make one that takes its place",
     "Make a key with the same attributes and write it, alone and this once, "
     "to\n"
     "standard output. The old one works for a time yet, but never longer "
     "than\n"
     "it would have. If the new key can't be written out, nothing is changed.\n"
     "\n"
     "A key that doesn't work can't be rotated, nor one that was rotated "
     "before:\n"
     "rotate the one that replaces it, which key show names."},
    {"key", "check", NULL, 0, 0, ue_ctl_key_check,
     "say whether one is mistyped",
     "Read a key from standard input and say whether its form and checksum\n"
     "are right. Nothing is looked up."},
    {"key", "changes", "[ID]", 0,
     STORE | BIT(UE_OPT_LIMIT) | BIT(UE_OPT_FORMAT), ue_ctl_key_changes,
     "list who changed what, and when",
     "List who changed what and when, of one key, or of all plans, "
     "organizations\n"
     "and keys, oldest first. Where there are older ones than the newest so\n"
     "many, standard error says so. PostgreSQL only: a key file keeps no "
     "history."},
    {"init-kafka", NULL, NULL, 0,
     BIT(UE_OPT_BROKERS) | BIT(UE_OPT_TOPIC) | BIT(UE_OPT_PARTITIONS)
         | BIT(UE_OPT_REPLICATION) | BIT(UE_OPT_RETENTION)
         | BIT(UE_OPT_ADD_PARTITIONS) | BIT(UE_OPT_KAFKA_OPTION)
         | BIT(UE_OPT_KAFKA_OPTIONS) | BIT(UE_OPT_FORMAT),
     ue_ctl_init_kafka, "make the topics of the events",
     "Make the topic of the events, and NAME-ledger beside it, and list them.\n"
     "Events are kept for a time (cleanup.policy=delete), the ledger for ever\n"
     "(compact). With three copies or more, on three brokers or more, two "
     "must\n"
     "have an event before it counts (min.insync.replicas=2).\n"
     "\n"
     "A topic that is there is left as it is. Where it isn't as asked, "
     "standard\n"
     "error says how, and the exit status is 1. More partitions move most\n"
     "organizations to another one, so none are added without\n"
     "--add-partitions.\n"
     "\n"
     "A file of --options has lines NAME=VALUE or UsageKafkaOption NAME "
     "VALUE,\n"
     "and comments, which begin with #. So httpd can include the same file."},
    {"init-db", NULL, NULL, 0, BIT(UE_OPT_STORE), ue_ctl_init_db,
     "make the tables of a database",
     "Make the tables in a PostgreSQL database, or bring them up to date. "
     "Again\n"
     "and again does no harm. What gateways may read is granted to the role\n"
     "usage_gateway, which is made where it isn't there."},
    {"spool", "ls", "DIR", OPERAND, BIT(UE_OPT_FORMAT), ue_ctl_spool_ls,
     "list what waits in a spool",
     "List the streams of a spool (UsageSpool): what each has delivered, what\n"
     "waits, what it lost, and who holds it. Numbers are worked out from its\n"
     "slots. Losses are a second table; in JSON they are members. Nothing is\n"
     "written, and httpd may run."},
    {"spool", "dump", "DIR|FILE", OPERAND, BIT(UE_OPT_ALL), ue_ctl_spool_dump,
     "write its events as JSON",
     "Write each slot of a spool that is not free, or of one of its files, as\n"
     "a line of JSON, with what is proved of its event. Nothing is written,\n"
     "and httpd may run."},
    {"spool", "verify", "DIR", OPERAND, 0, ue_ctl_spool_verify,
     "look for faults in it",
     "Judge every file of a spool, and write a line for each fault. The exit\n"
     "status is 1 if there is one. Nothing is written, and httpd may run."},
};

#define COMMANDS (sizeof commands / sizeof *commands)

void ue_ctl_note(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    fputs("usagectl: ", stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
}

int ue_ctl_fail(const ue_ctl_t *ctl, int status, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    fprintf(stderr, "usagectl %s: ", ctl->command);
    vfprintf(stderr, fmt, args);
    if (status == UE_CTL_WRONG_USE) {
        fprintf(stderr, " (usagectl %s --help says more)", ctl->command);
    }
    fputc('\n', stderr);
    va_end(args);
    return status;
}

/* "key show ID" */
static const char *words_of(size_t c, char *buf, size_t size)
{
    snprintf(buf, size, "%s%s%s%s%s", commands[c].noun,
             commands[c].verb ? " " : "",
             commands[c].verb ? commands[c].verb : "",
             commands[c].operand ? " " : "",
             commands[c].operand ? commands[c].operand : "");
    return buf;
}

/* @param noun of which; NULL: all */
static void print_commands(FILE *to, const char *noun)
{
    char words[64];
    size_t c;

    for (c = 0; c < COMMANDS; c++) {
        if (!noun || !strcmp(commands[c].noun, noun)) {
            fprintf(to, "  usagectl %-20s %s\n",
                    words_of(c, words, sizeof words), commands[c].phrase);
        }
    }
    fputs("\n  usagectl COMMAND --help says more of one", to);
}

static void print_usage(FILE *to)
{
    fputs("usagectl: organizations, API keys, Kafka topics and spools of "
          "mod_usage_events\n\n",
          to);
    print_commands(to, NULL);
    fputs(",\n  usagectl --version which one this is.\n"
          "\nExit status: 0 done, 1 refused or not complete, 2 wrong use,"
          "\n3 a server out of reach.\n",
          to);
}

static void print_option(unsigned option, const char *mark)
{
    char left[64];

    snprintf(left, sizeof left, "--%s%s%s", options[option].name,
             options[option].value ? " " : "",
             options[option].value ? options[option].value : "");
    printf("  %-26s %s%s\n", left, options[option].help, mark);
}

static void print_command(size_t c)
{
    char words[64];
    unsigned o;

    printf("usagectl %s [OPTION]...\n\n%s\n\n",
           words_of(c, words, sizeof words), commands[c].help);
    for (o = 0; o < UE_OPTS; o++) {
        if (commands[c].needs & BIT(o)) {
            print_option(o, " (needed)");
        }
    }
    for (o = 0; o < UE_OPTS; o++) {
        if (commands[c].takes & BIT(o)) {
            print_option(o, "");
        }
    }
}

/* One "--name", "--name=value" or "--name value". */
static int read_option(ue_ctl_t *ctl, uint64_t takes, int argc,
                       const char *const *argv, int *at)
{
    const char *name = argv[*at] + 2;
    size_t len = strcspn(name, "=");
    unsigned o;

    for (o = 0; o < UE_OPTS; o++) {
        if ((takes & BIT(o)) && !strncmp(options[o].name, name, len)
            && !options[o].name[len]) {
            break;
        }
    }
    if (o == UE_OPTS) {
        return ue_ctl_fail(ctl, UE_CTL_WRONG_USE, "there is no option --%.*s",
                           (int)len, name);
    }
    if (ctl->option[o] && !ctl->many[o]) {
        return ue_ctl_fail(ctl, UE_CTL_WRONG_USE, "--%s is there twice",
                           options[o].name);
    }
    ctl->option[o] = NULL;
    if (!options[o].value) {
        ctl->option[o] = "";
        return name[len] ? ue_ctl_fail(ctl, UE_CTL_WRONG_USE,
                                       "--%s takes no value", options[o].name)
                         : UE_CTL_DONE;
    }
    if (name[len]) {
        ctl->option[o] = name + len + 1;
    }
    else if (++*at < argc) {
        ctl->option[o] = argv[*at];
    }
    if (!ctl->option[o] || !*ctl->option[o]) {
        return ue_ctl_fail(ctl, UE_CTL_WRONG_USE, "--%s needs a value: %s",
                           options[o].name, options[o].value);
    }
    if (ctl->many[o]) {
        *(const char **)apr_array_push(ctl->many[o]) = ctl->option[o];
    }
    return UE_CTL_DONE;
}

static int holds_key(const char *s)
{
    size_t len = strlen(s), i;

    for (i = 0; i + UE_APIKEY_LEN <= len; i++) {
        if (ue_apikey_is_ours(s + i, UE_APIKEY_LEN)) {
            return 1;
        }
    }
    return 0;
}

/* Values are stored, listed and repeated in messages. */
static int refuse_keys(const ue_ctl_t *ctl, int argc, const char *const *argv)
{
    int i;

    for (i = 0; i < argc; i++) {
        if (holds_key(argv[i])) {
            return ue_ctl_fail(ctl, UE_CTL_WRONG_USE,
                               "there is a key among the arguments, where "
                               "others can see it: a key is named by its ID, "
                               "and only key check reads one, from standard "
                               "input");
        }
    }
    return UE_CTL_DONE;
}

/* The operand is not repeated in messages: it may be a mistyped key that
 * somebody took for its id. */
static int read_arguments(ue_ctl_t *ctl, size_t c, int argc,
                          const char *const *argv)
{
    uint64_t takes = commands[c].needs | commands[c].takes;
    unsigned o;
    int i, status = refuse_keys(ctl, argc, argv), only_operands = 0;

    for (i = 0; !status && i < argc; i++) {
        if (!only_operands && !strcmp(argv[i], "--")) {
            only_operands = 1;
        }
        else if (!only_operands && !strncmp(argv[i], "--", 2)) {
            status = read_option(ctl, takes, argc, argv, &i);
        }
        else if (!commands[c].operand || ctl->operand) {
            return ue_ctl_fail(ctl, UE_CTL_WRONG_USE,
                               "there is an argument too many");
        }
        else {
            ctl->operand = argv[i];
        }
    }
    if (status) {
        return status;
    }
    for (o = 0; o < UE_OPTS; o++) {
        if ((commands[c].needs & BIT(o)) && !ctl->option[o]) {
            return ue_ctl_fail(ctl, UE_CTL_WRONG_USE, "--%s %s is missing",
                               options[o].name, options[o].value);
        }
    }
    if ((commands[c].needs & OPERAND) && !ctl->operand) {
        return ue_ctl_fail(ctl, UE_CTL_WRONG_USE, "%s is missing",
                           commands[c].operand);
    }
    return UE_CTL_DONE;
}

static int wants_help(int argc, const char *const *argv)
{
    int i;

    for (i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            return 1;
        }
    }
    return 0;
}

/* The command that the arguments begin with, and how many words it has;
 * COMMANDS: there is none. */
static size_t find_command(int argc, const char *const *argv, int *words)
{
    size_t c;

    for (c = 0; c < COMMANDS; c++) {
        *words = commands[c].verb ? 2 : 1;
        if (argc >= *words && !strcmp(argv[0], commands[c].noun)
            && (!commands[c].verb || !strcmp(argv[1], commands[c].verb))) {
            break;
        }
    }
    return c;
}

static void make_lists(ue_ctl_t *ctl)
{
    static const ue_ctl_option_t several[] = {
        UE_OPT_KAFKA_OPTION, UE_OPT_NETWORK, UE_OPT_PATH, UE_OPT_METHOD};
    size_t i;

    for (i = 0; i < sizeof several / sizeof *several; i++) {
        ctl->many[several[i]] = apr_array_make(ctl->p, 4, sizeof(char *));
    }
}

static int is_noun(const char *word)
{
    size_t c = 0;

    while (c < COMMANDS
           && (!commands[c].verb || strcmp(word, commands[c].noun) != 0)) {
        c++;
    }
    return c < COMMANDS;
}

/* What can be said to words that are no command. */
static int lead(int help, int argc, const char *const *argv)
{
    const char *noun = is_noun(argv[0]) ? argv[0] : NULL;
    int unknown = argc > (noun ? 1 : 0);

    if (noun && (help ? argc == 1 : wants_help(argc, argv))) {
        print_commands(stdout, noun);
        puts(".");
        return UE_CTL_DONE;
    }
    if (unknown) {
        fputs("usagectl: there is no such command\n\n", stderr);
    }
    if (noun) {
        print_commands(stderr, noun);
        fputs(".\n", stderr);
    }
    else {
        print_usage(stderr);
    }
    return UE_CTL_WRONG_USE;
}

static int run(int argc, const char *const *argv, apr_pool_t *p)
{
    ue_ctl_t ctl = {p, "", {NULL}, NULL, {NULL}};
    int status, words, help = 0;
    size_t c;

    if (argc < 2) {
        print_usage(stderr);
        return UE_CTL_WRONG_USE;
    }
    if (!strcmp(argv[1], "--version")) {
        printf("usagectl %s\n", UE_VERSION);
        return UE_CTL_DONE;
    }
    if (!strcmp(argv[1], "help")) {
        help = 1;
        argv++;
        argc--;
    }
    if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        print_usage(stdout);
        return UE_CTL_DONE;
    }
    c = find_command(argc - 1, argv + 1, &words);
    if (c < COMMANDS) {
        argc -= 1 + words;
        argv += 1 + words;
        make_lists(&ctl);
        ctl.command = commands[c].verb ? apr_pstrcat(p, commands[c].noun, " ",
                                                     commands[c].verb, NULL)
                                       : commands[c].noun;
        if (help || wants_help(argc, argv)) {
            print_command(c);
            return UE_CTL_DONE;
        }
        status = read_arguments(&ctl, c, argc, argv);
        return status ? status : commands[c].run(&ctl);
    }
    return lead(help, argc - 1, argv + 1);
}

/* A program that is started with standard output closed gets its number for the
 * next file that it opens, and writes a key into that. So the three are held by
 * something that can't be used in their direction. */
static void hold_standard_files(void)
{
    int fd;

    for (fd = 0; fd < 3; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF
            && open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd) {
            _exit(UE_CTL_REFUSED);
        }
    }
}

int main(int argc, const char *const argv[])
{
    apr_pool_t *p;
    int status;

    hold_standard_files();
    /* A reader that has gone is an error to tell and to undo. */
    signal(SIGPIPE, SIG_IGN);
    if (apr_initialize() || apr_pool_create(&p, NULL)) {
        fputs("usagectl: no memory\n", stderr);
        return UE_CTL_REFUSED;
    }
    status = run(argc, argv, p);
    if (fflush(stdout) || ferror(stdout)) {
        ue_ctl_note("standard output can't be written");
        status = status ? status : UE_CTL_REFUSED;
    }
    apr_pool_destroy(p);
    apr_terminate();
    return status;
}
