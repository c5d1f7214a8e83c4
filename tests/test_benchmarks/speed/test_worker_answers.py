"""A worker without its process: what it answers, and the sentences for what it does not."""

import os
from types import SimpleNamespace

import pytest

from benchmarks.speed import worker
from benchmarks.speed.worker import PeerError, Worker
from zoo.errors import InfrastructureError


class Pipe:
    def __init__(self, *answers, ready=True, gone=False):
        self.answers, self.ready, self.gone = list(answers), ready, gone
        self.sent, self.waited, self.closed = [], [], 0

    def poll(self, timeout):
        self.waited.append(timeout)
        return self.ready

    def recv(self):
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def send(self, message):
        if self.gone:
            raise BrokenPipeError
        self.sent.append(message)

    def close(self):
        self.closed += 1


def made(pipe):
    found = object.__new__(Worker)
    found.side, found.log = "stan", SimpleNamespace(name="linear-stan.log")
    found._connection, found.seconds = pipe, {}
    return found


def test_a_request_is_sent_and_its_answer_returned():
    pipe = Pipe(("ok", 5))
    assert made(pipe).ask("nuts", 3, timeout=7) == 5
    assert pipe.sent == [("nuts", (3,))]
    assert pipe.waited == [7]
    usual = Pipe(("ok", 5))
    made(usual).ask("time", "gradient")
    assert usual.waited == [600]


@pytest.mark.parametrize(
    ("pipe", "sentence"),
    [
        (Pipe(ready=False), "stan did not answer within 600 s; see linear-stan.log."),
        (Pipe(EOFError()), "stan ended without an answer; see linear-stan.log."),
        (Pipe(ConnectionResetError()), "stan ended without an answer; see linear-stan.log."),
        (Pipe(("error", "ValueError: odd")), "stan: ValueError: odd"),
        (Pipe(gone=True), "stan has ended; see linear-stan.log."),
    ],
)
def test_what_goes_wrong_is_one_sentence(pipe, sentence):
    with pytest.raises(PeerError) as caught:
        made(pipe).ask("nuts", 1)
    assert str(caught.value) == sentence
    assert isinstance(caught.value, InfrastructureError)


def test_preparing_is_timed(monkeypatch):
    clock = iter([2.0, 5.5])
    monkeypatch.setattr(worker, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    pipe = Pipe(("ok", {"used": True}))
    found = made(pipe)
    assert found.prepare("batch") == {"used": True}
    assert found.seconds == {"batch": 3.5}
    assert pipe.sent == [("prepare", ("batch",))]


@pytest.mark.parametrize("gone", [False, True])
def test_closing_ends_the_whole_group(monkeypatch, gone):
    killed, joined = [], []
    monkeypatch.setattr(worker.os, "killpg", lambda *a: killed.append(a))
    pipe = Pipe(gone=gone)
    found = made(pipe)
    found._process = SimpleNamespace(pid=77, join=lambda *a: joined.append(a))
    found.close()
    assert pipe.sent == ([] if gone else [("close", ())])
    assert killed == [(77, worker.signal.SIGKILL)]
    assert joined == [(5,), ()]
    assert pipe.closed == 1


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """Serve a side in this process, without its group, its priority and its log."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    names = {
        "setsid": lambda: None,
        "environ": os.environ,
        "open": lambda path, flags: 9,
        "dup2": lambda a, b: None,
        "O_WRONLY": 1,
        "O_CREAT": 2,
        "O_APPEND": 4,
    }
    monkeypatch.setattr(worker, "os", SimpleNamespace(**names))
    monkeypatch.setattr(worker, "keep_priority", lambda: None)

    def run(pipe, side):
        def make(*a):
            if isinstance(side, Exception):
                raise side
            return side

        monkeypatch.setattr(worker, "make", make)
        worker._serve(pipe, {"SET_BY_THE_TEST": "1"}, str(tmp_path / "log"), ("ours",))
        return pipe.sent

    return run


def test_a_side_says_its_measures_then_answers_until_it_is_closed(serve):
    side = SimpleNamespace(measures=["gradient"], add=lambda a, b: a + b)
    pipe = Pipe(("add", (1, 2)), ("close", ()))
    assert serve(pipe, side) == [("ok", ("gradient",)), ("ok", 3)]
    assert os.environ["SET_BY_THE_TEST"] == "1"
    assert serve(Pipe(EOFError()), side) == [("ok", ("gradient",))]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("first\nsecond"), "ValueError: first"),
        (ValueError(), "ValueError: "),
        (KeyError("x" * 400), "KeyError: '" + "x" * 299),
    ],
)
def test_an_error_is_answered_by_its_first_line(serve, error, said, capsys):
    assert serve(Pipe(), error) == [("error", said)]
    assert "Traceback" in capsys.readouterr().err
