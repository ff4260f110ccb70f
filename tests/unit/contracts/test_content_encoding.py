"""Compressed answers: one encoding, complete, and no larger than the worker reads."""

from __future__ import annotations

import gzip
import hashlib
import zlib

import pytest

from flow_contracts.content_encoding import (
    BodyTooLarge,
    Encoding,
    IncompleteBody,
    UnsupportedEncoding,
    decompress,
    encoding_of,
)

BODY = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(3000)) + b"a" * 200_000
GZIP = gzip.compress(BODY)
ZLIB = zlib.compress(BODY)
RAW_DEFLATE = zlib.compress(BODY, wbits=-zlib.MAX_WBITS)
COMPRESSED = {"gzip": GZIP, "zlib": ZLIB, "raw deflate": RAW_DEFLATE}


def encoding(form: str) -> Encoding:
    return Encoding.GZIP if form == "gzip" else Encoding.DEFLATE


@pytest.mark.parametrize("form", COMPRESSED)
def test_a_compressed_body_is_decompressed_up_to_its_size(form: str) -> None:
    compressed = COMPRESSED[form]
    assert decompress(compressed, encoding(form), len(BODY)) == BODY
    with pytest.raises(BodyTooLarge):
        decompress(compressed, encoding(form), len(BODY) - 1)


@pytest.mark.parametrize("form", COMPRESSED)
def test_a_compressed_body_that_is_cut_anywhere_is_incomplete(form: str) -> None:
    compressed = COMPRESSED[form]
    for length in (0, 1, 2, 10, len(compressed) // 2, len(compressed) - 1):
        with pytest.raises(IncompleteBody):
            decompress(compressed[:length], encoding(form), len(BODY))


@pytest.mark.parametrize("form", COMPRESSED)
def test_data_after_a_compressed_body_makes_it_incomplete(form: str) -> None:
    with pytest.raises(IncompleteBody):
        decompress(COMPRESSED[form] + b"more", encoding(form), 2 * len(BODY))


def test_all_members_of_a_gzip_body_are_read() -> None:
    members = gzip.compress(b"one") + gzip.compress(b"") + gzip.compress(b"two")
    assert decompress(members, Encoding.GZIP, 6) == b"onetwo"
    assert decompress(members + b"\0\0\0", Encoding.GZIP, 6) == b"onetwo"  # padding, as on a tape
    with pytest.raises(BodyTooLarge):
        decompress(members, Encoding.GZIP, 5)
    with pytest.raises(IncompleteBody):
        decompress(members[:-1], Encoding.GZIP, 6)


def test_a_body_of_very_many_members_is_refused() -> None:
    with pytest.raises(IncompleteBody):
        decompress(gzip.compress(b"") * 10_000, Encoding.GZIP, 100)


@pytest.mark.parametrize(
    "damaged", [GZIP[:-8] + b"\0" * 8, GZIP[:500] + b"\xff" * 20 + GZIP[520:], b"plain text"], ids=range(3)
)
def test_a_damaged_body_is_incomplete(damaged: bytes) -> None:
    with pytest.raises(IncompleteBody):
        decompress(damaged, Encoding.GZIP, len(BODY))


def test_output_that_the_last_byte_leaves_in_the_decompressor_is_not_lost() -> None:
    for length in range(65_300, 65_800, 7):  # around the size of a piece
        compressed = zlib.compress(b"a" * length, wbits=-zlib.MAX_WBITS)
        assert len(decompress(compressed, Encoding.DEFLATE, length)) == length


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], Encoding.IDENTITY),
        (["identity"], Encoding.IDENTITY),
        (["gzip"], Encoding.GZIP),
        ([" X-GZip "], Encoding.GZIP),
        (["identity, deflate"], Encoding.DEFLATE),
        (["utf-8"], Encoding.IDENTITY),
        (["UTF-8, none", "binary", "base64;q=1"], Encoding.IDENTITY),
        (["utf-8, gzip"], Encoding.GZIP),
    ],
)
def test_one_encoding_is_read_and_a_name_that_is_no_coding_means_none(headers: list[str], expected: Encoding) -> None:
    assert encoding_of(headers) is expected


@pytest.mark.parametrize(
    "headers", [["gzip, gzip"], ["gzip", "gzip"], ["gzip,deflate"], ["br"], ["zstd"], ["gzip;q=1"], ["gzip gzip"]]
)
def test_another_encoding_or_more_than_one_is_refused(headers: list[str]) -> None:
    with pytest.raises(UnsupportedEncoding):
        encoding_of(headers)


def test_a_transfer_encoding_counts_as_an_encoding() -> None:
    assert encoding_of(["gzip"], ["chunked"]) is Encoding.GZIP
    with pytest.raises(UnsupportedEncoding):
        encoding_of(["gzip"], ["gzip, chunked"])
