"""What network policies allow, as a cluster would decide it: written apart from the generator, so that it does not repeat its mistakes."""

import itertools
from typing import NamedTuple

OURS = "holdfast"


class Pod(NamedTuple):
    name: str
    namespace: str
    labels: dict


def selects(selector, labels):
    unknown = set(selector) - {"matchLabels"}
    assert not unknown, f"selectors with {unknown} are not understood"
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def is_peer(peer, pod, namespace):
    """Whether an entry of `from` or `to` in a policy of `namespace` means the pod."""
    unknown = set(peer) - {"podSelector", "namespaceSelector"}
    assert not unknown, f"peers by {unknown} are not understood"
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": pod.namespace}):
            return False
    elif pod.namespace != namespace:
        return False
    return selects(peer.get("podSelector", {}), pod.labels)


def one_side(policies, pod, other, port, protocol, direction):
    rules_key, peers_key = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    selecting = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == pod.namespace
        and direction in policy["spec"]["policyTypes"]
        and selects(policy["spec"]["podSelector"], pod.labels)
    ]
    if not selecting:
        return True
    for rule in itertools.chain.from_iterable(policy["spec"].get(rules_key, []) for policy in selecting):
        ports = rule.get("ports")
        is_port = not ports or any(
            entry["port"] == port and entry.get("protocol", "TCP") == protocol for entry in ports
        )
        peers = rule.get(peers_key)
        if is_port and (not peers or any(is_peer(peer, other, pod.namespace) for peer in peers)):
            return True
    return False


def may_leave(policies, source, target, port, protocol):
    return one_side(policies, source, target, port, protocol, "Egress")


def may_enter(policies, source, target, port, protocol):
    return one_side(policies, target, source, port, protocol, "Ingress")
