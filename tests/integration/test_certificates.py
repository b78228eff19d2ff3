"""The TLS contexts that aiohttp makes at its import, in an interpreter of its own."""

import json
import subprocess
import sys

SHOWN = """
import json, ssl
before = dict(vars(ssl.SSLContext))
import uploader.client
from aiohttp import connector

def certificates(context):
    return context.cert_store_stats()["x509_ca"]

shown = {"restored": dict(vars(ssl.SSLContext)) == before, "expected": certificates(ssl.create_default_context())}
for name in ("_SSL_CONTEXT_VERIFIED", "_SSL_CONTEXT_UNVERIFIED"):
    context = getattr(connector, name)
    shown[name] = [certificates(context)]
    for host in ("one.example", "two.example"):
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=host)
        shown[name].append(certificates(context))
print(json.dumps(shown))
"""


def test_aiohttps_own_contexts_read_the_certificates_at_their_first_connection() -> None:
    """Importing the client reads no certificate, and leaves a program's aiohttp as safe as ever."""
    told = subprocess.run([sys.executable, "-c", SHOWN], check=True, capture_output=True, text=True).stdout
    shown = json.loads(told)
    assert shown.pop("restored")
    read = [0, shown["expected"], shown.pop("expected")]
    assert read[1] > 0
    assert shown == {"_SSL_CONTEXT_VERIFIED": read, "_SSL_CONTEXT_UNVERIFIED": read}
