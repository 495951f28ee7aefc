# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""TLS, SASL and ACLs with real brokers. What the pages about them tell people
to write is what is used here: directives, settings of the broker, commands."""
import collections
import ctypes
import json
import os
import re
import secrets
import shlex
import signal
import threading
import time
from pathlib import Path

import pytest

from broker import SERVICES, Kafka, Watched, kafka_tool, make_certs
from harness import (REPO, USAGECTL, Closed, Gateway, new_dir, poll,
                     register_secret, run, secret_file)

TOPIC = "usage-events"
USERS = ("gateway", "admin", "stranger", "reader", "neighbour", "maker")
PASSWORDS = {name: secrets.token_hex(12) for name in USERS}

TLS, SASL, ACLS = "kafka-tls", "kafka-sasl", "kafka-acls"


# --- what the pages say ------------------------------------------------------

def page(name):
    return (REPO / f"docs/{name}.md").read_text()


def blocks(name, language):
    return re.findall(rf"```{language}\n(.*?)```", page(name), re.S)


def with_our(text, at, certs=None, user="gateway", password=None, topic=TOPIC):
    """A page's text with addresses and paths of ours."""
    text = re.sub(r"kafka-1\.example\.com:\d+", at, text)
    text = text.replace("/etc/apache2/kafka/", f"{certs}/")
    text = text.replace("a long one", password or PASSWORDS[user])
    text = re.sub(r"(username +)gateway\b", rf"\g<1>{user}", text)
    return re.sub(r"\busage-events\b", topic, text)


def tls(broker, **kw):
    return with_our(blocks(TLS, "apache")[0], broker.ssl_bootstrap,
                    broker.certs, **kw)


def sasl(broker, block=1, **kw):
    """The page's Include, of its options."""
    path = secret_file("options.conf")
    path.write_text(with_our(blocks(SASL, "apache")[block], broker.bootstrap,
                             broker.certs, **kw))
    path.chmod(0o600)
    return with_our(blocks(SASL, "apache")[0], broker.bootstrap, **kw).replace(
        "None/options.conf", str(path))


def commands(name, program):
    """Commands of a page's shell blocks, as lists of words."""
    lines = "\n".join(blocks(name, "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith(program)]


def acl(broker, *args):
    kafka_tool("kafka.admin.AclCommand" if broker.version.startswith("3")
               else "tools.AclCommand", *args, version=broker.version)


def grant(broker, n, **change):
    """Let the n-th kafka-acls.sh of the page do its work."""
    args = commands(ACLS, "kafka-acls.sh")[n][1:]
    at = args.index("--command-config")
    del args[at:at + 2]  # the tests' own listener lets all in
    args = [broker.direct if "example.com" in x else change.get(x, x)
            for x in args]
    acl(broker, *args)


# --- brokers -----------------------------------------------------------------

@pytest.fixture(scope="module", autouse=True)
def registered():
    for password in PASSWORDS.values():
        register_secret(password)


@pytest.fixture(scope="module")
def certs():
    """The page's certificates, and others that are wrong in some way."""
    path = make_certs(new_dir("certs"))
    (path / "mine").mkdir()
    run(["sh", "-eu", "-c", blocks(TLS, "sh")[0]], cwd=path / "mine")
    run(["openssl", "req", "-x509", "-days", "1", "-key", "other-ca.key",
         "-subj", "/CN=gateway", "-out", "foreign.crt"], cwd=path)
    return path


def started(name, certs, mechanisms="PLAIN,SCRAM-SHA-256", extra=None, **kw):
    """A broker whose PLAIN users stand in a file that nobody searches."""
    users = secret_file("users")
    users.write_text(
        "jaas=org.apache.kafka.common.security.plain.PlainLoginModule required "
        + " ".join(f'user_{u}="{p}"' for u, p in PASSWORDS.items()) + ";\n")
    broker = Kafka(name, template="server-sasl.properties", certs=certs, extra={
        "config.providers": "file",
        "config.providers.file.class": "org.apache.kafka.common.config.provider"
                                       ".FileConfigProvider",
        "listener.name.sasl_ssl.plain.sasl.jaas.config":
            "${file:%s:jaas}" % users,
        "listener.name.sasl_ssl.sasl.enabled.mechanisms": mechanisms,
        "super.users": "User:ANONYMOUS", **(extra or {})},
        scram={"gateway": PASSWORDS["gateway"]}, **kw)
    try:
        return broker.start()
    except BaseException:
        broker.stop()
        raise


@pytest.fixture(scope="module")
def secure(certs):
    """What the pages describe."""
    broker = started("kafka-secure", certs / "mine")
    try:
        broker.create_topic(TOPIC)
        grant(broker, 0)
        yield broker
    finally:
        broker.stop()


@pytest.fixture(scope="module")
def scram(certs):
    """One that librdkafka before 2.6.1 can prove a password to."""
    broker = started("kafka-scram", certs / "mine",
                     "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
                     {"auto.create.topics.enable": "false"}, version="3.9.2",
                     env={"KAFKA_HEAP": "384m"})
    try:
        broker.create_topic(TOPIC)
        grant(broker, 0)
        yield broker
    finally:
        broker.stop()


@pytest.fixture
def watch(servers):
    """Has a broker's log in a failed test's report."""
    def add(broker):
        servers.add(Watched(broker))
        return broker
    return add


# --- gateways and their events -----------------------------------------------

def make(name, conf, children=4, **kw):
    gw = Gateway(f"gateway-{name}", backend=None, children=children, threads=8,
                 server_conf=conf, **{"usage": {"UsageEventFile": None}, **kw})
    gw.secret, gw.sent = gw.add_key()[0], set()
    return gw


def ask(gw, n, a_connection=4):
    """n requests, on connections that meet several children."""
    for _ in range(0, n, a_connection):
        with gw.conn() as c:
            for _ in range(a_connection):
                a = c.request("GET", "/local/hello.txt",
                              [("X-API-Key", gw.secret)])
                assert a.status == 200, a
                gw.sent.add(a.request_id)


def arrived(broker, gw, topic=TOPIC, lost=0):
    """All of a gateway's events are in Kafka, none twice."""
    m = gw.settled(20)
    assert sum(gw.lost(m).values()) == lost, m
    assert m["usage_events_admitted_total"] == len(gw.sent)
    found = collections.Counter(json.loads(r.value)["request_id"]
                                for r in broker.read(topic))
    mine = {i: n for i, n in found.items() if i in gw.sent}
    assert set(mine.values()) <= {1}, "an event came twice"
    assert len(gw.sent) - len(mine) == lost, \
        f"{len(mine)} of {len(gw.sent)} events"


def no_password(gw):
    texts = {p: p.read_text(errors="replace") for p in gw.dir.rglob("*")
             if p.is_file()}
    assert texts
    shown = [f"{user}'s in {p.name}" for p, text in texts.items()
             for user, password in PASSWORDS.items() if password in text]
    assert not shown, shown


def librdkafka():
    library = ctypes.CDLL("librdkafka.so.1")
    library.rd_kafka_version_str.restype = ctypes.c_char_p
    words = library.rd_kafka_version_str().decode().split(".")
    return tuple(int(re.match(r"\d+", w)[0]) for w in words[:3])


# --- it works ----------------------------------------------------------------

@pytest.mark.parametrize("encrypted", [False, True])
def test_tls_with_a_client_certificate(secure, servers, watch, encrypted):
    """Its key can be read by root alone; children run as somebody else."""
    watch(secure)
    key, conf = secure.certs / "client.key", tls(secure)
    if encrypted:
        key = secure.certs / "encrypted.key"
        run(["openssl", "pkey", "-in", secure.certs / "client.key", "-aes256",
             "-passout", "env:KEY_PASSWORD", "-out", key],
            env={**os.environ, "KEY_PASSWORD": PASSWORDS["gateway"]})
        path = secret_file("key.conf")
        path.write_text(
            f"UsageKafkaOption ssl.key.password {PASSWORDS['gateway']}\n")
        conf = conf.replace("client.key", key.name) + f"Include {path}\n"
    key.chmod(0o600)
    gw = servers.add(make("tls", conf)).start()
    if os.geteuid() == 0:
        assert key.stat().st_uid == 0
        for pid in gw.children():
            status = Path(f"/proc/{pid}/status")
            poll(lambda s=status: "\t0" not in re.search(
                "Uid:.*", s.read_text())[0], what="a child without root")
    ask(gw, 40)
    arrived(secure, gw)
    gw.stop()
    no_password(gw)


def test_the_pages_looks_at_certificates(secure):
    found = [shlex.split(with_our(x, secure.ssl_bootstrap))
             for x in re.findall("`(openssl [^`]+)`", page(TLS))]
    assert len(found) == 2
    for words in found:
        # s_client ends with 1 where the broker wants a certificate of ours.
        done = run(words, cwd=secure.certs, input="", check=False)
        assert re.search(r"\bOK\b|code: 0 \(ok\)", done.stdout), done.stdout


def test_sasl_plain(secure, servers, watch):
    watch(secure)
    gw = servers.add(make("plain", sasl(secure))).start()
    ask(gw, 40)
    arrived(secure, gw)
    gw.prometheus()
    gw.stop()
    no_password(gw)


def test_scram(scram, servers, watch):
    """The user's password is as the page's command sets it."""
    watch(scram)
    [[_, *args]] = commands(SASL, "kafka-configs.sh")
    at = args.index("--command-config")
    del args[at:at + 2]
    for n in (512, 256):
        kafka_tool("kafka.admin.ConfigCommand", *(
            scram.direct if "example.com" in x
            else with_our(x, "", user="admin").replace("512", str(n))
            for x in args), version=scram.version)
        conf = sasl(scram, block=2, password=PASSWORDS["admin"])
        path = Path(re.search(r"Include +(\S+)", conf)[1])
        path.write_text(path.read_text().replace("512", str(n)))
        gw = servers.add(make(f"scram-{n}", conf)).start()
        ask(gw, 20)
        arrived(scram, gw)
        gw.stop()
        no_password(gw)


def test_a_topic_that_is_made_later(scram, servers, watch):
    """By somebody else: this broker makes none by itself."""
    watch(scram)
    gw = servers.add(make("later", sasl(scram, topic="usage-later")))
    grant(scram, 0, **{"usage-events": "usage-later"})
    gw.start()
    ask(gw, 8)
    lines = gw.wait_log("UE0407: kafka: ", 20)
    holds = "Unknown topic or partition"
    assert any(holds in line for line in lines), lines
    assert f"| UE0407 | `{holds}` |" in page(ACLS)
    scram.create_topic("usage-later")
    arrived(scram, gw, topic="usage-later")


def test_the_brokers_settings_are_those_of_the_pages():
    ours = (SERVICES / "server-sasl.properties").read_text().replace("\\\n", "")
    ours = re.sub(r" {2,}", "", ours)
    for line in "".join(blocks(TLS, "properties")).splitlines():
        line = line.replace("/etc/kafka/server.pem", "@CERTS@/@CERT@.pem")
        assert line.replace("/etc/kafka", "@CERTS@") in ours, line


@pytest.mark.parametrize("said", [None, "false"])
def test_nagle_is_off_with_tls(secure, servers, watch, said):
    """Unless it was asked for. No option, no message of any level shows a
    password."""
    watch(secure)
    conf = sasl(secure) + "UsageKafkaOption debug all\n" \
        "LogLevel usage_events:debug\n"
    if said:
        conf += f"UsageKafkaOption socket.nagle.disable {said}\n"
    gw = servers.add(make("nagle", conf, children=1)).start()
    ask(gw, 8)
    arrived(secure, gw)
    is_set = re.findall(r"socket\.nagle\.disable = (\w+)", gw.error_log())
    assert set(is_set) == {said or "true"}
    assert "sasl.password = [redacted]" in gw.error_log()
    gw.prometheus()
    gw.status()
    gw.stop()
    no_password(gw)


# --- what is wrong is named, and can be mended -------------------------------

Fault = collections.namedtuple("Fault", "name page number holds conf mended")


def without(text, *names):
    return "".join(line for line in text.splitlines(True)
                   if not any(name in line for name in names))


def faults(secure, certs, stale):
    good, good_tls = sasl(secure), tls(secure)
    hidden = Path(re.search(r"Include +(\S+)", good)[1]).read_text()

    def option(**change):
        path = secret_file("fault.conf")
        path.write_text("".join(
            f"UsageKafkaOption {k.replace('_', '.')} {v}\n"
            for k, v in change.items()))
        return f"Include {path}\n"

    def plain(**kw):
        """The later of two options counts."""
        return good + option(**kw)

    mine = f"{certs}/mine"
    # The certificate has the address only.
    local = good.replace("127.0.0.1", "localhost") + option(
        broker_address_family="v4")
    assert "sasl.password" in hidden
    return [
        Fault("password", SASL, "UE0403",
              "Authentication failed: Invalid username or password",
              plain(sasl_password=PASSWORDS["stranger"]), good),
        Fault("mechanism", SASL, "UE0403",
              "Unsupported SASL mechanism: broker's supported mechanisms: "
              "PLAIN,SCRAM-SHA-256", plain(sasl_mechanism="SCRAM-SHA-512"),
              good),
        Fault("authority", TLS, "UE0404", "certificate verify failed: it is "
              "from no authority in ssl.ca.location",
              plain(ssl_ca_location=certs / "other-ca.pem"), good),
        Fault("system", TLS, "UE0404", "certificate verify failed: it is "
              "from no authority in ssl.ca.location",
              without(good_tls, "ssl.ca.location"), good_tls),
        Fault("host", TLS, "UE0404", "certificate verify failed: it is for "
              "another host", local, local + option(
                  ssl_endpoint_identification_algorithm="none")),
        Fault("expired", TLS, "UE0404", "certificate verify failed: it has "
              "expired", good.replace(secure.bootstrap, stale.bootstrap)
              + option(ssl_ca_location=certs / "ca.pem"), None),
        Fault("no-certificate", TLS, "UE0404",
              # which of these a broker sends, its JDK decides
              "alert certificate required|alert bad certificate",
              without(good_tls, "certificate", "key"), good_tls),
        Fault("foreign", TLS, "UE0404", "alert certificate unknown",
              good_tls.replace(f"{mine}/client.crt", f"{certs}/foreign.crt")
              .replace(f"{mine}/client.key", f"{certs}/other-ca.key"),
              good_tls),
        Fault("no-tls", TLS, "UE0404", "maybe no listener for TLS",
              good_tls.replace(secure.ssl_bootstrap, secure.direct), good_tls),
        Fault("plain", TLS, "UE0401", "connecting to a SSL listener?",
              without(good, "Include"), good),
        Fault("no-sasl", TLS, "UE0401", "broker might require SASL "
              "authentication", good_tls.replace(secure.ssl_bootstrap,
                                                 secure.bootstrap), good_tls),
    ] + ([] if librdkafka() >= (2, 6, 1) else [
        Fault("scram", SASL, "UE0403", "due to invalid credentials with SASL "
              "mechanism SCRAM-SHA-256", plain(sasl_mechanism="SCRAM-SHA-256"),
              good)])


def numbers(log):
    """How often each of the lines came that may come again and again."""
    return collections.Counter(re.findall(r"\b(UE040[13-9]|UE0410)\b", log))


def named(gw, fault):
    """The line is there, once, and the page has it."""
    lines = gw.wait_log(f"{fault.number}: kafka: ", 20)
    may = fault.holds.split("|")
    assert any(one in line for line in lines for one in may), lines
    for one in may:
        assert f"| {fault.number} | `{one}` |" in page(fault.page), \
            f"{fault.page}.md lacks {one}"
    [down] = gw.wait_log("UE0401: kafka: ", 20)
    assert any(one in down for one in may), f"UE0401 hides the cause: {down}"


def too_many(log, begun):
    most = 1 + int((time.monotonic() - begun) // 30)
    return {k: n for k, n in numbers(log).items() if n > most}


def mend(gw, fault, secure, stale):
    m = gw.metrics()
    assert m["usage_events_admitted_total"] == len(gw.sent)
    assert m["usage_events_waiting"] == len(gw.sent), m
    if fault.mended is None:
        lost, broker = 0, stale
        stale.env["CERT"] = "server"
        stale.restart()
        gw.wait_log("UE0402: ", 20)
    else:
        lost, broker = len(gw.sent), secure
        gw.server_conf = fault.mended + "UsageKafkaDrainTimeout 200ms\n"
        old = set(gw.children())
        gw.graceful()
        poll(lambda: not old & set(gw.children()), 20, what="the old children "
             "end")
    ask(gw, 8)
    arrived(broker, gw, lost=lost)
    if lost:
        log = gw.error_log()
        named_ = re.findall(r"UE0202: .*: (\d+) events of organization", log)
        assert sum(map(int, named_)) == lost, log


def test_faults_are_named_and_mended(secure, certs, servers, watch):
    """All at once, for each takes its time. Requests go on meanwhile, and
    events wait."""
    stale = servers.add(started("kafka-expired", certs, cert="expired",
                                env={"KAFKA_HEAP": "384m"}))
    stale.create_topic(TOPIC)
    grant(stale, 0)
    wrong = []
    all_, begun = [], time.monotonic()
    for fault in faults(secure, certs, stale):
        # Twice the children, for those of before the restart.
        gw = make(fault.name, fault.conf + "UsageKafkaDrainTimeout 200ms\n",
                  server_limit=8)
        all_.append((fault, servers.add(gw).start()))
    for fault, gw in all_:
        ask(gw, 16)
    time.sleep(max(0, 6 - (time.monotonic() - begun)))
    for fault, gw in all_:
        ask(gw, 16)
        many = too_many(gw.error_log(), begun)
        if many:
            wrong.append(f"{fault.name}: too many lines: {many}")
    for fault, gw in all_:
        for step in (lambda: named(gw, fault),
                     lambda: mend(gw, fault, secure, stale), gw.stop,
                     lambda: no_password(gw)):
            try:
                step()
            except AssertionError as e:
                wrong.append(f"{fault.name}: {e}"[:1500])
    assert not wrong, "\n".join(wrong)


# --- ACLs --------------------------------------------------------------------

Right = collections.namedtuple("Right", "user number holds")


def test_rights_can_be_given_while_it_runs(secure, servers, watch):
    """What waited arrives by itself. Write is all that is needed."""
    watch(secure)
    topic, next_door = secure.topic(), secure.topic()
    add = ["--bootstrap-server", secure.direct, "--add", "--operation"]
    acl(secure, *add, "Describe", "--topic", topic,
               "--allow-principal", "User:reader",
               "--allow-principal", "User:neighbour")
    acl(secure, *add, "Write", "--topic", next_door,
               "--allow-principal", "User:neighbour")
    cases = [Right("stranger", "UE0407", "Topic authorization failed"),
             Right("reader", "UE0406", "CLUSTER_AUTHORIZATION_FAILED: Failed "
                   "to acquire idempotence PID"),
             Right("neighbour", "UE0408", "Topic authorization failed")]
    running, wrong = [], []
    for case in cases:
        gw = make(case.user, sasl(secure, user=case.user, topic=topic))
        running.append((case, servers.add(gw).start()))
    begun = time.monotonic()
    for case, gw in running:
        ask(gw, 16)
    for case, gw in running:
        lines = gw.wait_log(f"{case.number}: kafka: ", 20)
        assert any(case.holds in line for line in lines), lines
        assert f"| {case.number} | `{case.holds}` |" in page(ACLS)
    time.sleep(max(0, 8 - (time.monotonic() - begun)))
    for case, gw in running:
        ask(gw, 16)
        many = too_many(gw.error_log(), begun)
        if many:
            wrong.append(f"{case.user}: too many lines: {many}")
        m = gw.metrics()
        assert m["usage_events_waiting"] == 32 and not gw.lost(m), m
    assert secure.count(topic) == 0
    for case in cases:
        grant(secure, 0, **{"usage-events": topic,
                            "User:gateway": f"User:{case.user}"})
    for case, gw in running:
        arrived(secure, gw, topic=topic)
        gw.stop()
        no_password(gw)
    assert secure.count(topic) == 96
    assert not wrong, "\n".join(wrong)


def test_create_lets_the_broker_make_the_topic(secure, servers, watch):
    watch(secure)
    topic = "usage-made-by-" + secrets.token_hex(4)
    gw = servers.add(make("maker", sasl(secure, user="maker", topic=topic)))
    grant(secure, 0, **{"usage-events": topic, "User:gateway": "User:maker"})
    gw.start()
    ask(gw, 8)
    lines = gw.wait_log("UE0407: kafka: ", 20)
    assert any("Topic authorization failed" in line for line in lines), lines
    assert topic not in secure.topics()
    grant(secure, 0, **{"usage-events": topic, "User:gateway": "User:maker",
                        "Write": "Create"})
    arrived(secure, gw, topic=topic)


def test_init_kafka_with_no_more_than_its_rights(secure, watch):
    watch(secure)
    grant(secure, 2, **{"usage-events": "init-events"})
    path = secret_file("admin.conf")
    path.write_text(with_our(blocks(SASL, "apache")[1], secure.bootstrap,
                             secure.certs, user="admin"))
    [line] = commands(ACLS, "usagectl")
    words = [with_our(x, secure.bootstrap, topic="init-events")
             .replace("None/admin.conf", str(path)) for x in line]
    for more in ([], ["--partitions", "14", "--add-partitions"]):
        done = run([USAGECTL, *words[1:], *more])
        assert "init-events-ledger" in done.stdout
        assert PASSWORDS["admin"] not in done.stdout + done.stderr
    assert len(secure.leaders("init-events")) == 14
    words[words.index("init-events")] = "other-events"
    done = run([USAGECTL, *words[1:]], check=False)
    assert done.returncode and "uthoriz" in done.stderr, done


# --- the end of a child, with TLS under way ----------------------------------

class Stream:
    """Requests one after the other, on four connections."""

    def __init__(self, gw):
        self.gw, self.ended, self.sent = gw, threading.Event(), []
        self.threads = [threading.Thread(target=self._run) for _ in range(4)]

    def _run(self):
        while not self.ended.is_set():
            try:
                with self.gw.conn() as c:
                    for _ in range(8):
                        a = c.request("GET", "/local/hello.txt",
                                      [("X-API-Key", self.gw.secret)])
                        assert a.status == 200, a
                        self.sent.append(a.request_id)
            except (Closed, OSError):
                time.sleep(0.01)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self.ended.set()
        for thread in self.threads:
            thread.join()
        self.gw.sent.update(self.sent)


def test_children_end_with_tls_under_way(secure, servers, watch):
    """OpenSSL cleans up at a process's end, while librdkafka's threads still
    use it. stop() looks for signals."""
    watch(secure)
    ids = set()
    for sig in (signal.SIGTERM, signal.SIGWINCH) * 5:
        gw = servers.add(make("ends", tls(secure))).start()
        with Stream(gw) as stream:
            poll(lambda: len(stream.sent) > 100, 20)
        gw.stop(sig=sig)
        assert "UE0201" not in gw.error_log()
        ids |= gw.sent
    found = collections.Counter(json.loads(r.value)["request_id"]
                                for r in secure.read(TOPIC))
    assert {found[i] for i in ids} == {1}


def parent_of(gw):
    at = Path(f"/proc/{gw.proc.pid}")
    return len(list((at / "task").iterdir())), len(list((at / "fd").iterdir()))


def test_graceful_restarts_leave_nothing_in_the_parent(secure, servers, watch):
    watch(secure)
    gw = servers.add(make("again", tls(secure), server_limit=16)).start()
    seen = []
    for _ in range(10):
        with Stream(gw) as stream:
            gw.graceful()
            poll(lambda: len(stream.sent) > 20, 20)
        seen.append(parent_of(gw))
    assert len(set(seen)) == 1 and seen[0][0] == 1, seen
    arrived(secure, gw)
