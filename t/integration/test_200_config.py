# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Directives: every wrong value stops configtest with the directive's name and
a right value; every right one passes; documentation and code agree."""
import re
from pathlib import Path

import pytest

import processes
from spool_helpers import make_spool
from trap_helpers import TrapHttp, is_problem

PAGE = processes.REPO / "docs" / "directives.md"

FLAGS = ("UsageEvents", "UsageExemptPreflight", "UsageKeyRequired",
         "UsageKeyHide", "UsageLimitDryRun", "UsageKafka")
BIG = "9" * 30

# directive -> (values that must be refused, what a message must hold)
WRONG = {
    "UsageExempt": (
        ['""', "docs", "docs/", "*", "http://x/docs/", "/docs/../x", "/./x",
         "//x", "/x//", "/x/%2e%2e/", "/x%2fy", "/x?y", "/x\\#y", "/x%00",
         "/ok /../x", "/x;/..;/", '"/a b/"'], "/docs/"),
    "UsageRequestId": (['""', "old", "On", "newer", "trust,new"], "trust"),
    "UsageBillableStatus": (
        ['""', "200,", ",200", "200-", "-200", "200-100", "99", "600", "0",
         "200-600", "200;300", "2xx", "200,,300", "200-300-400", "all", "1e2",
         "0200", "200 300", "200,0", BIG], "101,200-499"),
    "UsageKeyHeader": (
        ['""', '"X Key"', "X:Key", '"X,Key"', "Host", "Connection",
         "X-Request-Id", "x-organization-id", "X-Api-Key-Id", "Content-Length",
         "Transfer-Encoding", "Expect", "Authorization: ", '"X-K\xc3\xa9y"'],
        "X-API-Key"),
    "UsageKeyStore": (
        ['""', "file:", "/etc/keys.json", "keys.json", "http://x/",
         "redis://localhost", "FILE:/x", "postgresql", "POSTGRESQL://x"],
        "file:"),
    "UsageKeyCache": (
        ['""', "60s", "ttl", "ttl=", "ttl=60", "ttl=0s", "ttl=999ms",
         "ttl=25h", "ttl=2d", "ttl=-1s", "ttl=1.5s", "ttl=60sec", "ttl=x",
         f"ttl={BIG}s", "negative=5", "negative=3601s", "negative=2h",
         "negative=-1s", "stale=10", "stale=8d", "stale=169h", "stale=1w",
         "size=99", "size=10000001", "size=1k", "size=1.5", "size=",
         f"size={BIG}", "size=100s", "max=5", "ttl=60s,stale=1m",
         "ttl=60s ttl=60s", "size=100 size=200", "ttl=60s stale=1m x"],
        "such as "),
    "UsageKeySecret": (
        ['""', "file:", "secret", "{dir}/secret", "file:/no/such/file",
         "file:{dir}", "file:/dev/zero", "file:{dir}/httpd.conf",
         "file:{dir}/short", "FILE:{dir}/secret"], "such as "),
    "UsageRateLimit": (
        ['""', "100", "100s", "100/", "/s", "0/s", "01/s", "-1/s", "1.5/s",
         "1e3/s", "100/S", "100/sec", "100/d", "1000000001/s", f"{BIG}/s",
         "on", "none", "by=org", "burst=5", "by=org 100/s", "100/s 200",
         "100/s org", "100/s off", "100/s by", "100/s by=", "100/s by=ORG",
         "100/s by=orgs", "100/s by=user", "100/s by=key,org", "100/s BY=org",
         "100/s by=org by=org", "100/s by=key by=org", "100/s burst",
         "100/s burst=", "100/s burst=0", "100/s burst=05", "100/s burst=-1",
         "100/s burst=1k", "100/s burst=1000000001", f"100/s burst={BIG}",
         "100/s burst=1 burst=1", "100/s by=ip burst=2 by=ip",
         '"100/s by=org"', "off by=org", "off off",
         # one limit of each kind in each unit of time
         "100/s\nUsageRateLimit 100/s", "1/s\nUsageRateLimit 2/s by=org",
         "1/h by=key\nUsageRateLimit 1/s\nUsageRateLimit 2/h by=key"],
        "100/s burst=200 by=org"),
    "UsageLimitFailure": (
        ['""', "On", "refuse", "close", "closedd", "open,closed", "none"],
        "local, open or closed"),
    "UsageKafkaBrokers": (
        ['""', ",", "a,", ",a", "a,,b", "a:", "a:0", "a:65536", "a:1:2",
         "a:9092x", '"a b"', "a;b", "ssl://a:9092", "http://a/", "::1",
         "[::1", "[::1]x", "[]:1", "[x]:1", "a/b", "\xe9", "a" * 254],
        "kafka-1:9092,kafka-2:9092"),
    "UsageKafkaTopic": (
        ['""', ".", "..", "a/b", "a,b", '"a b"', "a:b", "\xe9", "a" * 250],
        "usage-events"),
    # test_205_kafka_config.py has more
    "UsageKafkaOption": (
        ["a", "a b c", '"" ""', '"" 1', "nosuch.property 1", "acks 1",
         "linger.ms x", 'linger.ms ""'], "UsageKafkaOption"),
    "UsageKafkaBatchSize": (
        ['""', "0", "10001", "-1", "1.5", "x", "100x", "0x10", "1e3", "+5",
         "100s", BIG], "100"),
    "UsageKafkaBufferSize": (
        ['""', "0", "1000001", "-1", "1.5", "x", "1k", BIG], "1000"),
    "UsageJournalSlots": (
        ['""', "0", "63", "16777217", "-1", "x", "16k", BIG], "16384"),
    "UsageKafkaFlushInterval": (
        ['""', "0ms", "0", "500", "60001ms", "61s", "2min", "1h", "-1s",
         "0.5s", "500 ms", "500us", "1d", "ms", "500msec", "500Ms", "x",
         BIG + "ms"], "500ms"),
    "UsageKafkaDrainTimeout": (
        ['""', "4", "61s", "-1s", "1.5s", "s", "x", "2min", "4sec",
         BIG + "s"], "4s"),
    "UsageEventFile": (
        ['""', '"|cat"', "/", "{dir}", "/no/such/directory/x", "/dev/null",
         "{dir}/keys.json/x"], "usage-events.jsonl"),
    "UsageSpool": (
        ['""', "/no/such/directory", "{dir}/keys.json", "{dir} 1g",
         "{dir} max=0", "{dir} max=1", "{dir} max=1k", "{dir} max=1t",
         "{dir} max=1023k", "{dir} max=201g", "{dir} max=-1g", "{dir} max=",
         "{dir} max=1.5g", "{dir} max=1gb", "{dir} max=1G", "{dir} max=1g x",
         f"{{dir}} max={BIG}g"], "max=1g"),
    "UsageOverflow": (['""', "On", "block", "dropp", "drop,refuse"], "refuse"),
    **{flag: (['""', "yes", "1", "true", "Onn", "trust"], "On or Off")
       for flag in FLAGS},
}

RIGHT = {
    "UsageExempt": ["/", "/docs/", "/a /b/ /c", "/a%20b", "/x~y",
                    "/.well-known/x", "/x.y", "/x;v=1"],
    "UsageRequestId": ["new", "trust", "NEW", "Trust"],
    "UsageBillableStatus": ["200", "100-599", "101,200-499", "200-200",
                            "404,200,404", "599,100"],
    "UsageKeyHeader": ["Authorization", "authorization", "X-API-Key", "Key",
                       "X_Key", "!#$%&'*+-.^_`|~"],
    "UsageKeyStore": [
        "file:{dir}/keys.json", "file:keys.json", "postgresql://",
        "postgresql://gateway@127.0.0.1:1/usage?sslmode=disable",
        "postgres://a,b:1/usage?target_session_attrs=read-write"],
    "UsageKeyCache": [
        "ttl=1s", "ttl=60s negative=5s stale=10m size=100000", "ttl=1d",
        "negative=0s", "stale=0s", "stale=7d", "stale=10min negative=1h",
        "size=100", "SIZE=10000000", "ttl=1500ms"],
    "UsageKeySecret": ["file:{dir}/secret", "file:secret"],
    "UsageRateLimit": [
        "100/s", "100/s burst=200 by=org", "100/s by=org burst=200",
        "1/h by=key", "1000000000/m by=ip", "1/h burst=1000000000", "off",
        "OFF", "off\nUsageRateLimit 1/s", "1/s\nUsageRateLimit off",
        "1/s\nUsageRateLimit off\nUsageRateLimit 2/s",
        "\nUsageRateLimit ".join(f"1/{unit} by={by}" for unit in "smh"
                                 for by in ("key", "org", "ip"))],
    "UsageLimitFailure": ["local", "open", "closed", "LOCAL", "Closed"],
    "UsageKafkaBrokers": ["localhost", "a:1", "a:65535,b_c.d-e:2", "[::1]",
                          "[::1]:9092,127.0.0.1:9092", '"a:1, b:2"'],
    "UsageKafkaTopic": ["usage-events", "a", "A.b_c-1", "a" * 242, "..."],
    "UsageKafkaOption": ["linger.ms 5", "compression.codec zstd"],
    "UsageKafkaBatchSize": ["1", "100", "10000"],
    "UsageKafkaBufferSize": ["1", "1000", "16384"],
    "UsageJournalSlots": ["1000", "16384", "16777216"],
    "UsageKafkaFlushInterval": ["1ms", "500ms", "1s", "60s", "1min"],
    "UsageKafkaDrainTimeout": ["0ms", "0s", "4s", "60s", "1min", "250ms"],
    "UsageEventFile": ["{dir}/x.jsonl", "x.jsonl"],
    "UsageSpool": ["{dir}/spool", "{dir}/spool max=1m",
                   "{dir}/spool max=200g", "spool max=10g"],
    "UsageOverflow": ["drop", "refuse", "DROP"],
    **{flag: ["On", "Off", "on", "OFF"] for flag in FLAGS},
    "UsageKafka": ["Off", "OFF", "On\nUsageKafkaBrokers localhost",
                   "on\nUsageKafkaBrokers localhost"],
}


@pytest.fixture
def gw(gateway):
    gw = gateway(backend=None, usage={"UsageExempt": None})
    make_spool(gw)
    for name, size in (("secret", 32), ("short", 31)):
        (gw.dir / name).write_bytes(b"s" * size)
        (gw.dir / name).chmod(0o600)

    def refused(lines):
        gw.server_conf = lines
        rc, output = gw.configtest()
        assert rc != 0, f"{lines} was taken"
        return output

    def taken(lines, **overrides):
        gw.usage = {"UsageExempt": None, **overrides}
        gw.server_conf = lines
        rc, output = gw.configtest()
        assert rc == 0, output
        return output
    gw.refused, gw.taken = refused, taken
    return gw


@pytest.mark.parametrize("name", list(WRONG))
def test_wrong_values(gw, name):
    values, hint = WRONG[name]
    gw.usage["UsageEvents" if name == "UsageEvents" else name] = None
    for value in values:
        output = gw.refused(f"{name} {value}\n")
        assert name in output, (value, output)
        assert hint in output, (value, output)
        assert "core dumped" not in output
    output = gw.refused(f"{name}\n")
    assert name in output and hint in output, output
    # Of a flag, httpd itself reads no further word.
    if name not in ("UsageExempt", *FLAGS):
        one = RIGHT[name][0]
        assert name in gw.refused(f"{name} {one} {one}\n")


@pytest.mark.parametrize("name", list(RIGHT))
def test_right_values(gw, name):
    overrides = {name: None}
    for value in RIGHT[name]:
        gw.taken(f"{name} {value}\n", **overrides)


def test_every_directive_is_tested():
    named = set(re.findall(r"^## (Usage\w+)$", PAGE.read_text(), re.M))
    assert named == set(WRONG) == set(RIGHT)


def test_wrong_values_in_a_virtual_host_name_it(gw):
    gw.vhost_conf = "UsageKafkaBatchSize 0"
    output = gw.refused("")
    assert "UsageKafkaBatchSize" in output and "httpd.conf" in output


@pytest.mark.parametrize("block", [
    "<Location />", "<Directory />", "<Files x>", "<Proxy *>",
    '<If "true">'])
def test_contexts(gw, block):
    """All are for servers and virtual hosts, none for directories."""
    end = "</" + re.match(r"<(\w+)", block).group(1) + ">"
    for name, values in RIGHT.items():
        output = gw.refused(f"{block}\n{name} {values[0]}\n{end}\n")
        assert name in output and "not allowed" in output, output


def test_htaccess(gateway):
    gw = gateway(backend=None, server_conf='<Directory "{htdocs}">\n'
                 "AllowOverride All\n</Directory>\n")
    key = gw.add_key()[0]
    (gw.htdocs / "local" / ".htaccess").write_text("UsageEvents Off\n")
    gw.start()
    assert gw.get("/local/hello.txt", key=key).status == 500
    is_problem(gw.get("/local/hello.txt"), 401, "no-key")


# --- what only fits together or doesn't ---------------------------------------

def test_events_need_a_store_and_a_file(gateway):
    gw = gateway(backend=None, usage={"UsageKeyStore": None})
    rc, output = gw.configtest()
    assert rc and "UsageKeyStore" in output and "file:" in output
    gw.usage = {"UsageKeyStore": None, "UsageKeyRequired": "Off"}
    assert gw.configtest()[0] == 0
    gw.usage = {"UsageEventFile": None}
    rc, output = gw.configtest()
    assert rc and "UsageEventFile" in output and ".jsonl" in output
    assert "UsageKafkaBrokers localhost:9092" in output
    gw.usage = {"UsageEventFile": None, "UsageEvents": "Off"}
    assert gw.configtest()[0] == 0


def test_a_missing_or_broken_key_file_stops_the_start(gateway):
    for text in (None, "", "{", "[]", '{"version": 2, "organizations": []}',
                 '{"version": 1}', '{"version": 1, "organizations": [{}]}',
                 "\xff"):
        gw = gateway(backend=None)
        if text is None:
            gw.keyfile.unlink()
        else:
            gw.keyfile.write_bytes(text.encode("latin-1"))
        rc, output = gw.configtest()
        assert rc, text
        assert "UsageKeyStore" in output and str(gw.keyfile) in output
        with pytest.raises(AssertionError, match="did not start"):
            gw.start()
        assert "UsageKeyStore" in gw.error_log() + gw.logs()


def test_more_buffer_than_slots(gw):
    output = gw.refused("UsageJournalSlots 64\nUsageKafkaBufferSize 65\n")
    assert "UsageJournalSlots" in output and "65" in output
    gw.taken("UsageJournalSlots 64\nUsageKafkaBufferSize 64\n")
    # Without a word about slots there are enough.
    gw.taken("UsageKafkaBufferSize 1000000\n")


def test_two_servers_and_one_file(gw):
    gw.vhost_conf = "UsageKafkaBatchSize 7"
    output = gw.refused("UsageKafkaBatchSize 8")
    assert "UsageEventFile" in output
    gw.taken("UsageKafkaBatchSize 7")
    gw.vhost_conf = "UsageKafkaBatchSize 7\nUsageEventFile {dir}/2.jsonl"
    gw.taken("UsageKafkaBatchSize 8")


def test_configtest_leaves_nothing_behind(gw):
    before = sorted(p.name for p in gw.dir.iterdir())
    gw.taken("")
    after = sorted(p.name for p in gw.dir.iterdir())
    assert set(after) - set(before) <= {"httpd.conf", "error.log"}


def test_configtest_may_run_beside_httpd(gateway):
    gw = gateway()
    key = gw.add_key()[0]
    gw.start()
    assert gw.configtest()[0] == 0
    assert gw.get("/x", key=key).status == 200
    gw.wait_events(1)


# --- environment --------------------------------------------------------------

VARIABLES = {"KAFKA_BATCH_SIZE": ("UsageKafkaBatchSize", "0", "7"),
             "KAFKA_BUFFER_SIZE": ("UsageKafkaBufferSize", "many", "77"),
             "KAFKA_FLUSH_INTERVAL": ("UsageKafkaFlushInterval", "500",
                                      "70ms"),
             "DATABASE_URL": ("UsageKeyStore", "mysql://x", None)}


@pytest.mark.parametrize("variable", list(VARIABLES))
def test_wrong_variables(gateway, variable):
    directive, wrong, _ = VARIABLES[variable]
    gw = gateway(backend=None, usage={"UsageKeyStore": None}
                 if variable == "DATABASE_URL" else True,
                 env={variable: wrong})
    rc, output = gw.configtest()
    assert rc and directive in output and variable in output


def started(gw):
    gw.start()
    return gw.wait_log("[EventProducer] Started")[0]


def test_variables_are_defaults(gateway):
    gw = gateway(backend=None, children=1,
                 env={v: value for v, (_, _, value) in VARIABLES.items()
                      if value})
    assert "(batch_size=7, flush_interval=70ms, buffer=77)" in started(gw)


def test_empty_variables_are_unset(gateway):
    gw = gateway(backend=None, children=1, env={v: "" for v in VARIABLES})
    assert "(batch_size=100, flush_interval=500ms, buffer=1000)" in started(gw)


def test_directives_go_before_variables(gateway):
    """Even before wrong ones."""
    gw = gateway(backend=None, children=1, env={
        v: wrong for v, (_, wrong, _) in VARIABLES.items()}, server_conf="""
UsageKafkaBatchSize 9
UsageKafkaBufferSize 99
UsageKafkaFlushInterval 90ms
""")
    assert "(batch_size=9, flush_interval=90ms, buffer=99)" in started(gw)


def test_the_store_from_the_environment(gateway):
    gw = gateway(children=1, usage={"UsageKeyStore": None})
    gw.env["DATABASE_URL"] = f"file:{gw.keyfile}"
    key = gw.add_key()[0]
    gw.start()
    assert gw.get("/x", key=key).status == 200
    gw.wait_events(1)


def test_a_password_in_database_url_is_not_shown(gateway):
    processes.register_secret("hunter2hunter2")
    url = "postgresql://gateway:hunter2hunter2@db/usage?sslmode"
    gw = gateway(backend=None, usage={"UsageKeyStore": None},
                 env={"DATABASE_URL": url})
    rc, output = gw.configtest()
    assert rc and "DATABASE_URL" in output and "sslmode=verify-full" in output
    assert "hunter2" not in output
    # Nor from the configuration, where it shouldn't stand.
    gw.env = {}
    gw.server_conf = "UsageKeyStore postgresql://me:swordfish9@db/u?sslmode"
    rc, output = gw.configtest()
    assert rc and "UsageKeyStore" in output
    assert "swordfish9" not in output


def test_one_store_has_one_cache_and_one_secret(gw):
    """Two servers that name the same store mean the same by it."""
    gw.vhost_conf = "UsageKeyCache ttl=7s"
    output = gw.refused("UsageKeyCache ttl=8s")
    assert "UsageKeyStore" in output and "UsageKeyCache" in output
    gw.taken("UsageKeyCache ttl=7s")
    gw.vhost_conf = "UsageKeySecret file:{dir}/secret"
    assert "UsageKeySecret" in gw.refused("")
    gw.taken("UsageKeySecret file:{dir}/secret")
    gw.vhost_conf = "UsageKeyCache ttl=7s\nUsageKeyStore file:{dir}/2.json"
    (gw.dir / "2.json").write_text(gw.keyfile.read_text())
    (gw.dir / "2.json").chmod(0o644)
    gw.taken("")


def test_no_message_shows_a_url_with_a_password(gw):
    gw.usage["UsageKeyStore"] = None
    gw.vhost_conf = "UsageKeyCache ttl=7s"
    output = gw.refused("UsageKeyStore postgresql://me:swordfish9@db:5/u")
    assert "postgresql://db:5/u" in output
    assert "swordfish9" not in output


# --- documentation ------------------------------------------------------------

def examples():
    text = PAGE.read_text()
    parts = re.split(r"^## (.+)\n", text, flags=re.M)
    return [(title, example) for title, part in zip(parts[1::2], parts[2::2])
            for example in re.findall(r"^```apache\n(.*?)^```", part,
                                      re.M | re.S)]


def test_examples_of_the_documentation_pass(gw):
    found = examples()
    assert len(found) >= len(RIGHT)
    for title, example in found:
        name = title.split()[0]
        text = example.replace("/var/log/apache2", str(gw.dir)) \
            .replace("file:/etc/apache2/usage-keys.secret",
                     f"file:{gw.dir}/secret") \
            .replace("file:/etc/apache2", f"file:{gw.dir}") \
            .replace("/var/spool/apache2/usage", str(gw.dir / "spool")) \
            .replace("*:443", f"*:{gw.port}")
        if "Require local" in text:
            gw.modules = ("authz_host",)
        gw.taken(text, **({name: None} if name.startswith("Usage") else {}))


def test_the_first_example_of_the_documentation_works(gateway, servers):
    """As it stands, but for paths, ports and what is loaded already."""
    trap = servers.add(TrapHttp()).start()
    example = re.search(r"^```apache\n(.*?)^```", PAGE.read_text(),
                        re.M | re.S).group(1)
    gw = gateway(backend=None, usage=False)
    gw.server_conf = "\n".join(
        line for line in example.split("\n") if "LoadModule" not in line) \
        .replace("/var/log/apache2", str(gw.dir)) \
        .replace("/etc/apache2", str(gw.dir)) \
        .replace("127.0.0.1:3000", f"127.0.0.1:{trap.port}") + """
<Location /usage-status>
SetHandler usage-status
</Location>"""
    gw.event_file = gw.dir / "usage-events.jsonl"
    key = gw.add_key()[0]
    gw.start()
    assert gw.get("/x", key=key).status == 200
    is_problem(gw.get("/x"), 401, "no-key")
    assert gw.get("/healthz").status == 404  # httpd's own, without a key
    gw.wait_events(1)


def test_conf_for_mods_available():
    """conf/usage_events.load and .conf are what a2enmod wants."""
    conf = Path(processes.REPO) / "conf"
    assert "LoadModule usage_events_module" in \
        (conf / "usage_events.load").read_text()
    assert "UsageEvents" in (conf / "usage_events.conf").read_text()
