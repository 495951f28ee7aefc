# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""docs/directives.md against the command table in src/directives.c."""
import re

CODE = "src/directives.c"
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


def check(tree):
    code = tree.read(CODE)
    table = commands(code)
    documented = sections(tree.read(PAGE))
    names = [name for name, _ in documented]
    faults = []
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
    CODE: '''
static const char *const env = "KAFKA_BATCH_SIZE";
const command_rec ue_directives[] = {
    AP_INIT_FLAG("UsageEvents", set_flag, (void *)1, RSRC_CONF, "On or Off"),
    AP_INIT_TAKE1("UsageKafkaBatchSize", set_number, NULL,
                  RSRC_CONF, "1 to 10000"),
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

```apache
UsageKafkaBatchSize 500
```
'''}

MUTATIONS = [
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
