/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "usagectl.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <apr_general.h>
#include <apr_strings.h>

#include "version.h"

#define BIT(option) (1u << (option))
#define OPERAND BIT(UE_OPTS) /* not an option, but as needed as one */

static const struct {
    const char *name;
    const char *value; /* what it is called in the help; NULL: takes none */
    const char *help;
} options[UE_OPTS] = {
    [UE_OPT_STORE] = {"store", "URL",
                      "the key store, file:PATH (default: $DATABASE_URL)"},
    [UE_OPT_ORG] = {"org", "UUID", "the organization"},
    [UE_OPT_ID] = {"id", "UUID", "the new organization's id"},
    [UE_OPT_NAME] = {"name", "NAME", "a name for people to know it by"},
    [UE_OPT_ORG_NAME] = {"org-name", "NAME",
                         "the organization's name, if it is a new one"},
    [UE_OPT_ENV] = {"env", "live|test", "how the key begins (default: live)"},
    [UE_OPT_EXPIRES] = {"expires", "TIME",
                        "when it ends to work, like 2030-01-31T12:00:00Z"},
    [UE_OPT_NOT_BILLABLE] = {"not-billable", NULL,
                             "what is done with it is recorded, not billed"},
    [UE_OPT_GROUP] = {"group", "GROUP",
                      "who may read a new key file (default for root: "
                      "www-data)"},
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
    [UE_OPT_FORMAT] = {"format", "table|json|csv",
                       "how to write the list (default: table)"},
    [UE_OPT_ALL] = {"all", NULL, "those too that were delivered"},
};

static const struct {
    const char *noun;
    const char *verb;
    const char *operand;
    unsigned needs;
    unsigned takes;
    int (*run)(ue_ctl_t *ctl);
    const char *help;
} commands[] = {
    {"key", "create", NULL, BIT(UE_OPT_ORG),
     BIT(UE_OPT_STORE) | BIT(UE_OPT_NAME) | BIT(UE_OPT_ORG_NAME)
         | BIT(UE_OPT_ENV) | BIT(UE_OPT_EXPIRES) | BIT(UE_OPT_NOT_BILLABLE)
         | BIT(UE_OPT_GROUP),
     ue_ctl_key_create,
     "Make a key and write it, alone and this once, to standard output. A\n"
     "missing organization or key file is made. If the key can't be written\n"
     "out, none is made."},
    {"key", "list", NULL, 0,
     BIT(UE_OPT_STORE) | BIT(UE_OPT_ORG) | BIT(UE_OPT_FORMAT), ue_ctl_key_list,
     "List keys, of one organization or of all."},
    {"key", "revoke", "ID", OPERAND, BIT(UE_OPT_STORE), ue_ctl_key_revoke,
     "End a key for good. One that was revoked before stays as it is."},
    {"key", "check", NULL, 0, 0, ue_ctl_key_check,
     "Read a key from standard input and say whether its form and checksum\n"
     "are right. Nothing is looked up."},
    {"org", "create", NULL, BIT(UE_OPT_ID) | BIT(UE_OPT_NAME),
     BIT(UE_OPT_STORE) | BIT(UE_OPT_NOT_BILLABLE) | BIT(UE_OPT_GROUP),
     ue_ctl_org_create, "Make an organization."},
    {"org", "list", NULL, 0, BIT(UE_OPT_STORE) | BIT(UE_OPT_FORMAT),
     ue_ctl_org_list, "List organizations."},
    {"init-kafka", NULL, NULL, 0,
     BIT(UE_OPT_BROKERS) | BIT(UE_OPT_TOPIC) | BIT(UE_OPT_PARTITIONS)
         | BIT(UE_OPT_REPLICATION) | BIT(UE_OPT_RETENTION)
         | BIT(UE_OPT_ADD_PARTITIONS) | BIT(UE_OPT_KAFKA_OPTION)
         | BIT(UE_OPT_KAFKA_OPTIONS) | BIT(UE_OPT_FORMAT),
     ue_ctl_init_kafka,
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
    {"spool", "ls", "DIR", OPERAND, BIT(UE_OPT_FORMAT), ue_ctl_spool_ls,
     "List the streams of a spool (UsageSpool): what each has delivered, what\n"
     "waits, what it lost, and who holds it. Numbers are worked out from its\n"
     "slots. Losses are a second table; in JSON they are members. Nothing is\n"
     "written, and httpd may run."},
    {"spool", "dump", "DIR|FILE", OPERAND, BIT(UE_OPT_ALL), ue_ctl_spool_dump,
     "Write each slot of a spool that is not free, or of one of its files, as\n"
     "a line of JSON, with what is proved of its event. Nothing is written,\n"
     "and httpd may run."},
    {"spool", "verify", "DIR", OPERAND, 0, ue_ctl_spool_verify,
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

static void print_words(FILE *to, size_t c)
{
    fputs(commands[c].noun, to);
    if (commands[c].verb) {
        fprintf(to, " %s", commands[c].verb);
    }
    if (commands[c].operand) {
        fprintf(to, " %s", commands[c].operand);
    }
}

static void print_usage(FILE *to)
{
    size_t i;

    fputs("usagectl: organizations, API keys, Kafka topics and spools of "
          "mod_usage_events\n\n",
          to);
    for (i = 0; i < COMMANDS; i++) {
        fputs("  usagectl ", to);
        print_words(to, i);
        fputc('\n', to);
    }
    fputs("\n  usagectl COMMAND --help says more of one,"
          "\n  usagectl --version which one this is.\n"
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
    unsigned o;

    fputs("usagectl ", stdout);
    print_words(stdout, c);
    printf(" [OPTION]...\n\n%s\n\n", commands[c].help);
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
static int read_option(ue_ctl_t *ctl, unsigned takes, int argc,
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
    if (ctl->option[o] && o != UE_OPT_KAFKA_OPTION) {
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
    if (o == UE_OPT_KAFKA_OPTION) {
        *(const char **)apr_array_push(ctl->many) = ctl->option[o];
    }
    return UE_CTL_DONE;
}

/* The operand is not repeated in messages: it may be a key that somebody took
 * for its id. */
static int read_arguments(ue_ctl_t *ctl, size_t c, int argc,
                          const char *const *argv)
{
    unsigned o, takes = commands[c].needs | commands[c].takes;
    int i, status, only_operands = 0;

    for (i = 0; i < argc; i++) {
        if (!only_operands && !strcmp(argv[i], "--")) {
            only_operands = 1;
        }
        else if (!only_operands && !strncmp(argv[i], "--", 2)) {
            status = read_option(ctl, takes, argc, argv, &i);
            if (status) {
                return status;
            }
        }
        else if (!commands[c].operand || ctl->operand) {
            return ue_ctl_fail(ctl, UE_CTL_WRONG_USE,
                               "there is an argument too many");
        }
        else {
            ctl->operand = argv[i];
        }
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

static int run(int argc, const char *const *argv, apr_pool_t *p)
{
    ue_ctl_t ctl = {p, "", {NULL}, NULL, NULL};
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
        ctl.many = apr_array_make(p, 4, sizeof(const char *));
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
    fputs("usagectl: there is no such command\n\n", stderr);
    print_usage(stderr);
    return UE_CTL_WRONG_USE;
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
