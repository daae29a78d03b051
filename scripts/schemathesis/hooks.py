"""Makes each idempotency key a new one: with the key of an earlier request, a valid request is refused for being another one."""

import re
import uuid

import schemathesis

KEY = "Idempotency-Key"
VALID = re.compile(r"[!-~]([ -~]*[!-~])?")
LENGTH_MAX = 255


@schemathesis.hook
def before_call(context, case, **kwargs):
    key = (case.headers or {}).get(KEY)
    # What is no key stays as it is: it must be refused.
    if isinstance(key, str) and len(key) <= LENGTH_MAX and VALID.fullmatch(key):
        new = uuid.uuid4().hex
        case.headers[KEY] = new + key[len(new):]
