"""Answers spliced from compressed pages unpack to what was put in."""

import gzip
import zlib

from hypothesis import given
from hypothesis import strategies as st

from roiservice.web.compress import gzip_stream, gzip_whole, pack, splice

short = st.binary(max_size=300)
# Repeated blocks reach past one stored block (65535 bytes) without drawing that many bytes.
repeated = st.builds(bytes.__mul__, st.binary(min_size=1, max_size=50), st.integers(0, 4000))
data = short | repeated


@given(data, data, data)
def test_a_spliced_answer_is_one_valid_gzip_member(head, body, tail):
    answer = splice(head, pack(body, 1, 1), tail)
    reader = zlib.decompressobj(31)
    assert reader.decompress(answer) == head + body + tail
    assert reader.eof
    assert reader.unused_data == b""
    assert gzip.decompress(answer) == head + body + tail


@given(data)
def test_a_page_unpacks_for_clients_without_gzip(body):
    page = pack(body, 7, 3)
    assert page.unpacked() == body
    assert (page.length, page.crc32) == (len(body), zlib.crc32(body))
    assert (page.matched, page.returned) == (7, 3)


def test_stored_blocks_end_exactly_at_their_largest_size():
    page = pack(b"middle", 1, 1)
    for size in (65534, 65535, 65536, 2 * 65535):
        head, tail = b"h" * size, b"t" * size
        assert gzip.decompress(splice(head, page, tail)) == head + b"middle" + tail


@given(st.lists(data, max_size=5))
def test_a_stream_unpacks_to_its_chunks(chunks):
    assert gzip.decompress(b"".join(gzip_stream(chunks))) == b"".join(chunks)


@given(data)
def test_a_whole_answer_unpacks(body):
    assert gzip.decompress(gzip_whole(body)) == body
