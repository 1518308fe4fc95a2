#!/usr/bin/env python3
"""A soft phone in a browser, as far as SIP over WebSocket goes (RFC 7118), on Debian's python3-websockets.

    browser.py URL AUTHORITY USER LOGIN PASSWORD

Registers over a WebSocket with a Via and a Contact that name no real host, says "registered", answers one call, says who
calls, hangs up when it reads "bye" or when the other side does, says "over", and goes away without taking leave.
"""
import asyncio, hashlib, re, secrets, ssl, sys
import websockets

url, authority, user, login, password = sys.argv[1:6]
host = secrets.token_hex(5) + ".invalid"
wire = "WSS" if url.startswith("wss") else "WS"
SDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 40404 RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\n"


def header(message, name):
    found = re.search(rf"^{name}\s*:\s*(.*?)\r$", message, re.M | re.I)
    return found.group(1) if found else None


def branch():
    return "z9hG4bK" + secrets.token_hex(8)


def md5(text):
    return hashlib.md5(text.encode()).hexdigest()


def register(cseq, call_id, credentials=""):
    return (
        f"REGISTER sip:pbx SIP/2.0\r\nVia: SIP/2.0/{wire} {host};branch={branch()}\r\nMax-Forwards: 70\r\n"
        f"From: <sip:{user}@pbx>;tag=b1\r\nTo: <sip:{user}@pbx>\r\nCall-ID: {call_id}\r\nCSeq: {cseq} REGISTER\r\n"
        f"Contact: <sip:{user}@{host};transport=ws>;reg-id=1;+sip.instance=\"<urn:uuid:{secrets.token_hex(8)}>\"\r\n"
        f"Supported: path, outbound\r\nExpires: 600\r\n{credentials}Content-Length: 0\r\n\r\n"
    )


def authorization(challenge):
    value = lambda name: re.search(rf'\b{name}="?([^",]+)', challenge).group(1)
    realm, nonce = value("realm"), value("nonce")
    cnonce = secrets.token_hex(4)
    secret = md5(f"{login}:{realm}:{password}")
    answer = md5(f"{secret}:{nonce}:00000001:{cnonce}:auth:" + md5("REGISTER:sip:pbx"))
    return (
        f'Authorization: Digest username="{login}", realm="{realm}", nonce="{nonce}", uri="sip:pbx", response="{answer}", '
        f'algorithm=MD5, qop=auth, nc=00000001, cnonce="{cnonce}"\r\n'
    )


def reply(request, status, body=""):
    copied = "".join(f"{n}: {v}\r\n" for n, v in re.findall(r"^(Via|From|Call-ID|CSeq|Record-Route)\s*:\s*(.*?)\r$", request, re.M | re.I))
    to = header(request, "To")
    to += "" if "tag=" in to else ";tag=b2"
    kind = f"Contact: <sip:{user}@{host};transport=ws>\r\n" + ("Content-Type: application/sdp\r\n" if body else "")
    return f"SIP/2.0 {status}\r\n{copied}To: {to}\r\n{kind}Content-Length: {len(body)}\r\n\r\n{body}"


async def main():
    context = ssl.create_default_context(cafile=authority) if wire == "WSS" else None
    socket = await websockets.connect(url, subprotocols=["sip"], origin="https://phone.example.com", ssl=context, compression=None)
    assert socket.subprotocol == "sip", socket.subprotocol
    call_id = secrets.token_hex(8)
    await socket.send(register(1, call_id))
    challenge = await socket.recv()
    assert isinstance(challenge, str) and challenge.startswith("SIP/2.0 401"), challenge
    await socket.send(register(2, call_id, authorization(header(challenge, "WWW-Authenticate"))))
    answer = await socket.recv()
    assert answer.startswith("SIP/2.0 200"), answer
    assert f"{host};" in header(answer, "Via") and "received=127.0.0.1" in header(answer, "Via"), answer
    print("registered", "outbound" if "outbound" in (header(answer, "Require") or "") else "", flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    invite = None
    told = asyncio.ensure_future(lines.readline())
    while True:
        heard = asyncio.ensure_future(socket.recv())
        await asyncio.wait({heard, told}, return_when=asyncio.FIRST_COMPLETED)
        if not heard.done():
            heard.cancel()
            to, caller = header(invite, "From"), header(invite, "To") + ";tag=b2"
            target = re.search("<(.*?)>", header(invite, "Contact")).group(1)
            await socket.send(
                f"BYE {target} SIP/2.0\r\nVia: SIP/2.0/{wire} {host};branch={branch()}\r\nMax-Forwards: 70\r\nFrom: {caller}\r\n"
                f"To: {to}\r\nCall-ID: {header(invite, 'Call-ID')}\r\nCSeq: 1 BYE\r\nContent-Length: 0\r\n\r\n"
            )
            told = asyncio.get_running_loop().create_future()
            continue
        message = heard.result()
        if message.startswith("INVITE"):
            assert message.split()[1] == f"sip:{user}@{host};transport=ws", message
            assert f"SIP/2.0/{wire}" in header(message, "Via") and "transport=ws" in header(message, "Contact"), message
            invite = message
            print("rings", header(message, "From"), flush=True)
            await socket.send(reply(message, "180 Ringing"))
            await socket.send(reply(message, "200 OK", SDP))
        elif message.startswith("ACK"):
            print("talks", flush=True)
        elif message.startswith("BYE"):
            await socket.send(reply(message, "200 OK"))
            break
        elif message.startswith("SIP/2.0 200"):
            break
    print("over", flush=True)
    await lines.read()
    socket.transport.abort()


asyncio.run(main())
