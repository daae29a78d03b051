#!/usr/bin/env python3
"""Checks what deploy/vault says against what the services read. Called by scripts/vault.sh, in an environment with python-hcl2 and PyYAML.

Each of the four forms in which secrets arrive (agents in containers, the injector's agents, the CSI driver, External Secrets) asks for paths.
A policy must allow what its service asks for in any of them, and nothing else. What kustomize makes of each form is its snapshot, which
scripts/kubernetes.sh keeps up to date.
"""

import pathlib
import re
import sys

import hcl2
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
VAULT = ROOT / "deploy/vault"
SERVICES = ["gateway", "order", "payment", "delivery"]
IDENTITIES = [*SERVICES, "operator", "console"]
# They do not start before they have their files.
WAITING = [*SERVICES, "console"]
# Each owns the tables of a service, and migrates them, in a cluster.
OWNERS = ["order-owner", "payment-owner", "delivery-owner"]
# `databases` has no certificate.
AGENTS = [*IDENTITIES, "databases"]
# Of OpenBao's injector.
AGENT = "openbao.org/"
# What an agent may do with its own token, in a policy that all of them have.
SHARED_POLICY = "agent"


def found(pattern, path):
    match = re.search(pattern, (ROOT / path).read_text(), re.S)
    if not match:
        sys.exit(f"{path} no longer has {pattern}")
    return match.group(1)


def hours(text):
    return int(re.fullmatch(r"(\d+)h", text).group(1))


TRUST_DOMAIN = found(r'TRUST_DOMAIN: &str = "([^"]+)"', "proto/src/identity.rs")
LIFE_HOURS_MAX = int(found(r"LEAF_LIFE_MAX: Duration = Duration::hours\((\d+)\)", "certs/src/authority.rs"))


# ---- HCL ------------------------------------------------------------------------------------------------------------------


def plain(value):
    """What the parser leaves in quotes, or as a heredoc."""
    if isinstance(value, str):
        value = value[1:-1] if value[:1] == value[-1:] == '"' else value
        heredoc = re.fullmatch(r"<<(\w+)\n(.*)\n\1", value, re.S)
        return heredoc.group(2) if heredoc else value
    if isinstance(value, list):
        return [plain(part) for part in value]
    if isinstance(value, dict):
        return {plain(key): plain(part) for key, part in value.items() if not key.startswith("__")}
    return value


def read_hcl(path):
    return plain(hcl2.loads(path.read_text()))


def policies():
    """By name: path and capability of each right."""
    return {
        path.stem: {
            (target, capability)
            for block in read_hcl(path)["path"]
            for target, rules in block.items()
            for capability in rules["capabilities"]
        }
        for path in sorted((VAULT / "policies").glob("*.hcl"))
    }


# ---- what is asked for ----------------------------------------------------------------------------------------------------

# An issued certificate: who asks, where, for which parameters.
CERTIFICATE = "holdfast-pki/issue/"


class Asked:
    """What one service asks for in one form."""

    def __init__(self):
        self.rights = set()
        # Of each certificate that is issued: its path and parameters.
        self.certificates = []
        self.role = None

    def read(self, path):
        self.rights.add((path, "read"))

    def issue(self, path, parameters):
        self.rights.add((path, "update"))
        self.certificates.append((path, parameters))

    def template(self, text):
        for path, words in re.findall(r'secret "([^"]+)"((?: "[^"]*")*)', text):
            parameters = dict(word.split("=", 1) for word in re.findall(r'"([^"]*)"', words))
            self.issue(path, parameters) if parameters else self.read(path)


def of_agents_in_containers():
    asked = {}
    for name in AGENTS:
        asked[name] = Asked()
        for template in read_hcl(VAULT / f"agent/{name}.hcl")["template"]:
            asked[name].template(template["contents"])
    return asked


def snapshot(name):
    text = (ROOT / f"deploy/kubernetes/snapshots/{name}.yaml").read_text()
    return [item for item in yaml.safe_load_all(text) if item]


def of_the_injector(objects):
    asked = {}
    for item in objects:
        said = item.get("spec", {}).get("template", {}).get("metadata", {}).get("annotations", {}) if item["kind"] in ("Deployment", "Job") else {}
        if said.get(f"{AGENT}agent-inject") == "true":
            its = asked[item["spec"]["template"]["spec"]["serviceAccountName"]] = Asked()
            its.role = said[f"{AGENT}role"]
            for key, text in said.items():
                if key.startswith(f"{AGENT}agent-inject-template-"):
                    its.template(text)
    return asked


def of_the_driver(objects):
    asked = {}
    for item in objects:
        if item["kind"] == "SecretProviderClass":
            its = asked[item["metadata"]["name"]] = Asked()
            its.role = item["spec"]["parameters"]["roleName"]
            for wanted in yaml.safe_load(item["spec"]["parameters"]["objects"]):
                if wanted.get("method", "GET") == "PUT":
                    its.issue(wanted["secretPath"], wanted["secretArgs"])
                else:
                    its.read(wanted["secretPath"])
    return asked


def of_external_secrets(objects):
    asked, account = {}, {}
    for item in objects:
        if item["kind"] == "SecretStore":
            vault = item["spec"]["provider"]["vault"]
            login = vault["auth"]["kubernetes"]
            account[item["metadata"]["name"]] = login["serviceAccountRef"]["name"], vault["path"]
            asked.setdefault(login["serviceAccountRef"]["name"], Asked()).role = login["role"]
    for item in objects:
        if item["kind"] == "VaultDynamicSecret":
            login = item["spec"]["provider"]["auth"]["kubernetes"]
            its = asked.setdefault(login["serviceAccountRef"]["name"], Asked())
            its.role = login["role"]
            its.issue(item["spec"]["path"], item["spec"]["parameters"])
        elif item["kind"] == "ExternalSecret":
            for wanted in item["spec"].get("data", []):
                name, mount = account[item["spec"]["secretStoreRef"]["name"]]
                asked[name].read(f"{mount}/data/{wanted['remoteRef']['key']}")
    return asked


def forms():
    return {
        "agents in containers": of_agents_in_containers(),
        "vault-agent": of_the_injector(snapshot("vault-agent")),
        "vault-csi": of_the_driver(snapshot("vault-csi")),
        "vault-external-secrets": of_external_secrets(snapshot("vault-external-secrets")),
    }


# ---- checks ---------------------------------------------------------------------------------------------------------------


def each_may_do_what_it_asks_for_and_nothing_else(forms, policies, _):
    for name in sorted(set(policies) - {SHARED_POLICY}):
        every = set()
        for form, asked in forms.items():
            rights = asked[name].rights if name in asked else set()
            every |= rights
            for path, capability in sorted(rights - policies[name]):
                yield f"{form}: {name} asks for {path}, and its policy does not allow {capability}"
        for path, capability in sorted(policies[name] - every):
            yield f"policies/{name}.hcl allows {capability} of {path}, which nobody asks for"
    for form, asked in forms.items():
        for name in sorted(set(asked) - set(policies)):
            yield f"{form}: {name} has no policy"


def no_policy_is_wide(_, policies, __):
    for name, rights in policies.items():
        for path, capability in sorted(rights):
            if re.search(r"[*+]", path) or capability not in ("read", "update"):
                yield f"policies/{name}.hcl allows {capability} of {path}"
            if path.startswith(CERTIFICATE) and path != f"{CERTIFICATE}{name}":
                yield f"policies/{name}.hcl allows to be somebody else: {path}"


def each_is_itself(forms, *_):
    for form, asked in forms.items():
        for name, its in asked.items():
            if its.role not in (None, f"holdfast-{name}"):
                yield f"{form}: {name} logs in as {its.role}"
            if name in WAITING and len(its.certificates) == 0:
                yield f"{form}: {name} gets no certificate"
            for path, parameters in its.certificates:
                wanted = {"common_name": name, "uri_sans": f"spiffe://{TRUST_DOMAIN}/{name}"}
                if path != f"{CERTIFICATE}{name}" or {key: parameters.get(key) for key in wanted} != wanted:
                    yield f"{form}: {name} asks at {path} for {parameters}"
                if hours(parameters["ttl"]) > LIFE_HOURS_MAX:
                    yield f"{form}: a certificate of {name} lives for {parameters['ttl']}, and {LIFE_HOURS_MAX} h is the longest"


def certificates_are_renewed_at_half_of_their_life(*_):
    setup = (VAULT / "setup.sh").read_text()
    if set(re.findall(r"\bmax_ttl=(\w+)", setup.replace("token_max_ttl", ""))) != {f"{LIFE_HOURS_MAX}h"}:
        yield f"setup.sh: roles allow another life than {LIFE_HOURS_MAX} h"
    # An agent asks anew when its token ends.
    for life in re.findall(r"token_max_ttl=(\w+)", setup):
        if hours(life) * 2 > LIFE_HOURS_MAX:
            yield f"setup.sh: agents ask for a certificate after {life}"
    for item in snapshot("vault-external-secrets"):
        if item["kind"] == "ExternalSecret" and "dataFrom" in item["spec"]:
            if hours(item["spec"]["refreshInterval"]) * 2 > LIFE_HOURS_MAX:
                yield f"ExternalSecret {item['metadata']['name']} asks for a certificate after {item['spec']['refreshInterval']}"


def setup_knows_them_all(_, policies, __):
    named = found(r'identities="([^"]+)"', "deploy/vault/setup.sh").split()
    owners = found(r'owners="([^"]+)"', "deploy/vault/setup.sh").split()
    everybody = {*named, *owners, *found(r'everybody="\$identities \$owners ([^"]+)"', "deploy/vault/setup.sh").split()}
    if set(named) != set(IDENTITIES):
        yield f"setup.sh: the identities are {named}"
    if owners != OWNERS:
        yield f"setup.sh: the owners are {owners}"
    if {*everybody, SHARED_POLICY} != set(policies):
        yield f"setup.sh makes policies of {sorted(everybody)}, and there are {sorted(policies)}"
    if found(r"trust_domain=(\S+)", "deploy/vault/setup.sh") != TRUST_DOMAIN:
        yield f"setup.sh: the trust domain is not {TRUST_DOMAIN}"


# ---- containers -----------------------------------------------------------------------------------------------------------


class Loader(yaml.SafeLoader):
    """With the tags by which one file of compose changes another one."""



def override(loader, node):
    is_list = isinstance(node, yaml.SequenceNode)
    return loader.construct_sequence(node, deep=True) if is_list else loader.construct_mapping(node, deep=True)


Loader.add_constructor("!override", override)
Loader.add_constructor("!reset", lambda _, __: "reset")


def compose():
    """The services as compose merges both files, as far as it matters here."""
    services = yaml.load((ROOT / "compose.yml").read_text(), Loader)["services"]
    for name, change in yaml.load((ROOT / "deploy/compose/vault.yml").read_text(), Loader)["services"].items():
        if change == "reset":
            services.pop(name, None)
            continue
        before = services.setdefault(name, {})
        changed = change.get("environment", {})
        environment = {} if changed == "reset" else {**before.get("environment", {}), **changed}
        services[name] = {**before, **change, "environment": environment}
    return services


def mounts(service):
    """Volume by the path where it is, the longest path first."""
    pairs = [text.split(":")[:2] for text in service.get("volumes", [])]
    return sorted(((path, volume) for volume, path in pairs), reverse=True)


def place(service, path):
    """The volume that a path is in, and where in it."""
    for folder, volume in mounts(service):
        if path.startswith(folder + "/"):
            return volume, path.removeprefix(folder + "/")
    return None


def services_find_the_files_that_agents_write(_, __, services):
    written = {}
    for name in AGENTS:
        agent = services[f"agent-{name}"]
        if f"-config=/vault/agent/{name}.hcl" not in agent["command"]:
            yield f"agent-{name} is not configured by agent/{name}.hcl"
        tested = agent["healthcheck"]["test"][1]
        for template in read_hcl(VAULT / f"agent/{name}.hcl")["template"]:
            at = place(agent, template["destination"])
            if not at:
                yield f"agent-{name}: {template['destination']} is in no volume"
            if at in written:
                yield f"agent-{name} and {written[at]} write the same file"
            written[at] = f"agent-{name}"
            if not re.search(rf"-[se] {re.escape(template['destination'])}( |$)", tested) and not template["destination"].endswith(".kid"):
                yield f"agent-{name} counts as healthy without {template['destination']}"
            if template["perms"] not in ("0400", "0444") or (re.search(r"private_key|\.key", template["contents"]) and template["perms"] != "0400"):
                yield f"agent-{name}: others may read {template['destination']}"
            if template["backup"]:
                yield f"agent-{name} keeps what {template['destination']} was before"
    for name, service in services.items():
        for key, value in service["environment"].items() if isinstance(service.get("environment"), dict) else []:
            if re.search(r"__(CERTIFICATE|KEY|TRUST_BUNDLE|DENY_LIST|JWKS_FILE|(OWNER_)?PASSWORD_FILE)$|POSTGRES_PASSWORD_FILE", key):
                writer = written.get(place(service, value))
                if not writer:
                    yield f"{name}: nobody writes {value} ({key})"
                elif writer not in service["depends_on"] and (name in WAITING or name.endswith("-migrations")):
                    yield f"{name} does not wait for {writer}"
        for needed in service.get("depends_on", {}):
            if needed not in services:
                yield f"{name} waits for {needed}, which is not there"


CHECKS = [
    each_may_do_what_it_asks_for_and_nothing_else,
    no_policy_is_wide,
    each_is_itself,
    certificates_are_renewed_at_half_of_their_life,
    setup_knows_them_all,
    services_find_the_files_that_agents_write,
]


# ---- planted mistakes -----------------------------------------------------------------------------------------------------

# Each is one mistake, and the check that must see it: a check that sees nothing proves nothing.
PLANTED = [
    (each_may_do_what_it_asks_for_and_nothing_else, lambda f, p, _: p["order"].discard(("holdfast/data/order", "read"))),
    (each_may_do_what_it_asks_for_and_nothing_else, lambda f, p, _: p["order"].add(("holdfast/data/payment", "read"))),
    (each_may_do_what_it_asks_for_and_nothing_else, lambda f, p, _: p.pop("redis")),
    (no_policy_is_wide, lambda f, p, _: p["order"].add(("holdfast/data/*", "read"))),
    (no_policy_is_wide, lambda f, p, _: p["order"].add(("holdfast/data/order", "delete"))),
    (no_policy_is_wide, lambda f, p, _: p["order"].add(("holdfast-pki/issue/payment", "update"))),
    (each_is_itself, lambda f, p, _: setattr(f["vault-csi"]["order"], "role", "holdfast-payment")),
    (each_is_itself, lambda f, p, _: f["vault-agent"]["order"].certificates.clear()),
    (each_is_itself, lambda f, p, _: f["vault-external-secrets"]["order"].certificates[0][1].update(uri_sans="spiffe://x/y")),
    (each_is_itself, lambda f, p, _: f["agents in containers"]["order"].certificates[0][1].update(ttl="48h")),
    (setup_knows_them_all, lambda f, p, _: p.update(stranger=set())),
    (services_find_the_files_that_agents_write, lambda f, p, s: s["agent-order"]["volumes"].pop()),
    (services_find_the_files_that_agents_write, lambda f, p, s: s["agent-order"]["healthcheck"].update(test=["CMD-SHELL", "true"])),
    (services_find_the_files_that_agents_write, lambda f, p, s: s["order"]["depends_on"].pop("agent-order")),
    (services_find_the_files_that_agents_write, lambda f, p, s: s["order"]["environment"].update(X__PASSWORD_FILE="/secrets/pass")),
    (each_may_do_what_it_asks_for_and_nothing_else, lambda f, p, _: p["order"].add(("holdfast/data/order-owner", "read"))),
    (services_find_the_files_that_agents_write, lambda f, p, s: s["order-migrations"]["depends_on"].pop("agent-databases")),
    (services_find_the_files_that_agents_write, lambda f, p, s: s["order-db"]["depends_on"].update(secrets={})),
]


def planted_mistakes_are_found():
    for number, (check, plant) in enumerate(PLANTED, 1):
        read = forms(), policies(), compose()
        plant(*read)
        if not list(check(*read)):
            yield f"{check.__name__} did not see mistake {number} of PLANTED"


def report(name, problems):
    problems = list(problems)
    print(f"{'FAILED' if problems else 'ok':7}{name.replace('_', ' ')}")
    for problem in problems:
        print(f"       {problem}")
    return len(problems)


def main():
    for path in VAULT.glob("**/*.hcl"):
        try:
            read_hcl(path)
        except Exception as error:  # The parser has no error of its own that covers all of them.
            sys.exit(f"{path.relative_to(ROOT)}: {error}")
    failed = sum(report(check.__name__, check(forms(), policies(), compose())) for check in CHECKS)
    failed += report(f"{len(PLANTED)} planted mistakes are found", planted_mistakes_are_found())
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
