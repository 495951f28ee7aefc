# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""docker/compose.yml without Docker: its form by Compose's own schema, and
Kafka's settings by a Kafka that starts with them, read by the program that
reads them in the image."""
import os
import re

import pytest
import yaml

from broker import (SERVICES, VERSION, Kafka, Topics, free_ports, install,
                    kafka_tool, run, tool)
from harness import REPO
from processes import new_dir

COMPOSE = REPO / "docker/compose.yml"

#: Of Kafka UI's settings, as its documentation names them.
UI_KNOWN = {"KAFKA_CLUSTERS_0_NAME", "KAFKA_CLUSTERS_0_BOOTSTRAPSERVERS",
            "KAFKA_CLUSTERS_0_READONLY", "DYNAMIC_CONFIG_ENABLED",
            "SERVER_PORT", "SERVER_SERVLET_CONTEXT_PATH"}


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))


def valid(path, check=True):
    return run([tool("docker-compose"), "-f", path, "config"], check=check,
               env={**os.environ, "DOCKER_HOST": "tcp://127.0.0.1:1"})


# --- form --------------------------------------------------------------------

def test_schema():
    shown = yaml.safe_load(valid(COMPOSE).stdout)
    assert set(shown["services"]) >= {"kafka"} and "kafka-data" in \
        shown["volumes"]


@pytest.mark.parametrize("old, new", [
    ("healthcheck:", "health_check:"), ("profiles: [tools]", "profiles: tools"),
    ("    ports:\n", "    port:\n"), ("retries: 10", "retries: [10]"),
    ("condition: service_healthy", "condition: well"),
    ("kafka-data:/var", "other-data:/var")])
def test_schema_can_fail(tmp_path, old, new):
    text = COMPOSE.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "compose.yml").write_text(text.replace(old, new))
    done = valid(tmp_path / "compose.yml", check=False)
    assert done.returncode == 1
    assert re.search("is invalid|no declaration", done.stderr), done.stderr


def test_images_are_pinned(compose):
    for service in compose["services"].values():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])
    assert compose["services"]["kafka"]["image"] == f"apache/kafka:{VERSION}"


# --- who reaches whom --------------------------------------------------------

def listeners(text):
    return dict(part.split("://") for part in text.split(","))


def test_listeners(compose):
    kafka, ui = (compose["services"][n] for n in ("kafka", "kafka-ui"))
    told = listeners(kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"])
    own = listeners(kafka["environment"]["KAFKA_LISTENERS"])
    for name, place in told.items():
        assert place.rpartition(":")[2] == own[name].rpartition(":")[2]
    assert told["HOST"] == "localhost:9092"
    assert kafka["ports"] == ["127.0.0.1:9092:9092"]
    # Containers know each other by the names of their services.
    assert told["DOCKER"].split(":")[0] == "kafka"
    assert ui["environment"]["KAFKA_CLUSTERS_0_BOOTSTRAPSERVERS"] == \
        told["DOCKER"]


def test_kafka_ui(compose):
    ui = compose["services"]["kafka-ui"]
    assert ui["profiles"] == ["tools"]
    assert ui["ports"] == ["127.0.0.1:8090:8080"]
    assert set(ui["environment"]) <= UI_KNOWN
    assert "profiles" not in compose["services"]["kafka"]


# --- settings ----------------------------------------------------------------

def test_every_variable_is_a_property_of_kafka(compose, kafka):
    known = kafka.broker_config()
    for name in compose["services"]["kafka"]["environment"]:
        assert name.startswith("KAFKA_") and "__" not in name, name
        assert name[6:].lower().replace("_", ".") in known, name


def test_tests_run_with_the_same_settings(compose):
    env = compose["services"]["kafka"]["environment"]
    for template in ("server.properties", "server-sasl.properties"):
        text = (SERVICES / template).read_text(encoding="utf-8")
        ours = dict(re.findall(r"^([\w.]+)=(.*)$", text, re.M))
        for name in ("AUTO_CREATE_TOPICS_ENABLE", "NUM_PARTITIONS",
                     "DEFAULT_REPLICATION_FACTOR", "LOG_RETENTION_HOURS",
                     "COMPRESSION_TYPE", "OFFSETS_TOPIC_REPLICATION_FACTOR"):
            assert env[f"KAFKA_{name}"] == ours[name.lower().replace("_", ".")]


class Image(Topics):
    """The image's Kafka with compose.yml's settings, on other ports."""

    def __init__(self, env):
        self.dir, self.version = new_dir("kafka-image"), VERSION
        self.node = Kafka("kafka-image-ports")
        self.data = self.node.data
        first = free_ports(range(3))
        self.direct = f"localhost:{first}"
        ports = {"9092": first, "29092": first + 1, "29093": first + 2}
        self.env = {}
        for name, value in env.items():
            value = value.replace("/var/lib/kafka/data", str(self.data))
            value = value.replace("//kafka:", "//localhost:")
            self.env[name] = re.sub(r":(\d+)\b",
                                    lambda m: f":{ports[m[1]]}", value)

    def start(self):
        """As the image's own start does it: setup, which also formats."""
        install()
        for name in ("default", "mounted", "final"):
            (self.dir / name).mkdir()
        # What the image would run with, were no setting given.
        (self.dir / "default/server.properties").write_text("no.setting=1\n")
        (self.dir / "default/log4j2.yaml").write_text(
            "Configuration:\n  Loggers:\n    Root:\n      level: INFO\n")
        (self.dir / "default/tools-log4j2.yaml").write_text(
            "Configuration:\n  Loggers:\n    Root:\n      level: INFO\n")
        self.data.mkdir(parents=True)
        (self.dir / "final/server.properties").write_text("")
        done = run([SERVICES / "kafka-tool.sh", "kafka.docker."
                    "KafkaDockerWrapper", "setup", "-D", self.dir / "default",
                    "-M", self.dir / "mounted", "-F", self.dir / "final"],
                   check=False, env={
                       **os.environ, **self.env,
                       "CLUSTER_ID": "AAAAAAAAAAAAAAAAAAAAAQ"})
        assert (self.data / "meta.properties").exists(), done
        run([SERVICES / "kafka-start.sh", self.dir, 1,
             self.dir / "final/server.properties"],
            env={**os.environ, "KAFKA_DATA": str(self.data)})
        return self

    def stop(self):
        run([SERVICES / "kafka-stop.sh", self.dir])

    def logs(self):
        return Kafka.logs(self)


def test_kafka_with_these_settings(compose, servers):
    service = compose["services"]["kafka"]
    image = servers.add(Image(service["environment"])).start()
    ready = service["healthcheck"]["test"]
    assert ready[:2] == ["CMD", "/opt/kafka/bin/kafka-topics.sh"]
    at = [a.replace("localhost:9092", image.direct) for a in ready[2:]]
    kafka_tool("tools.TopicCommand", *at)

    # Its ports are 127.0.0.1's alone, as compose.yml publishes them, and kcat
    # gives up where localhost is ::1 first.
    image.deliver("usage-events", ["a", "b"], key="k",
                  broker_address_family="v4")
    assert [r.value for r in image.wait_records("usage-events", 2)] == \
        [b"a", b"b"]
    assert kafka_tool("tools.TopicCommand", *at).split() == ["usage-events"]
    config = image.topic_config("usage-events")
    assert int(config["retention.ms"]) == 7 * 24 * 3600 * 1000
    assert config["compression.type"] == "snappy"
    assert config["cleanup.policy"] == "delete"
    assert image.replicas("usage-events") == {n: [1] for n in range(12)}
    assert "auto.create.topics.enable" in image.broker_config()
    log = (image.dir / "kafka.log").read_text()
    assert "isn't a known config" not in log
    assert "no.setting" not in log
