"""What a snapshot makes of its labels, and how that fails."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from lmtx_jax import mips, rankings, snapshot
from lmtx_jax.config import TRAINING, Config
from lmtx_jax.run_dir import RunDir
from lmtx_jax.types import Ragged, UserError

NO_MEMORY = jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: 9 GiB')
TOLD = 'out of memory.*--shortlist_shards.*--index=scann'


@pytest.fixture
def made(tmp_path):
  """A snapshot of 40 labels and as many documents."""
  draw = np.random.default_rng(0)
  embeddings = draw.standard_normal((40, 8), np.float32)
  part = SimpleNamespace(corpus=range(40))
  inputs = SimpleNamespace(train=part, dev=part, test=part)
  config = Config(*(part() for part in TRAINING))
  run = RunDir(str(tmp_path))
  found = snapshot.Snapshot(0, None, None, inputs, run, config)
  found.__dict__['label_embeddings'] = embeddings
  return found


def fail(*args, **kwargs):
  raise NO_MEMORY


@pytest.mark.parametrize('name', ['choose_index', 'write_part', 'ScannIndex'])
def test_an_index_that_needs_too_much_says_what_to_turn(
  made, monkeypatch, name
):
  monkeypatch.setattr(snapshot, 'choose_index', lambda *args: 'scann')
  monkeypatch.setattr(snapshot, 'write_part', lambda *args: None)
  broken = SimpleNamespace(load=fail) if name == 'ScannIndex' else fail
  monkeypatch.setattr(snapshot, name, broken)
  with pytest.raises(UserError, match=TOLD):
    made.index  # noqa: B018


def test_a_search_that_needs_too_much_says_what_to_turn(made, monkeypatch):
  filters = Ragged.from_rows([[]] * 40)
  made.inputs.train = SimpleNamespace(corpus=SimpleNamespace(filters=filters))
  made.__dict__['index'] = SimpleNamespace(search=fail)
  ranks = rankings.Rankings(made.config, made.inputs, made.run)
  monkeypatch.setattr(
    ranks, 'doc_embeddings', lambda snapshot: made.label_embeddings
  )
  with pytest.raises(UserError, match=TOLD):
    ranks.dense(made, 5)
  monkeypatch.setattr(snapshot, 'tag_documents', fail)
  made.__dict__['encoder'] = None
  made.inputs.doc_widths = None
  documents = SimpleNamespace(corpus=made.inputs.train.corpus, inputs=None)
  with pytest.raises(UserError, match=TOLD):
    made.tag(documents, 5, 0, 'test')


@pytest.mark.parametrize(('shards', 'builders'), [(0, 1), (3, 3), (9, 4)])
def test_several_processes_share_the_work_of_an_index(
  made, monkeypatch, shards, builders
):
  """Queries and parts, but a part is built by one."""
  asked = []
  part = dataclasses.replace(made.config.shortlist, shortlist_shards=shards)
  config = dataclasses.replace(made.config, shortlist=part)
  made = dataclasses.replace(made, config=config)
  made.__dict__['label_embeddings'] = np.zeros((40, 8), np.float32)
  monkeypatch.setattr(snapshot.processes, 'count', lambda: 4)
  monkeypatch.setattr(made.run, 'once', lambda path, make, *_, **__: make())
  monkeypatch.setattr(
    snapshot, 'choose_index', lambda *args: asked.append(args) or 'exact'
  )
  assert isinstance(made.index, mips.ExactIndex)
  assert asked[0][1:] == (40, 8, 30, builders)
