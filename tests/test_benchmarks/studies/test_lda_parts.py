"""Parts of the study of topics with stand-ins for the peers, and the peers by hand."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.studies.lda import measure as study
from benchmarks.studies.lda import peers
from benchmarks.studies.record import Work
from zoo.models.topics.lda import bars

DATA = SimpleNamespace(train={"counts": torch.arange(12.0).reshape(6, 2)})


class Score:
    """A score of documents that tells the topics it is of."""

    def __init__(self, topics, counts, name="completion"):
        self.perplexity, self.nats_per_token, self.se = float(topics.sum()), name, len(counts)
        self.log_prob = torch.tensor([-1.23456789, -2.0])
        self.tokens = torch.tensor([3, 4])


def figures(total, documents, name="completion"):
    return {"perplexity": total, "nats": name, "se": documents}


def work(folder, quick=False):
    return Work(quick=quick, jobs=1, out=folder, progress=None)


@pytest.fixture
def made(monkeypatch):
    """Peers whose topics are constants, and their arguments."""
    calls = []

    def peer(name, value):
        def run(counts, topics, alpha, beta, seed, budget=None):
            calls.append((name, len(counts), topics, alpha, beta, seed, budget))
            found = torch.full((1, 2), value)
            return (SimpleNamespace(topics=found) if name == "ours" else found), value * 10

        return run

    for name, value in (
        ("ours", 1.0),
        ("sklearn_batch", 3.0),
        ("sklearn_online", 5.0),
        ("tomotopy_gibbs", 7.0),
    ):
        monkeypatch.setattr(study.peers, name, peer(name, value))
    monkeypatch.setattr(study.peers, "has_tomotopy", lambda: True)
    monkeypatch.setattr(study, "TRAINED", 4)
    monkeypatch.setattr(
        study.zoo, "load", lambda name: SimpleNamespace(load_data=lambda s=0: DATA)
    )
    monkeypatch.setattr(study, "document_completion", lambda t, alpha, test: Score(t, test))
    return calls


def test_digits_are_split_by_a_fixed_permutation(made):
    order = np.random.RandomState(0).permutation(6)
    train, test = study.digits()
    assert train[:, 0].tolist() == [2.0 * i for i in order[:4]]
    assert test[:, 0].tolist() == [2.0 * i for i in order[4:]]
    assert (study.TRAINED, study.K, study.ALPHA, study.BETA) == (4, 10, 0.5, 0.5)


def test_topics_are_matched_to_the_true_bars_by_their_distance():
    """Two topics exchanged, one moved by 0.05 from a word to another: an L1 distance of 0.1."""
    found = bars(5).clone()
    found[[0, 3]] = found[[3, 0]]
    word, other = int(found[1].argmax()), int(found[1].argmin())
    found[1, word] -= 0.04
    found[1, other] += 0.04
    row = study._recovered("peer", 4, lambda: (found, 2.5))
    assert row == {
        "method": "peer",
        "seed": 4,
        "worst": pytest.approx(0.08),
        "found": 10,
        "seconds": 2.5,
    }
    found[1, word] -= 0.02
    found[1, other] += 0.02
    row = study._recovered("peer", 4, lambda: (found, 2.5))
    assert (row["worst"], row["found"]) == (pytest.approx(0.12), 9)


def test_bars_are_recovered_from_ten_data_sets_with_peers_for_three(made, monkeypatch, tmp_path):
    monkeypatch.setattr(study, "_recovered", lambda method, seed, run: [method, seed, run()[1]])
    rows = study.recover(work(tmp_path))
    assert len(rows) == 10 + 3 + 3
    assert rows["ours 9"] == ["ours", 9, 10.0]
    assert rows["sklearn batch, 30 passes 2"] == ["sklearn batch, 30 passes", 2, 30.0]
    assert rows["tomotopy, 200 sweeps 0"] == ["tomotopy, 200 sweeps", 0, 70.0]
    assert made[:3] == [
        ("ours", 6, 10, 1.0, 0.5, 0, None),
        ("sklearn_batch", 6, 10, 1.0, 0.5, 0, 30),
        ("tomotopy_gibbs", 6, 10, 1.0, 0.5, 0, 200),
    ]
    made.clear()
    study.recover(work(tmp_path))
    assert made == []
    quick = study.recover(work(tmp_path / "quick", quick=True))
    assert list(quick) == ["ours 0", "ours 1"]
    monkeypatch.setattr(study.peers, "has_tomotopy", lambda: False)
    assert len(study.recover(work(tmp_path / "without"))) == 13


def test_methods_of_the_digits_have_equal_seconds_and_one_evaluator(made, tmp_path):
    rows = study.compare_digits(work(tmp_path))
    assert list(rows) == ["pair 0", "pair 1", "pair 2", "one topic", "tomotopy"]
    assert rows["pair 2"] == {
        "seed": 2,
        "ours": {**figures(1.0, 2), "seconds": 10.0},
        "sklearn online, equal seconds": {**figures(10.0, 2), "seconds": 50.0},
    }
    assert rows["one topic"] == {"seed": 0, "one topic": {**figures(1.0, 2), "seconds": 0.0}}
    assert rows["tomotopy"] == {
        "seed": 0,
        "tomotopy, 1000 sweeps": {**figures(14.0, 2), "seconds": 70.0},
    }
    assert made[0] == ("ours", 4, 10, 0.5, 0.5, 0, None)
    assert made[1] == ("sklearn_online", 4, 10, 0.5, 0.5, 0, 10.0)
    assert made[-1] == ("tomotopy_gibbs", 4, 10, 0.5, 0.5, 0, 1000)
    assert list(study.compare_digits(work(tmp_path / "q", quick=True))) == ["pair 0", "one topic"]


def test_one_topic_is_the_share_of_each_word_with_its_prior(made, monkeypatch, tmp_path):
    train, _ = study.digits()
    seen = []
    monkeypatch.setattr(
        study, "document_completion", lambda t, alpha, test: seen.append(t) or Score(t, test)
    )
    study.compare_digits(work(tmp_path, quick=True))
    share = train.sum(0) + 0.5
    assert seen[-1].tolist() == [pytest.approx((share / share.sum()).tolist())]


def test_three_quantities_are_of_the_same_few_images(made, monkeypatch, tmp_path):
    for name in ("elbo_bound", "left_to_right"):
        monkeypatch.setattr(study, name, lambda t, a, x, name=name: Score(t, x, name))
    monkeypatch.setattr(study, "LEFT_DOCUMENTS", 1)
    assert study.three_numbers(work(tmp_path)) == {
        "digits": {
            "documents": 1,
            "scores": {
                "ELBO bound": figures(1.0, 1, "elbo_bound"),
                "left to right, 50 particles": figures(1.0, 1, "left_to_right"),
                "document completion": figures(1.0, 1),
            },
        }
    }
    monkeypatch.setattr(study, "TRAINED", 0)
    assert study.three_numbers(work(tmp_path / "q", quick=True))["digits"]["documents"] == 5


def test_numbers_of_topics_keep_every_document(made, tmp_path):
    rows = study.number_of_topics(work(tmp_path))
    assert list(rows) == ["02", "05", "10", "15", "20"]
    assert rows["15"] == {
        "K": 15,
        **figures(1.0, 2),
        "log_prob": [-1.234568, -2.0],
        "tokens": [3, 4],
    }
    assert list(study.number_of_topics(work(tmp_path / "q", quick=True))) == ["02", "05"]
    assert [call[2] for call in made] == [2, 5, 10, 15, 20, 2, 5]


@pytest.mark.parametrize("quick", [False, True])
def test_an_encoder_is_scored_with_its_own_mixtures_and_without(
    made, monkeypatch, tmp_path, quick
):
    """The encoder's scale is 0, so that its mixtures are those of its loc."""

    class Encoder:
        def encode(self, x):
            return x, torch.zeros_like(x)

    calls = []
    topic = torch.tensor([[[1.0, 3.0]], [[3.0, 1.0]]]).repeat(50, 1, 1)
    monkeypatch.setattr(study, "TopicEncoder", Encoder)
    monkeypatch.setattr(study, "split_tokens", lambda test: ("known", "scored"))
    monkeypatch.setattr(study, "features", lambda d: torch.tensor([[0.0, 1.0]]).double())
    monkeypatch.setattr(study, "corpus", lambda train: len(train))
    monkeypatch.setattr(study, "topic_entry", lambda data, **options: (data, options))
    fit = SimpleNamespace(guide=Encoder(), cost=SimpleNamespace(steps=9))
    monkeypatch.setattr(study.guides, "fit", lambda *a, **k: calls.append((a, k)) or fit)
    draws = SimpleNamespace(draws={"topic": topic})
    monkeypatch.setattr(study.guides, "draw", lambda fit, n: draws if n == 100 else None)
    mixtures = []

    def complete(topics, mixture, scored):
        mixtures.append(mixture)
        return Score(topics, scored)

    monkeypatch.setattr(study, "complete", complete)
    rows = study.amortized(work(tmp_path, quick))
    assert list(rows) == ["dirichlet", "encoder"]
    assert rows["dirichlet"] == {"dirichlet, per-document inference": figures(1.0, 2)}
    assert rows["encoder"] == {
        "encoder": figures(1.0, len("scored")),
        "the encoder's topics, per-document inference": figures(1.0, 2),
        "steps": 9,
    }
    ((args, named),) = calls
    options = {"name": "digits_train", "topics": 10, "alpha": 0.5, "beta": 0.5}
    assert args == ((4, options), "topic_encoder")
    few = {"steps": 200, "patience": 50, "anneal": 50}
    assert named == ({"seed": 0, **few} if quick else {"seed": 0})
    expected = torch.distributions.StickBreakingTransform()(torch.tensor([[0.0, 1.0]]).double())
    assert torch.allclose(mixtures[0], expected)


# --- peers


def test_rows_are_divided_by_their_sums():
    rows = peers.normalized(torch.tensor([[1.0, 3.0], [2.0, 2.0]]))
    assert rows.tolist() == [[0.25, 0.75], [0.5, 0.5]]


def test_our_ascent_gets_constant_priors_and_is_timed(monkeypatch):
    seen = []

    def ascend(counts, topic, mixture, generator, *, starts):
        seen.append((topic, mixture, generator.initial_seed(), starts))
        return "found"

    clock = iter([1.0, 3.5])
    monkeypatch.setattr(peers, "ascend", ascend)
    monkeypatch.setattr(peers, "time", SimpleNamespace(process_time=lambda: next(clock)))
    assert peers.ours(torch.zeros(4, 3), 2, 0.25, 0.75, 6, starts=5) == ("found", 2.5)
    monkeypatch.setattr(peers, "time", SimpleNamespace(process_time=lambda: 0.0))
    peers.ours(torch.zeros(4, 3), 2, 0.25, 0.75, 6)
    assert seen.pop()[3] == 20
    ((topic, mixture, seed, starts),) = seen
    assert torch.equal(topic, torch.full((2, 3), 0.75, dtype=torch.float64))
    assert torch.equal(mixture, torch.full((4, 2), 0.25, dtype=torch.float64))
    assert (seed, starts) == (6, 5)


COUNTS = torch.tensor([[9.0, 8, 0, 0]] * 5 + [[0.0, 0, 7, 9]] * 5)


def test_sklearn_in_batches_finds_two_disjoint_topics():
    topics, seconds = peers.sklearn_batch(COUNTS, 2, 0.1, 0.01, 0, 20)
    first = topics[topics[:, 0].argmax()]
    assert first[:2].tolist() == pytest.approx([9 / 17, 8 / 17], abs=0.01)
    assert topics.sum(1).tolist() == pytest.approx([1.0, 1.0])
    assert 0 < seconds < 30


def test_sklearn_online_makes_epochs_of_minibatches_until_its_seconds_are_spent(monkeypatch):
    made = []
    splits = []
    split = np.array_split
    monkeypatch.setattr(peers.np, "array_split", lambda a, n: splits.append(n) or split(a, n))

    class Model:
        def __init__(self, topics, **options):
            self.options, self.sizes = {"topics": topics, **options}, []
            self.components_ = np.array([[1.0, 3.0]])
            made.append(self)

        def partial_fit(self, rows):
            self.sizes.append((len(rows), rows[:, 0].tolist()))

    import sklearn.decomposition

    clock = iter([0.0, 1.0, 2.0, 3.0, 4.0, 4.1, 6.0])
    monkeypatch.setattr(sklearn.decomposition, "LatentDirichletAllocation", Model)
    monkeypatch.setattr(peers, "time", SimpleNamespace(process_time=lambda: next(clock)))
    counts = torch.arange(520.0).reshape(260, 2)
    topics, seconds = peers.sklearn_online(counts, 3, 0.5, 0.25, 1, 4.0)
    (model,) = made
    assert topics.tolist() == [[0.25, 0.75]]
    assert seconds == 6.0
    assert [n for n, _ in model.sizes] == [130] * 5
    first, second = model.sizes[0][1] + model.sizes[1][1], model.sizes[2][1] + model.sizes[3][1]
    assert sorted(first) == sorted(second) == [2.0 * i for i in range(260)]
    assert first != second
    assert splits == [2, 2, 2]
    clock = iter([0.0, 2.0, 2.0])
    peers.sklearn_online(torch.ones(255, 2), 3, 0.5, 0.25, 1, 1.0)
    assert splits[3:] == [1]  # fewer than two minibatches of 128
    assert model.options == {
        "topics": 3,
        "doc_topic_prior": 0.5,
        "topic_word_prior": 0.25,
        "total_samples": 260,
        "random_state": 1,
        "learning_method": "online",
    }


def test_gibbs_sampling_gives_words_that_never_occur_their_share_of_the_prior(monkeypatch):
    """17 + 16 tokens in 2 topics of 4 words with beta 0.5: at least 0.5 / (total / 2 + 2)."""
    made = []

    class Model:
        used_vocabs = ("3", "0")

        def __init__(self, **options):
            self.options, self.docs = options, []
            made.append(self)

        def add_doc(self, words):
            self.docs.append(words)

        def train(self, sweeps, workers):
            self.trained = (sweeps, workers)

        def get_topic_word_dist(self, k):
            return [0.75, 0.25] if k == 0 else [0.125, 0.875]

    module = ModuleType("tomotopy")
    module.LDAModel = Model
    monkeypatch.setitem(sys.modules, "tomotopy", module)
    clock = iter([1.0, 1.5])
    monkeypatch.setattr(peers, "time", SimpleNamespace(process_time=lambda: next(clock)))
    topics, seconds = peers.tomotopy_gibbs(
        torch.tensor([[2.0, 0, 0, 1], [0, 0, 0, 5]]), 2, 0.25, 0.5, 3, 40
    )
    (model,) = made
    assert model.options == {"k": 2, "alpha": 0.25, "eta": 0.5, "seed": 4}
    assert model.docs == [["0", "0", "3"], ["3"] * 5]
    assert (model.trained, model.burn_in, model.optim_interval) == ((40, 1), 0, 0)
    assert seconds == 0.5
    least = 0.5 / (8 / 2 + 4 * 0.5)
    rows = [[0.25, least, least, 0.75], [0.875, least, least, 0.125]]
    assert topics.tolist() == [
        pytest.approx([max(v, least) / sum(max(w, least) for w in row) for v in row])
        for row in rows
    ]


def test_the_optional_peer_is_looked_for(monkeypatch):
    found = {"tomotopy": object()}
    monkeypatch.setattr(peers.importlib.util, "find_spec", found.get)
    assert peers.has_tomotopy() is True
    found.clear()
    assert peers.has_tomotopy() is False
