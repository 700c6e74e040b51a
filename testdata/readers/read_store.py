#!/usr/bin/env python3
"""Reads stores and export files by what docs/formats.md says, and by nothing else: if this program has to be
changed for a store to be read, the document has to be changed as well.

    read_store.py store DIR JOB      of a store that nobody writes to
    read_store.py export FILE

Prints a line for each epoch: its number, its parent, how many pages it has, and the SHA-256 of all its pages (space,
page number, content, in order) and of its image. Everything that has a checksum is checked.
"""
import bisect
import ctypes
import hashlib
import pathlib
import struct
import sys

PAGE = 4096


class Hash128(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


xxhash = ctypes.CDLL("libxxhash.so.0")
xxhash.XXH3_64bits.restype = ctypes.c_uint64
xxhash.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
xxhash.XXH3_128bits_withSecret.restype = Hash128
xxhash.XXH3_128bits_withSecret.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
lz4 = ctypes.CDLL("liblz4.so.1")
zstd = ctypes.CDLL("libzstd.so.1")
zstd.ZSTD_decompress.restype = ctypes.c_size_t
zstd.ZSTD_decompress.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]


def check(condition, what):
    if not condition:
        raise SystemExit(f"read_store: {what}")


def sum64(data):
    return xxhash.XXH3_64bits(data, len(data))


def u16(data, at):
    return struct.unpack_from("<H", data, at)[0]


def u32(data, at):
    return struct.unpack_from("<I", data, at)[0]


def u64(data, at):
    return struct.unpack_from("<Q", data, at)[0]


def decode_body(encoding, body):
    if encoding == 0:
        check(len(body) == PAGE, "a raw body that is no page")
        return body
    page = ctypes.create_string_buffer(PAGE)
    if encoding == 1:
        check(lz4.LZ4_decompress_safe(body, page, len(body), PAGE) == PAGE, "LZ4 of no page")
    else:
        check(encoding == 2, f"encoding {encoding}")
        check(zstd.ZSTD_decompress(page, PAGE, body, len(body)) == PAGE, "zstd of no page")
    return page.raw


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return value, at


def parse_manifest(data):
    """(gone runs, pages): a page is (space, page number) -> id, None for zeros."""
    check(data[:4] == b"MAN1" and u32(data, 4) == 1, "manifest: magic or version")
    written, gone_runs = u64(data, 8), u64(data, 16)
    gone, pages, at = [], {}, 24

    def run(space, end):
        nonlocal at
        head, at = varint(data, at)
        more, at = varint(data, at)
        if more:
            space, end = space + more, 0
        gap, at = varint(data, at)
        return head // 4, head % 4, space, end + gap

    space = end = 0
    for _ in range(gone_runs):
        count, kind, space, first = run(space, end)
        check(kind == 2, "manifest: a gone run of another kind")
        gone.append((space, first, count))
        end = first + count
    space = end = 0
    while len(pages) < written:
        count, kind, space, first = run(space, end)
        check(kind in (0, 1), "manifest: a written run of another kind")
        for page in range(first, first + count):
            if kind == 0:
                pages[space, page] = (u64(data, at), u64(data, at + 8))
                at += 16
            else:
                pages[space, page] = None
        end = first + count
    check(at == len(data) and len(pages) == written, "manifest: its size")
    return gone, pages


def parse_record(data):
    """Of an EpochRecord, its numbers by field: 3 epoch, 4 parent, 9 table pages."""
    fields, at = {}, 0
    while at < len(data):
        tag, at = varint(data, at)
        if tag % 8 == 0:
            fields[tag // 8], at = varint(data, at)
        else:
            check(tag % 8 == 2, "record: wire type")
            size, at = varint(data, at)
            at += size
    return fields


def print_epoch(record, table, read_page, image):
    check(len(table) == record.get(9, 0), f"epoch {record[3]}: {len(table)} pages, its record says {record.get(9, 0)}")
    digest = hashlib.sha256()
    for (space, page), name in sorted(table.items()):
        digest.update(struct.pack("<IQ", space, page))
        digest.update(bytes(PAGE) if name is None else read_page(name))
    print(record[3], record.get(4, 0), len(table), digest.hexdigest(), hashlib.sha256(image).hexdigest())


# ---- Export files


def read_export(file):
    data = pathlib.Path(file).read_bytes()
    check(data[:8] == b"ICKEXPT\n" and u32(data, 8) == 1, "export: magic or version")
    check(sum64(data[:120]) == u64(data, 120), "export: the header's checksum")
    bodies, epochs, number, at = [None], [], 0, 128
    ended = False
    while at < len(data):
        kind, size = u32(data, at), u32(data, at + 4)
        payload = data[at + 16 : at + 16 + size]
        check(not ended and len(payload) == size, "export: its end")
        check(sum64(struct.pack("<QII", number, kind, size) + payload) == u64(data, at + 8), f"export: frame {number}")
        if kind == 1:
            inner = 0
            while inner < size:
                length = u16(payload, inner)
                bodies.append((payload[inner + 2], payload[inner + 4 : inner + 4 + length]))
                inner += 4 + length
        elif kind == 2:
            epochs.append([payload, b"", b""])
        elif kind in (3, 4):
            epochs[-1][kind - 2] += payload
        else:
            check(kind == 5, f"export: a frame of kind {kind}")
            check((u64(payload, 0), u64(payload, 8), u64(payload, 16)) == (len(bodies) - 1, len(epochs), number),
                  "export: its last frame")
            ended = True
        at += 16 + size
        number += 1
    check(ended and (u64(data, 16), u64(data, 24)) == (len(bodies) - 1, len(epochs)), "export: not whole")
    for head, table, image in epochs:
        check((u64(head, 0), u64(head, 8)) == (len(table), sum64(table)), "export: a table")
        check((u64(head, 16), u64(head, 24)) == (len(image), sum64(image)), "export: an image")
        gone, pages = parse_manifest(table)
        check(not gone, "export: a table that forgets")
        print_epoch(parse_record(head[32:]), pages, lambda name: decode_body(*bodies[name[1]]), image)


# ---- Stores

rocksdb = None


class Database:
    FAMILIES = ["default", "pages", "packs", "manifests", "images", "epochs", "jobs"]

    def __init__(self, path):
        global rocksdb
        rocksdb = ctypes.CDLL("librocksdb.so.7.8")
        for name in ("rocksdb_options_create", "rocksdb_readoptions_create", "rocksdb_get_cf", "rocksdb_create_iterator_cf",
                     "rocksdb_iter_key", "rocksdb_iter_value", "rocksdb_open_for_read_only_column_families"):
            getattr(rocksdb, name).restype = ctypes.c_void_p
        rocksdb.rocksdb_iter_valid.restype = ctypes.c_ubyte
        options = ctypes.c_void_p(rocksdb.rocksdb_options_create())
        self.read = ctypes.c_void_p(rocksdb.rocksdb_readoptions_create())
        count = len(self.FAMILIES)
        names = (ctypes.c_char_p * count)(*(name.encode() for name in self.FAMILIES))
        handles, error = (ctypes.c_void_p * count)(), ctypes.c_char_p()
        self.db = ctypes.c_void_p(rocksdb.rocksdb_open_for_read_only_column_families(
            options, str(path).encode(), count, names, (ctypes.c_void_p * count)(*[options] * count), handles, 0,
            ctypes.byref(error)))
        check(not error.value, f"{path}: {error.value}")
        self.handles = {name: ctypes.c_void_p(handle) for name, handle in zip(self.FAMILIES, handles)}

    def get(self, family, key):
        size, error = ctypes.c_size_t(), ctypes.c_char_p()
        value = rocksdb.rocksdb_get_cf(self.db, self.read, self.handles[family], key, ctypes.c_size_t(len(key)),
                                       ctypes.byref(size), ctypes.byref(error))
        check(not error.value, f"{family}: {error.value}")
        return None if value is None else ctypes.string_at(value, size.value)

    def rows(self, family, prefix):
        rows = ctypes.c_void_p(rocksdb.rocksdb_create_iterator_cf(self.db, self.read, self.handles[family]))
        rocksdb.rocksdb_iter_seek(rows, prefix, ctypes.c_size_t(len(prefix)))
        while rocksdb.rocksdb_iter_valid(rows):
            size = ctypes.c_size_t()
            key = ctypes.string_at(rocksdb.rocksdb_iter_key(rows, ctypes.byref(size)), size.value)
            if not key.startswith(prefix):
                return
            yield key, ctypes.string_at(rocksdb.rocksdb_iter_value(rows, ctypes.byref(size)), size.value)
            rocksdb.rocksdb_iter_next(rows)


class Store:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.secret = (self.folder / "secret").read_bytes()
        check(len(self.secret) == 192, "secret: its size")
        self.tag = sum64(self.secret)
        check((self.folder / "FORMAT").read_text() == f"version 1\nincr-ckpt store\nsecret tag {self.tag:016x}\n", "FORMAT")
        self.db = Database(self.folder / "db")
        self.packs = {}

    def check_commits(self):
        file = (self.folder / "commits").read_bytes()
        counts = [u64(slot, 16) for slot in (file[:PAGE], file[PAGE : 2 * PAGE])
                  if slot[:8] == b"ICKCMTS\n" and u32(slot, 8) == 1 and u64(slot, 24) == sum64(slot[:24])
                  and not any(slot[32:])]
        check(max(counts) == u64(self.db.get("jobs", b"\0commits"), 0), f"commits: {counts}")

    def page_id(self, page):
        if not any(page):
            return 0, 0
        hashed = xxhash.XXH3_128bits_withSecret(page, PAGE, self.secret, len(self.secret))
        return (hashed.high, hashed.low) if (hashed.high, hashed.low) != (0, 0) else (1, 0)

    def pack(self, number):
        """Its bytes, and where its bodies are: offset -> (id, length, encoding)."""
        if number in self.packs:
            return self.packs[number]
        data = (self.folder / "packs" / f"{number:08}.pack").read_bytes()
        data = data[: u64(self.db.get("packs", struct.pack(">I", number)), 0)]
        check(data[:8] == b"ICKPACK\n" and u32(data, 8) == 1 and u32(data, 12) == number and u64(data, 16) == self.tag
              and u64(data, 24) == sum64(data[:24]) and not any(data[32:PAGE]), f"pack {number}: its header")
        bodies, at = {}, PAGE
        while at < len(data):
            head = data[at : at + 64]
            body, entries, total = u32(head, 16), u32(head, 20), u32(head, 24)
            table = data[at + 64 + body : at + 64 + body + 24 * entries]
            check(head[:4] == b"SEG1" and u32(head, 4) == number and u64(head, 8) == at and u64(head, 32) == self.tag and
                  u64(head, 56) == sum64(head[:56]) and u64(head, 48) == sum64(table) and total % PAGE == 0 and
                  not any(data[at + 64 + body + 24 * entries : at + total]), f"pack {number}: the segment at {at}")
            for entry in range(0, len(table), 24):
                bodies[at + u32(table, entry + 16)] = ((u64(table, entry), u64(table, entry + 8)),
                                                       u16(table, entry + 20), table[entry + 22])
            at += total
        self.packs[number] = data, bodies
        return self.packs[number]

    def read_page(self, name):
        where = self.db.get("pages", struct.pack(">QQ", *name))
        check(where is not None, f"page {name} is not there")
        number, length, encoding, offset = u32(where, 0), u16(where, 4), where[6], u64(where, 8)
        data, bodies = self.pack(number)
        check(bodies.get(offset) == (name, length, encoding), f"page {name}: the pack's own table says otherwise")
        page = decode_body(encoding, data[offset : offset + length])
        check(self.page_id(page) == name, f"page {name}: its hash")
        return page

    def chunks(self, family, job, epoch, first, size):
        data = b""
        while len(data) < size:
            chunk = self.db.get(family, job + b"\0" + struct.pack(">QI", epoch, first))
            check(chunk is not None, f"epoch {epoch}: {family}: chunk {first} is missing")
            data += chunk
            first += 1
        check(len(data) == size, f"epoch {epoch}: {family}: its size")
        return data

    def epochs(self, job):
        tables, numbers = {}, []
        for key, value in self.db.rows("epochs", job + b"\0"):
            epoch = struct.unpack(">Q", key[len(job) + 1 :])[0]
            version, depth = u32(value, 0), u32(value, 4)
            check(version in (1, 2) and sum64(value[:-8]) == u64(value, len(value) - 8), f"epoch {epoch}: its record")
            first = u32(value, 48) if version == 2 else 0
            record = parse_record(value[56 if version == 2 else 48 : -8])
            check(record[3] == epoch, f"epoch {epoch}: its number")
            manifest = self.chunks("manifests", job, epoch, first, u64(value, 16))
            image = self.chunks("images", job, epoch, 0, u64(value, 32))
            check(sum64(manifest) == u64(value, 24) and sum64(image) == u64(value, 40), f"epoch {epoch}: its checksums")
            gone, pages = parse_manifest(manifest)
            table = {}
            if depth > 0:
                table = dict(tables[record[4]][1])
                check(tables[record[4]][0] == depth - 1, f"epoch {epoch}: its depth")
            for name in forgotten(table, gone):
                del table[name]
            table.update(pages)
            tables[epoch] = depth, table
            numbers.append(epoch)
            print_epoch(record, table, self.read_page, image)
        check(numbers and u64(self.db.get("jobs", job), 0) >= numbers[-1], "the job's head")


def forgotten(table, gone):
    names = sorted(table)
    for space, first, count in gone:
        yield from names[bisect.bisect_left(names, (space, first)) : bisect.bisect_left(names, (space, first + count))]


def main():
    if sys.argv[1:2] == ["export"] and len(sys.argv) == 3:
        read_export(sys.argv[2])
    elif sys.argv[1:2] == ["store"] and len(sys.argv) == 4:
        store = Store(sys.argv[2])
        store.check_commits()
        store.epochs(sys.argv[3].encode())
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
