"""A mail server that speaks TLS and wants a log-in: mail.py starttls|tls FOLDER CERTIFICATE KEY PASSWORD_FILE

Prints its port, then takes mail into the maildir FOLDER from whoever logs in as `plugtone` with what PASSWORD_FILE holds at
that moment. Debian's python3-aiosmtpd.
"""

import asyncio
import ssl
import sys

from aiosmtpd.handlers import Mailbox
from aiosmtpd.smtp import SMTP, AuthResult

mode, folder, certificate, key, password_file = sys.argv[1:]
tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
tls.load_cert_chain(certificate, key)


def knows(server, session, envelope, mechanism, data):
    with open(password_file, "rb") as file:
        return AuthResult(success=(data.login, data.password) == (b"plugtone", file.read()), handled=False)


def smtp():
    wants = {"authenticator": knows, "auth_required": True, "hostname": "mail.example.com"}
    if mode == "starttls":
        return SMTP(Mailbox(folder), tls_context=tls, require_starttls=True, **wants)
    # The whole connection is encrypted, of which this class knows nothing.
    return SMTP(Mailbox(folder), auth_require_tls=False, **wants)


async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(smtp, "127.0.0.1", 0, ssl=tls if mode == "tls" else None)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
