"""Taking an upload apart, without a server around it."""

import pytest

from serve.errors import ApiError
from serve.http.upload import MAX_BATCH, MAX_TEXTS, photo_of, photo_reader, photos_of


def part(disposition: str, content: bytes = b"pixels") -> bytes:
    return f"--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--b--\r\n"


FILE = part('name="file"; filename="a.jpg"')


def refused(body: bytes) -> str:
    with pytest.raises(ApiError) as caught:
        photo_of(body, b"b")
    assert caught.value.status == 422
    return caught.value.code


def test_the_boundary_may_be_quoted() -> None:
    read = photo_reader('Multipart/Form-Data; charset=utf-8; boundary="b"')
    assert read(form(FILE)) == b"pixels"


def test_a_bare_photo_is_its_own_body() -> None:
    assert photo_reader("image/jpeg")(b"pixels") == b"pixels"


def test_a_batch_keeps_the_order_and_the_names_of_its_files() -> None:
    parts = [part(f'name="files"; filename="{i}.jpg"', bytes([i])) for i in range(MAX_BATCH)]
    assert photos_of(form(*parts), b"b") == [(f"{i}.jpg", bytes([i])) for i in range(MAX_BATCH)]
    with pytest.raises(ApiError) as caught:
        photos_of(form(*parts, parts[0]), b"b")
    assert caught.value.code == "too-many-images"


def test_the_photo_comes_out_byte_for_byte() -> None:
    content = bytes(range(256)) * 40 + b"\r\n--\r\n--B\r\n"
    assert photo_of(form(part('name="file"; filename="a.jpg"', content)), b"b") == content


def test_header_names_have_no_case() -> None:
    assert photo_of(form(FILE.replace(b"Content-Disposition", b"content-DISPOSITION")), b"b") == b"pixels"


def test_text_fields_beside_the_file_are_ignored_up_to_a_limit() -> None:
    texts = [part('name="note"', b"file")] * MAX_TEXTS
    assert photo_of(form(*texts, FILE), b"b") == b"pixels"
    assert refused(form(*texts, FILE, FILE)) == "too-many-parts"


@pytest.mark.parametrize("options", ["filename*=UTF-8''a.jpg", 'x="y"\r\nContent-Type: image/jpeg'])
def test_a_part_is_a_file_by_its_extended_name_or_its_type(options: str) -> None:
    assert photo_of(form(part(f'name="file"; {options}')), b"b") == b"pixels"


def test_the_texts_of_a_form_are_handed_over() -> None:
    taken: list[tuple[str, str]] = []
    assert photo_of(form(part('name="top_k"', b"3"), FILE), b"b", taken.extend) == b"pixels"
    assert taken == [("top_k", "3")]


def test_a_second_file_under_any_name_is_refused() -> None:
    assert refused(form(FILE, part('name="other"; filename="b.jpg"'))) == "too-many-files"


def test_a_form_without_parts_has_no_file() -> None:
    assert refused(form()) in ("missing-file", "bad-multipart")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            form(part(f'name="file"; filename="{"a" * 5000}.jpg"')),
            "the header `Content-Disposition` of a part of the form has more than 4,224 bytes: "
            "send a shorter file name",
        ),
        (
            form(part(f'name="file"; filename="a.jpg"\r\nX-Note: {"n" * 5000}')),
            "the header `X-Note` of a part of the form has more than 4,224 bytes",
        ),
        (
            form(part('name="file"; filename="a.jpg"' + "\r\nX-A: b" * 9)),
            "a part of the form has more than 8 headers",
        ),
    ],
    ids=["file name", "another header", "many headers"],
)
def test_headers_over_a_limit_are_told_with_it(body: bytes, message: str) -> None:
    with pytest.raises(ApiError) as caught:
        photo_of(body, b"b")
    assert (caught.value.code, caught.value.message) == ("bad-multipart", message)


def test_a_file_name_as_long_as_file_systems_take_is_fine() -> None:
    assert photo_of(form(part(f'name="file"; filename="{"a" * 4000}.jpg"')), b"b") == b"pixels"


@pytest.mark.parametrize("cut", [1, 5, 20, 60])
def test_a_form_cut_short_is_malformed(cut: int) -> None:
    assert refused(form(FILE)[: -len(b"--b--\r\n") - cut]) == "bad-multipart"
