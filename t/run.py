# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""make test: every stage in turn, all of them even if one fails, and at the end
how many tests there really were. Stages are targets of t/tests.mk."""
import os
import re
import subprocess
import sys
import time

# What a stage's output says about how many tests it had. The sum of all hits.
CMOCKA = (r"\[==========\]\s*(?:\w+: )?(?:Running )?(\d+) test\(s\) run",
          r"\[  FAILED  \]\s*(?:\w+: )?(\d+) test\(s\)")
PYTEST = (r"^(?:=+ )?.*?(\d+) passed.* in [\d.]+s",
          r"^(?:=+ )?.*?(\d+) (?:failed|error).* in [\d.]+s")
STAGES = [
    ("lint", r"^lint: [\w -]+: ok$", r"^lint: [\w -]+: failed$"),
    ("guard", r"^guard: \d+ guards, (\d+) self-tests",
     r"(\d+) guards failed$"),
    ("unit", *CMOCKA),
    ("valgrind", *CMOCKA),
    ("fuzz", r"^fuzz: \w+: ok", r"^fuzz: \w+: FAILED"),
    ("integration", *PYTEST),
    ("asan-build", None, None),
    ("asan-unit", *CMOCKA),
    ("asan-integration", *PYTEST),
]


def count(pattern, text):
    """The sum of a pattern's groups, or of its hits where it has none."""
    if pattern is None:
        return 0
    return sum(int(hit) if hit.isdigit() else 1
               for hit in re.findall(pattern, text, re.M))


def run(stage):
    """Run a stage, its output passed on as it comes. (status, output)"""
    # Not a jobserver's client, or make would wait for tokens in vain.
    env = {k: v for k, v in os.environ.items()
           if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    proc = subprocess.Popen(["make", "--no-print-directory", stage], env=env,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    lines = []
    for line in proc.stdout:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
        lines.append(line)
    return proc.wait(), b"".join(lines).decode("utf-8", "replace")


def main():
    wanted = sys.argv[1:]
    rows, begin = [], time.monotonic()
    for name, passed, failed in STAGES:
        if wanted and name not in wanted:
            continue
        print(f"\n===== {name}", flush=True)
        at = time.monotonic()
        status, text = run(name)
        bad = count(failed, text)
        good = count(passed, text) - (bad if name in (
            "unit", "valgrind", "asan-unit") else 0)
        if passed and not good:
            status = status or 1  # a stage without tests proves nothing
        rows.append((name, status, good, max(bad, int(status != 0)),
                     time.monotonic() - at))
    print(f"\n===== {'stage':18} {'passed':>6} {'failed':>6} {'seconds':>8}")
    for name, status, good, bad, seconds in rows:
        print(f"      {name:18} {good:6} {bad:6} {seconds:8.0f}")
    good, bad = sum(r[2] for r in rows), sum(r[3] for r in rows)
    seconds = time.monotonic() - begin
    wrong = f"{bad} failed, " if bad else ""
    print(f"===== {wrong}{good} passed in {seconds:.2f}s =====", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
