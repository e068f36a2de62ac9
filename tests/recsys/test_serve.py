"""The command serve: a process that answers and ends, and options that are refused."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from milk_recsys.serve import TOKEN, ServeOptions, _listening, main, serve

pytest.importorskip("uvicorn", reason="needs the extra `serve`")


def start(*words: str, token: str | None = None) -> tuple[subprocess.Popen[str], int]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {} if token is None else {TOKEN: token}
    process = subprocess.Popen(
        [sys.executable, "-m", "milk_recsys", "serve", "--port", "0", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"^serving milk with (\d+) new items at http://[^:]+:(\d+);", line):
            assert found[1] == "120"
            return process, int(found[2])
    raise AssertionError("the server did not start")


@pytest.mark.slow
def test_the_server_answers_with_a_token_and_ends_at_ctrl_c(trained_run, tmp_path):
    (tmp_path / "token").write_text("0123456789abcdef\n")
    words = ["--run", str(trained_run.folder), "--items", str(trained_run.data)]
    process, port = start(*words, "--token-file", str(tmp_path / "token"), token="x" * 20)
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        headers = {"Content-Type": "application/json", "Authorization": "Bearer 0123456789abcdef"}
        body = json.dumps({"users": ['user "1", né'], "k": 4})
        connection.request("POST", "/recommend", body, headers)
        answer = connection.getresponse()
        assert answer.status == 200
        assert len(json.loads(answer.read())["lists"][0]["items"]) == 4
        assert answer.getheader("server") is None
        connection.request("POST", "/recommend", body)
        refused = connection.getresponse()
        refused.read()
        assert refused.status == 401
        connection.close()
    finally:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert output == ""  # No log of requests.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "can be reached from other machines, so a token is needed"),
        (["--host", "example.org"], "can be reached from other machines"),
        (["--token-file", "{tmp}/none"], "cannot be read"),
        (["--token-file", "{tmp}/short"], "at least 16 visible ASCII characters"),
        (["--max-top", "0"], "--max-top must be at least 1, got 0"),
        (["--max-items", "3"], "has 120 items. Raise --max-items"),
        (["--port", "70000"], "--port must be from 0 to 65535, got 70000"),
        (["--run", "{tmp}"], "is not the folder of a run"),
    ],
)
def test_bad_options_end_with_status_2(trained_run, tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.delenv(TOKEN, raising=False)
    (tmp_path / "short").write_text("abc\n")
    given = ["--run", str(trained_run.folder), "--items", str(trained_run.data)]
    assert main([*given, *(word.format(tmp=tmp_path) for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_answers_are_sent_at_once():
    # With Nagle's algorithm, a body waits up to 40 ms for the acknowledgement of its header.
    with _listening("127.0.0.1", 0) as listener:
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        with socket.create_connection(listener.getsockname()):
            connection, _ = listener.accept()
            with connection:
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_that_is_taken_is_an_error(trained_run, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["--run", str(trained_run.folder), "--port", port]) == 2
    assert f"--port {port}: cannot be listened on" in capsys.readouterr().err


def test_without_the_extra_the_error_names_it(trained_run, monkeypatch):
    monkeypatch.setattr("milk_recsys.serve.find_spec", lambda name: None)
    with pytest.raises(Exception, match=r"pip install 'invmod\[serve\]'"):
        serve(ServeOptions(run=trained_run.folder))
