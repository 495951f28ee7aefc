# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Kafka's configuration: brokers, topic and librdkafka's properties, as far as
it can be judged without a broker."""
import os
import re
from pathlib import Path

import pytest

from processes import (children_of, free_port, new_dir, register_secret, run,
                       secret_file)

#: Of the keys that the tests make.
PASSWORD = "Tr0ubador-and-3"
BROKERS = "UsageKafkaBrokers localhost:9092\n"


@pytest.fixture
def gw(gateway):
    gw = gateway(backend=None, children=1)

    def refused(lines):
        gw.server_conf = lines
        rc, output = gw.configtest()
        assert rc != 0, f"{lines} was taken"
        assert "core dumped" not in output
        return output

    def taken(lines):
        gw.server_conf = lines
        rc, output = gw.configtest()
        assert rc == 0, output
    gw.refused, gw.taken = refused, taken
    return gw


@pytest.fixture(scope="module")
def pki():
    """A certificate of its own authority, its key in several forms, and a key
    that isn't its own."""
    at = new_dir("pki")

    def openssl(*args):
        run(["openssl", *args], cwd=at)
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout",
            "key.pem", "-out", "cert.pem", "-subj", "/CN=test", "-days", "2")
    openssl("genrsa", "-out", "other.pem", "2048")
    openssl("rsa", "-aes256", "-passout", f"pass:{PASSWORD}", "-in",
            "key.pem", "-out", "locked.pem")
    openssl("pkcs12", "-export", "-inkey", "key.pem", "-in", "cert.pem",
            "-passout", f"pass:{PASSWORD}", "-out", "store.p12")
    for file in at.iterdir():
        file.chmod(0o644)
    (at / "junk.pem").write_text("junk\n")
    return at


# --- one property -------------------------------------------------------------

REFUSED = [
    # unknown, and the nearest that is known
    ("lingr.ms 5", "lingr.ms is no property", "linger.ms is one"),
    ("nosuch.property 1", "nosuch.property is no property"),
    ("Linger.ms 5", "is no property", "linger.ms"),
    ("ackss all", "ackss is no property", "; acks is one"),
    ("sasl.pasword x", "sasl.pasword is no property", "sasl.password is one"),
    ("linger.ms=5 x", "a space comes between name and value"),
    # values that librdkafka doesn't take
    ("linger.ms abc", 'linger.ms takes 0 .. 900000; "abc" is none'),
    ("log_level 9", "log_level takes 0 .. 7"),
    ("security.protocol tls", "security.protocol takes plaintext, ssl"),
    ("compression.codec zip", "compression.codec takes none, gzip, snappy"),
    ("compression.type zip", "compression.type takes none, gzip, snappy"),
    ("socket.nagle.disable maybe", "socket.nagle.disable takes true, false"),
    ("debug everything", "debug takes generic, broker"),
    ("partitioner mine", "partitioner"),
    # what only a program can set
    ("dr_cb x", "dr_cb is a program's own"),
    ("opaque x", "opaque is a program's own"),
    ("ssl_key x", "ssl_key is a program's own"),
    ("default_topic_conf x", "default_topic_conf is a program's own"),
    # what would undo the design, by both names
    ("bootstrap.servers a:1", "bootstrap.servers can't be",
     "UsageKafkaBrokers"),
    ("metadata.broker.list a:1", "metadata.broker.list can't be",
     "UsageKafkaBrokers"),
    ("transactional.id x", "transactional.id can't be set"),
    ("plugin.library.paths x", "plugin.library.paths can't be set"),
    ("test.mock.num.brokers 3", "test.mock.num.brokers can't be set"),
    ("enabled_events 1", "enabled_events can't be set"),
    ("log.queue true", "log.queue can't be set"),
    ("internal.termination.signal 29", "internal.termination.signal can't"),
    ("enable.idempotence false", "enable.idempotence must be true", "twice"),
    ("acks 1", "acks must be all"),
    ("acks 0", "acks must be all"),
    ("request.required.acks 1", "request.required.acks must be all"),
    ("retries 5", "retries must be 2147483647"),
    ("message.send.max.retries 0", "message.send.max.retries must be"),
    ("max.in.flight 6", "max.in.flight must be at most 5"),
    ("max.in.flight.requests.per.connection 100", "must be at most 5"),
    ("linger.ms 101", "linger.ms must be at most 100"),
    ("queue.buffering.max.ms 500", "queue.buffering.max.ms must be at most"),
    ("queue.buffering.max.messages 9999", "must be at least 10000"),
    ("queue.buffering.max.kbytes 4095", "must be at least 4096"),
    ("batch.num.messages 9999", "batch.num.messages must be 10000"),
    ("batch.size 1000000", "batch.size must be 2000000"),
    ("message.max.bytes 1000000", "message.max.bytes must be 2000000"),
    ("partitioner murmur2", "partitioner must be consistent_random"),
    ("partitioner consistent", "partitioner must be consistent_random"),
    ("queuing.strategy lifo", "queuing.strategy must be fifo"),
    ("delivery.report.only.error true", "delivery.report.only.error must be"),
    ("enable.gapless.guarantee true", "enable.gapless.guarantee must be false"),
    ("api.version.request false", "api.version.request must be true"),
]


def test_what_is_refused(gw):
    for line, *words in REFUSED:
        output = gw.refused(f"UsageKafkaOption {line}\n")
        assert "UsageKafkaOption " in output and "line " in output, output
        for word in words:
            assert word in output, (line, output)


TAKEN = """
acks all
acks -1
request.required.acks -1
enable.idempotence true
enable.idempotence TRUE
enable.idempotence 1
queuing.strategy fifo
partitioner consistent_random
batch.num.messages 10000
batch.size 2000000
batch.size 0x1e8480
message.max.bytes 2000000
retries 2147483647
max.in.flight 1
max.in.flight.requests.per.connection 5
linger.ms 0
linger.ms 5.5
queue.buffering.max.ms 100
queue.buffering.max.messages 0
queue.buffering.max.messages 10000
delivery.report.only.error false
enable.gapless.guarantee false
message.timeout.ms 60000
delivery.timeout.ms 60000
compression.codec zstd
compression.type none
client.id "gateway 1"
topic.metadata.refresh.interval.ms -1
statistics.interval.ms 0
log_level 7
debug broker,topic
socket.nagle.disable false
group.id consumers-have-it
""".strip().split("\n")


def test_what_is_taken(gw):
    for line in TAKEN:
        gw.taken(f"{BROKERS}UsageKafkaOption {line}\n")


# --- all together -------------------------------------------------------------

def options(**values):
    return BROKERS + "".join(f"UsageKafkaOption {name.replace('_', '.')} "
                             f"{value}\n" for name, value in values.items())


def tls(**values):
    return options(security_protocol="ssl", **values)


def test_files(gw, pki):
    own = {"ssl_certificate_location": pki / "cert.pem"}
    for values, words in [
            ({"ssl_ca_location": "/nowhere/ca.pem"},
             "ssl.ca.location: /nowhere/ca.pem can't be read: No such file"),
            ({"ssl_ca_location": "ca.pem"},
             f"ssl.ca.location: {gw.dir}/ca.pem can't be read"),
            ({"ssl_ca_location": pki / "junk.pem"}, "ssl.ca.location failed"),
            ({"ssl_crl_location": pki / "junk.pem"}, "ssl.crl.location failed"),
            ({"ssl_certificate_location": pki}, "Is a directory"),
            ({"ssl_key_location": pki}, "ssl.key.location:"),
            ({**own, "ssl_key_location": pki / "junk.pem"},
             "ssl.key.location failed"),
            ({**own, "ssl_key_location": "/dev/null"},
             "ssl.key.location: /dev/null is no key"),
            ({**own, "ssl_key_location": pki / "store.p12"},
             "store.p12 is no key in PEM form"),
            ({**own, "ssl_key_location": pki / "other.pem"},
             "ssl.key.location failed"),
            ({**own, "ssl_key_location": pki / "locked.pem"},
             "ssl.key.password must be given"),
            ({"ssl_key_location": pki / "key.pem"},
             "ssl.certificate.location: "),
            ({"ssl_keystore_location": pki / "store.p12"},
             "ssl.keystore.password is mandatory")]:
        output = gw.refused(tls(**values))
        assert f"UsageKafkaOption {words}" in output \
            or "UsageKafkaOption ssl." in output and words in output, output
    for values in [
            {"ssl_ca_location": "probe"},
            {"ssl_ca_location": "/etc/ssl/certs"},
            {"ssl_ca_location": pki / "cert.pem"},
            {**own, "ssl_key_location": pki / "key.pem"},
            {**own, "ssl_key_location": pki / "locked.pem",
             "ssl_key_password": PASSWORD},
            {"ssl_keystore_location": pki / "store.p12",
             "ssl_keystore_password": PASSWORD}]:
        gw.taken(tls(**values))


def test_files_that_only_root_may_read(gw, pki):
    """Files but the key are read by children, too, who may be somebody else."""
    for name in ("cert.pem", "key.pem"):
        (gw.dir / name).write_bytes((pki / name).read_bytes())
        (gw.dir / name).chmod(0o600)
    lines = tls(ssl_certificate_location="cert.pem",
                ssl_key_location="key.pem")
    if os.geteuid() == 0:
        assert "UsageKafkaOption ssl.certificate.location: " \
            f"{gw.dir}/cert.pem can't be read by www-data" in gw.refused(lines)
        (gw.dir / "cert.pem").chmod(0o644)
        gw.dir.chmod(0o700)
        assert "can't be read by www-data" in gw.refused(lines)
        gw.dir.chmod(0o755)
    gw.taken(lines)


def test_paths_are_below_server_root(gw, pki):
    (gw.dir / "tls").mkdir()
    for name in ("cert.pem", "key.pem"):
        (gw.dir / "tls" / name).write_bytes((pki / name).read_bytes())
    gw.taken(tls(ssl_ca_location="tls/cert.pem",
                 ssl_certificate_location="tls/cert.pem",
                 ssl_key_location="tls/key.pem"))


def test_what_does_not_fit_together(gw):
    for protocol, values, words in [
            ("sasl_plaintext", {}, "sasl.mechanism must be given"),
            ("sasl_plaintext", {"sasl_mechanism": "GSSAPI"},
             "sasl.kerberos.kinit.cmd"),
            ("sasl_plaintext", {"sasl_mechanism": "PLAIN"}, "sasl.username"),
            ("sasl_ssl", {"sasl_mechanisms": "SCRAM-SHA-256",
                          "sasl_username": "x"}, "sasl.username"),
            ("sasl_plaintext", {"sasl_mechanism": "MAGIC"},
             "sasl.mechanism: Unsupported SASL mechanism: MAGIC"),
            ("ssl", {"ssl_cipher_suites": "FOO"}, "ssl.cipher.suites failed"),
            ("ssl", {"ssl_curves_list": "foo"}, "ssl.curves.list failed"),
            ("plaintext", {"message_timeout_ms": 4},
             "message.timeout.ms must be greater than linger.ms"),
            ("plaintext", {"reconnect_backoff_ms": 5000},
             "reconnect.backoff.max.ms must be")]:
        output = gw.refused(options(security_protocol=protocol, **values))
        assert f"UsageKafkaOption {words}" in output, output
        # Where Kafka is off, nobody asks.
        gw.taken("UsageKafka Off\n"
                 + options(security_protocol=protocol, **values))


# --- secrets ------------------------------------------------------------------

def test_secrets_are_never_shown(gw, pki):
    """Whatever is wrong with them, or about them."""
    secret = PASSWORD

    def said(lines):
        gw.server_conf = lines
        rc, output = gw.configtest()
        assert rc, f"{lines} was taken"
        assert secret not in output, output
        return output
    for line in (f"{secret} sasl.password", f"sasl.password={secret} x",
                 f"{secret} x", f"sasl.pasword {secret}",
                 f"sasl.jaas.config {secret}", f"sasl.password {secret} x",
                 f"sasl.password={secret}", f"ssl_key {secret}"):
        assert "UsageKafkaOption" in said(f"UsageKafkaOption {line}\n")
    said(f"UsageKafkaBrokers sasl_ssl://gateway:{secret}@kafka:9092\n")
    own = {"ssl_certificate_location": pki / "cert.pem"}
    for values in ({"ssl_key_pem": secret},
                   {"ssl_certificate_pem": secret}, {"ssl_ca_pem": secret},
                   {**own, "ssl_key_location": pki / "locked.pem",
                    "ssl_key_password": secret + "x"},
                   {"ssl_keystore_location": pki / "store.p12",
                    "ssl_keystore_password": secret + "x"}):
        assert "UsageKafkaOption ssl." in said(tls(**values))
    # A secret that is part of what librdkafka says: the mechanism's own name.
    output = gw.refused(options(
        security_protocol="sasl_plaintext", sasl_mechanism="MAGIC",
        sasl_password="MAGIC", sasl_username="x"))
    assert "MAGIC" not in output and "sasl.mechanism" in output


def test_secrets_are_not_logged_by_a_running_server(gw, pki):
    password = "Correct-Horse-42-Battery"
    register_secret(password)
    include = secret_file("sasl.conf")
    include.write_text(f"UsageKafkaOption sasl.password {password}\n")
    gw.server_conf = f"""
UsageKafkaBrokers 127.0.0.1:{free_port()}
UsageKafkaOption security.protocol sasl_ssl
UsageKafkaOption sasl.mechanism PLAIN
UsageKafkaOption sasl.username gateway
Include {include}
LogLevel usage_events:trace8
"""
    gw.start()
    gw.wait_log("cannot be reached")
    gw.stop()
    assert password not in gw.error_log() + gw.logs()


def test_the_key_is_read_by_the_parent(gw, pki):
    """As root, its children need no rights to it."""
    for name in ("cert.pem", "locked.pem"):
        (gw.dir / name).write_bytes((pki / name).read_bytes())
    (gw.dir / "locked.pem").chmod(0o600)
    gw.server_conf = tls(ssl_certificate_location="cert.pem",
                         ssl_key_location="locked.pem",
                         ssl_key_password=PASSWORD)
    gw.start()
    gw.wait_log("[EventProducer] Started")
    assert clients(gw) == 1


# --- environment --------------------------------------------------------------

def place(gw, **env):
    """Where a server without directives of Kafka's sends its events."""
    gw.env = env
    gw.usage = {"UsageEventFile": None}
    rc, output = gw.configtest()
    if rc:
        assert "needs a place for the events" in output, output
    return "kafka" if rc == 0 else None


def test_enabled_by_the_environment(gw):
    brokers = {"KAFKA_BROKERS": "localhost:9092"}
    assert place(gw) is None
    assert place(gw, **brokers) == "kafka"
    assert place(gw, KAFKA_BROKERS="", KAFKA_ENABLED="") is None
    for yes in ("true", "on", "yes", "1", "TRUE", "On", "yEs", ""):
        assert place(gw, KAFKA_ENABLED=yes, **brokers) == "kafka"
    for no in ("false", "off", "no", "0", "FALSE", "Off", "nO"):
        assert place(gw, KAFKA_ENABLED=no, **brokers) is None
    for wrong in ("maybe", "2", "y", "onn", " true", "enabled"):
        gw.env = {"KAFKA_ENABLED": wrong, **brokers}
        output = gw.refused("")
        assert "UsageKafka (KAFKA_ENABLED)" in output and "true" in output


def test_wrong_brokers_and_topics_in_the_environment(gw):
    for variable, wrong, right in (
            ("KAFKA_BROKERS", "a:b", "kafka-1:9092"),
            ("KAFKA_TOPIC", "a/b", "usage-events")):
        directive = {"KAFKA_BROKERS": "UsageKafkaBrokers",
                     "KAFKA_TOPIC": "UsageKafkaTopic"}[variable]
        gw.env = {"KAFKA_BROKERS": "localhost", variable: wrong}
        output = gw.refused("")
        assert f"{directive} ({variable})" in output and right in output
        # Kafka is off, or a directive goes before it: nobody asks.
        gw.taken("UsageKafka Off")
        gw.taken(f"{directive} right")


def test_on_without_brokers(gw):
    for env, line in (({}, "UsageKafka On"), ({"KAFKA_ENABLED": "true"}, "")):
        gw.env = env
        output = gw.refused(line)
        assert "UsageKafkaBrokers localhost:9092" in output, output
        gw.taken(line + "\n" + BROKERS)


def test_directives_go_before_variables(gw):
    gw.env = {"KAFKA_ENABLED": "nonsense", "KAFKA_BROKERS": "a:b",
              "KAFKA_TOPIC": "a/b"}
    gw.taken(BROKERS + "UsageKafka On\nUsageKafkaTopic x")
    gw.taken("UsageKafka Off")
    # The variable says on, the directive off: no place is left.
    gw.env = {"KAFKA_ENABLED": "true", "KAFKA_BROKERS": "a:1"}
    gw.usage = {"UsageEventFile": None}
    assert "needs a place" in gw.refused("UsageKafka Off")
    # The variable says off, the directive on.
    gw.env["KAFKA_ENABLED"] = "false"
    gw.taken("UsageKafka On")
    assert "needs a place" in gw.refused("")


def test_the_topic_of_the_environment_is_used(gw):
    gw.env = {"KAFKA_BROKERS": f"127.0.0.1:{free_port()}", "KAFKA_TOPIC": "abc"}
    # Two servers share a producer, so it is the same topic.
    gw.usage = {"UsageEventFile": None}
    gw.vhost_conf = "UsageKafkaTopic abc"
    assert producers(gw) == 1
    gw.vhost_conf = "UsageKafkaTopic usage-events"
    assert producers(gw) == 2


# --- virtual hosts ------------------------------------------------------------

def clients(gw):
    """librdkafka's clients in the one child."""
    [child] = children_of(gw.proc.pid)
    return sum(task.joinpath("comm").read_text() == "rdk:main\n"
               for task in Path(f"/proc/{child}/task").iterdir())


def producers(gw):
    """How many producers the one child has."""
    gw.error_file.unlink(missing_ok=True)
    gw.start()
    gw.wait_log("[EventProducer] Started")
    # The last of them is there when the child accepts.
    gw.get("/usage-status")
    count = gw.error_log().count("[EventProducer] Started")
    gw.clients = clients(gw)
    gw.stop()
    return count


def test_options_are_added_to_the_servers(gw, pki):
    gw.server_conf = "UsageEvents Off\n" + tls(ssl_ca_location="/nowhere")
    gw.usage = {"UsageEvents": None}
    gw.vhost_conf = "UsageEvents On\n"
    output = gw.refused(gw.server_conf)
    assert "UsageKafkaOption ssl.ca.location: /nowhere" in output
    assert "virtual host at" in output and "httpd.conf:" in output
    gw.vhost_conf += f"UsageKafkaOption ssl.ca.location {pki}/cert.pem\n"
    gw.taken(gw.server_conf)
    # the later of two names of one property
    gw.vhost_conf = ("UsageEvents On\nUsageKafkaOption sasl.mechanism PLAIN\n"
                     "UsageKafkaOption sasl.password x\n")
    gw.taken("UsageEvents Off\n" + options(
        security_protocol="sasl_plaintext", sasl_mechanisms="MAGIC",
        sasl_username="x"))
    # and of two in one server
    gw.vhost_conf = None
    gw.usage = True
    gw.taken(tls(ssl_ca_location="/nowhere")
             + f"UsageKafkaOption ssl.ca.location {pki}/cert.pem\n")
    assert "/nowhere" in gw.refused(
        tls(ssl_ca_location=f"{pki}/cert.pem")
        + "UsageKafkaOption ssl.ca.location /nowhere\n")


def test_a_virtual_host_without_a_place(gw):
    gw.usage = {"UsageEventFile": None}
    gw.vhost_conf = "UsageKafka Off"
    output = gw.refused(BROKERS)
    assert "needs a place" in output and "virtual host at" in output
    gw.vhost_conf = "UsageKafka Off\nUsageEventFile {dir}/own.jsonl"
    gw.taken(BROKERS)


def test_one_file_and_two_topics(gw):
    gw.vhost_conf = "UsageKafkaTopic other"
    output = gw.refused(BROKERS)
    assert "UsageEventFile" in output and "UsageKafka" in output
    gw.vhost_conf = "UsageKafka Off"
    assert "UsageEventFile" in gw.refused(BROKERS)
    gw.vhost_conf = "UsageKafkaTopic other\nUsageEventFile {dir}/2.jsonl"
    gw.taken(BROKERS)


def test_who_shares_what(gw):
    """Producers: the same file, cluster, topic and settings. librdkafka's
    clients: the same brokers and options."""
    gw.usage = {"UsageEventFile": None}
    gw.server_conf = (f"UsageKafkaBrokers 127.0.0.1:{free_port()}\n"
                      "UsageKafkaOption linger.ms 4\n"
                      "UsageKafkaOption client.id x\n")
    for lines, count, connections in (
            ("", 1, 1),
            ("UsageKafkaOption queue.buffering.max.ms 4", 1, 1),
            ("UsageKafkaTopic usage-events", 1, 1),
            ("UsageKafkaTopic other", 2, 1),
            ("UsageKafkaBatchSize 7", 2, 1),
            ("UsageEventFile {dir}/2.jsonl", 2, 1),
            ("UsageKafkaOption linger.ms 3", 2, 2),
            ("UsageKafkaBrokers 127.0.0.1:1", 2, 2)):
        gw.vhost_conf = lines
        assert (producers(gw), gw.clients) == (count, connections), lines


# --- restarts -----------------------------------------------------------------

def parent(gw):
    status = Path(f"/proc/{gw.proc.pid}/status").read_text()
    return {name: int(re.search(rf"^{name}:\s+(\d+)", status, re.M)[1])
            for name in ("Threads", "RssAnon")}


def test_restarts_leave_nothing_in_the_parent(gw, pki):
    """The module is unloaded and loaded each time, librdkafka stays."""
    gw.server_conf = tls(ssl_certificate_location=pki / "cert.pem",
                         ssl_key_location=pki / "key.pem") \
        .replace("localhost:9092", f"127.0.0.1:{free_port()}")
    gw.start()
    for _ in range(3):
        gw.graceful()
    before = parent(gw)
    for _ in range(20):
        gw.graceful()
    after = parent(gw)
    assert "UE0400" not in gw.error_log()
    assert after["Threads"] == 1
    maps = Path(f"/proc/{gw.proc.pid}/maps").read_text()
    assert len({line.split()[-1] for line in maps.splitlines()
                if "librdkafka" in line}) == 1
    if not gw.preload:  # the sanitizer keeps what was freed
        # Unloaded and loaded again, librdkafka leaves 8 kB each time.
        assert after["RssAnon"] - before["RssAnon"] < 80, (before, after)
