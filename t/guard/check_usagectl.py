# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""docs/usagectl.1 against the tables of commands and options in
src/usagectl/main.c."""
import re

CODE = "src/usagectl/main.c"
PAGE = "docs/usagectl.1"


def table(code, name):
    """The text between the braces of a table."""
    found = re.search(rf"\b{name}(?:\[\w*\])? = \{{(.*?)^\}};", code,
                      re.S | re.M)
    return found[1] if found else ""


def options(code):
    """UE_OPT_… -> ("--name", what its value is called or "")."""
    return {symbol: (f"--{name}", value or "") for symbol, name, value
            in re.findall(r'\[(UE_OPT_\w+)\] =\s*\{\s*"([a-z-]+)",\s*'
                          r'(?:"([^"]+)"|NULL)', table(code, "options"))}


def commands(code):
    """"key create" -> (operand or "", the UE_OPT_… that it takes)."""
    macros = {name: set(re.findall(r"UE_OPT_\w+", text)) for name, text
              in re.findall(r"^#define (\w+)\s*((?:.*\\\n)*.*)$", code, re.M)}
    found = {}
    for noun, verb, operand, bits in re.findall(
            r'\{"([a-z-]+)",\s*(?:"([a-z-]+)"|NULL),\s*'
            r'(?:"([^"]+)"|NULL),(.*?),\s*ue_ctl_\w+,',
            table(code, "commands"), re.S):
        taken = set(re.findall(r"UE_OPT_\w+", bits))
        for name, symbols in macros.items():
            if re.search(rf"\b{name}\b", bits):
                taken |= symbols
        found[f"{noun} {verb}".strip()] = (operand, taken - {"UE_OPTS"})
    return found


def plain(text):
    """A page's text without its macros and escapes."""
    text = re.sub(r"\\f.", "", text)
    text = text.replace("\\-", "-").replace("\\&", "")
    return text.replace('"', "").replace("\\(aq", "'")


def sections(page, macro):
    """Heading -> text, below .SH or .SS."""
    stop = r"^\.S[HS] |\Z" if macro == "SS" else r"^\.SH |\Z"
    return {plain(head): body for head, body in re.findall(
        rf"^\.{macro} ([^\n]*)\n(.*?)(?={stop})", page, re.S | re.M)}


def check(tree):
    code, page = tree.read(CODE), tree.read(PAGE)
    known, wanted = options(code), commands(code)
    faults = []
    if not known or not wanted:
        faults.append(f"{CODE}: no table of options or commands found")
    shown = sections(page, "SS")
    for name in sorted(set(wanted) - set(shown)):
        faults.append(f"{PAGE} lacks {name}")
    for name in sorted(set(shown) - set(wanted)):
        faults.append(f"{PAGE} describes {name}, which usagectl has not")
    for name in sorted(set(wanted) & set(shown)):
        operand, symbols = wanted[name]
        synopsis = plain(shown[name].split("\n.PP", 1)[0])
        if operand.strip("[]") not in synopsis:
            faults.append(f"{PAGE}: {name} doesn't name {operand}")
        have = set(re.findall(r"--[a-z-]+", synopsis))
        want = {known[s][0] for s in symbols if s in known}
        for option in sorted(want - have):
            faults.append(f"{PAGE}: {name} lacks {option}")
        for option in sorted(have - want):
            faults.append(f"{PAGE}: {name} has {option}, the code has not")
    described = re.findall(r"^\.TP\n\.BR? (\\-\\-.*)$",
                           sections(page, "SH").get("OPTIONS", ""), re.M)
    told = {plain(line).split()[0]: " ".join(plain(line).split()[1:])
            for line in described}
    for option, value in known.values():
        if option not in told:
            faults.append(f"{PAGE}: OPTIONS lacks {option}")
        elif told[option] != value:
            faults.append(f"{PAGE}: {option} takes {value or 'nothing'}")
    for option in sorted(set(told) - {o for o, _ in known.values()}):
        faults.append(f"{PAGE}: OPTIONS has {option}, the code has not")
    return faults


GOOD = {
    CODE: '''
#define BIT(option) (UINT64_C(1) << (option))
#define OPERAND BIT(UE_OPTS)

static const struct {
    const char *name;
} options[UE_OPTS] = {
    [UE_OPT_STORE] = {"store", "URL", "the key store"},
    [UE_OPT_RATE] =
        {"rate", "RATE", "how much"},
    [UE_OPT_ENV] = {"env", "live|test", "how it begins"},
    [UE_OPT_NO_RATE] = {"no-rate", NULL, "take it away"},
};

#define STORE BIT(UE_OPT_STORE)
#define BOTH \\
    (BIT(UE_OPT_RATE) \\
     | BIT(UE_OPT_NO_RATE))

static const struct {
    const char *noun;
} commands[] = {
    {"key", "set", "ID", OPERAND, STORE | BOTH,
     ue_ctl_key_set, "Change it."},
    {"init", NULL, NULL, BIT(UE_OPT_ENV), 0, ue_ctl_init,
     "Make it."},
};
''',
    PAGE: '''.TH USAGECTL 1
.SH COMMANDS
.SS "key set"
.B usagectl key set
.I ID
.RB [ \\-\\-store ]
.RB [ \\-\\-rate ]
.RB [ \\-\\-no\\-rate ]
.PP
Changes it. Beside that, nothing.
.SS init
.B usagectl init
.B \\-\\-env
.PP
Makes it.
.SH OPTIONS
.TP
.BR \\-\\-env " live|test"
How.
.TP
.BR \\-\\-no\\-rate
Take it away.
.TP
.BR \\-\\-rate " RATE"
How much.
.TP
.BR \\-\\-store " URL"
Where.
'''}

MUTATIONS = [
    (CODE, "options[UE_OPTS] =", "switches[UE_OPTS] =", "no table of options"),
    (CODE, "commands[] =", "verbs[] =", "no table of options or commands"),
    (CODE, '"key", "set"', '"key", "put"', "lacks key put"),
    (CODE, '"key", "set"', '"key", "put"', "describes key set"),
    (CODE, '"init", NULL, NULL', '"init", NULL, "DIR"', "name DIR"),
    (CODE, "STORE | BOTH", "STORE", "key set has --no-rate"),
    (CODE, "BIT(UE_OPT_ENV), 0", "BIT(UE_OPT_ENV), STORE",
     "init lacks --store"),
    (CODE, '"rate", "RATE"', '"rate", "COUNT"', "--rate takes COUNT"),
    (CODE, '"no-rate", NULL', '"no-rate", "X"', "--no-rate takes X"),
    (PAGE, '" RATE"', "", "--rate takes RATE"),
    (PAGE, ".I ID\n", "", "key set doesn't name ID"),
    (PAGE, ".RB [ \\-\\-rate ]\n", "", "key set lacks --rate"),
    (PAGE, ".SS init\n", ".SS start\n", "lacks init"),
    (PAGE, ".BR \\-\\-store", ".BR \\-\\-stores", "OPTIONS lacks --store"),
    (PAGE, ".BR \\-\\-store", ".BR \\-\\-stores", "OPTIONS has --stores"),
]
