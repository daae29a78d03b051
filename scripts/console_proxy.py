#!/usr/bin/env python3
"""Signs people in to the console by oauth2-proxy and dex, both really run, as a browser would; fails unless each claim holds.

    scripts/console_proxy.py OAUTH2_PROXY DEX

These are the programs (tried with oauth2-proxy 7.15.6). A stack of its own is started and deleted; everything listens on loopback and ends with
this program. HOLDFAST and PSQL are as for scripts/console_bench.py; `openssl` makes the proxy's certificate.
"""

import contextlib
import html.parser
import http.cookiejar
import itertools
import os
import pathlib
import re
import secrets
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

from console_bench import Stack, park_one_each, until

PORT_OFFSET, PROXY_PORT, DEX_PORT = 9300, 19443, 19556
ORIGIN = f"https://localhost:{PROXY_PORT}"
ISSUER = f"http://127.0.0.1:{DEX_PORT}/dex"
# Of both people; the hash is bcrypt of `password`, from dex's own example.
PASSWORD, PASSWORD_HASH = "password", "$2a$10$2b2cU8CPhOTaGrs1HRQuAueS7JTT5ZHsHSzYiFPm1leZck7Mc8T4W"
WRITER, READER = "alice@example.org", "bob@example.org"

DEX_CONFIG = f"""
issuer: {ISSUER}
storage: {{type: memory}}
web: {{http: "127.0.0.1:{DEX_PORT}"}}
oauth2: {{skipApprovalScreen: true}}
enablePasswordDB: true
staticClients:
  - {{id: console, name: Console, secret: client-secret, redirectURIs: ["{ORIGIN}/oauth2/callback"]}}
staticPasswords:
  - {{email: {WRITER}, username: alice, userID: "1", emailVerified: true, hash: "{PASSWORD_HASH}", groups: [everybody, operators]}}
  - {{email: {READER}, username: bob, userID: "2", emailVerified: true, hash: "{PASSWORD_HASH}", groups: [everybody]}}
"""

# As docs/console.md says.
PROXY_CONFIG = """
server:
  secureBindAddress: 127.0.0.1:{port}
  tls:
    cert: {{fromFile: {folder}/tls.crt}}
    key: {{fromFile: {folder}/tls.key}}
upstreamConfig:
  upstreams:
    - {{id: console, path: /, uri: "http://127.0.0.1:{console}", passHostHeader: true, flushInterval: 100ms}}
injectRequestHeaders:
  - name: X-Console-Secret
    values: [{{secretSource: {{fromFile: {folder}/console-secret}}}}]
  - name: X-Forwarded-Email
    values: [{{claimSource: {{claim: email}}}}]
  - name: X-Forwarded-Groups
    values: [{{claimSource: {{claim: groups}}}}]
providers:
  - id: dex
    provider: oidc
    clientID: console
    clientSecret: client-secret
    scope: openid email profile groups
    oidcConfig:
      issuerURL: {issuer}
      emailClaim: email
      groupsClaim: groups
      userIDClaim: email
      audienceClaims: [aud]
"""


class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


class Fields(html.parser.HTMLParser):
    """The fields of a page's form #confirm, and where any form goes to."""

    def __init__(self, text):
        super().__init__()
        self.fields, self.actions = {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "form":
            self.actions.append(attributes.get("action", ""))
        if tag == "input" and attributes.get("type") == "hidden":
            self.fields[attributes["name"]] = attributes["value"]


class Person:
    """A browser with cookies, and without any at first."""

    def __init__(self, trust):
        context = ssl.create_default_context(cafile=trust)
        handlers = [urllib.request.HTTPSHandler(context=context), urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())]
        self.follows = urllib.request.build_opener(urllib.request.ProxyHandler({}), *handlers)
        self.stays = urllib.request.build_opener(urllib.request.ProxyHandler({}), *handlers, Stay)

    def ask(self, url, fields=None, headers=None, opener=None):
        data = None if fields is None else urllib.parse.urlencode(fields).encode()
        request = urllib.request.Request(url, data, headers or {})
        try:
            with (opener or self.follows).open(request, timeout=20) as answer:
                return answer.status, answer.geturl(), answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers.get("Location", ""), error.read().decode(errors="replace")

    def sign_in(self, email, page):
        status, url, text = self.ask(f"{ORIGIN}{page}")
        assert status == 200 and url.startswith(ISSUER), (status, url, text)
        action = urllib.parse.urljoin(url, Fields(text).actions[0])
        return self.ask(action, {"login": email, "password": PASSWORD})


def answers(url, context=None):
    try:
        urllib.request.urlopen(url, timeout=5, context=context).read()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def start(stack, folder, name, command, environment=None):
    log = open(folder / f"{name}.log", "w")
    process = subprocess.Popen(command, env={**os.environ, **(environment or {})}, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    stack.callback(lambda: (process.kill(), process.wait()))


def who(text):
    return re.sub(r"<[^>]*>", "", re.search(r'<p class="who">(.*?)</p>', text, re.S)[1])


def claims(stack, folder, console, secret):
    trust = str(folder / "tls.crt")
    alice, bob, nobody = Person(trust), Person(trust), Person(trust)

    status, where, _ = nobody.ask(f"{ORIGIN}/components", opener=nobody.stays)
    assert status == 302 and where.startswith(f"{ISSUER}/auth?"), (status, where)
    yield "whoever is not signed in is sent to the provider"

    status, url, text = alice.sign_in(WRITER, "/groups")
    assert (status, url) == (200, f"{ORIGIN}/groups"), (status, url, text)
    assert who(text) == f"{WRITER} · may change things", who(text)
    yield "after signing in the page is there, with the name, and a group of writers, of two, may change things"

    status, url, text = bob.sign_in(READER, "/groups")
    assert status == 200 and who(text) == f"{READER} · read-only", (status, who(text))
    yield "another group may look"

    letter = stack.sql("payment", "select id from dead_letters")
    page = f"{ORIGIN}/desk?action=discard&service=payment&id={letter}"
    form = {**Fields(bob.ask(page)[2]).fields, "reason": "it is of no use"}
    status, _, text = bob.ask(f"{ORIGIN}/desk", form, {"Origin": ORIGIN})
    assert status == 403 and "you may only look" in text, (status, text)
    form = {**Fields(alice.ask(page)[2]).fields, "reason": "it is of no use"}
    status, _, text = alice.ask(f"{ORIGIN}/desk", form, {"Origin": "https://elsewhere.example.org"})
    assert status == 403 and "another page" in text, (status, text)
    audit = "select actor || ' | ' || detail from dead_letter_audit where action = 'discard'"
    assert stack.sql("payment", audit) == ""
    status, url, text = alice.ask(f"{ORIGIN}/desk", form, {"Origin": ORIGIN})
    assert status == 200 and url.startswith(f"{ORIGIN}/jobs/"), (status, url, text)
    until("the audit has it", lambda: stack.sql("payment", audit))
    said = stack.sql("payment", audit)
    assert said.startswith(f"console ({WRITER}) | ") and "it is of no use" in said, said
    yield f"what is done is in the audit under that name: {said}"

    forged = {"X-Forwarded-Email": "mallory@example.org", "X-Forwarded-Groups": "operators", "X-Console-Secret": "0" * 32}
    _, _, text = bob.ask(f"{ORIGIN}/groups", headers=forged)
    assert who(text) == f"{READER} · read-only", who(text)
    status, where, _ = nobody.ask(f"{ORIGIN}/groups", headers=forged, opener=nobody.stays)
    assert status == 302 and where.startswith(ISSUER), (status, where)
    yield "headers that a client sends are dropped by the proxy"

    past = f"http://127.0.0.1:{console}/groups"
    host = {"Host": f"localhost:{PROXY_PORT}"}
    for headers in (forged | host, {name: value for name, value in forged.items() if name != "X-Console-Secret"} | host):
        status, _, text = nobody.ask(past, headers=headers, opener=nobody.stays)
        assert status == 401 and "did not show its secret" in text, (status, text)
    # Under the console's own name no header counts, not even with the secret.
    status, _, text = nobody.ask(past, headers=forged | {"X-Console-Secret": secret}, opener=nobody.stays)
    assert status == 401 and "prints an address" in text, (status, text)
    status, _, _ = nobody.ask(past, headers=forged | {"Host": "elsewhere.example.org"}, opener=nobody.stays)
    assert status == 421, status
    # With the secret it would be believed: that is what keeps the others out.
    status, _, text = nobody.ask(past, headers=forged | host | {"X-Console-Secret": secret}, opener=nobody.stays)
    assert status == 200 and who(text).startswith("mallory@example.org"), status
    yield "requests past the proxy are refused, whatever they say, without the secret"

    request = urllib.request.Request(f"{ORIGIN}/live?page=groups")
    began = time.monotonic()
    with alice.follows.open(request, timeout=20) as stream:
        events = list(itertools.islice((line for line in stream if line.startswith(b"data")), 3))
    assert len(events) == 3, events
    yield f"events arrive through the proxy: three in {time.monotonic() - began:.1f} s"

    status, where, _ = alice.ask(f"{ORIGIN}/oauth2/sign_out", opener=alice.stays)
    assert status == 302, status
    status, where, _ = alice.ask(f"{ORIGIN}/groups", opener=alice.stays)
    assert status == 302 and where.startswith(ISSUER), (status, where)
    yield "whoever has signed out is sent to the provider again"


def main():
    proxy, dex = sys.argv[1:]
    secret = secrets.token_hex(32)
    settings = {
        "ORIGIN": ORIGIN,
        "SECRET_HEADER": "x-console-secret",
        "SECRET": secret,
        "USER_HEADER": "x-forwarded-email",
        "GROUPS_HEADER": "x-forwarded-groups",
        "WRITERS": "operators",
    }
    os.environ.update({f"HOLDFAST__CONSOLE__PROXY__{name}": value for name, value in settings.items()})
    with contextlib.ExitStack() as at_end:
        folder = pathlib.Path(at_end.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-console-proxy-")))
        # Components may run as another user; what is secret is not for them.
        os.chmod(folder, 0o711)
        stack = Stack(folder, PORT_OFFSET)
        at_end.callback(stack.run, "down", "--delete-data", "--yes")
        park_one_each(stack)
        console = stack.components()["console"]["port"]
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
            + ["-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "tls.key", "-out", folder / "tls.crt"],
            check=True,
            capture_output=True,
        )
        (folder / "console-secret").write_text(secret)
        (folder / "dex.yaml").write_text(DEX_CONFIG)
        (folder / "proxy.yaml").write_text(PROXY_CONFIG.format(port=PROXY_PORT, folder=folder, console=console, issuer=ISSUER))
        start(at_end, folder, "dex", [dex, "serve", folder / "dex.yaml"])
        until("dex answers", lambda: answers(f"{ISSUER}/.well-known/openid-configuration"))
        environment = {"OAUTH2_PROXY_COOKIE_SECRET": secrets.token_hex(16), "OAUTH2_PROXY_EMAIL_DOMAINS": "*", "OAUTH2_PROXY_SKIP_PROVIDER_BUTTON": "true"}
        start(at_end, folder, "proxy", [proxy, "--alpha-config", folder / "proxy.yaml"], environment)
        context = ssl.create_default_context(cafile=folder / "tls.crt")
        try:
            until("oauth2-proxy answers", lambda: answers(f"{ORIGIN}/ping", context))
            for claim in claims(stack, folder, console, secret):
                print(f"ok     {claim}", flush=True)
        except BaseException:
            for log in ("dex.log", "proxy.log"):
                print((folder / log).read_text()[-3000:], file=sys.stderr)
            raise


if __name__ == "__main__":
    main()
