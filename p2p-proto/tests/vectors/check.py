#!/usr/bin/env python3
"""Makes the golden vectors a second time, from docs/protocol.md alone: no Rust, no Noise library, no CBOR library.

Needs Python's `cryptography`. Says how many vectors it made, or stops at the first that differs.
"""

import base64
import hashlib
import hmac
import json
import pathlib
import re
import struct

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

CLUSTER = b"alice/friends"
MACHINES = {"alice": 0x11, "bob": 0x22, "carol": 0x33}
PROCESSES = {"bob": 0x42, "carol": 0x43}


def book(name):
    path = pathlib.Path(__file__).with_name(name + ".json")
    return json.loads(path.read_text())["vectors"]


def cbor(value):
    def head(major, number):
        if number < 24:
            return bytes([major << 5 | number])
        for size, code in enumerate(">B >H >I >Q".split()):
            if number < 1 << (8 << size):
                return bytes([major << 5 | 24 + size]) + struct.pack(code, number)

    match value:
        case bool():
            return b"\xf5" if value else b"\xf4"
        case int():
            return head(0, value) if value >= 0 else head(1, -1 - value)
        case bytes():
            return head(2, len(value)) + value
        case str():
            return head(3, len(value.encode())) + value.encode()
        case list():
            return head(4, len(value)) + b"".join(map(cbor, value))
        case dict():
            return head(5, len(value)) + b"".join(cbor(key) + cbor(item) for key, item in value.items())


def shown(text):
    """What diagnostic notation says. JSON is nearly it; byte strings are not."""
    marked = re.sub(r"h'([0-9a-f]*)'", r'"\\u0000\1"', text)

    def bytes_again(value):
        if isinstance(value, str) and value.startswith("\0"):
            return bytes.fromhex(value[1:])
        if isinstance(value, list):
            return [bytes_again(item) for item in value]
        if isinstance(value, dict):
            return {key: bytes_again(item) for key, item in value.items()}
        return value

    return bytes_again(json.loads(marked))


def same(name, made, kept):
    if made != kept:
        raise SystemExit(f"{name}:\n  made {made}\n  kept {kept}")


def identity(user):
    return Ed25519PrivateKey.from_private_bytes(bytes([MACHINES[user]] * 32))


def statements():
    for vector in book("trust"):
        name = vector["name"]
        if "tag" not in vector:
            continue
        owner = re.search(r"of (\w+)'s process", name)
        body = cbor(shown(vector["body_shown"]))
        preimage = b"p2p1 " + vector["tag"].encode() + b"\0" + CLUSTER + b"\0" + body
        signature = identity(owner.group(1) if owner else "alice").sign(preimage)
        same(name, body.hex(), vector["body"])
        same(name, preimage.hex(), vector["preimage"])
        same(name, signature.hex(), vector["signature"])
        same(name, cbor({"b": body, "s": signature}).hex(), vector["cbor"])
        yield name


def lines():
    for vector in book("board"):
        payload = base64.urlsafe_b64encode(cbor(shown(vector["shown"]))).decode().rstrip("=")
        same(vector["name"], f"~p2p1 {payload}\n", vector["line"])
        yield vector["name"]


def items():
    for vector in book("items"):
        if "record" in vector:
            record = b"".join(cbor(shown(item)) for item in vector["shown"])
            same(vector["name"], record.hex(), vector["record"])
        else:
            same(vector["name"], cbor(shown(vector["shown"])).hex(), vector["cbor"])
        yield vector["name"]


class Noise:
    """Noise's symmetric state, with BLAKE2s and ChaChaPoly."""

    def __init__(self, pattern, prologue):
        self.hash = hashlib.blake2s(pattern).digest() if len(pattern) > 32 else pattern.ljust(32, b"\0")
        self.chaining = self.hash
        self.mix_hash(prologue)

    def mix_hash(self, data):
        self.hash = hashlib.blake2s(self.hash + data).digest()

    def mix_key(self, data):
        self.chaining, self.key = self.derive(data)
        self.nonce = 0

    def derive(self, data):
        def hash_of(key, text):
            return hmac.new(key, text, hashlib.blake2s).digest()

        secret = hash_of(self.chaining, data)
        first = hash_of(secret, b"\1")
        return first, hash_of(secret, first + b"\2")

    def seal(self, text):
        sealed = encrypt(self.key, self.nonce, text, self.hash)
        self.nonce += 1
        self.mix_hash(sealed)
        return sealed


def encrypt(key, nonce, text, associated):
    return ChaCha20Poly1305(key).encrypt(bytes(4) + struct.pack("<Q", nonce), text, associated)


def public(secret):
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def shared(secret, other):
    return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(other))


def handshake():
    vectors = {vector["name"]: vector for vector in book("handshake")}
    first, second = vectors["message 1"], vectors["message 2"]
    client, worker = (bytes([PROCESSES[user]] * 32) for user in ("carol", "bob"))
    machines = [identity(user).public_key().public_bytes_raw() for user in ("carol", "bob")]
    prologue = b"p2p1 link\0" + CLUSTER + b"\0client\0\0\1"
    prologue += machines[0] + public(client) + machines[1] + public(worker)
    same("prologue", prologue.hex(), first["prologue"])

    noise = Noise(b"Noise_IK_25519_ChaChaPoly_BLAKE2s", prologue)
    noise.mix_hash(public(worker))
    ours = bytes.fromhex(first["ephemeral_secret"])
    message = public(ours)
    noise.mix_hash(message)
    noise.mix_key(shared(ours, public(worker)))
    message += noise.seal(public(client))
    noise.mix_key(shared(client, public(worker)))
    message += noise.seal(cbor(shown(first["payload_shown"])))
    same("message 1", message.hex(), first["message"])
    yield "message 1"

    theirs = bytes.fromhex(second["ephemeral_secret"])
    message = public(theirs)
    noise.mix_hash(message)
    noise.mix_key(shared(theirs, public(ours)))
    noise.mix_key(shared(theirs, public(client)))
    message += noise.seal(cbor(shown(second["payload_shown"])))
    same("message 2", message.hex(), second["message"])
    same("channel binding", noise.hash.hex(), vectors["channel binding"]["hash"])
    yield "message 2"
    yield "channel binding"

    keys = dict(zip(("client to worker", "worker to client"), noise.derive(b"")))
    for name, vector in vectors.items():
        if name.startswith("record"):
            key = keys[name.split(", ")[1]]
            sealed = encrypt(key, vector["nonce"], bytes.fromhex(vector["record"]), b"")
            same(name, (struct.pack(">H", len(sealed)) + sealed).hex(), vector["frame"])
            yield name


def main():
    made = [name for part in (statements, lines, items, handshake) for name in part()]
    print(f"{len(made)} vectors made again, byte for byte")


if __name__ == "__main__":
    main()
