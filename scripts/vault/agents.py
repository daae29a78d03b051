#!/usr/bin/env python3
"""Writes deploy/vault/agent/NAME.hcl: the files of one identity are rows of a table here, so that equal files of two are written alike.

    scripts/vault/agents.py [FOLDER]
"""

import pathlib
import sys

HEAD = """\
# The files of the {whose}. A certificate is issued when the agent starts and whenever its token ends, which is after 12 h: half of a
# certificate's life.
"""

HEAD_WITHOUT_CERTIFICATE = """\
# The files of the {whose}.
"""

TEMPLATE = """
{comment}template {{
  destination          = "{file}"
  perms                = "{perms}"
  backup               = false
  error_on_missing_key = true
  contents             = <<END
{contents}
END
}}
"""

PRIVATE, PUBLIC = "0400", "0444"


def issued(name, *fields):
    """Parts of the answer to one question, each on a line."""
    question = (
        f'secret "holdfast-pki/issue/{name}" "common_name={name}" "uri_sans=spiffe://holdfast.internal/{name}"'
        ' "ttl=24h" "private_key_format=pkcs8"'
    )
    return "{{- with %s }}%s{{ end }}" % (question, "\n".join("{{ .Data.%s }}" % field for field in fields))


def stored(path, field):
    return '{{- with secret "holdfast/data/%s" }}{{ index .Data.data "%s" }}{{ end -}}' % (path, field)


def trust(folder):
    return [(f"{folder}/{file}", PUBLIC, stored("trust", file), "") for file in ["ca.crt", "revoked"]]


def service(name, *more):
    comment = "Both in one file, so that nobody reads a certificate without its key."
    return [("/pki/identity.pem", PRIVATE, issued(name, "certificate", "private_key"), comment), *trust("/pki"), *more]


def password(name, comment, folder="/secrets"):
    return (f"{folder}/password", PUBLIC, stored(name, "password"), comment)


def participant(name):
    return service(name, password(name, "What makes the role reads the same file."))


PARTICIPANTS = ["order", "payment", "delivery"]
DATABASES = [f"{name}-{kind}" for kind in ["owner", "db"] for name in PARTICIPANTS]


AGENTS = {
    "gateway": (
        "gateway",
        service(
            "gateway",
            ("/pki/jwks.json", PUBLIC, stored("gateway", "jwks.json"), ""),
            password("redis", "Redis reads the same file, as a user of its own."),
        ),
    ),
    **{name: (f"{name} service", participant(name)) for name in PARTICIPANTS},
    "console": ("console", service("console")),
    "databases": (
        "databases: of who owns tables, and of superusers. Servers, and what migrates, read them as users of their own",
        [password(name, "", f"/secrets/{name}") for name in DATABASES],
    ),
    "operator": (
        "operator",
        [
            ("/operator/tls.crt", PRIVATE, issued("operator", "certificate"), ""),
            (
                "/operator/tls.key",
                PRIVATE,
                issued("operator", "private_key"),
                "Of the same answer: equal questions are asked once.",
            ),
            *trust("/operator"),
            *((f"/pki/{file}", PRIVATE, stored("operator", file), "") for file in ["token.key", "token.kid"]),
        ],
    ),
}


def text(whose, templates):
    has_certificate = any("holdfast-pki/issue" in contents for _, _, contents, _ in templates)
    parts = [(HEAD if has_certificate else HEAD_WITHOUT_CERTIFICATE).format(whose=whose)]
    for file, perms, contents, comment in templates:
        comment = comment and f"# {comment}\n"
        parts.append(TEMPLATE.format(comment=comment, file=file, perms=perms, contents=contents))
    return "".join(parts)


def main():
    here = pathlib.Path(__file__).parents[2] / "deploy/vault/agent"
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here
    for name, (whose, templates) in AGENTS.items():
        (folder / f"{name}.hcl").write_text(text(whose, templates))


if __name__ == "__main__":
    main()
