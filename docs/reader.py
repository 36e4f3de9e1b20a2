"""Reads a mlvault repository in a local directory: docs/format.md in executable form, with no code of mlvault.

    pip install blake3 cryptography zstandard argon2-cffi pyhpke
    python3 docs/reader.py REPOSITORY                        lists the snapshots
    python3 docs/reader.py REPOSITORY SNAPSHOT               lists the entries of one
    python3 docs/reader.py REPOSITORY SNAPSHOT PATH >FILE    writes the content of one file
    python3 docs/reader.py REPOSITORY log                    lists the entries of the log, and its checkpoint

The key comes from MLVAULT_KEY_FILE or MLVAULT_PASSPHRASE. Verified are names, tags, signatures, chunk ids and the
digest of the file. This is for learning and for the worst day, not for speed: it holds the whole index in memory.
"""

import base64, hashlib, json, os, struct, sys
from datetime import datetime
from pathlib import Path

import zstandard
from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey

FORMAT, DATA, META = 2, 1, 2
CONFIG, SNAPSHOT, SEGMENT, LOG_ENTRY = 1, 2, 5, 14
ROLES = {"writer": 1, "auditor": 2, "reader": 3, "maintainer": 4}
INDIRECT, HARD_LINK, IN_META = 4, 8, 16
SUITE = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES256_GCM)


def need(condition, message):
    if not condition:
        raise SystemExit(f"reader: {message}")


def derive(context, secret):
    return blake3(secret, derive_key_context=context).digest()


def open_sealed(key, sealed, associated):
    return AESGCM(key).decrypt(bytes(12), sealed, associated)  # each key has one message


def decode(codec, stored, plain_len):
    need(codec in (0, 1), f"unknown codec {codec}")
    plain = stored if codec == 0 else zstandard.ZstdDecompressor().decompress(stored, max_output_size=plain_len)
    need(len(plain) == plain_len, "a length is not the declared one")
    return plain


def verify(signer, signature, domain, *parts):
    message = domain + b"\0" + b"".join(struct.pack("<Q", len(part)) + part for part in parts)
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(signer)).verify(signature, message)


def tree_hash(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def appended(peaks, size, leaf):
    """Returns the roots of the full subtrees of a tree that had these and so many leaves, and gets one more."""
    hash, peaks = tree_hash(b"\0", leaf), list(peaks)
    while size & 1:
        hash, size = tree_hash(b"\1", peaks.pop(), hash), size >> 1
    return peaks + [hash]


def root_of(peaks):
    root = peaks[-1] if peaks else tree_hash()
    for peak in reversed(peaks[:-1]):
        root = tree_hash(b"\1", peak, root)
    return root


class Cursor:
    def __init__(self, data, at=0):
        self.data, self.at = data, at

    def bytes(self, length):
        need(self.at + length <= len(self.data), "something ends early")
        self.at += length
        return self.data[self.at - length : self.at]

    def take(self, layout):  # little-endian, packed
        values = struct.unpack("<" + layout, self.bytes(struct.calcsize("<" + layout)))
        return values[0] if len(values) == 1 else values

    def short(self):
        return self.bytes(self.take("H"))


class Repository:
    def __init__(self, root):
        self.root = Path(root)
        config = self.read("config/1")
        self.id = config[16:32]
        kind, secret, pin = self.credential()
        self.unlock(kind, secret, pin)
        body = self.open_object(CONFIG, "config/1", config)
        verify(self.root_key.hex(), body[:64], b"mlvault v1 config signature", self.id, body[64:])
        self.config = json.loads(body[64:])
        self.index, self.loaded, self.session_keys = {}, set(), {}

    def read(self, key, offset=0, length=-1):
        with open(self.root / key, "rb") as file:
            file.seek(offset)
            return file.read(length)

    def list(self, prefix):
        return sorted((self.root / prefix).glob("*"))

    def credential(self):
        if "MLVAULT_KEY_FILE" not in os.environ:
            return 1, os.environ["MLVAULT_PASSPHRASE"].encode(), None
        text = Path(os.environ["MLVAULT_KEY_FILE"]).read_text().upper().replace("-", " ")
        kind, digits = "".join(text.split())[:5], "".join(text.split())[5:]
        raw = base64.b32decode(digits + "=" * (-len(digits) % 8))
        need(len(raw) == {"MLVK1": 36, "MLVK2": 60}.get(kind), "this is no key, or a digit of it is missing")
        need(blake3(raw[:-4]).digest()[:4] == raw[-4:], "a digit of the key is wrong")
        return 2, raw[:32], raw[40:56] or None

    def unlock(self, kind, secret, pin):
        for path in self.list("keys"):
            slot = path.read_bytes()
            need(slot[:8] == b"MLVKEY01" and slot[8] == FORMAT and slot[16:32] == self.id, f"{path} is no key slot")
            need(blake3(slot[:-32]).digest() == slot[-32:], f"the checksum of {path} is wrong")
            slot_id, salt = slot[32:40], slot[40:56]
            if slot[9] != kind:
                continue
            if kind == 1:
                memory, passes, lanes = struct.unpack("<III", slot[56:68])
                key = hash_secret_raw(secret, salt, passes, memory, lanes, 32, Type.ID, version=0x13)
            else:
                key = derive("mlvault v1 key file slot", secret + salt)
            if derive("mlvault v1 slot commitment", key + slot_id) == slot[72:104]:
                secrets = open_sealed(key, slot[104:288], slot[:104])
                self.meta, self.data_secret, self.root_key = secrets[8:40], secrets[72:104], secrets[136:168]
                if pin in (None, derive("mlvault v2 pin", self.id + self.root_key)[:16]):
                    return
        need(False, "no key slot opens with this key")

    def session_key(self, kind, session):
        """Returns the key of a session's packs; `session` is a session header of 176 bytes."""
        if (kind, session) not in self.session_keys:
            need(session[16:20] == b"\1\0\0\0", "unknown generation of keys")
            if kind == META:
                key = blake3(session[:64], key=derive("mlvault v1 meta pack", self.meta)).digest()
            else:
                need(any(self.data_secret), "this key reads no content")
                secret = KEMKey.from_pyca_cryptography_key(X25519PrivateKey.from_private_bytes(self.data_secret))
                info = b"mlvault v2 session" + self.id + session[:64]
                psk = {"psk": derive("mlvault v1 hpke psk", self.meta), "psk_id": b"mlvault v1"}
                key = SUITE.create_recipient_context(session[64:96], secret, info, **psk).open(session[96:144], b"")
                need(derive("mlvault v1 session commitment", key) == session[144:176], "a session key is not committed")
            self.session_keys[kind, session] = key
        return self.session_keys[kind, session]

    def open_object(self, kind, name, data):
        need(data[:8] == b"MLVOBJ01" and data[8] == kind and data[9] == FORMAT, f"the header of {name!r} is wrong")
        need(data[16:32] == self.id, f"{name!r} belongs to another repository")
        key = blake3(data[32:64], key=derive("mlvault v1 object", self.meta)).digest()
        payload = Cursor(open_sealed(key, data[64:], data[:64] + name.encode()))
        codec, stored_len, plain_len = payload.take("B3xII")
        return decode(codec, payload.bytes(stored_len), plain_len)

    def snapshot(self, name):
        """Returns a verified record, or None for a void marker."""
        body = self.open_object(SNAPSHOT, name, self.read(f"snapshots/{name}"))
        kind, record = self.signed(b"mlvault v1 snapshot signature", bytes.fromhex(name), body)
        return json.loads(record) if kind == 1 else None

    def log(self):
        """Returns the entries of the log, each verified, and the root of their tree."""
        entries, peaks = [], []
        for number, path in enumerate(self.list("log")):
            need(path.name == f"{number:016x}", f"entry {number} of the log is missing")
            body = self.open_object(LOG_ENTRY, path.name, path.read_bytes())
            _, record = self.signed(b"mlvault v2 log entry", struct.pack("<Q", number), body, ROLES)
            record = json.loads(record)
            need([bytes.fromhex(peak) for peak in record["before"]] == peaks, f"{path} has another history")
            entries.append(record)
            peaks = appended(peaks, number, body)
        return entries, root_of(peaks)

    def signed(self, domain, name, body, roles=("writer", "maintainer")):
        """Returns kind and bytes of a record that a writer or maintainer signed, or somebody of other roles."""
        body = Cursor(body)
        kind, certificate_len = body.take("B3xI")
        certificate = json.loads(body.bytes(certificate_len))
        signature, record = body.bytes(64), body.data[body.at :]
        self.verify_certificate(certificate)
        need(certificate["role"] in roles, "a record is signed by somebody who may not say it")
        verify(certificate["signer"], signature, domain, bytes([kind]), self.id, name, record)
        return kind, record

    def verify_certificate(self, certificate):
        seconds, _, fraction = certificate["created"].rstrip("Z").partition(".")
        created = int(datetime.fromisoformat(seconds + "+00:00").timestamp()) * 1000 + int((fraction + "000")[:3])
        slot, signer = bytes.fromhex(certificate["slot"]), bytes.fromhex(certificate["signer"])
        role, created = bytes([ROLES[certificate["role"]]]), struct.pack("<q", created)
        message = self.id + slot + role + created + signer + certificate["label"].encode()
        signature = bytes.fromhex(certificate["signature"])
        verify(self.root_key.hex(), signature, b"mlvault v1 certificate signature", message)

    def load_index(self, kind, word):
        self.loaded.add(kind)
        for path in self.list(f"index/{word}"):
            data = path.read_bytes()
            need(blake3(data).hexdigest() == path.name, f"{path} is not what its name says")
            signed_kind, record = self.signed(b"mlvault v2 segment signature", b"", self.open_object(SEGMENT, "", data))
            body = Cursor(record)
            found, session_count, pack_count = body.take("B3xII")
            need(found == signed_kind == kind, f"{path} is of the other kind")
            sessions = [body.bytes(176) for _ in range(session_count)]
            for _ in range(pack_count):
                pack, session, count, _, _ = body.take("32sIIQB3x")
                offset = 208
                for _ in range(count):
                    chunk, plain_len, stored_len, codec, filter_byte = body.take("32sIIBB2x")
                    place = (f"packs/{word}/{pack.hex()[:2]}/{pack.hex()}", sessions[session], offset, stored_len)
                    self.index.setdefault((kind, chunk), []).append(place + (plain_len, codec, filter_byte))
                    offset += stored_len

    def chunk(self, kind, chunk):
        if kind not in self.loaded:
            self.load_index(kind, {DATA: "data", META: "meta"}[kind])
        need((kind, chunk) in self.index, f"chunk {chunk.hex()} is in no pack")
        faults = []
        for place in self.index[kind, chunk]:  # a segment may lie, and a pack may be gone: any place will do
            try:
                return self.chunk_at(kind, chunk, *place)
            except (OSError, InvalidTag, SystemExit) as fault:
                faults.append(fault)
        raise SystemExit(f"reader: chunk {chunk.hex()} cannot be read: {faults}")

    def chunk_at(self, kind, chunk, pack, session, offset, stored_len, plain_len, codec, filter_byte):
        need(filter_byte == 0, f"unknown filter {filter_byte}")
        stored = self.read(pack, offset, stored_len)
        associated = struct.pack("<BBBBI16s32s", FORMAT, kind, codec, filter_byte, plain_len, self.id, chunk)
        key = blake3(associated, key=self.session_key(kind, session)).digest()
        plain = decode(codec, open_sealed(key, stored, associated), plain_len)
        name = blake3(bytes([kind]) + plain, key=derive("mlvault v1 chunk id", self.meta)).digest()
        need(name == chunk, f"chunk {chunk.hex()} does not hash to its name")
        return plain

    def entries(self, node):
        data = Cursor(self.chunk(META, node))
        node_format, level, count = data.take("BB2xI")
        need(node_format == 1 and level <= 8, "unknown node format")
        for _ in range(count):
            if level == 0:
                yield self.entry(data)
            else:
                data.short()  # the first path below
                yield from self.entries(data.take("32sQQ")[0])

    def entry(self, data):
        kind, flags = data.take("BB")
        path = data.short()
        mode, _, _, mtime, _, _, _, _, _ = data.take("IIIqIqIQQ")
        entry = {"path": path, "mode": mode, "mtime": mtime, "size": 0, "link": b""}
        if kind == 2:
            entry["size"], entry["digest"], count = data.take("Q32sI")
            entry["chunks"] = [data.take("32sI") for _ in range(count)]
            entry["indirect"] = flags & INDIRECT
            entry["kind"] = META if flags & IN_META else DATA
        if kind == 3 or flags & HARD_LINK:
            entry["link"] = data.short()
        for _ in range(data.take("H")):
            data.bytes(data.take("HI")[1])
        return entry

    def content(self, entry):
        chunks = entry["chunks"]
        if entry["indirect"]:
            lists = Cursor(b"".join(self.chunk(META, chunk) for chunk, _ in chunks))
            chunks = [lists.take("32sI") for _ in range(len(lists.data) // 36)]
        digest = blake3()
        for chunk, length in chunks:
            plain = self.chunk(entry["kind"], chunk)
            need(len(plain) == length, "a chunk has not the length that the tree says")
            digest.update(plain)
            yield plain
        need(digest.digest() == entry["digest"], "the file has another digest")


def main(root, snapshot=None, path=None):
    repository = Repository(root)
    if snapshot == "log":
        entries, root = repository.log()
        for number, entry in enumerate(entries):
            for item in entry["objects"]:
                print(number, entry["at"], item["what"], item["key"])
        return print("Checkpoint:", len(entries), root.hex())
    for name in [item.name for item in repository.list("snapshots") if item.name.startswith(snapshot or "")]:
        record = repository.snapshot(name)
        if snapshot is None:
            print(name, record["started"] if record else "void")
            continue
        for component in record["components"] if record else []:
            before = b"" if component["name"] == "files" else component["name"].encode() + b"/"
            for entry in repository.entries(bytes.fromhex(component["root"])):
                shown = before + entry["path"]
                if path is None:
                    print(f"{entry['mode']:04o} {entry['size']:12} {os.fsdecode(shown)}")
                elif shown == os.fsencode(path):
                    return sys.stdout.buffer.writelines(repository.content(entry))
    need(path is None, "there is no such file")


if __name__ == "__main__":
    main(*sys.argv[1:4])
