"""Which documents a run draws, and which labels share a text."""

import dataclasses

import numpy as np
import pytest
from run_fixtures import made_corpus, write_corpus

from lmtx_jax import cli
from lmtx_jax.config import TRAINING, Config
from lmtx_jax.data.builders import load_dataset
from lmtx_jax.inputs import draw_documents, load_inputs
from lmtx_jax.model.tokenizer import train_word_piece
from lmtx_jax.types import UserError


def configure(cache, folder, *argv):
  argv = ['main', f'--data_dir={folder}', f'--data_cache={cache}', *argv]
  values = cli.parse(argv, TRAINING)
  return Config(*(cli.build(part, values) for part in TRAINING))


def draw(cache, folder, *argv):
  config = configure(cache, folder, *argv)
  return draw_documents(load_dataset(config.source), config)


def uids(corpus):
  return [record.uid for record in corpus.records(range(len(corpus)))]


def test_dev_and_train_are_disjoint(data_dir, cache):
  train, dev, test = draw(cache, data_dir, '--num_dev_docs=10')
  assert len(dev) == 10
  assert not set(uids(train)) & set(uids(dev))
  assert len(set(uids(train)) | set(uids(dev))) == 90
  assert len(test) == 40


def test_dev_is_the_same_for_any_number_of_training_documents(data_dir, cache):
  drawn = [
    draw(cache, data_dir, '--num_dev_docs=10', f'--num_train_docs={n}')
    for n in (0, 20, 40)
  ]
  assert len({tuple(uids(dev)) for _, dev, _ in drawn}) == 1
  assert [len(train) for train, _, _ in drawn] == [80, 20, 40]
  assert set(uids(drawn[1][0])) < set(uids(drawn[2][0]))
  assert len({dev.fingerprint for _, dev, _ in drawn}) == 1


def test_seeds_draw_differently(data_dir, cache):
  first, again, other = (
    [uids(part) for part in draw(cache, data_dir, f'--seed={seed}')]
    for seed in (0, 0, 1)
  )
  assert first == again
  assert first[1] != other[1]
  assert first[2] == other[2]  # the test documents are nobody's choice


def test_more_than_there_is(data_dir, cache):
  train, dev, test = draw(
    cache,
    data_dir,
    '--num_dev_docs=5000',
    '--num_train_docs=5000',
    '--num_test_docs=5000',
  )
  assert (len(train), len(dev), len(test)) == (72, 18, 40)


def test_test_documents_are_the_first(data_dir, cache):
  test = draw(cache, data_dir, '--num_test_docs=3')[2]
  assert uids(test) == ['test-0', 'test-1', 'test-2']


def test_empty_documents_are_never_dev_documents(tmp_path, cache):
  corpus = made_corpus(20)
  for document in corpus['trn'][:12]:
    document |= {'title': '', 'content': ' \n'}
  folder = write_corpus(tmp_path / 'empty', corpus)
  for seed in range(5):
    train, dev, _ = draw(cache, folder, '--num_dev_docs=4', f'--seed={seed}')
    assert len(dev) == 4
    assert all(record.content.strip() for record in dev.records(range(4)))
    assert len(train) == 16  # kept


def test_a_title_that_is_not_read_leaves_a_document_empty(tmp_path, cache):
  corpus = made_corpus(20)
  for document in corpus['trn'][:12]:
    document['content'] = ''
  folder = write_corpus(tmp_path / 'titles', corpus)
  dev = draw(cache, folder, '--num_dev_docs=4', '--noencode_title')[1]
  assert all(record.content for record in dev.records(range(4)))


def test_too_few_documents(tmp_path, cache):
  folder = write_corpus(tmp_path / 'one', made_corpus(1))
  with pytest.raises(UserError, match='two training documents'):
    draw(cache, folder)


@pytest.mark.parametrize(
  ('label_text', 'expected'),
  [('title', [0, 1, 0, 0, 1]), ('title_content', [0, 1, 2, 0, 4])],
)
def test_labels_of_equal_text_share_a_key(
  tmp_path, cache, label_text, expected
):
  corpus = made_corpus(20)
  corpus['lbl'][:5] = [
    {'uid': uid, 'title': title, 'content': content}
    for uid, title, content in (
      ('a', 'Mercury', 'a planet'),
      ('b', 'Venus', ''),
      ('c', 'Mercury', 'a metal'),
      ('d', 'Mercury', 'a planet'),
      ('e', 'Venus', 'a goddess'),
    )
  ]
  folder = write_corpus(tmp_path / 'equal', corpus)
  config = configure(cache, folder, f'--label_text={label_text}')
  dataset = load_dataset(config.source)
  drawn = draw_documents(dataset, config)
  tokenizer = train_word_piece(['abc'], 300)
  inputs = load_inputs(dataset, drawn, tokenizer, config)
  assert inputs.label_key[:5].tolist() == expected
  # Another start reads no label text.
  no_source = dataclasses.replace(dataset.labels, source=None)
  dataset = dataclasses.replace(dataset, labels=no_source)
  again = load_inputs(dataset, drawn, tokenizer, config)
  assert again.label_key.tolist() == inputs.label_key.tolist()
  assert inputs.label_key[5:].tolist() == list(range(5, 24))
  assert inputs.label_key.dtype == np.int32
