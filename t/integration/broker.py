# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Real Kafka for tests: nodes and clusters, topics, and what is in them.

    def test_something(kafka, gateway):             # one broker for all tests
        topic = kafka.topic(partitions=12)          # new, with a unique name
        gw = gateway(server_conf=f"UsageKafkaBrokers {kafka.bootstrap}\\n"
                                 f"UsageKafkaTopic {topic}")
        …
        records = kafka.wait_records(topic, 50)     # exactly 50, not more
        assert records[0].headers[0] == ("usage-stream", b"…16 bytes…")

    def test_an_outage(kafka_own, gateway):         # a broker to break
        broker = kafka_own(proxy=True)              # before gateway()
        topic = broker.topic()
        broker.proxy("stall"); …; broker.proxy("pass")
        broker.kill(); broker.start()               # the data is still there

    def test_three(kafka_cluster, gateway):
        cluster = kafka_cluster()
        cluster[2].kill()                           # nodes 1 to 3

Fixtures (conftest.py imports them):
    kafka          the Kafka that a pytest worker shares among its tests. Use
                   topics of your own from kafka.topic(); they are deleted after
                   the test. Leave the broker as it is.
    kafka_far      one behind a proxy, shared in the same way; .proxy(…) puts it
                   out of reach, for the test alone
    kafka_own(**kw)      makes and starts a Kafka, stopped after the test
    kafka_cluster(**kw)  makes and starts a Cluster, likewise
Call the latter two before gateway(), so that httpd ends first.

Kafka(name, template=None, extra=None, env=None, version=None, proxy=False,
      scram=None, certs=None, cert="server")
    template  "server.properties", or "server-sasl.properties": SASL_SSL at
              .bootstrap with users alice (may do all) and bob (nothing; both
              PLAIN, passwords alice-secret and bob-secret), TLS with client
              certificates at .ssl_bootstrap; .certs is the directory of ca.pem,
              other-ca.pem, client.crt, client.key, …
    extra     settings of the broker: {"message.max.bytes": 1000}
    env       environment variables for kafka-start.sh, e.g. KAFKA_HEAP
    version   "3.9.2", where SCRAM is to work with librdkafka before 2.6.1
    proxy     a proxy stands between .bootstrap and the broker
    scram     {"alice": "alice-secret"}: users of SCRAM-SHA-256 and -512
    certs     a directory of certificates made already: share one, it is slow
    cert      "expired": the broker shows a certificate that is over
.bootstrap is for the program under test. .direct is for tests: always plain,
no proxy in between, all rights; all that is below goes there.

Life: start(), stop(), kill() (SIGKILL), pause(), resume() (SIGSTOP, SIGCONT),
restart(). start() after kill() finds the data of before. .pid, .log (path).

proxy(mode): "pass", "rtt 20" (ms), "delay MS" (each way), "rate BYTES" (a
second), "stall", "stall-back" (no answers), "refuse" (RST), "cut BYTES";
returns when it is in force. proxy_stats(): {"mode", "connections", "bytes_out"
(from clients), "bytes_back", "requests": {"0": {"count", "bytes"}, …}} by
Kafka's API key (0 Produce, 3 Metadata, 22 InitProducerId); with TLS only the
bytes. They count from the start of the broker and lag 50 ms at most.

Topics:
    topic(partitions=12, **config)     a new one with a unique name;
                                       max_message_bytes=1000 for
                                       max.message.bytes
    create_topic(name, partitions=12, **config), delete_topic(name)
    add_partitions(name, total)        12 to 24: total=24
    topics()                           names, Kafka's own left out
    topic_offsets(name)                {partition: end offset}
    count(name)                        the sum of these
    leaders(name), replicas(name)      {partition: node id(s)}
    move_leader(name, partition, node) to another node's replica, 5 s
    wait_in_sync(name)                 until no replica lags: a node that came
                                       back does for some seconds
    topic_config(name), broker_config(node=1)      {property: value}
    deliver(name, lines, key=None, headers={}, **librdkafka)    by kcat

Reading: all give a list of Record(topic, partition, offset, timestamp, key,
value, headers), key and value bytes or None, headers [(name, bytes), …] in
their order, sorted by partition and offset.
    read(topic, n=None, timeout=20)    all that is there now, by kafka-python
                                       (50,000 in about a second); with n it
                                       waits until there are at least n
    wait_records(topic, n, timeout=20) exactly n, all there are then
    read_kcat(topic)                   by librdkafka; headers is None, for kcat
                                       cuts values at a zero byte
    read_java(topic)                   by Kafka's own consumer, 2 s
    batches(topic)                     what is on the broker's disk: a dict a
                                       record batch (partition, baseOffset,
                                       count, producerId, baseSequence,
                                       size, compresscodec: SNAPPY, …)
A topic's compression.type is snappy, as in docker/compose.yml: batches() shows
a producer's own codec with topic(compression_type="producer") only.

Cluster(name, extra=None, env=None, version=None, proxy=False): three nodes,
topics with three replicas, two of which must be written. cluster[n] is a Kafka
(n from 1 to 3), cluster.kill(n), pause(n), resume(n), start(n), stop(n)
likewise (start() without n: all; stop(): kills all). proxy(mode): all nodes.

kafka_tool(class, *args) runs one of Kafka's own tools: its output.

Each Kafka has its directory below runs/ with its settings and its log. Its data
lies elsewhere, in BASE/kafka, where nobody searches for keys: it is compressed.
Fetched and installed at first use: see t/services/README.md.
"""
import collections
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import uuid
from pathlib import Path

import pytest

from clients.http1 import poll
from processes import (REPO, Server, base_dir, end_process, free_port, need,
                       run, tool)

SERVICES = REPO / "t/services/kafka"
VERSION = "4.3.1"

Record = collections.namedtuple(
    "Record", "topic partition offset timestamp key value headers")

_installed = set()


def install(version=VERSION):
    """Fetch a Kafka, unless it is there."""
    if version not in _installed:
        for program in ("java", "mvn", "kcat"):
            tool(program)
        run([SERVICES / "kafka-install.sh"], timeout=900,
            env={**os.environ, "KAFKA_VERSION": version})
        _installed.add(version)


def make_certs(path):
    """Certificates, see gen-certs.sh. Returns the directory."""
    run([SERVICES / "gen-certs.sh", path])
    return Path(path)


def kafka_tool(name, *args, version=VERSION, timeout=60, text=True,
               check=True):
    """Run one of Kafka's tools, named by its class. Returns its output."""
    install(version)
    done = subprocess.run(
        [SERVICES / "kafka-tool.sh", name, *map(str, args)],
        env={**os.environ, "KAFKA_VERSION": version}, text=text,
        stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout)
    if check and done.returncode:
        raise AssertionError(f"{name} ended with {done.returncode}: "
                             f"{done.stdout}{done.stderr}")
    return done.stdout


def _python_client():
    try:
        import kafka
        import kafka.admin
        import kafka.errors
        import snappy  # noqa: F401
    except ImportError as e:
        need(False, f"{e}: scripts/deps.sh test")
    return kafka


def free_ports(offsets):
    """A port from which on all of port + offset are free."""
    for _ in range(200):
        first = free_port()
        try:
            for offset in offsets:
                with socket.socket() as s:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    s.bind(("127.0.0.1", first + offset))
            return first
        except OSError:
            continue
    raise RuntimeError("no free ports")


# --- what is the same with one node and with three ---------------------------

class Topics:
    """Topics and their records, by way of .direct."""

    replication = 1

    def _clients(self, kind, **kw):
        client = _python_client()
        made = {"admin": client.admin.KafkaAdminClient,
                "consumer": client.KafkaConsumer}[kind]
        # Naming a version saves the client from guessing; what it stands for
        # is known to all brokers since.
        return made(bootstrap_servers=self.direct.split(","),
                    api_version=(2, 5, 0), **kw)

    def _admin(self, do, timeout=15):
        """do(admin), with an admin client of its own. Just after a node was
        lost, what others say of the controller is not true yet: again."""
        errors = _python_client().errors
        end = time.monotonic() + timeout
        while True:
            try:
                admin = self._clients("admin", request_timeout_ms=10000)
                break
            except errors.KafkaError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
        try:
            return do(admin)
        finally:
            admin.close()

    # -- topics --

    def topic(self, partitions=12, **config):
        name = f"usage-{uuid.uuid4().hex[:12]}"
        self.made.append(name)
        return self.create_topic(name, partitions, **config)

    def create_topic(self, name, partitions=12, **config):
        new = _python_client().admin.NewTopic(
            name, partitions, self.replication, topic_configs={
                k.replace("_", "."): str(v) for k, v in config.items()})
        self._admin(lambda a: a.create_topics([new]))
        self.wait_leaders(name, partitions)
        return name

    def delete_topic(self, name):
        self._admin(lambda a: a.delete_topics([name]))
        poll(lambda: name not in self.topics(), 10, every=0.1,
             what=f"topic {name} is gone")

    def add_partitions(self, name, total):
        new = _python_client().admin.NewPartitions(total)
        self._admin(lambda a: a.create_partitions({name: new}))
        self.wait_leaders(name, total)

    def wait_leaders(self, name, partitions, timeout=20):
        def led():
            [topic] = self._admin(lambda a: a.describe_topics([name]))
            return sum(p["leader"] >= 0 for p in topic["partitions"]) \
                >= partitions
        poll(led, timeout, every=0.1,
             what=f"leaders of {partitions} partitions of {name}")

    def topics(self):
        return sorted(t for t in self._admin(lambda a: a.list_topics())
                      if not t.startswith("__"))

    def _describe(self, name):
        [topic] = self._admin(lambda a: a.describe_topics([name]))
        assert topic["error_code"] == 0, topic
        return {p["partition"]: p for p in topic["partitions"]}

    def leaders(self, name):
        return {n: p["leader"] for n, p in sorted(
            self._describe(name).items())}

    def replicas(self, name):
        return {n: p["replicas"] for n, p in sorted(
            self._describe(name).items())}

    def wait_in_sync(self, name, timeout=30):
        """All replicas are where their leader is."""
        poll(lambda: all(sorted(p["isr"]) == sorted(p["replicas"])
                         for p in self._describe(name).values()), timeout,
             every=0.2, what=f"all replicas of {name} in sync")

    def _config(self, kind, name):
        admin = _python_client().admin
        wanted = admin.ConfigResource(
            getattr(admin.ConfigResourceType, kind), name)
        [answer] = self._admin(lambda a: a.describe_configs([wanted]))
        [resource] = answer.resources
        assert resource[0] == 0, resource[:4]
        return {entry[0]: entry[1] for entry in resource[4]}

    def topic_config(self, name):
        return self._config("TOPIC", name)

    def broker_config(self, node=1):
        return self._config("BROKER", str(node))

    def move_leader(self, name, partition, node):
        """Make a node, which must hold a replica, the leader."""
        others = [n for n in self.replicas(name)[partition] if n != node]
        plan = self.dir / "plan.json"
        plan.write_text(json.dumps({"version": 1, "partitions": [
            {"topic": name, "partition": partition,
             "replicas": [node] + others}]}))
        at = ("--bootstrap-server", self.direct)
        kafka_tool("tools.reassign.ReassignPartitionsCommand", *at, "--execute",
                   "--reassignment-json-file", plan, version=self.version)
        poll(lambda: self.replicas(name)[partition] == [node] + others, 20,
             every=0.1, what="the replicas in their new order")
        kafka_tool("tools.LeaderElectionCommand", *at, "--election-type",
                   "preferred", "--topic", name, "--partition", partition,
                   version=self.version)
        poll(lambda: self.leaders(name)[partition] == node, 20, every=0.1,
             what=f"node {node} leads {name}/{partition}")

    def topic_offsets(self, name):
        consumer = self._clients("consumer")
        try:
            return self._ends(consumer, name)
        finally:
            consumer.close()

    def _ends(self, consumer, name):
        at = _python_client().TopicPartition
        parts = consumer.partitions_for_topic(name)
        if not parts:
            return {}
        ends = consumer.end_offsets([at(name, p) for p in sorted(parts)])
        return {tp.partition: end for tp, end in ends.items()}

    def count(self, name):
        return sum(self.topic_offsets(name).values())

    def deliver(self, name, lines, key=None, headers=None, **options):
        """Produce lines by kcat: librdkafka's properties as
        compression_codec="gzip"."""
        args = [tool("kcat"), "-P", "-b", self.direct, "-t", name]
        if key is not None:
            args += ["-k", key]
        for header in (headers or {}).items():
            args += ["-H", "=".join(header)]
        for option, value in options.items():
            args += ["-X", f"{option.replace('_', '.')}={value}"]
        run(args, input="".join(f"{line}\n" for line in lines))

    # -- records --

    def read(self, topic, n=None, timeout=20):
        end = time.monotonic() + timeout
        consumer = self._clients(
            "consumer", enable_auto_commit=False, group_id=None,
            fetch_max_wait_ms=50, max_poll_records=20000)
        try:
            if n:
                seen = 0
                while (seen := sum(self._ends(consumer, topic).values())) < n:
                    assert time.monotonic() < end, \
                        f"{seen} of {n} records in {timeout} s"
                    time.sleep(0.05)
            return sorted(self._fetch(consumer, topic, end),
                          key=lambda r: r[1:3])
        finally:
            consumer.close()

    def _fetch(self, consumer, topic, end):
        ends = self._ends(consumer, topic)
        at = _python_client().TopicPartition
        left = {at(topic, p) for p, offset in ends.items() if offset}
        if left:
            consumer.assign(sorted(left))
            consumer.seek_to_beginning(*left)
        found = []
        while left:
            assert time.monotonic() < end, \
                f"{len(found)} of {sum(ends.values())} records read in time"
            for got in consumer.poll(200).values():
                found += [Record(*r[:4], r.key, r.value, list(r.headers))
                          for r in got]
            left = {tp for tp in left
                    if consumer.position(tp) < ends[tp.partition]}
        return [r for r in found if r.offset < ends[r.partition]]

    def wait_records(self, topic, n, timeout=20):
        found = self.read(topic, n, timeout)
        assert len(found) == n, f"{len(found)} records, not {n}"
        return found

    def read_kcat(self, topic, timeout=60):
        # Lengths ahead of what may hold any byte.
        done = subprocess.run(
            [tool("kcat"), "-C", "-q", "-e", "-b", self.direct, "-t", topic,
             "-o", "beginning", "-f", "%p %o %T %K %S\n%k%s\n"],
            capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr
        raw, at, found = done.stdout, 0, []
        while at < len(raw):
            line = raw.index(b"\n", at)
            p, o, when, klen, vlen = map(int, raw[at:line].split())
            at = line + 1
            key = raw[at:at + max(klen, 0)] if klen >= 0 else None
            at += max(klen, 0)
            value = raw[at:at + max(vlen, 0)] if vlen >= 0 else None
            at += max(vlen, 0) + 1
            found.append(Record(topic, p, o, when, key, value, None))
        return sorted(found, key=lambda r: r[1:3])

    def read_java(self, topic, timeout=60):
        n = self.count(topic)
        if not n:
            return []
        # Marks that no record holds, for it writes bytes as they are.
        word = uuid.uuid4().hex
        field, header, end = (f"<{word}{c}>" for c in "fhe")
        flag = "--property" if self.version.startswith("3") \
            else "--formatter-property"
        args = ["--bootstrap-server", self.direct, "--topic", topic,
                "--from-beginning", "--max-messages", n,
                "--timeout-ms", timeout * 500]
        for setting in ("print.timestamp=true", "print.partition=true",
                        "print.offset=true", "print.headers=true",
                        "print.key=true", f"key.separator={field}",
                        f"headers.separator={header}",
                        f"line.separator={end}", f"null.literal={word}"):
            args += [flag, setting]
        raw = kafka_tool("tools.consumer.ConsoleConsumer", *args, text=False,
                         version=self.version, timeout=timeout)
        found = [self._java_record(topic, line, word, field, header)
                 for line in raw.split(end.encode())[:-1]]
        assert len(found) == n, f"{len(found)} of {n} records"
        return sorted(found, key=lambda r: r[1:3])

    @staticmethod
    def _java_record(topic, line, word, field, header):
        def nothing(x):
            return None if x == word.encode() else x

        when, p, o, heads, key, value = line.split(field.encode())
        pairs = [h.partition(b":") for h in heads.split(header.encode())
                 if h != b"NO_HEADERS"]
        return Record(topic, int(p.rpartition(b":")[2]),
                      int(o.rpartition(b":")[2]),
                      int(when.rpartition(b":")[2]), nothing(key),
                      nothing(value), [(n.decode(), nothing(v))
                                       for n, _, v in pairs])


# --- one node ----------------------------------------------------------------

class Kafka(Topics, Server):
    """See above."""

    def __init__(self, name="kafka", template=None, extra=None, env=None,
                 version=None, proxy=False, scram=None, certs=None,
                 cert="server", _node=None):
        super().__init__(name)
        self.version = version or VERSION
        self.template = template or "server.properties"
        self.node, voters, first = _node or (1, None, None)
        # The port, the controller's, TLS, the tools', the proxy's.
        self.first = first or free_ports(range(5))
        self.has_proxy, self.proxy_proc = proxy, None
        self.port = self.first + 4 if proxy else self.first
        self.certs = Path(certs) if certs else self.dir / "certs"
        self.data = base_dir() / "kafka" / self.dir.name
        self.control = self.dir / "proxy.control"
        self.made = []
        self.env = {"KAFKA_VERSION": self.version, "ADVPORT": str(self.port),
                    "NODE_ID": str(self.node), "KAFKA_DATA": str(self.data),
                    "CERTS": str(self.certs), "CERT": cert}
        if voters:
            self.env["VOTERS"] = voters
        if scram:
            self.env["KAFKA_FORMAT"] = " ".join(
                f"--add-scram SCRAM-SHA-{n}=[name={user},password={password}]"
                for user, password in scram.items() for n in (256, 512))
        self.env.update(env or {})
        (self.dir / "extra.properties").write_text("".join(
            f"{k}={v}\n" for k, v in (extra or {}).items()))

    @property
    def bootstrap(self):
        return f"127.0.0.1:{self.port}"

    @property
    def direct(self):
        return f"127.0.0.1:{self.first + 3}"

    @property
    def ssl_bootstrap(self):
        return f"127.0.0.1:{self.first + 2}"

    @property
    def log(self):
        return self.dir / "kafka.log"

    @property
    def pid(self):
        """None where it doesn't run."""
        path = self.dir / "pid"
        return int(path.read_text()) if path.exists() else None

    def start(self):
        install(self.version)
        if self.has_proxy and self.proxy_proc is None:
            self._start_proxy()
        self.data.parent.mkdir(exist_ok=True)
        run([SERVICES / "kafka-start.sh", self.dir, self.first, self.template],
            env={**os.environ, **self.env})
        return self

    def stop(self, sig="TERM"):
        if self.proxy_proc:
            end_process(self.proxy_proc, timeout=5)
            self.proxy_proc = None
        self._end(sig)

    def kill(self):
        self._end("KILL")

    def _end(self, sig):
        run([SERVICES / "kafka-stop.sh", self.dir, sig])

    def restart(self):
        self._end("TERM")
        return self.start()

    def pause(self):
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self):
        os.kill(self.pid, signal.SIGCONT)

    # -- the proxy --

    def _start_proxy(self):
        out = open(self.dir / "proxy.log", "ab")
        self.proxy_proc = subprocess.Popen(
            ["/usr/bin/python3", SERVICES / "proxy.py", str(self.port),
             str(self.first), self.control, self.dir / "proxy.stats"],
            stdout=out, stderr=out, stdin=subprocess.DEVNULL,
            start_new_session=True)
        out.close()
        poll(lambda: (self.dir / "proxy.stats").exists(), 10,
             what="the proxy runs")

    def proxy(self, mode):
        assert self.proxy_proc, "made without proxy=True"
        new = self.control.with_suffix(".new")
        new.write_text(mode)
        new.rename(self.control)
        poll(lambda: self.proxy_stats()["mode"] == mode, 10,
             what=f"proxy: {mode}")

    def proxy_stats(self):
        return json.loads((self.dir / "proxy.stats").read_text())

    def batches(self, topic):
        return _batches([self.data], topic, self.version)


# --- three nodes -------------------------------------------------------------

class Cluster(Topics):
    """See above."""

    replication = 3

    def __init__(self, name="cluster", extra=None, env=None, version=None,
                 proxy=False):
        first = free_ports([10 * n + k for n in range(3) for k in range(5)])
        voters = ",".join(f"{n + 1}@127.0.0.1:{first + 10 * n + 1}"
                          for n in range(3))
        settings = dict(
            line.split("=") for line in (SERVICES / "cluster.properties")
            .read_text().splitlines() if "=" in line)
        settings.update(extra or {})
        self.nodes = [
            Kafka(f"{name}-{n + 1}", extra=settings, version=version,
                  proxy=proxy, env={"KAFKA_HEAP": "384m", **(env or {})},
                  _node=(n + 1, voters, first + 10 * n)) for n in range(3)]
        self.dir, self.made = self.nodes[0].dir, []
        self.version = version or VERSION

    def __getitem__(self, n):
        return self.nodes[n - 1]

    @property
    def bootstrap(self):
        return ",".join(node.bootstrap for node in self.nodes)

    @property
    def direct(self):
        """Of those that run and are not paused."""
        return ",".join(node.direct for node in self.nodes if node.pid
                        and not _stopped(node.pid))

    def _all(self, do):
        wrong = []

        def one(node):
            try:
                do(node)
            except Exception as e:
                wrong.append(e)
        threads = [threading.Thread(target=one, args=(node,))
                   for node in self.nodes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if wrong:
            raise wrong[0]

    def start(self, n=None):
        install(self.version)  # once, before there are threads
        if n:
            self[n].start()
        else:
            self._all(Kafka.start)
        return self

    def stop(self, n=None):
        if n:
            self[n]._end("TERM")
        else:  # in order, the last would wait in vain for the others
            self._all(lambda node: node.stop("KILL"))

    def kill(self, n):
        self[n].kill()

    def pause(self, n):
        self[n].pause()

    def resume(self, n):
        self[n].resume()

    def proxy(self, mode):
        for node in self.nodes:
            node.proxy(mode)

    def logs(self, tail=6000):
        return "".join(f"=== {node.dir.name}\n{node.logs(tail // 3)}"
                       for node in self.nodes)

    def batches(self, topic):
        return _batches([node.data for node in self.nodes], topic,
                        self.version)


def _stopped(pid):
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "T"


def _batches(places, topic, version):
    """The record batches of a topic, each once also where there are replicas
    of it."""
    files = [path for place in places
             for path in sorted(place.glob(f"{topic}-[0-9]*/*.log"))]
    if not files:
        return []
    text = kafka_tool("tools.DumpLogSegments", "--files",
                      ",".join(map(str, files)), version=version)
    found, partition = {}, None
    for line in text.splitlines():
        if line.startswith("Dumping "):
            partition = int(Path(line[8:]).parent.name.rpartition("-")[2])
        elif line.startswith("baseOffset: "):
            batch = {k: int(v) if re.fullmatch(r"-?\d+", v) else v
                     for k, v in re.findall(r"(\w+): (\S+)", line)}
            batch["partition"] = partition
            found[partition, batch["baseOffset"]] = batch
    return [found[at] for at in sorted(found)]


# --- fixtures ----------------------------------------------------------------

class Watched:
    """Has a shared broker's log in a failed test's report, and lets it run."""

    def __init__(self, broker):
        self.dir, self.logs = broker.dir, broker.logs

    def stop(self):
        pass


@pytest.fixture(scope="session")
def kafka_broker():
    broker = Kafka("kafka-shared")
    try:
        yield broker.start()
    finally:
        broker.stop()


@pytest.fixture
def kafka(kafka_broker, servers):
    """The broker that all tests share."""
    servers.add(Watched(kafka_broker))
    kafka_broker.made.clear()
    yield kafka_broker
    for name in kafka_broker.made:
        if name in kafka_broker.topics():
            kafka_broker.delete_topic(name)


@pytest.fixture(scope="session")
def kafka_far_broker():
    broker = Kafka("kafka-far", proxy=True)
    try:
        yield broker.start()
    finally:
        broker.stop()


@pytest.fixture
def kafka_far(kafka_far_broker, servers):
    """One behind a proxy, likewise shared. A test may put it out of reach, and
    leaves it within reach."""
    servers.add(Watched(kafka_far_broker))
    yield kafka_far_broker
    kafka_far_broker.proxy("pass")


@pytest.fixture
def kafka_own(servers):
    """kafka_own(**kw): a broker of the test's own, started."""
    return lambda name="kafka-own", **kw: servers.add(
        Kafka(name, **kw)).start()


@pytest.fixture
def kafka_cluster(servers):
    """kafka_cluster(**kw): three nodes of the test's own, started."""
    return lambda name="cluster", **kw: servers.add(
        Cluster(name, **kw)).start()
