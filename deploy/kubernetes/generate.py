#!/usr/bin/env python3
"""Writes what follows from a table: network policies (matrix.txt), topics and who may do what with them (proto/src/topic.rs), alerts
(deploy/prometheus).

  deploy/kubernetes/generate.py            writes the files
  deploy/kubernetes/generate.py --check    fails if a file is not what would be written
"""

import pathlib
import re
import sys
from typing import NamedTuple

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class Part(NamedTuple):
    namespace: str
    labels: dict


class Edge(NamedTuple):
    folder: str
    source: str
    target: str
    ports: list  # of (number, protocol)


class Matrix(NamedTuple):
    parts: dict
    edges: list


def read_matrix():
    parts, edges = {}, []
    for number, line in enumerate((HERE / "matrix.txt").read_text().splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            kind, *words = words
            if kind == "part":
                name, namespace, labels = words
                assert name not in parts, "a part is there twice"
                pairs = [] if labels == "*" else [pair.split("=") for pair in labels.split(",")]
                parts[name] = Part(namespace, dict(pairs))
            else:
                assert kind == "edge", "neither part nor edge"
                folder, source, target, ports = words
                assert source in parts and target in parts, "an unknown part"
                split = [(port.split("/") + ["TCP"])[:2] for port in ports.split(",")]
                edges.append(Edge(folder, source, target, [(int(port), protocol) for port, protocol in split]))
        except (AssertionError, ValueError) as error:
            sys.exit(f"matrix.txt:{number}: {error}")
    return Matrix(parts, edges)


def labels_block(labels, indent):
    space = " " * indent
    if not labels:
        return " {}\n"
    return "\n" + f"{space}matchLabels:\n" + "".join(f"{space}  {key}: {value}\n" for key, value in labels.items())


def peer_block(part):
    """One entry of `from` or `to`."""
    pods = f"podSelector:{labels_block(part.labels, 12)}"
    if part.namespace == ".":
        return f"        - {pods}"
    namespace = f"namespaceSelector:{labels_block({'kubernetes.io/metadata.name': part.namespace}, 12)}"
    # A peer without a selector for pods is every pod of the namespace.
    return f"        - {namespace}" + (f"          {pods}" if part.labels else "")


def policy(edge, matrix, direction):
    """An edge has two ends, and each end of ours needs a policy."""
    here, there = (edge.source, edge.target) if direction == "Egress" else (edge.target, edge.source)
    if matrix.parts[here].namespace != ".":
        return ""
    rule, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    far = matrix.parts[there]
    ports = "".join(f"        - {{port: {port}, protocol: {protocol}}}\n" for port, protocol in edge.ports)
    body = f"    - ports:\n{ports}"
    if far.namespace != "*":
        body += f"      {peers}:\n{peer_block(far)}"
    return (
        "---\n"
        "apiVersion: networking.k8s.io/v1\n"
        "kind: NetworkPolicy\n"
        f"metadata: {{name: {edge.source}-to-{edge.target}-{rule}}}\n"
        "spec:\n"
        f"  podSelector:{labels_block(matrix.parts[here].labels, 4)}"
        f"  policyTypes: [{direction}]\n"
        f"  {rule}:\n{body}"
    )


DENY_ALL = """---
# What no other policy allows is refused, in both directions.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
"""


def network_policies(matrix):
    files = {}
    for edge in matrix.edges:
        text = files.setdefault(f"{edge.folder}/network-policies.yaml", "# Generated from matrix.txt by generate.py.\n")
        if edge.folder == "base" and "default-deny" not in text:
            text += DENY_ALL
        files[f"{edge.folder}/network-policies.yaml"] = (
            text + policy(edge, matrix, "Egress") + policy(edge, matrix, "Ingress")
        )
    return files


class Topic(NamedTuple):
    name: str
    retention_ms: int
    bytes_max: int


def found(pattern, path):
    match = re.search(pattern, (ROOT / path).read_text(), re.S)
    if not match:
        sys.exit(f"{path} no longer has {pattern}")
    return match.group(1)


def product(text):
    result = 1
    for factor in text.replace("_", "").split("*"):
        result *= int(factor)
    return result


def partitions():
    return int(found(r"const PARTITIONS: i32 = (\d+);", "deploy/native/src/topics.rs"))


def rows():
    """Topic, the service that writes it, and the groups that read it, from the one table."""
    text = found(r"\ntopics! \{\n(.*?)\n\}", "proto/src/topic.rs")
    result = []
    for topic, writer, readers in re.findall(r'\w+\s*=\s*"([^"]+)",\s*(\w+)::[^;]*?read by ([\w, ]+);', text):
        result.append((topic, writer, [reader.strip() for reader in readers.split(",")]))
    if len(result) != text.count(";"):
        sys.exit("proto/src/topic.rs: rows of topics! are not understood")
    return result


def readings():
    """Topic and consumer group."""
    return [(topic, reader) for topic, _, readers in rows() for reader in readers]


def grants():
    """Service or console, operation, kind of resource and its name: as `grants` in proto/src/topic.rs."""
    result = {("console", operation, "topic", topic.name) for topic in topics() for operation in ("Read", "DescribeConfigs")}
    result |= {(writer, "Write", "topic", topic) for topic, writer, _ in rows()}
    for topic, reader in readings():
        result |= {(reader, "Read", "topic", topic), (reader, "Read", "group", reader), (reader, "Write", "topic", f"{topic}.{reader}.dlq")}
    return result


def lag_grants():
    """Of who looks at the lag of every group."""
    return {("keda", "Describe", "topic", topic) for topic, _ in readings()} | {
        ("keda", "Describe", "group", group) for _, group in readings()
    }


def topics():
    """As deploy/native/src/topics.rs makes them."""
    table, native = "proto/src/topic.rs", "deploy/native/src/topics.rs"
    event_ms = 1000 * product(found(r"EVENT_RETENTION: Duration = Duration::from_secs\(([\d *_]+)\)", table))
    letter_bytes = product(found(r"RECORD_BYTES_MAX: usize = ([\d *_]+);", table))
    letter_ms = int(found(r'DEAD_LETTER_RETENTION_MS: &str = "(\d+)"', native))
    event_bytes = int(found(r'EVENT_BYTES_MAX: &str = "(\d+)"', native))
    events = dict.fromkeys(topic for topic, _ in readings())
    return [Topic(name, event_ms, event_bytes) for name in events] + [
        Topic(f"{topic}.{group}.dlq", letter_ms, letter_bytes) for topic, group in readings()
    ]


def kafka_topics():
    text = "# Generated from proto/src/topic.rs and deploy/native/src/topics.rs by generate.py.\n"
    for topic in topics():
        text += (
            "---\n"
            "apiVersion: kafka.strimzi.io/v1\n"
            "kind: KafkaTopic\n"
            "metadata:\n"
            f"  name: {topic.name}\n"
            "  labels: {strimzi.io/cluster: holdfast}\n"
            "spec:\n"
            f"  partitions: {partitions()}\n"
            "  replicas: 3\n"
            "  config:\n"
            f"    retention.ms: {topic.retention_ms}\n"
            f"    max.message.bytes: {topic.bytes_max}\n"
            "    min.insync.replicas: 2\n"
        )
    return text


def kafka_users(granted):
    """The certificate of each lives for two days and is renewed every day: brokers know no revocation."""
    text = "# Generated from proto/src/topic.rs by generate.py.\n"
    for user in sorted({user for user, *_ in granted}):
        text += (
            "---\n"
            "apiVersion: kafka.strimzi.io/v1\n"
            "kind: KafkaUser\n"
            "metadata:\n"
            f"  name: {user}\n"
            "  labels: {strimzi.io/cluster: holdfast}\n"
            "spec:\n"
            "  authentication: {type: tls, validityDays: 2, renewalDays: 1}\n"
            "  authorization:\n"
            "    type: simple\n"
            "    acls:\n"
        )
        for _, operation, kind, name in sorted(grant for grant in granted if grant[0] == user):
            text += f"      - resource: {{type: {kind}, name: {name}, patternType: literal}}\n        operations: [{operation}]\n"
    return text


def prometheus_rules():
    text = "# Generated from deploy/prometheus by generate.py.\n"
    for path in sorted((ROOT / "deploy/prometheus").glob("*.rules.yml")):
        groups = path.read_text()
        groups = groups[groups.index("groups:\n") :]
        text += (
            "---\n"
            "apiVersion: monitoring.coreos.com/v1\n"
            "kind: PrometheusRule\n"
            f"metadata: {{name: holdfast-{path.name.removesuffix('.rules.yml')}}}\n"
            "spec:\n"
        ) + "".join(f"  {line}\n" if line else "\n" for line in groups.splitlines())
    return text


def main():
    files = network_policies(read_matrix())
    files["components/strimzi/topics.yaml"] = kafka_topics()
    files["components/kafka-tls/users.yaml"] = kafka_users(grants())
    files["components/kafka-tls-keda/user.yaml"] = kafka_users(lag_grants())
    files["components/prometheus/rules.yaml"] = prometheus_rules()
    check, stale = "--check" in sys.argv[1:], []
    for name, text in files.items():
        path = HERE / name
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if not check:
                path.write_text(text)
    # A file whose last edge is gone.
    for path in HERE.glob("**/network-policies.yaml"):
        if str(path.relative_to(HERE)) not in files:
            sys.exit(f"{path.relative_to(HERE)} has no edge in matrix.txt: delete it")
    for name in stale:
        print(f"{name} {'is not what its table says: run deploy/kubernetes/generate.py' if check else 'written'}")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
