# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""docs/directives.md against the command table in src/directives.c."""
import re

CODE = "src/directives.c"
CONFIG = "src/config.c"
PAGE = "docs/directives.md"
CONTEXTS = {"RSRC_CONF": "server config, virtual host",
            "GLOBAL_ONLY": "server config"}
FIELDS = ("Description", "Syntax", "Default", "Context")


def commands(code):
    """Directive -> its context, from the command table."""
    return dict(re.findall(
        r'AP_INIT_\w+\(\s*"(Usage\w+)",.*?\b(RSRC_CONF|GLOBAL_ONLY)\b', code,
        re.S))


def environment(code):
    """Names of environment variables that the code reads."""
    return set(re.findall(r'"((?:KAFKA|DATABASE|REDIS)_[A-Z_]+)"', code))


def sections(page):
    """Directive -> its section's text, in the page's order."""
    parts = re.split(r"^## (Usage\w+)\n", page, flags=re.M)
    return list(zip(parts[1::2], parts[2::2]))


def check_section(name, text, context):
    faults = []
    fields = dict(re.findall(r"^- \*\*(\w+):\*\* (.+(?:\n  .+)*)", text, re.M))
    for field in FIELDS:
        if field not in fields:
            faults.append(f"{PAGE}: {name} has no {field}")
    if not fields.get("Syntax", f"`{name} ").startswith(f"`{name} "):
        faults.append(f"{PAGE}: {name}: Syntax is another directive's")
    default = fields.get("Default", "none")
    if not default.startswith(("none", f"`{name} ")):
        faults.append(f"{PAGE}: {name}: Default is neither none nor a line")
    if fields.get("Context", context) != context:
        faults.append(f"{PAGE}: {name}: Context is {fields['Context']}, "
                      f"the code says {context}")
    examples = "".join(re.findall(r"^```apache\n(.*?)^```", text, re.M | re.S))
    if not re.search(rf"^\s*{name}\b", examples, re.M):
        faults.append(f"{PAGE}: {name} has no example")
    return faults


#: Defaults that are numbers, and the directives that they are of.
DEFAULTS = {"BATCH_SIZE": "UsageKafkaBatchSize",
            "BUFFER_SIZE": "UsageKafkaBufferSize",
            "SLOTS": "UsageJournalSlots",
            "FLUSH_INTERVAL": "UsageKafkaFlushInterval",
            "DRAIN_TIMEOUT": "UsageKafkaDrainTimeout"}
UNITS = {"": 1, "ms": 1000, "s": 1000000, "min": 60000000}


def defaults(code):
    """Directive -> its default, in microseconds where it is a time."""
    found = {}
    for name, value in re.findall(r"^#define (\w+) \(?([\w */]+?)\)?$", code,
                                  re.M):
        if name in DEFAULTS:
            factors = value.replace("APR_USEC_PER_SEC", "1000000")
            number, _, rest = factors.partition(" ")
            n = int(number)
            for op, by in re.findall(r"([*/]) (\d+)", rest):
                n = n * int(by) if op == "*" else n // int(by)
            found[DEFAULTS[name]] = n
    return found


def ranges(code):
    """Directive -> what the page must say of its range."""
    found = {name: f"from {low} to {high}" for name, low, high in re.findall(
        r'\{\s*"(Usage\w+)",\s*(?:"\w+"|NULL),\s*(\d+),\s*(\d+),', code)}
    found.update(re.findall(
        r'\{\s*"(Usage\w+)",[^{}"]*(?:"[A-Z_]+",)?[^{}"]*"(\w+ to \w+)"', code))
    return found


def check_values(tree, documented):
    faults = []
    for name, n in defaults(tree.read(CONFIG)).items():
        said = re.search(rf"Default:\*\* `{name} (\d+)(\w*)`",
                         documented.get(name, ""))
        if not said or int(said[1]) * UNITS[said[2]] != n:
            faults.append(f"{PAGE}: {name}: Default is not the code's, {n}")
    for name, words in ranges(tree.read(CODE)).items():
        if words.lower() not in documented.get(name, "").lower():
            faults.append(f"{PAGE}: {name} doesn't say {words}")
    return faults


def check(tree):
    code = tree.read(CODE)
    table = commands(code)
    documented = sections(tree.read(PAGE))
    names = [name for name, _ in documented]
    faults = check_values(tree, dict(documented))
    if not table:
        faults.append(f"{CODE}: no command table found")
    for name in sorted(set(table) - set(names)):
        faults.append(f"{PAGE} lacks {name}")
    for name in sorted(set(names) - set(table)):
        faults.append(f"{CODE} lacks {name}, which {PAGE} describes")
    for name in sorted({n for n in names if names.count(n) > 1}):
        faults.append(f"{PAGE} describes {name} twice")
    if names != sorted(names):
        faults.append(f"{PAGE}: directives are not in alphabetical order")
    for name, text in documented:
        if name in table:
            faults += check_section(name, text, CONTEXTS[table[name]])
    read = environment("".join(tree.read(f) for f in tree.files(
        "mod_usage_events.c", "src/config.c", CODE)))
    said = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", "".join(
        re.findall(r"^- \*\*Environment:\*\* (.+)$", tree.read(PAGE), re.M))))
    for name in sorted(read - said):
        faults.append(f"{PAGE} names no environment variable {name}")
    for name in sorted(said - read):
        faults.append(f"no code reads {name}, which {PAGE} names")
    return faults


GOOD = {
    CONFIG: "#define BATCH_SIZE 100\n"
            "#define DRAIN_TIMEOUT (4 * APR_USEC_PER_SEC)\n",
    CODE: '''
const ue_number_rule_t ue_rule_batch_size = {
    "UsageKafkaBatchSize", NULL, 1, 10000, "100"};
const ue_time_rule_t ue_rule_drain_timeout = {
    "UsageKafkaDrainTimeout", NULL, 0, 60 * APR_USEC_PER_SEC, "0ms to 60s",
    "4s"};
static const char *const env = "KAFKA_BATCH_SIZE";
const command_rec ue_directives[] = {
    AP_INIT_FLAG("UsageEvents", set_flag, (void *)1, RSRC_CONF, "On or Off"),
    AP_INIT_TAKE1("UsageKafkaBatchSize", set_number, NULL,
                  RSRC_CONF, "1 to 10000"),
    AP_INIT_TAKE1("UsageKafkaDrainTimeout", set_time, NULL, RSRC_CONF, "4s"),
    {NULL}};
''',
    PAGE: '''# Directives

## UsageEvents

- **Description:** Meters requests.
- **Syntax:** `UsageEvents On|Off`
- **Default:** `UsageEvents Off`
- **Context:** server config, virtual host

```apache
UsageEvents On
```

## UsageKafkaBatchSize

- **Description:** Events that make a batch.
- **Syntax:** `UsageKafkaBatchSize EVENTS`
- **Default:** `UsageKafkaBatchSize 100`
- **Context:** server config, virtual host
- **Environment:** `KAFKA_BATCH_SIZE`

From 1 to 10000.

```apache
UsageKafkaBatchSize 500
```

## UsageKafkaDrainTimeout

- **Description:** How long a stopping child may take.
- **Syntax:** `UsageKafkaDrainTimeout TIME`
- **Default:** `UsageKafkaDrainTimeout 4s`
- **Context:** server config, virtual host

From 0ms to 60s.

```apache
UsageKafkaDrainTimeout 2s
```
'''}

MUTATIONS = [
    (CONFIG, "BATCH_SIZE 100", "BATCH_SIZE 200", "not the code's, 200"),
    (CONFIG, "(4 *", "(5 *", "not the code's, 5000000"),
    (CODE, "1, 10000,", "1, 20000,", "doesn't say from 1 to 20000"),
    (CODE, "0ms to 60s", "0ms to 90s", "doesn't say 0ms to 90s"),
    (CODE, '"UsageEvents"', '"UsageMeter"', "lacks UsageMeter"),
    (CODE, '"UsageEvents"', '"UsageMeter"', "lacks UsageEvents"),
    (CODE, "AP_INIT", "NOTHING", "lacks UsageEvents"),
    (CODE, "KAFKA_BATCH_SIZE", "KAFKA_SIZE", "variable KAFKA_SIZE"),
    (CODE, "KAFKA_BATCH_SIZE", "", "reads KAFKA_BATCH_SIZE"),
    (PAGE, "- **Description:** Meters", "Meters", "no Description"),
    (PAGE, "- **Default:** `UsageEvents Off`\n", "", "no Default"),
    (PAGE, "**Default:** `UsageEvents Off`", "**Default:** Off", "neither"),
    (PAGE, "Syntax:** `UsageEvents", "Syntax:** `UsageEvent", "another"),
    (PAGE, "config, virtual host", "config", "Context is"),
    (PAGE, "UsageEvents On\n", "Other On\n", "no example"),
    (PAGE, "## UsageEvents", "## UsageZ", "alphabetical"),
    (PAGE, "## UsageKafkaBatchSize", "## UsageEvents", "twice"),
]
