#!/usr/bin/env python3
"""Verifies a bundle of evidence that `mlvault audit evidence` wrote. It shares no code with mlvault.

    verify_evidence.py BUNDLE [--pin PIN | --root-key HEX] [--target DIRECTORY]

Needs the package `cryptography`. With the package `blake3`, it compares the pin and BLAKE3 digests too; without it, compare the
root key, and what it prints with `b3sum`. Exit code 0: proved. 1: it proves nothing, or a file differs. What each step means is
in audit.md; what each byte means is in format.md.
"""

import argparse
import base64
import hashlib
import json
import os
import struct
import sys
import zipfile
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

try:
    import blake3
except ImportError:
    blake3 = None

PAYLOAD_TYPE = "application/vnd.in-toto+json"
ROLES = {"writer": 1, "auditor": 2, "reader": 3, "maintainer": 4}
BYTES_MAX = 256 << 20


class Nothing(Exception):
    """Why a bundle proves nothing."""


def ensure(holds, otherwise):
    if not holds:
        raise Nothing(otherwise)


def verify(key, signature, message, what):
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(signature, message)
    except InvalidSignature:
        raise Nothing(f"the signature of {what} is wrong") from None


def message(domain, parts):
    """What mlvault signs: a domain, and each part with its length (format.md, section 4)."""
    return domain.encode() + b"\0" + b"".join(struct.pack("<Q", len(part)) + part for part in parts)


def milliseconds(text):
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = int((datetime.fromisoformat(whole) - datetime(1970, 1, 1)).total_seconds())
    return seconds * 1000 + int((fraction + "000")[:3])


def verify_certificate(certificate, repository, root_key):
    """A key slot's certificate is signed with the root key (format.md, section 7)."""
    said = repository + bytes.fromhex(certificate["slot"]) + bytes([ROLES[certificate["role"]]])
    said += struct.pack("<q", milliseconds(certificate["created"]))
    said += bytes.fromhex(certificate["signer"]) + certificate["label"].encode()
    verify(root_key, bytes.fromhex(certificate["signature"]), message("mlvault v1 certificate signature", [said]), "a certificate")


def read_parts(path):
    ensure(os.path.getsize(path) <= BYTES_MAX, "the bundle is too large")
    with zipfile.ZipFile(path) as bundle:
        infos = bundle.infolist()
        ensure(len({info.filename for info in infos}) == len(infos), "a part is there twice")
        ensure(all(info.compress_type == zipfile.ZIP_STORED for info in infos), "a part is compressed")
        return {info.filename: bundle.read(info) for info in infos}


def open_statement(parts):
    envelope = json.loads(parts["statement.dsse.json"])
    payload = base64.b64decode(envelope["payload"], validate=True)
    statement = json.loads(payload)
    said = statement["predicate"]
    repository = bytes.fromhex(said["repository"])
    verify_certificate(said["signer"], repository, said["root_key"])
    ensure(envelope["payloadType"] == PAYLOAD_TYPE and len(envelope["signatures"]) == 1, "it is no statement")
    signed = f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} ".encode() + payload
    verify(said["signer"]["signer"], base64.b64decode(envelope["signatures"][0]["sig"]), signed, "the statement")
    ensure(statement["predicateType"] == "urn:mlvault:evidence:v1", "it is another statement")
    ensure(parts["statement.json"] == payload, "statement.json is another statement")
    return statement


def open_record(parts, said):
    """A signed record (format.md, section 13): kind, zeros, length of the certificate, certificate, signature, record."""
    body = parts["snapshot.record"]
    kind, length = struct.unpack_from("<4sI", body)
    certificate = json.loads(body[8 : 8 + length])
    signature, record = body[8 + length : 72 + length], body[72 + length :]
    repository = bytes.fromhex(said["repository"])
    ensure(kind == b"\1\0\0\0" and certificate["role"] in ("writer", "maintainer"), "the record is no snapshot's")
    verify_certificate(certificate, repository, said["root_key"])
    parts = [b"\1", repository, bytes.fromhex(said["snapshot"]), record]
    verify(certificate["signer"], signature, message("mlvault v1 snapshot signature", parts), "the record")
    return json.loads(record), certificate


def node(left, right):
    return hashlib.sha256(b"\1" + left + right).digest()


def root_of(leaf, index, size, proof):
    """The root that a proof leads to (RFC 9162, 2.1.3.2)."""
    ensure(0 <= index < size, "a leaf is outside of the tree")
    at, last, digest = index, size - 1, leaf
    for sibling in proof:
        ensure(last > 0, "a proof is too long")
        if at & 1 or at == last:
            digest = node(sibling, digest)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            digest = node(digest, sibling)
        at, last = at >> 1, last >> 1
    ensure(last == 0, "a proof is too short")
    return digest


def verify_file(file, subject, component):
    ensure(file["name"] == subject["name"], "a proof is of another file")
    ensure(all(part not in ("", ".", "..") for part in file["name"].split("/")), f"{file['name']!r} is no path")
    ensure(("/" + file["path"]).endswith("/" + file["name"]), "a path in the snapshot is another one")
    path = file["path"].encode()
    leaf = b"\0" + bytes.fromhex(file["salt"]) + b"\2" + struct.pack("<Q", len(path)) + path
    leaf += struct.pack("<Q", file["bytes"]) + bytes.fromhex(subject["digest"]["blake3"])
    proof = [bytes.fromhex(sibling) for sibling in file["proof"]]
    root = root_of(hashlib.sha256(leaf).digest(), file["index"], component["entries"], proof)
    ensure(root.hex() == component["commitment"]["root"], f"the snapshot's record does not cover {file['name']!r}")


def compare(statement, directory):
    there = {
        os.path.relpath(os.path.join(above, name), directory)
        for above, _, names in os.walk(directory)
        for name in names
    } - {"model.sig"}
    for subject in statement["subject"]:
        name, digest = subject["name"], subject["digest"]
        ensure(name in there, f"{name!r} is missing")
        there.remove(name)
        path = os.path.join(directory, name)
        ensure(not os.path.islink(path), f"{name!r} is a link")
        with open(path, "rb") as file:
            content = file.read()
        ensure(digest.get("sha256") in (None, hashlib.sha256(content).hexdigest()), f"{name!r} is altered")
        ensure(blake3 is None or digest["blake3"] == blake3.blake3(content).hexdigest(), f"{name!r} is altered")
        ensure(blake3 is not None or "sha256" in digest, "only BLAKE3 digests are there, and the package blake3 is not")
    ensure(not there, f"{sorted(there)} are not covered")


def pin_of(said):
    material = bytes.fromhex(said["repository"]) + bytes.fromhex(said["root_key"])
    return blake3.blake3(material, derive_key_context="mlvault v2 pin").hexdigest()[:32]


def run(arguments):
    parts = read_parts(arguments.bundle)
    statement = open_statement(parts)
    said = statement["predicate"]
    record, writer = open_record(parts, said)
    ensure(record["source"] == {"type": "deployment", "name": said["asked"]["deployment"]}, "it is another deployment")
    [component] = [found for found in record["components"] if found["name"] == said["component"]]
    ensure(len(said["files"]) == len(statement["subject"]) > 0, "there are other files than proofs")
    for file, subject in zip(said["files"], statement["subject"]):
        verify_file(file, subject, component)
    if arguments.pin:
        ensure(blake3 is not None, "without the package blake3, compare the root key: --root-key")
        ensure(arguments.pin == pin_of(said), "it is of another repository")
    if arguments.root_key:
        ensure(arguments.root_key == said["root_key"], "it is of another repository")
    if arguments.target:
        compare(statement, arguments.target)
    print(f"Proved: the record of snapshot {said['snapshot']}, signed by {writer['label']}, covers {len(said['files'])} files")
    if not (arguments.pin or arguments.root_key):
        print(f"NOT COMPARED: the root key {said['root_key']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--pin", help="the pin of the repository")
    parser.add_argument("--root-key", help="its root key")
    parser.add_argument("--target", help="a directory with the files")
    try:
        run(parser.parse_args())
    except Nothing as reason:
        sys.exit(f"It proves nothing: {reason}")
    except (KeyError, TypeError, ValueError, IndexError, struct.error, zipfile.BadZipFile, AttributeError) as error:
        sys.exit(f"It proves nothing: it is not of the form of a bundle: {error!r}")


if __name__ == "__main__":
    main()
