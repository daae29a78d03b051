#!/usr/bin/env python3
"""Runs OpenBao with deploy/vault and deploy/compose: a server, an agent for each identity, and services that follow their files.

  really.py BAO [FOLDER]    BAO is the program; FOLDER has holdfast-order and holdfast-gateway, if they are built

The scripts and configurations are those of the containers, with other folders. Everything listens on loopback and ends with this program. Called
by scripts/vault.sh.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
IDENTITIES = ["gateway", "order", "payment", "delivery", "operator", "console"]
# Each owns the tables of a service.
OWNERS = ["order-owner", "payment-owner", "delivery-owner"]
SUPERUSERS = ["order-db", "payment-db", "delivery-db"]
AGENTS = [*IDENTITIES, "databases"]
EVERYBODY = [*AGENTS, *OWNERS, "redis"]
SECRETS = ["gateway", "order", "payment", "delivery", *OWNERS, *SUPERUSERS, "redis", "operator", "trust"]
# What each may read; scripts/vault/check.py compares the policies with what is asked for.
READS = {
    "gateway": {"gateway", "redis", "trust"},
    "order": {"order", "trust"},
    "payment": {"payment", "trust"},
    "delivery": {"delivery", "trust"},
    "operator": {"operator", "trust"},
    "console": {"trust"},
    **{owner: {owner, "trust"} for owner in OWNERS},
    "databases": {*OWNERS, *SUPERUSERS},
    "redis": {"redis"},
}
WAIT_SECONDS_MAX = 60


def until(what, holds):
    end = time.monotonic() + WAIT_SECONDS_MAX
    while not (result := holds()):
        assert time.monotonic() < end, f"not within {WAIT_SECONDS_MAX} s: {what}"
        time.sleep(0.1)
    return result


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def openssl(*arguments, text=None):
    return subprocess.run(["openssl", *arguments], input=text, capture_output=True, text=True, check=True).stdout


class Vault:
    """A copy of what the image of deploy/compose/vault.Dockerfile has, its server, and its agents."""

    def __init__(self, program, folder, stack):
        self.program, self.folder, self.stack = program, folder, stack
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        # Our absolute folders, wherever a file names one of them.
        self.copy(ROOT / "deploy/vault", folder / "vault")
        for script in ("vault-server.sh", "vault-as-root.sh", "vault-prepare.sh"):
            self.copy(ROOT / "deploy/compose" / script, folder / "vault" / script)
        for name in ("vault/data", "token", *(f"approle/{name}" for name in AGENTS)):
            (folder / name).mkdir(parents=True)
        (folder / "bin").mkdir()
        (folder / "bin/bao").symlink_to(program)
        self.environment = {"PATH": f"{folder}/bin:{os.environ['PATH']}", "BAO_ADDR": self.address, "HOME": str(folder)}
        self.server, self.agents = None, {}
        self.configure_agents()

    def copy(self, source, target):
        if source.is_dir():
            for path in sorted(source.rglob("*")):
                if path.is_file():
                    self.copy(path, target / path.relative_to(source))
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        text = re.sub(r'(?<![\w./}])/(vault|token|approle|pki|operator|secrets)(?=[/\s":])', rf"{self.folder}/\1", source.read_text())
        text = text.replace("0.0.0.0:8200", f"127.0.0.1:{self.port}").replace('file:///vault', f"file://{self.folder}/vault")
        # As soon as a test can wait for it.
        target.write_text(text.replace('static_secret_render_interval = "15s"', 'static_secret_render_interval = "1s"'))
        shutil.copymode(source, target)

    def start(self, name, *command):
        log = open(self.folder / f"{name}.log", "a")
        process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.stack.callback(lambda: (process.kill(), process.wait()))
        return process

    def start_server(self):
        self.server = self.start("server", self.folder / "vault/vault-server.sh")

    def restart_server(self):
        self.server.kill()
        self.server.wait()
        self.start_server()

    def prepare(self):
        self.run(self.folder / "vault/vault-prepare.sh")

    def as_root(self, *command, text=None):
        return self.run(self.folder / "vault/vault-as-root.sh", *command, text=text)

    def secrets(self):
        """Version and content of everything."""
        secrets = {}
        for name in SECRETS:
            status, answer = self.ask("GET", f"holdfast/data/{name}", self.as_root("printenv", "BAO_TOKEN").strip())
            assert status == 200, f"{name}: {status} {answer}"
            # Whom to trust is written each time.
            secrets[name] = answer["data"]["data"], answer["data"]["metadata"]["version"] if name != "trust" else None
        return secrets

    def run(self, *command, text=None):
        done = subprocess.run(command, env=self.environment, input=text, capture_output=True, text=True, timeout=2 * WAIT_SECONDS_MAX)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def configure_agents(self):
        """In containers each agent has volumes of its own at the same paths; here they are folders of their own."""
        agents = self.folder / "vault/agent"
        common = (agents / "common.hcl").read_text()
        for name in AGENTS:
            own = common.replace(f"{self.folder}/approle/", f"{self.folder}/approle/{name}/")
            files = (agents / f"{name}.hcl").read_text()
            if name == "operator":
                files = files.replace(f"{self.folder}/operator/", f"{self.folder}/pki/operator/")
            elif name != "databases":
                files = files.replace(f"{self.folder}/pki/", f"{self.folder}/pki/{name}/")
                files = files.replace(f"{self.folder}/secrets/", f"{self.folder}/secrets/{name}/")
            (agents / f"{name}-here.hcl").write_text(own + files)

    def start_agent(self, name):
        if name in self.agents:
            self.agents[name].terminate()
            self.agents[name].wait()
        self.agents[name] = self.start(f"agent-{name}", "bao", "agent", f"-config={self.folder}/vault/agent/{name}-here.hcl")

    def ask(self, method, path, token=None, body=None):
        """Status and answer of the server."""
        request = urllib.request.Request(f"{self.address}/v1/{path}", json.dumps(body).encode() if body is not None else None, method=method)
        if token:
            request.add_header("X-Vault-Token", token)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"{}")

    def token_of(self, name):
        self.as_root(str(self.folder / "vault/setup.sh"), "approle", str(self.folder / "approle"), name)
        login = {key.replace("-", "_"): (self.folder / "approle" / name / key).read_text() for key in ("role-id", "secret-id")}
        status, answer = self.ask("POST", "auth/approle/login", body=login)
        assert status == 200, answer
        return answer["auth"]


# ---- what is tried --------------------------------------------------------------------------------------------------------


def each_may_only_what_is_its_own(vault):
    for name in EVERYBODY:
        login = vault.token_of(name)
        assert sorted(login["token_policies"]) == ["holdfast-agent", f"holdfast-{name}"], login["token_policies"]
        token = login["client_token"]
        for secret in SECRETS:
            status, _ = vault.ask("GET", f"holdfast/data/{secret}", token)
            assert status == (200 if secret in READS[name] else 403), f"{name} reads {secret}: {status}"
            status, _ = vault.ask("POST", f"holdfast/data/{secret}", token, {"data": {"password": "mine"}})
            assert status == 403, f"{name} writes {secret}: {status}"
        for other in (*IDENTITIES, *OWNERS):
            parameters = {"common_name": other, "uri_sans": f"spiffe://holdfast.internal/{other}"}
            status, answer = vault.ask("POST", f"holdfast-pki/issue/{other}", token, parameters)
            assert status == (200 if other == name else 403), f"{name} is {other}: {status} {answer}"
        for method, path in (
            ("LIST", "holdfast/metadata"),
            ("GET", f"holdfast/metadata/{name}"),
            ("DELETE", f"holdfast/data/{name}"),
            ("GET", f"holdfast-pki/roles/{name}"),
            ("POST", f"holdfast-pki/roles/{name}"),
            ("POST", f"holdfast-pki/sign/{name}"),
            ("POST", "holdfast-pki/root/generate/exported"),
            ("GET", "sys/policies/acl/holdfast-order"),
            ("GET", f"auth/approle/role/holdfast-{name}"),
            ("POST", f"auth/approle/role/holdfast-{name}/secret-id"),
            ("POST", "auth/token/create"),
        ):
            status, answer = vault.ask(method, path, token, {} if method == "POST" else None)
            assert status == 403, f"{name}: {method} {path}: {status} {answer}"


def no_certificate_says_anything_else(vault):
    token = vault.token_of("order")["client_token"]
    own = {"common_name": "order", "uri_sans": "spiffe://holdfast.internal/order", "ttl": "24h"}
    for change in (
        {"uri_sans": "spiffe://holdfast.internal/payment"},
        {"uri_sans": "spiffe://holdfast.internal/order,spiffe://holdfast.internal/payment"},
        {"uri_sans": "spiffe://holdfast.internal/order/x"},
        {"uri_sans": "spiffe://other.internal/order"},
        {"common_name": "payment"},
        {"common_name": "localhost"},
        {"common_name": "x.order"},
        {"alt_names": "payment"},
        {"alt_names": "*.order"},
        {"ip_sans": "127.0.0.1"},
        {"other_sans": "1.3.6.1.4.1.311.20.2.3;UTF8:payment"},
    ):
        status, answer = vault.ask("POST", "holdfast-pki/issue/order", token, {**own, **change})
        assert status == 400, f"{change}: {status} {answer}"
    for life in ("24h", "25h", "8760h"):
        _, answer = vault.ask("POST", "holdfast-pki/issue/order", token, {**own, "ttl": life})
        assert answer["data"]["expiration"] - time.time() <= 24 * 3600, f"{life}: {answer['data']['expiration']}"


def clusters_are_admitted_and_get_bundles(vault):
    vault.as_root(str(vault.folder / "vault/setup.sh"), "kubernetes")
    root = vault.as_root("printenv", "BAO_TOKEN").strip()
    for name in EVERYBODY:
        _, answer = vault.ask("GET", f"auth/kubernetes/role/holdfast-{name}", root)
        role = answer["data"]
        assert (role["bound_service_account_names"], role["bound_service_account_namespaces"]) == ([name], ["holdfast"]), role
        assert role["audience"] == "openbao" and role["token_no_default_policy"] and role["token_max_ttl"] == 12 * 3600, role
        assert sorted(role["token_policies"]) == ["holdfast-agent", f"holdfast-{name}"], role
    # What the CSI driver asks for: everything in one text.
    own = {"common_name": "order", "uri_sans": "spiffe://holdfast.internal/order", "ttl": "24h"}
    bundle_form = {"format": "pem_bundle", "private_key_format": "pkcs8"}
    token = vault.token_of("order")["client_token"]
    status, answer = vault.ask("PUT", "holdfast-pki/issue/order", token, {**own, **bundle_form})
    assert status == 200, answer
    text = answer["data"]["certificate"]
    # The first certificate is ours, and fits the key.
    assert "DNS:order, URI:spiffe://holdfast.internal/order" in openssl("x509", "-noout", "-ext", "subjectAltName", text=text), text
    assert openssl("x509", "-noout", "-pubkey", text=text) == openssl("pkey", "-pubout", text=text)


def bundle(vault, name):
    """Certificate and key of a file, which must fit together."""
    path = vault.folder / "pki" / ("operator" if name == "operator" else name)
    certificate = (path / ("tls.crt" if name == "operator" else "identity.pem")).read_text()
    key = (path / ("tls.key" if name == "operator" else "identity.pem")).read_text()
    assert "BEGIN PRIVATE KEY" in key, "not PKCS #8"
    public = openssl("x509", "-noout", "-pubkey", text=certificate)
    assert public == openssl("pkey", "-pubout", text=key), f"{name}: certificate and key do not fit"
    return certificate


def serial(certificate):
    return openssl("x509", "-noout", "-serial", text=certificate).strip().split("=")[1].lower()


def is_trusted(vault, name):
    path = vault.folder / "pki" / name
    certificate = bundle(vault, name)
    for purpose in ("sslclient", "sslserver"):
        openssl("verify", "-purpose", purpose, "-CAfile", str(path / "ca.crt"), text=certificate)
    return certificate


def agents_write_what_services_read(vault):
    for name in AGENTS:
        vault.start_agent(name)
    for name in (*OWNERS, *SUPERUSERS):
        until(f"password of {name}", lambda: (vault.folder / f"secrets/{name}/password").exists())
    for name in IDENTITIES:
        last = vault.folder / ("pki/token.kid" if name == "operator" else f"secrets/{name}/password")
        until(f"files of {name}", lambda: last.exists() and (vault.folder / "pki" / name / "ca.crt").exists())
        until(f"identity of {name}", lambda: list((vault.folder / "pki" / name).glob("*.pem")) or (vault.folder / "pki/operator/tls.key").exists())
        certificate = until(f"certificate of {name}", lambda: is_trusted(vault, name))
        text = openssl("x509", "-noout", "-text", text=certificate)
        assert re.search(rf"Alternative Name: *\n *DNS:{name}, URI:spiffe://holdfast.internal/{name}\n", text), text
        assert "TLS Web Server Authentication, TLS Web Client Authentication" in text and "prime256v1" in text and "CA:TRUE" not in text, text
        assert len(re.findall("BEGIN CERTIFICATE", certificate)) == 1
    for path, mode in (("pki/order/identity.pem", 0o400), ("pki/operator/tls.key", 0o400), ("pki/token.key", 0o400), ("secrets/order/password", 0o444)):
        found = stat.S_IMODE((vault.folder / path).stat().st_mode)
        assert found == mode, f"{path}: {found:o}"
    assert (vault.folder / "pki/order/revoked").read_text() == ""
    assert (vault.folder / "pki/gateway/jwks.json").read_text() == (vault.folder / "token/jwks.json").read_text()
    assert re.fullmatch(r"[0-9a-f]{64}", (vault.folder / "secrets/order/password").read_text())
    assert not list(vault.folder.glob("pki/**/*.bak")), "an old key was kept"


class Service:
    """A service with the files of its agent, and with nobody to talk to."""

    def __init__(self, vault, folder, name):
        self.admin = free_port()
        pki = vault.folder / "pki" / name
        nobody = "127.0.0.1:1"
        environment = {
            "SERVICE__ADMIN_LISTEN": f"127.0.0.1:{self.admin}",
            "IDENTITY__CERTIFICATE": pki / "identity.pem",
            "IDENTITY__KEY": pki / "identity.pem",
            "IDENTITY__TRUST_BUNDLE": pki / "ca.crt",
            "IDENTITY__DENY_LIST": pki / "revoked",
        }
        if name == "gateway":
            environment |= {"GATEWAY__LISTEN": f"127.0.0.1:{free_port()}", "AUTH__JWKS_FILE": pki / "jwks.json"}
            for upstream in ("ORDER", "PAYMENT", "DELIVERY"):
                environment |= {f"UPSTREAM__{upstream}__ADDRESS": nobody, f"UPSTREAM__{upstream}__NAME": upstream.lower()}
        else:
            environment |= {
                "GRPC__LISTEN": f"127.0.0.1:{free_port()}",
                "DATABASE__URL": f"postgres://{name}@{nobody}/orders",
                "DATABASE__PASSWORD_FILE": vault.folder / f"secrets/{name}/password",
                "KAFKA__BROKERS": nobody,
            }
        self.name, self.log = name, vault.folder / f"{name}.log"
        output = open(self.log, "w")
        self.process = subprocess.Popen(
            [folder / f"holdfast-{name}"],
            env={f"HOLDFAST__{key}": str(value) for key, value in environment.items()},
            stdout=output,
            stderr=output,
        )
        vault.stack.callback(lambda: (self.process.kill(), self.process.wait()))

    def metrics(self):
        assert self.process.poll() is None, f"{self.name} ended: {self.log.read_text()[-2000:]}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=5) as answer:
                return answer.read().decode()
        except urllib.error.URLError:
            return ""

    def uses(self, wanted):
        """Whether the certificate in use has this serial, which may begin with zeros here and there."""
        shown = re.findall(r'holdfast_certificate_info\{[^}]*serial="([0-9a-f]+)"[^}]*\} 1', self.metrics())
        return [text.lstrip("0") for text in shown] == [wanted.lstrip("0")]

    def has_reloaded(self, what):
        return sum(1 for line in self.log.read_text().splitlines() if '"reloaded"' in line and f'"{what}"' in line)


def authority(vault, services):
    setup = str(vault.folder / "vault/setup.sh")

    def count(name):
        return (vault.folder / "pki" / name / "ca.crt").read_text().count("BEGIN CERTIFICATE")

    def issuer(name):
        return openssl("x509", "-noout", "-issuer", text=is_trusted(vault, name))

    before = issuer("order")
    assert all(count(name) == 1 for name in IDENTITIES)
    vault.as_root(setup, "authority", "next")
    until("both are trusted", lambda: all(count(name) == 2 for name in IDENTITIES))
    assert issuer("order") == before, "the new one signs before it is trusted"
    vault.as_root(setup, "authority", "use")
    until("the new one signs for all", lambda: all(issuer(name) != before for name in IDENTITIES))
    for service in services:
        until(f"{service.name} follows", lambda: service.uses(serial(bundle(vault, service.name))))
    vault.as_root(setup, "authority", "drop")
    until("the old one is no longer trusted", lambda: all(count(name) == 1 for name in IDENTITIES))
    for name in IDENTITIES:
        is_trusted(vault, name)


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    folder = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None
    with contextlib.ExitStack() as stack:
        work = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-vault-")))
        vault = Vault(program, work, stack)

        def step(text):
            print(f"ok     {text}", flush=True)

        # In containers the service `token-key` makes them.
        (work / "token/jwks.json").write_text('{"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "try",\n'
                                              ' "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}\n')
        (work / "token/token.key").write_text("not a key\n")
        (work / "token/token.kid").write_text("try\n")
        try:
            vault.start_server()
            vault.prepare()
            step(f"{vault.run('bao', 'version').split('(')[0].strip()} is initialised and prepared")
            before = vault.secrets()
            vault.prepare()
            assert before == vault.secrets()
            step("preparing it again changes no secret")
            each_may_only_what_is_its_own(vault)
            step("each reads its own secrets and is itself, and nothing else")
            no_certificate_says_anything_else(vault)
            step("no certificate has another name, or lives for more than a day")
            clusters_are_admitted_and_get_bundles(vault)
            step("roles of a cluster bind each to its ServiceAccount; a bundle begins with its own certificate")
            agents_write_what_services_read(vault)
            step("agents write the files, with their modes; certificates are those of the identities")

            services = [Service(vault, folder, name) for name in ("order", "gateway")] if folder else []
            for service in services:
                until(f"{service.name} uses its certificate", lambda: service.uses(serial(bundle(vault, service.name))))
                step(f"{service.name} takes them")

            vault.as_root("bao", "kv", "put", "-mount=holdfast", "order", "password=-", text="another one")
            until("the new password is written", lambda: (work / "secrets/order/password").read_text() == "another one")
            for service in services[:1]:
                until("the new password is taken", lambda: service.has_reloaded("database password"))
            step(f"a new password arrives{' and is taken without a restart' if services else ''}")

            old = serial(bundle(vault, "order"))
            vault.as_root(str(work / "vault/setup.sh"), "revoke", ":".join(re.findall("..", old)))
            until("the deny list is written", lambda: (work / "pki/payment/revoked").read_text().strip().lstrip("0") == old.lstrip("0"))
            step("a serial that is revoked arrives in the deny lists")

            # A token that ends in seconds instead of 12 h. Agents that run have one of before.
            for name in IDENTITIES:
                vault.as_root("bao", "write", f"auth/approle/role/holdfast-{name}", "token_ttl=5s", "token_max_ttl=5s")
            for name in IDENTITIES:
                vault.start_agent(name)
            until("a new certificate", lambda: serial(is_trusted(vault, "order")) != old)
            second = serial(is_trusted(vault, "order"))
            until("one more when the token ends", lambda: serial(is_trusted(vault, "order")) != second)
            for service in services:
                first = serial(bundle(vault, service.name))
                until(f"{service.name} follows", lambda: (now := serial(bundle(vault, service.name))) != first and service.uses(now))
            step(f"certificates are issued anew when a token ends{', and services follow' if services else ''}")

            authority(vault, services)
            step(f"an authority is replaced in three steps{', and services follow' if services else ''}")

            vault.restart_server()
            third = serial(is_trusted(vault, "order"))
            until("agents go on after a restart of the server", lambda: serial(is_trusted(vault, "order")) != third)
            step("the server is killed, unseals itself, has everything, and agents go on")
        except BaseException:
            for log in sorted(work.glob("*.log")):
                print(f"---- {log.name}\n{log.read_text()[-3000:]}")
            raise


if __name__ == "__main__":
    main()
