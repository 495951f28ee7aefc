# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Only the glue includes httpd's headers. The rest is APR and ours, so that
usagectl, unit tests and fuzzers can link it."""
import re

HTTPD = re.compile(r"^(httpd|http_\w+|ap_\w+|mod_(?!usage_events)\w+|util_\w+|"
                   r"mpm_common|scoreboard|unixd|heartbeat)\.h$")


def glue(makefile):
    """The Makefile's GLUE, and the headers beside these files."""
    found = re.search(r"^GLUE\s*=((?:.*\\\n)*.*)$", makefile, re.M)
    files = found.group(1).replace("\\\n", " ").split() if found else []
    return set(files) | {re.sub(r"\.c$", ".h", name) for name in files}


def check(tree):
    ours = glue(tree.read("Makefile"))
    if not ours:
        return ["Makefile: no GLUE found"]
    headers = {name.rsplit("/", 1)[-1] for name in ours if name.endswith(".h")}
    faults = []
    for path in tree.files("*.c", "*.h"):
        if path in ours:
            continue
        included = re.findall(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]',
                              tree.read(path), re.M)
        for name in included:
            name = name.rsplit("/", 1)[-1]
            if HTTPD.match(name):
                faults.append(f"{path} includes httpd's {name}")
            elif name in headers:
                faults.append(f"{path} includes the glue's {name}")
    return faults


GOOD = {
    "Makefile": "GLUE       = mod_usage_events.c \\\n  src/config.c\nX = 1\n",
    "mod_usage_events.c": "#include <httpd.h>\n",
    "src/config.h": "#include <http_config.h>\n",
    "src/config.c": '#include "config.h"\n',
    "src/event.c": '#include "event.h"\n#include <apr_time.h>\n',
}

MUTATIONS = [
    ("src/event.c", "<apr_time.h>", "<httpd.h>", "httpd's httpd.h"),
    ("src/event.c", "<apr_time.h>", '"http_log.h"', "httpd's http_log.h"),
    ("src/event.c", "<apr_time.h>", "<mod_proxy.h>", "httpd's mod_proxy.h"),
    ("src/event.c", "<apr_time.h>", '"config.h"', "glue's config.h"),
    ("Makefile", "GLUE", "OTHER", "no GLUE"),
    ("Makefile", "src/config.c", "src/other.c", "src/config.h includes"),
]
