"""Requests that must not reach the session are refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest

pytest.importorskip("starlette")
from starlette.testclient import TestClient

from gpuconv.live.app import LIMITS, application
from gpuconv.live.security import is_loopback
from tests.defaults import expect_defaults

HOME = "http://127.0.0.1:8600"
JSON = {"content-type": "application/json"}
BYTES = {"content-type": "application/octet-stream"}


@pytest.fixture
def client(open_session):
    session = open_session(start=True)
    return TestClient(application(session), base_url=HOME)


def pause(client, **headers):
    return client.post("/command", content=b'{"do": "pause"}', headers=JSON | headers)


def test_the_page_and_its_own_requests_are_accepted(client):
    assert client.get("/").status_code == 200
    for headers in ({}, {"origin": HOME, "sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}):
        assert pause(client, **headers).json() == {"done": None}
    for host in ("localhost:8600", "[::1]:8600", "127.0.0.1"):
        assert client.get("/", headers={"host": host}).status_code == 200


def test_another_name_for_this_machine_is_refused(client):
    """Such requests arrive after DNS rebinding."""
    for host in (
        "evil.example",
        "evil.example:8600",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "",
        "0.0.0.0",
    ):
        for path in ("/", "/events", "/frame/picture", "/page.js"):
            assert client.get(path, headers={"host": host}).status_code == 421, host


def test_a_request_from_another_site_is_refused(client):
    for headers in (
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "https://127.0.0.1:8600"},
        {"origin": "http://127.0.0.1:8601"},
        {"origin": "http://localhost:8600"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ):
        assert pause(client, **headers).status_code == 403, headers
        assert client.get("/events", headers=headers).status_code == 403


def test_requests_that_a_form_can_send_are_refused(client):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = client.post("/command", content=b'{"do": "pause"}', headers={"content-type": kind})
        assert answer.status_code == 400
        assert "application/json" in answer.json()["error"]


def test_a_large_body_is_refused_before_it_is_read(client):
    for path, most in LIMITS.items():
        response = client.post(path, headers=JSON | {"content-length": str(most + 1)}, content=b"x" * 10)
        assert response.status_code == 413

    def chunks():
        for _ in range(2 + LIMITS["/command"] // 65536):
            yield b"x" * 65536

    assert client.post("/command", content=chunks(), headers=JSON).status_code == 413
    assert client.post("/", content=b"x").status_code == 413
    for length in ("-1", "1e9", "9" * 5000):
        assert client.post("/command", content=b"{}", headers=JSON | {"content-length": length}).status_code in (
            400,
            413,
        )


def test_a_duplicate_header_is_refused(client):
    for name, other in (("host", "127.0.0.1"), ("origin", "http://evil.example")):
        headers = [(name, "127.0.0.1:8600" if name == "host" else HOME), (name, other)]
        assert client.get("/", headers=headers).status_code == 400


def test_no_path_reaches_the_file_system(client, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    for path in (
        "/../app.py",
        "/%2e%2e/app.py",
        "/..%2fapp.py",
        "/static/../app.py",
        f"/{secret}",
        f"//{secret}",
        "/frame/..%2f..%2fapp.py",
        "/frame/net",
        "/app.py",
        "/index.html%00",
    ):
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert "secret" not in answer.text
    for number in ("../../secret", str(secret), 1.0, None, [1], -1):
        body = {"do": "load", "number": number}
        assert client.post("/command", json=body).status_code == 400
    before = {path for path in tmp_path.rglob("*") if path.suffix == ".txt"}
    answer = client.post("/command", json={"do": "save", "number": str(secret)})
    assert answer.status_code == 400
    assert {path for path in tmp_path.rglob("*") if path.suffix == ".txt"} == before


def test_malformed_requests_are_refused(client):
    for body in (
        b"",
        b"[]",
        b"\xff",
        b'{"do": 1}',
        b'{"do": "close"}',
        b'{"do": "__init__"}',
        b'{"do": "pause", "x": 1}',
        b'{"do": "look", "image": [1]}',
        b'{"do": "change", "settings": 5}',
        b'{"do": "change", "settings": {"lr": NaN}}',
        b'{"do": "step"' + b"[" * 5000,
        b'{"do": "explain", "layer": "fc1", "at": [1e9]}',
        b'{"do": "explain", "layer": {}, "at": 5}',
    ):
        answer = client.post("/command", content=body, headers=JSON)
        assert answer.status_code == 400, body
        assert answer.json()["error"]


def test_every_response_has_the_security_headers(client):
    for answer in (client.get("/"), client.get("/nothing"), client.get("/", headers={"host": "evil.example"})):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in answer.headers


def test_an_uploaded_image_is_read_by_the_safe_reader(client):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.full((30, 20, 3), 200, np.uint8)).save(file, "PNG")
    assert client.post("/image", content=file.getvalue(), headers=BYTES).status_code == 200
    header = b"IHDR" + struct.pack(">II", 20000, 20000) + file.getvalue()[24:29]  # claims 20000 x 20000 pixels
    bomb = file.getvalue()[:12] + header + struct.pack(">I", zlib.crc32(header)) + file.getvalue()[33:]
    for content, message in ((b"", "none of"), (b"MZ no image", "none of"), (bomb, "pixels")):
        answer = client.post("/image", content=content, headers=BYTES)
        assert answer.status_code == 400
        assert message in answer.json()["error"]
    assert client.post("/drawing", content=bytes(64), headers=BYTES).status_code == 200
    assert "64 bytes" in client.post("/drawing", content=bytes(63), headers=BYTES).json()["error"]


def test_beyond_loopback_every_request_needs_the_token(open_session):
    app = application(open_session(), host="0.0.0.0", token="right")
    for base in ("http://192.168.1.5:8600", HOME):
        client = TestClient(app, base_url=base)
        for path in ("/", "/page.js", "/events", "/frame/picture", "/?token=", "/?token=wrong", "/?token=rightt"):
            assert client.get(path).status_code == 401, path
        assert client.get("/", headers={"cookie": "gpuconv-live=wrong"}).status_code == 401
        assert pause(client).status_code == 401
        page = client.get("/?token=right")
        assert page.status_code == 200
        assert all(word in page.headers["set-cookie"] for word in ("HttpOnly", "SameSite=Strict"))
        assert client.get("/page.js").status_code == 200  # the cookie has the token
        assert pause(client).status_code == 200
        assert pause(client, origin="http://evil.example").status_code == 403
    assert TestClient(app, base_url="http://evil.example").get("/?token=right").status_code == 421


def test_only_loopback_addresses_and_localhost_count_as_loopback():
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.5", "example.org", "")))


def test_by_default_only_this_machine_is_served():
    expect_defaults(
        {
            "live": {"serve": dict(host="127.0.0.1", port=8600, ready=print)},
            "live.app": {"application": dict(host="127.0.0.1", token=None)},
        }
    )
