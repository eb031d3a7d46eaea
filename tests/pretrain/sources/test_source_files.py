"""Files of sources: finding them, hashing them once, cutting them at line ends, and reading what is damaged."""

import gzip
import json
import os
import pickle
import time
import tracemalloc
import zipfile
from pathlib import Path

import fsspec
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pretrain.runtime.errors import DiptychError
from pretrain.sources import BadRow, Files, Part
from pretrain.sources import files as files_module
from pretrain.sources.lines import RestLost, lines
from pretrain.sources.opening import is_compressed, open_bytes

LONG_AGO = time.time_ns() - 3600 * 10**9
TEXT = b"".join(b"line number %d, and a little more of it\n" % n for n in range(4000))
MIB = 1 << 20


def write(path: Path, content: bytes, *, settled: bool = True) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if settled:
        os.utime(path, ns=(LONG_AGO, LONG_AGO))
    return str(path)


def zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(content)


def read(part: Part, **options: object) -> list[tuple[int, str] | BadRow]:
    return list(lines(part, **options))  # type: ignore[arg-type]


def read_file(path: str, **options: object) -> list[tuple[int, str] | BadRow]:
    return read(Files().whole(path), **options)


# ------------------------------------------------------------------------------------------------------------ finding


def test_globs_are_sorted_within_a_pattern_and_no_file_comes_twice(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "sub/c.txt", "sub/deep/d.txt", "z.csv"):
        write(tmp_path / name, b"x\n")
    os.symlink(tmp_path / "a.txt", tmp_path / "link.txt")
    patterns = [f"{tmp_path}/z.csv", f"{tmp_path}/*.txt", f"{tmp_path}/sub/../a.txt", f"{tmp_path}/**/*.txt"]
    found = [os.path.relpath(path, tmp_path) for path in Files().match(patterns)]
    assert found == ["z.csv", "a.txt", "b.txt", "sub/c.txt", "sub/deep/d.txt"]
    assert Files().match(f"{tmp_path}/z.csv") == [f"{tmp_path}/z.csv"]


def test_a_name_may_hold_what_looks_like_a_pattern(tmp_path: Path) -> None:
    path = write(tmp_path / "data [1].txt", b"x\n")
    assert Files().match(path) == [path]


def test_home_and_file_urls_are_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write(tmp_path / "a.txt", b"x\n")
    assert Files().match("~/a.txt") == Files().match(f"file://{path}") == [path]
    assert Files().whole("~/a.txt").fingerprint == Files().whole(f"file://{path}").fingerprint
    assert read_file("~/a.txt") == [(1, "x")]


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("{}/none-*.txt", "none-*.txt: no file matches"),
        ("{}/none.txt", "none.txt: no such file"),
        ("{}", "is a folder; name its files, as in"),
        ("{}/d*", "no file matches"),
        ("memory://nothing/*.txt", "memory://nothing/*.txt: no file matches; check the path"),
        ("nosuchstore://a/b", "nosuchstore://a/b: cannot be read"),
    ],
)
def test_a_pattern_without_files_is_named(tmp_path: Path, pattern: str, problem: str) -> None:
    (tmp_path / "dir").mkdir()
    with pytest.raises(DiptychError) as caught:
        Files().match(pattern.format(tmp_path))
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_stores_are_read_like_disks(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/sources/b.txt", b"three\n")
    store.pipe("/sources/a.txt.gz", gzip.compress(b"one\ntwo\n"))
    found = Files().match("memory://sources/*")
    assert [path.rpartition("/")[2] for path in found] == ["a.txt.gz", "b.txt"]
    assert [line for path in found for line in read_file(path)] == [(1, "one"), (2, "two"), (1, "three")]
    assert [part.size for path in found for part in Files().text_parts(path)][1] == 6
    before = Files().whole(found[1]).fingerprint
    assert Files().whole(found[1]).fingerprint == before
    store.pipe("/sources/b.txt", b"four, and longer\n")
    assert Files().whole(found[1]).fingerprint != before
    with pytest.raises(DiptychError, match="is a folder"):
        Files().match("memory://sources")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("in/one.txt", "from a zip\n")
        archive.writestr("in/two.txt.gz", gzip.compress(b"twice\n"))
    zipped = Files().match(f"zip://in/*.txt*::{tmp_path}/all.zip")
    assert [read_file(path) for path in zipped] == [[(1, "from a zip")], [(1, "twice")]]
    (cached,) = Files().match("simplecache::memory://sources/*.txt")
    assert read_file(cached) == [(1, "four, and longer")]


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DiptychError, match=r"gone.txt: cannot be read \(No such file or directory\); check"):
        read(Part(f"{tmp_path}/gone.txt", "", 1))
    with pytest.raises(DiptychError, match="Is a directory"):
        Files().whole(str(tmp_path))


# ------------------------------------------------------------------------------------------------------------ hashing


def test_a_fingerprint_is_of_the_content_wherever_it_lies(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one.txt", TEXT), write(tmp_path / "sub" / "two.txt", TEXT)
    assert Files().whole(one).fingerprint == Files().whole(two).fingerprint
    assert [part.fingerprint for part in Files().text_parts(one, 9000)] == [
        part.fingerprint for part in Files().text_parts(two, 9000)
    ]


def test_appending_leaves_earlier_parts_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "grows.txt", TEXT)
    before = Files().text_parts(path, 9000)
    write(tmp_path / "grows.txt", TEXT + TEXT)
    after = Files().text_parts(path, 9000)
    assert len(after) > len(before) > 10
    assert after[: len(before) - 1] == before[:-1]


def test_hashes_are_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = write(tmp_path / "a.txt", TEXT), tmp_path / "cache" / "hashes.json"
    hashed: list[object] = []
    cut = files_module._cut

    def counted(file: object, part_bytes: int | None) -> object:
        hashed.append(part_bytes)
        return cut(file, part_bytes)

    monkeypatch.setattr(files_module, "_cut", counted)
    first = Files(cache).text_parts(path, 9000), Files(cache).whole(path)
    assert hashed == [9000, None]
    assert (Files(cache).text_parts(path, 9000), Files(cache).whole(path)) == first
    assert hashed == [9000, None]
    Files(cache).text_parts(path, 8000)
    assert hashed == [9000, None, 8000]
    write(tmp_path / "a.txt", TEXT[:-1] + b"!")
    os.utime(path, ns=(LONG_AGO, LONG_AGO + 1))
    assert Files(cache).whole(path).fingerprint != first[1].fingerprint
    assert list(cache.parent.iterdir()) == [cache]  # and no scratch file beside it


def test_a_file_changed_a_moment_ago_is_not_remembered(tmp_path: Path) -> None:
    path, cache = write(tmp_path / "a.txt", b"one\n", settled=False), tmp_path / "hashes.json"
    state = os.stat(path).st_mtime_ns
    first = Files(cache).whole(path)
    write(tmp_path / "a.txt", b"two\n", settled=False)
    os.utime(path, ns=(state, state))  # the clock of a coarse file system
    assert Files(cache).whole(path).fingerprint != first.fingerprint
    assert not cache.exists()


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b"\xff", b'{"KEY": {"state": [1], "cuts": 3}}', b'{"KEY": 1}'])
def test_a_damaged_cache_is_made_again(tmp_path: Path, broken: bytes) -> None:
    path, cache = write(tmp_path / "a.txt", TEXT), tmp_path / "hashes.json"
    expected = Files().whole(path)
    cache.write_bytes(broken.replace(b"KEY", f"{path}:whole".encode()))
    assert Files(cache).whole(path) == expected
    assert json.loads(cache.read_bytes())[f"{path}:whole"]["cuts"][0][3] == expected.fingerprint


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", TEXT)
    assert Files(tmp_path / "a.txt" / "cache.json").whole(path) == Files().whole(path)


# ------------------------------------------------------------------------------------------------------------ cutting

PIECES = st.sampled_from([b"\n", b"\r\n", b"a", b"bc", "é".encode(), b"\r", b" ", b"0123456789"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(PIECES, max_size=60), part_bytes=st.integers(1, 80), block=st.integers(1, 40))
def test_parts_give_together_what_the_file_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: list[bytes], part_bytes: int, block: int
) -> None:
    content = b"".join(pieces)
    path = write(tmp_path / "text.txt", content)
    monkeypatch.setattr(files_module, "_BLOCK", block)
    parts = Files().text_parts(path, part_bytes)
    whole = read_file(path)
    assert [line for part in parts for line in read(part)] == whole
    # And both are what the bytes say.
    rows = content.decode().split("\n")
    rows = rows if rows[-1] else rows[:-1]
    assert whole == [(number, row.removesuffix("\r")) for number, row in enumerate(rows, start=1)]
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    assert (parts[0].start, parts[-1].stop) == (0, len(content))
    assert all(part.size == (part.stop or 0) - part.start for part in parts)
    assert all(part.size >= part_bytes for part in parts[:-1])


def test_a_compressed_file_is_one_part(tmp_path: Path) -> None:
    for name, content in (("a.gz", gzip.compress(TEXT)), ("a.ZST", zstd(TEXT))):
        (part,) = Files().text_parts(write(tmp_path / name, content), 9000)
        assert (part.start, part.stop, part.size) == (0, None, len(content))


# ------------------------------------------------------------------------------------------------------------ reading


def test_a_byte_order_mark_counts_only_at_the_start(tmp_path: Path) -> None:
    path = write(tmp_path / "bom.txt", b"\xef\xbb\xbffirst\r\n\xef\xbb\xbfsecond")
    assert read_file(path) == [(1, "first"), (2, "\ufeffsecond")]
    assert [line for part in Files().text_parts(path, 1) for line in read(part)] == read_file(path)


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    text = "a\x0b\x0c\x1c\x85\u2028b\rc"
    assert read_file(write(tmp_path / "a.txt", text.encode() + b"\n\n")) == [(1, text), (2, "")]


def test_mixed_encodings_lose_only_their_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "mixed.txt", "café\n".encode() + "caf\xe9 au lait\n".encode("latin-1") + "naïve\n".encode())
    good, bad, last = read_file(path)
    assert (good, last) == ((1, "café"), (3, "naïve"))
    assert str(bad) == (
        f"{path}:2: byte 4 of the line (0xe9) is not valid UTF-8; convert the file to UTF-8 or set encoding "
        "(latin-1, cp1252, ...)"
    )
    assert read_file(path, encoding="latin-1")[1] == (2, "café au lait")


def test_binary_content_is_named_as_such(tmp_path: Path) -> None:
    path = write(tmp_path / "image.txt", b"good\nPNG\0\0\1\nagain\n")
    good, bad, again = read_file(path)
    assert (good, again) == ((1, "good"), (3, "again"))
    assert str(bad) == f"{path}:2: byte 4 of the line is NUL: this looks like a binary file; check the path"
    first = read_file(write(tmp_path / "windows.txt", "one\ntwo\n".encode("utf-16")))[0]
    assert isinstance(first, BadRow) and "UTF-16 text; convert it to UTF-8" in first.problem


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_huge_line_is_skipped_without_reading_it(tmp_path: Path, suffix: str) -> None:
    content = b"before\n" + b"x" * (50 * MIB) + b"\nafter\n" + b"y" * (17 * MIB)
    pack = {"": bytes, ".gz": lambda data: gzip.compress(data, 1), ".zst": zstd}[suffix]
    part = Files().whole(write(tmp_path / f"huge.txt{suffix}", pack(content)))
    tracemalloc.start()
    found = read(part)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 45 * MIB  # the limit of 16 MiB and what joining and decompressing a block take
    assert [found[0], found[2]] == [(1, "before"), (3, "after")]
    assert str(found[1]) == (
        f"{part.file}:2: the line has 52,428,800 bytes, more than max_line_mb allows (16 MiB); "
        "raise it or drop the line"
    )
    assert isinstance(found[3], BadRow) and "17,825,792 bytes" in found[3].problem
    assert len(read(part, max_line_bytes=64 * MIB)[1]) == 2  # type: ignore[arg-type]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(0, 30), min_size=1, max_size=30), limit=st.integers(1, 20), end=st.booleans())
def test_exactly_the_lines_over_the_limit_are_bad(tmp_path: Path, lengths: list[int], limit: int, end: bool) -> None:
    path = write(tmp_path / "text.txt", b"\n".join(b"z" * length for length in lengths) + b"\n" * end)
    if not end and lengths[-1] == 0:
        lengths = lengths[:-1]
    found = read_file(path, max_line_bytes=limit)
    assert len(found) == len(lengths)
    for number, (item, length) in enumerate(zip(found, lengths, strict=True), start=1):
        if length <= limit:
            assert item == (number, "z" * length)
        else:
            assert isinstance(item, BadRow) and item.line == number and f"{length:,} bytes" in item.problem


FRAMES = {
    "one.gz": [gzip.compress(TEXT)],
    "many.gz": [gzip.compress(TEXT[:60000]), gzip.compress(b""), gzip.compress(TEXT[60000:])],
    "one.zst": [zstd(TEXT)],
    "many.zst": [zstd(TEXT[:60000]), b"\x50\x2a\x4d\x18\x05\0\0\0hello", zstd(TEXT[60000:])],
}


@pytest.mark.parametrize("name", FRAMES)
def test_compressed_text_is_read_whole_or_said_to_be_cut_short(tmp_path: Path, name: str) -> None:
    frames = FRAMES[name]
    content = b"".join(frames)
    whole = read_file(write(tmp_path / name, content))
    assert whole == [(number, row) for number, row in enumerate(TEXT.decode().split("\n")[:-1], start=1)]
    ends = {sum(map(len, frames[:count])) for count in range(1, len(frames))}  # a whole file by themselves
    cuts = {0, 1, 2, 3, 9, 17, 18, *range(20, len(content), len(content) // 25)}
    cuts |= {len(content) - count for count in range(1, 13)}
    for cut in sorted(cuts - ends):
        found = read_file(write(tmp_path / name, content[:cut]))
        last = found.pop()
        assert isinstance(last, RestLost), cut
        assert last.line == len(found) + 1 and "cut short" in last.problem
        assert found == whole[: len(found)]
    for cut in ends:
        assert read_file(write(tmp_path / name, content[:cut]))[-1] != whole[-1]
    # What comes before the damage is not lost: no more than a block of Zstandard, nothing but the line in gzip.
    *found, _ = read_file(write(tmp_path / name, content[:-1]))
    lost = sum(len(row) + 1 for _, row in whole[len(found) :])
    assert lost <= (MIB // 8 + 50 if name.endswith(".zst") else 50)


@pytest.mark.parametrize("name", ["one.gz", "one.zst"])
def test_damage_in_the_middle_is_the_last_thing_of_a_part(tmp_path: Path, name: str) -> None:
    content = bytearray(FRAMES[name][0])
    for position in range(len(content) // 2, len(content) // 2 + 40):
        content[position] ^= 0x5A
    found = read_file(write(tmp_path / name, bytes(content)))
    assert isinstance(found[-1], RestLost)
    assert not any(isinstance(item, RestLost) for item in found[:-1])


def test_padding_after_compressed_data_is_nothing(tmp_path: Path) -> None:
    for name in ("one.gz", "one.zst"):
        path = write(tmp_path / name, FRAMES[name][0] + bytes(2000))
        assert read_file(path)[-1] == (4000, "line number 3999, and a little more of it")


def test_text_that_only_says_it_is_compressed(tmp_path: Path) -> None:
    for suffix in ("gz", "zst"):
        (lost,) = read_file(write(tmp_path / f"plain.{suffix}", TEXT))
        assert isinstance(lost, RestLost) and lost.line == 1


def test_long_windows_are_read(tmp_path: Path) -> None:
    options = zstandard.ZstdCompressionParameters.from_level(1, window_log=28, enable_ldm=True)
    stream = zstandard.ZstdCompressor(compression_params=options).compressobj()
    path = write(tmp_path / "long.zst", stream.compress(TEXT) + stream.flush())
    assert len(read_file(path)) == 4000


@pytest.mark.parametrize(
    ("path", "compressed"),
    [
        ("a.gz", True),
        ("a.gz.txt", False),
        ("what?.gz", True),
        ("https://host/a.jsonl.zst?download=true", True),
        ("https://host/a.jsonl?as=.gz", False),
        ("simplecache::s3://bucket/a.gz", True),
        ("zip://a.txt::s3://bucket/all.gz", False),
    ],
)
def test_the_name_says_whether_a_file_is_compressed(path: str, compressed: bool) -> None:
    assert is_compressed(path) is compressed


def test_open_bytes_starts_where_it_is_told(tmp_path: Path) -> None:
    with open_bytes(write(tmp_path / "a.txt", b"0123456789"), 4) as file:
        assert file.read(3) == b"456"


def test_parts_pickle(tmp_path: Path) -> None:
    parts = Files().text_parts(write(tmp_path / "a.txt", TEXT), 9000)
    assert pickle.loads(pickle.dumps(parts)) == parts
