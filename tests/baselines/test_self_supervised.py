"""How the methods' trainings are put together, and what cannot be trained."""

import types

from baseline_fixtures import FakeTokenizer, documents, view
import jax
import numpy as np
import pytest
from run_fixtures import TINY, call, made_corpus, succeed, write_corpus
from test_methods import in_sentences

from lmtx_jax import devices
from lmtx_jax.baseline_config import MethodConfig
from lmtx_jax.baselines import self_supervised
from lmtx_jax.config import EncoderConfig, RunConfig
from lmtx_jax.files import read_arrays
from lmtx_jax.train_config import TrainConfig
from lmtx_jax.training import Trainer
from lmtx_jax.types import Shortlist, UserError

SHORT = (  # MACLR in a few steps
  *('--method=maclr', '--epochs=1000', '--max_steps=3', '--similarity=dot'),
  *('--cluster_counts=12', '--regulariser_labels=2', '--learning_rate=1e-2'),
)


def made_stages(texts, method='rts', **flags):
  """Of made texts, `(title, content)`; only what makes RTS's pairs."""
  tokenizer = FakeTokenizer()
  tokens = documents(tokenizer, texts)
  labels = view(tokenizer, ['one label'])
  return types.SimpleNamespace(
    config=types.SimpleNamespace(
      run=RunConfig(method=method),
      train=TrainConfig(batch_size=4),
      method=MethodConfig(**flags),
      encoder=EncoderConfig(max_doc_tokens=400),
    ),
    inputs=types.SimpleNamespace(
      train=types.SimpleNamespace(tokens=tokens), labels=labels
    ),
    pretrained=types.SimpleNamespace(tokenizer=tokenizer),
  )


def rts_pairs(texts, batch_size=4):
  stages = made_stages(texts, min_words=4, max_words=6)
  return self_supervised._rts(stages, 0, None).pairs(batch_size)


def test_windows_of_rts_have_twice_as_many_tokens_as_words():
  """At most, with the special ones; here a word has five."""
  pairs = rts_pairs([('', 'w ##a ##b ##c ##d ' * 50) for _ in range(4)])
  longest = [
    pairs.batch(step)[f'{side}_lengths'].max()
    for side in ('query', 'passage')
    for step in range(pairs.num_steps)
  ]
  assert max(longest) == 2 * 6


def test_rts_tells_of_documents_without_a_title(caplog):
  caplog.set_level('INFO')
  texts = [('', 'w ' * 9), ('t', 'w ' * 9), ('', 'w ' * 9)]
  rts_pairs(texts)
  assert 'rts: 2 of 3 documents have no title' in caplog.text
  caplog.clear()
  rts_pairs([('t', 'w ' * 9)] * 2)
  assert 'title' not in caplog.text


@pytest.mark.parametrize(
  ('num_devices', 'num_titles', 'enough'),
  [(1, 0, False), (1, 1, True), (4, 2, False), (4, 3, True)],
)
def test_too_few_pairs_are_told(monkeypatch, num_devices, num_titles, enough):
  """A title is a pair with itself, and so is the label."""
  monkeypatch.setattr(devices, 'total', lambda: num_devices)
  texts = [('t' * (i < num_titles), '') for i in range(4)]
  if enough:
    assert rts_pairs(texts).num_pairs == num_titles + 1
    return
  with pytest.raises(UserError, match=f'{num_titles + 1} pairs .*--batch_size'):
    rts_pairs(texts)


def test_the_score_of_the_encoders_label_is_a_cosine():
  """Also where it is found by an inner product of any length."""
  documents = np.array([[3, 4], [0, 2], [1, 0]], np.float32)
  labels = np.array([[4, 3], [0, 0.5], [0, 9]], np.float32)
  found = np.array([[0], [2], [-1]], np.int32)
  asked = []

  def dense(snapshot, k):
    asked.append(k)
    return Shortlist(found, np.full(found.shape, 99, np.float32))

  rankings = types.SimpleNamespace(
    dense=dense, doc_embeddings=lambda _: documents
  )
  best = self_supervised._by_cosine(
    types.SimpleNamespace(rankings=rankings),
    types.SimpleNamespace(label_embeddings=labels),
  )
  assert asked == [1]
  np.testing.assert_array_equal(best.labels, found)
  np.testing.assert_allclose(best.scores[:, 0], [0.96, 1, -np.inf], rtol=1e-6)


def flat(params):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(params)])


def write_sentences(tmp_path, cache, changed=lambda corpus: None):
  corpus = in_sentences(made_corpus())
  changed(corpus)
  folder = write_corpus(tmp_path / 'data', corpus)
  return (f'--data_dir={folder}', f'--data_cache={cache}', *TINY)


def test_stage_two_of_maclr(tmp_path, cache, monkeypatch):
  """It starts from stage one, whose encoder finds labels; no flag of LMTX."""
  fits, united = [], []
  fit, unite = Trainer.fit, self_supervised.unite

  def spy_fit(self, cycle, start, training):
    params = fit(self, cycle, start, training)
    fits.append((start, params))
    return params

  def spy_unite(*args):
    united.append(args)
    return unite(*args)

  monkeypatch.setattr(Trainer, 'fit', spy_fit)
  monkeypatch.setattr(self_supervised, 'unite', spy_unite)
  run = tmp_path / 'run'
  flags = write_sentences(tmp_path, cache)
  flags += (*SHORT, '--shortlist=lexical', '--index=exact')
  succeed('main', *flags, f'--run_dir={run}', '--second_stage_threshold=0.25')

  (start, one), (entering, two) = [[*map(flat, pair)] for pair in fits]
  assert np.array_equal(one, entering)
  assert not np.array_equal(one, start) and not np.array_equal(one, two)

  stage = run / 'cycle_01'
  embeddings = [
    np.load(stage / f'{name}_embeddings.npy') for name in ('doc', 'label')
  ]
  best = (embeddings[0] @ embeddings[1].T).argmax(axis=1)
  ((by_words, by_encoder, threshold),) = united
  assert threshold == 0.25
  np.testing.assert_array_equal(by_encoder.labels[:, 0], best)
  words = read_arrays(str(stage / 'tfidf.npz'))['labels']
  np.testing.assert_array_equal(by_words, words)
  assert (words[:, 0] != best).mean() > 0.1  # else nothing is tested
  assert not (stage / 'shortlist.npz').exists()
  # What was found is kept: the encoder is not asked again.
  monkeypatch.setattr(self_supervised, '_by_cosine', None)
  succeed('main', *flags, f'--run_dir={run}', '--second_stage_threshold=0.25')
  assert by_encoder.labels.tolist() == united[1][1].labels.tolist()


def test_stage_two_without_a_label(tmp_path, cache):
  def strange_labels(corpus):
    for i, row in enumerate(corpus['lbl']):
      row['title'] = f'qqq{i}'

  flags = write_sentences(tmp_path, cache, strange_labels)
  run = tmp_path / 'run'
  more = ('--second_stage_threshold=1', f'--run_dir={run}')
  result = call('main', *flags, *SHORT, *more)
  assert result.code == 1
  assert '0 of 74 training documents have a label' in result.error
  assert '--second_stage_threshold=1' in result.error
  assert not (run / 'summary.json').exists()
