#!/usr/bin/python3
"""Makes household.json: a household after docs/FILE-FORMATS.md, written without any of Hearth's code.

All secrets are TEST-ONLY: they begin with that word in ASCII and are refused where real keys are read.
Needs pynacl (Debian: python3-nacl). Ephemeral keys of the sealed boxes are random, so every run gives other boxes.
"""
import hashlib
import json
import pathlib
import struct

import nacl.bindings as sodium

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
ROOT_SECRET = b"TEST-ONLY root 1"
DEVICES = [("desk", b"TEST-ONLY example household 0..."), ("laptop", b"TEST-ONLY example household 1..."),
           ("Küche", b"TEST-ONLY example household 2..."), ("old phone", b"TEST-ONLY example household 3...")]


def blake2b(data, size=32):
    return hashlib.blake2b(data, digest_size=size).digest()


def derive(label, secret, size=32):
    text = label.encode()
    return blake2b(struct.pack("<Q", len(text)) + text + secret, size)


def text(value):
    data = value.encode()
    return struct.pack("<H", len(data)) + data


# GF(32) with x^5 + x^2 + 1, by tables.
POWERS = [1]
for _ in range(30):
    POWERS.append((POWERS[-1] << 1) ^ (0b100101 if POWERS[-1] & 16 else 0))
LOGS = {value: index for index, value in enumerate(POWERS)}


def product(left, right):
    return POWERS[(LOGS[left] + LOGS[right]) % 31] if left and right else 0


def phrase(secret):
    bits = int.from_bytes(secret + derive("hearth recovery phrase check 1", secret, 16)[:4], "big")
    symbols = [(bits >> (155 - 5 * index)) & 31 for index in range(32)]
    groups = []
    for group in range(8):
        data = symbols[4 * group:4 * group + 4]
        for check in range(32):
            total = 0
            for index, symbol in enumerate(data + [check]):
                total ^= product(POWERS[index], symbol)
            if total == group + 1:
                break
        groups.append("".join(ALPHABET[symbol] for symbol in data + [check]))
    return "-".join(groups)


class Signer:
    def __init__(self, seed):
        self.public, self.secret = sodium.crypto_sign_seed_keypair(seed)

    def sign(self, message):
        return sodium.crypto_sign(message, self.secret)[:64]


class Device:
    def __init__(self, name, seed):
        self.name = name
        self.signer = Signer(derive("hearth device signing 1", seed))
        self.agreement = sodium.crypto_scalarmult_base(derive("hearth device agreement 1", seed))
        self.sealing = sodium.crypto_scalarmult_base(derive("hearth device sealing 1", seed))
        self.id = blake2b(self.signer.public)[:16]


class Log:
    def __init__(self, household, root):
        self.household, self.root = household, root
        unsigned = b"\x01" + household + root.public
        signature = root.sign(text("hearth household genesis 1") + unsigned)
        self.genesis = unsigned + signature
        self.origin = blake2b(self.genesis)
        self.entries, self.heads = [], {}

    def head(self, issuer):
        return self.heads.get(issuer.id if isinstance(issuer, Device) else None, (0, self.origin))

    def add(self, kind, issuer, body):
        device = issuer if isinstance(issuer, Device) else None
        sequence, previous = self.head(issuer)
        unsigned = struct.pack("<BB", 1, kind) + self.household
        unsigned += b"\x01" + device.id if device else b"\x00"
        unsigned += struct.pack("<I", sequence + 1) + previous + body
        signer = device.signer if device else self.root
        entry = unsigned + signer.sign(text("hearth membership entry 1") + unsigned)
        self.heads[device.id if device else None] = (sequence + 1, blake2b(entry))
        self.entries.append(entry)

    def point(self, issuer):
        sequence, digest = self.head(issuer)
        return struct.pack("<I", sequence) + digest

    def add_device(self, issuer, device, admin=False):
        self.add(1, issuer, device.signer.public + device.agreement + device.sealing + text(device.name)
                 + (b"\x01" if admin else b"\x00"))

    def revoke(self, issuer, device, reason):
        self.add(2, issuer, device.id + self.point(device) + bytes([reason]))

    def network_key(self, issuer, epoch, secret, members):
        body = struct.pack("<I", epoch) + derive(f"hearth network check 1 {epoch}", secret, 16)
        body += struct.pack("<H", len(members))
        for member in sorted(members, key=lambda member: member.id):
            body += member.id + sodium.crypto_box_seal(secret, member.sealing)
        self.add(3, issuer, body)

    def promote(self, issuer, device, term):
        self.add(4, issuer, device.id + struct.pack("<II", term, self.head(device)[0]))

    def demote(self, issuer, device, term):
        self.add(5, issuer, device.id + struct.pack("<I", term) + self.point(device))


def main():
    root = Signer(derive("hearth household root 1", ROOT_SECRET))
    desk, laptop, kitchen, phone = [Device(name, seed) for name, seed in DEVICES]
    log = Log(blake2b(b"TEST-ONLY example household", 16), root)
    keys = [derive("TEST-ONLY example network key", bytes([epoch])) for epoch in (1, 2)]
    log.add_device(root, desk, admin=True)
    log.network_key(desk, 1, keys[0], [desk])
    log.add_device(desk, laptop, admin=True)
    log.add_device(desk, phone)
    log.network_key(desk, 1, keys[0], [laptop, phone])
    log.add_device(laptop, kitchen)
    log.network_key(laptop, 1, keys[0], [kitchen])
    log.demote(desk, laptop, 1)
    log.promote(desk, kitchen, 1)
    log.revoke(kitchen, phone, 1)
    log.network_key(kitchen, 2, keys[1], [desk, laptop, kitchen])
    members = sorted([desk, laptop, kitchen], key=lambda device: device.id)
    result = {
        "about": "TEST-ONLY example household, made by make.py; binary values in hexadecimal",
        "phrase": phrase(ROOT_SECRET),
        "seeds": [seed.hex() for _, seed in DEVICES],
        "genesis": log.genesis.hex(),
        "entries": [entry.hex() for entry in log.entries],
        "expected": {
            "devices": [device.id.hex() for device in (desk, laptop, kitchen, phone)],
            "names": [device.name for device in (desk, laptop, kitchen, phone)],
            "members": [device.id.hex() for device in members],
            "admins": sorted(device.id.hex() for device in (desk, kitchen)),
            "revoked": [phone.id.hex()],
            "noisePSK": [derive("hearth network noise 1", key).hex() for key in keys],
            "beaconKey": [derive("hearth network beacon 1", key).hex() for key in keys],
            "householdTag": [derive("hearth network tag 1", key, 16)[:8].hex() for key in keys],
            "epochHint": [derive("hearth network hint 1", key, 16)[:8].hex() for key in keys],
        },
    }
    path = pathlib.Path(__file__).with_name("household.json")
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


main()
