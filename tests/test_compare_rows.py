"""Runs become rows: by flags, named by what differs."""

import dataclasses

from compare_fixtures import write_run
import pytest

from lmtx_jax.baseline_config import MethodConfig
from lmtx_jax.comparison import flags_read
from lmtx_jax.comparison.groups import make_rows, name_of, usual
from lmtx_jax.comparison.runs import read_runs
from lmtx_jax.types import UserError


class Folder:
  """Writes runs into one folder, and makes rows of them."""

  def __init__(self, path):
    self.path, self.runs = path, []

  def add(self, **kwargs):
    self.runs.append(write_run(self.path / f'r{len(self.runs)}', **kwargs))

  def rows(self, *, initial=False):
    return make_rows(read_runs(self.runs, ('P@1',)), initial=initial)

  def names(self, **kwargs):
    return [row.name for row in self.rows(**kwargs)]


@pytest.fixture
def folder(tmp_path):
  return Folder(tmp_path)


def test_seeds_are_one_row(folder):
  for seed, score in enumerate((40.0, 41.0, 45.0)):
    folder.add(scores=(score,), seed=seed)
  (row,) = folder.rows()
  assert row.name == 'lmtx'
  assert row.values('P@1') == [40.0, 41.0, 45.0]


def test_flags_that_change_no_result_are_ignored(folder):
  folder.add(seed=0, run_dir='a', checkpoint_steps=7)
  folder.add(seed=1, run_dir='b', verdict_store='x.sqlite')
  assert len(folder.rows()) == 1


def test_an_older_run_lacks_a_flag(folder):
  """It stands for the default of today."""
  folder.add(seed=0)
  folder.add(seed=1)
  path = folder.path / 'r0' / 'flags.txt'
  lines = path.read_text().splitlines(keepends=True)
  path.write_text(''.join(x for x in lines if '--hard_negatives' not in x))
  assert len(folder.rows()) == 1


def test_methods_are_named_alone(folder):
  folder.add(method='rts', learning_rate=1e-5, batch_size=64)
  folder.add(method='lmtx')
  folder.add(method='ict', learning_rate=1e-6)
  assert folder.names() == ['rts', 'lmtx', 'ict']


def test_rows_of_a_method_are_named_by_what_differs(folder):
  folder.add(shortlist_size=10)
  folder.add(shortlist_size=5, warm_start=True)
  folder.add(method='rts', batch_size=64)
  assert folder.names() == [
    'lmtx shortlist_size=5 warm_start=True',
    'lmtx shortlist_size=10 warm_start=False',
    'rts',
  ]


def test_the_usual_value_is_left_out(folder):
  for size in (5, 20, 10):
    folder.add(shortlist_size=size)
  folder.add(hard_negatives=4, shortlist_size=10)
  folder.add(warm_start=True, shortlist_size=10)
  assert folder.names() == [
    'lmtx shortlist_size=5',
    'lmtx',
    'lmtx warm_start=True',
    'lmtx hard_negatives=4',
    'lmtx shortlist_size=20',
  ]


def test_words_stand_as_the_user_named_them(folder):
  """Whatever numbers go with each."""
  folder.add(teacher='lexical', lexical_threshold=0.7)
  folder.add(teacher='oracle', shortlist_size=5)
  folder.add(teacher='oracle')
  assert [row.flags['teacher'] for row in folder.rows()] == [
    'oracle',
    'lexical',
    'oracle',
  ]  # by shortlist_size, 5 and 10, then by teacher


def test_no_value_is_usual_of_two():
  assert usual([{'a': '1'}, {'a': '2'}]) == {}
  assert usual([{'a': '1'}, {'a': '2'}, {'a': '2'}]) == {'a': '2'}
  assert usual([{'a': x} for x in '1122']) == {}


def test_flags_of_another_teacher_are_not_named(folder):
  folder.add(teacher='lexical')
  folder.add(teacher='oracle', oracle_recall=0.8)
  assert folder.names() == [
    'lmtx teacher=lexical',
    'lmtx teacher=oracle oracle_recall=0.8',
  ]


def test_defaults_of_another_teacher_are_not_named(folder):
  folder.add(teacher='lexical')
  folder.add(teacher='oracle')
  assert folder.names() == ['lmtx teacher=lexical', 'lmtx teacher=oracle']


LEXICAL = {'teacher': 'lexical'}
ICXML = {'method': 'icxml', 'teacher': 'sglang'}
PLANNED = {'teacher_budget': 900}
SOFT = {'loss': 'decoupled_softmax', **LEXICAL}


@pytest.mark.parametrize(
  ('flags', 'idle'),
  [
    (LEXICAL, {'oracle_recall': 0.7}),
    (LEXICAL, {'prompt': 'see_also', 'yes_threshold': 0.9}),
    (LEXICAL, {'contrast_temperature': 1.0, 'icxml_domain': 'product'}),
    (LEXICAL, {'removal_rate': 0.5, 'second_stage_steps': 9}),
    (LEXICAL, {'batch_cluster_size': 9}),
    (LEXICAL, {'warmup_batch_size': 8}),
    (LEXICAL, {'plan_rounds': 9, 'neighbours': 9, 'plan_candidates': 9}),
    (LEXICAL | PLANNED, {'train_on': 'run', 'shortlist_size': 5}),
    ({'method': 'rts'}, {'shortlist': 'hybrid', 'plan_rounds': 9}),
    ({'method': 'rts'}, {'dev_tolerance': 1.0, 'train_on': 'run'}),
    (LEXICAL, {'scratch_dim': 8}),
    (LEXICAL | {'lr_schedule': 'epoch'}, {'lr_warmup_steps': 9}),
    (SOFT, {'margin': 0.9, 'num_negatives': 3}),
    (LEXICAL | {'loss': 'triplet'}, {'loss_temperature': 1.0}),
    ({'prompt_template': '{doc} {label}'}, {'prompt': 'product'}),
    ({'method': 'maclr'}, {'shortlist_size': 5, 'min_words': 9}),
    ({'method': 'rts'}, {'teacher': 'oracle', 'oracle_recall': 0.5}),
    ({'method': 'rts'}, {'prompt': 'product', 'chat_format': 'vicuna'}),
    ({'method': 'rts'}, {'loss': 'triplet', 'margin': 0.9, 'num_cycles': 5}),
    ({'method': 'rts'}, {'warm_start': True, 'removal_rate': 0.5}),
    ({'method': 'ict'}, {'shortlist_size': 5, 'max_cut_tokens': 9}),
    ({'method': 'simcse'}, {'cluster_counts': '7', 'removal_rate': 0.1}),
    (ICXML, {'learning_rate': 1.0, 'batch_size': 8, 'dropout': 0.3}),
    (ICXML, {'num_train_docs': 9, 'max_train_doc_tokens': 9}),
    (ICXML, {'shortlist_size': 5, 'verdict': 'text', 'prompt': 'product'}),
    (ICXML, {'icxml_retrieved': 9, 'contrast_temperature': 1.0}),
  ],
)
def test_flags_that_do_nothing_split_no_seeds(folder, flags, idle):
  folder.add(seed=0, **flags)
  folder.add(seed=1, **flags | idle)
  (row,) = folder.rows()
  assert len(row.runs) == 2
  assert not row.flags.keys() & idle.keys()


@pytest.mark.parametrize(
  ('flags', 'used'),
  [
    (LEXICAL, {'lexical_threshold': 0.9}),
    (LEXICAL, {'margin': 0.9}),
    (LEXICAL, {'num_negatives': 9}),
    (LEXICAL, {'dev_tolerance': 1.0}),
    (LEXICAL, {'train_on': 'run'}),
    (LEXICAL, {'shortlist': 'hybrid'}),
    (LEXICAL, PLANNED),
    (LEXICAL | PLANNED, {'plan_rounds': 9}),
    (LEXICAL, {'loss_temperature': 0.9}),
    (LEXICAL | {'loss': 'triplet'}, {'margin': 0.9}),
    (SOFT, {'loss_temperature': 0.9}),
    (LEXICAL | {'batching': 'clusters'}, {'batch_cluster_size': 9}),
    (LEXICAL | {'encoder': 'scratch'}, {'scratch_dim': 8}),
    (
      LEXICAL | {'warmup_epochs': 1, 'lr_schedule': 'epoch'},
      {'lr_warmup_steps': 9},  # of the warm-up
    ),
    ({}, {'yes_threshold': 0.9}),
    ({}, {'prompt': 'product'}),
    ({'method': 'rts'}, {'min_words': 9}),
    ({'method': 'rts'}, {'max_cut_tokens': 900}),
    ({'method': 'ict'}, {'removal_rate': 0.5}),
    ({'method': 'maclr'}, {'second_stage_steps': 9}),
    ({'method': 'maclr'}, {'lr_warmup_steps': 9}),
    ({'method': 'simcse'}, {'training_head': True}),
    ({'method': 'simcse'}, {'contrast_temperature': 1.0}),
    (ICXML, {'chat_format': 'vicuna'}),
    (ICXML, {'icxml_num_demonstrations': 3}),
    (ICXML | {'icxml_demonstrations': 'label'}, {'icxml_retrieved': 9}),
    (ICXML | {'warmup_epochs': 1}, {'num_train_docs': 9}),
    (ICXML | {'warmup_epochs': 1}, {'adam_eps': 1.0}),
    (ICXML, {'index': 'exact'}),
  ],
)
def test_flags_that_do_something_part_rows(folder, flags, used):
  folder.add(seed=0, **flags)
  folder.add(seed=1, **flags | used)
  assert len(folder.rows()) == 2


def test_each_flag_of_a_method_is_known():
  """By the help: whose flag it is stands before a colon."""
  methods = ('rts', 'maclr', 'ict', 'simcse')
  for field in dataclasses.fields(MethodConfig):
    named = [m for m in methods if f'{m}:' in field.metadata['help'].lower()]
    for method in methods:
      flags = {'method': method, 'warmup_epochs': '0', 'encoder': 'x'}
      assert (field.name in flags_read.of_run(flags | {field.name: '1'})) == (
        method in (named or methods)
      ), (field.name, method)


def test_models_of_icxml_are_two_rows(folder):
  for model in ('small', 'large'):
    folder.add(**ICXML)
    path = folder.path / f'r{len(folder.runs) - 1}' / 'warmup' / 'teacher.json'
    path.write_text(f'"{{\\"model\\": \\"org/{model}\\"}}"')
  assert folder.names() == [
    'icxml teacher_model=small',
    'icxml teacher_model=large',
  ]


def test_folders_are_named_by_their_ends(folder):
  folder.add(encoder='/a/minilm/model')
  folder.add(encoder='/a/distilbert/model')
  assert folder.names() == [
    'lmtx encoder=minilm/model',
    'lmtx encoder=distilbert/model',
  ]


def test_long_values_are_cut_where_they_differ_before():
  flags = [{'prompt_template': c + 'x' * 50} for c in 'ab']
  name = name_of('lmtx', flags[0], flags)
  assert name == f'lmtx prompt_template=a{"x" * 30}…'
  flags = [{'prompt_template': 'x' * 50 + c} for c in 'ab']
  assert len({name_of('lmtx', f, flags) for f in flags}) == 2


def test_models_behind_one_address_are_two_rows(folder):
  for model in ('small', 'large'):
    folder.add(teacher='sglang', teacher_url='http://h:1')
    path = folder.path / f'r{len(folder.runs) - 1}' / 'warmup' / 'teacher.json'
    path.write_text(f'"{{\\"model\\": \\"org/{model}\\"}}"')
  assert folder.names() == [
    'lmtx teacher_model=small',
    'lmtx teacher_model=large',
  ]


class TestStart:
  def test_a_pretrained_encoder_is_one_value(self, folder):
    for seed in (0, 1):
      folder.add(initial=12.0, seed=seed)
      folder.add(initial=12.0, seed=seed, method='rts', learning_rate=1e-3)
    start, *trained = folder.rows(initial=True)
    assert (start.name, start.is_start) == ('untrained', True)
    assert start.values('P@1') == [12.0]
    assert [len(row.runs) for row in trained] == [2, 2]

  def test_one_row_an_encoder(self, folder):
    folder.add(encoder='a/one', initial=1.0)
    folder.add(encoder='b/two', initial=2.0)
    starts = [row for row in folder.rows(initial=True) if row.is_start]
    assert [(s.name, s.values('P@1')) for s in starts] == [
      ('untrained encoder=one', [1.0]),
      ('untrained encoder=two', [2.0]),
    ]

  def test_a_drawn_encoder_has_one_value_a_seed(self, folder):
    for seed in (0, 1):
      for size in (5, 10):
        folder.add(
          encoder='scratch', seed=seed, shortlist_size=size, initial=10.0 + seed
        )
    assert folder.rows(initial=True)[0].values('P@1') == [10.0, 11.0]

  def test_a_warm_up_is_named(self, folder):
    folder.add(warmup_epochs=2)
    assert folder.names(initial=True) == ['warmed up', 'lmtx']

  @pytest.mark.parametrize(
    'flags',
    [
      {'lr_warmup_steps': 7},
      {'adam_eps': 1e-3},
      {'weight_decay': 0.1},
      {'dropout': 0.5},
      {'warmup_learning_rate': 0.5},
      {'num_train_docs': 9},
      {'max_train_doc_tokens': 450},  # windows are cut from more
      {'method': 'rts', 'max_cut_tokens': 900},
    ],
  )
  def test_warm_ups_that_differ(self, folder, flags):
    folder.add(warmup_epochs=1, initial=10.0)
    folder.add(warmup_epochs=1, initial=11.0, seed=1, **flags)
    starts = [row for row in folder.rows(initial=True) if row.is_start]
    assert [row.values('P@1') for row in starts] == [[10.0], [11.0]]
    assert [row.name[:9] for row in starts] == ['warmed up'] * 2
    assert starts[0].name != starts[1].name

  @pytest.mark.parametrize(
    'flags',
    [
      {'num_train_docs': 9},
      {'num_dev_docs': 9},
      {'scratch_dim': 8},
      {'max_train_doc_tokens': 450},  # positions
    ],
  )
  def test_made_encoders_that_differ(self, folder, flags):
    folder.add(encoder='scratch', initial=10.0)
    folder.add(encoder='scratch', initial=11.0, **flags)
    starts = [row for row in folder.rows(initial=True) if row.is_start]
    assert [row.values('P@1') for row in starts] == [[10.0], [11.0]]

  def test_flags_of_training_part_no_starts(self, folder):
    """Methods read documents of other lengths; they start from one encoder."""
    folder.add(initial=12.0)
    folder.add(
      initial=12.0,
      method='simcse',
      max_train_doc_tokens=32,
      dropout=0.3,
      lr_warmup_steps=0,
      num_train_docs=50,
    )
    folder.add(
      initial=12.0, method='rts', max_train_doc_tokens=320, max_cut_tokens=900
    )
    folder.add(initial=12.0, max_train_doc_tokens=450, weight_decay=0.1)
    folder.add(initial=12.0, scores=(), num_cycles=0, batch_size=8)
    starts = [row for row in folder.rows(initial=True) if row.is_start]
    assert [row.name for row in starts] == ['untrained']
    assert starts[0].values('P@1') == [12.0]
    assert starts[0].disagreement('P@1') is None

  def test_equal_starts_of_unequal_scores(self, folder):
    """Another machine or version, say; the table tells."""
    folder.add(initial=12.0)
    folder.add(initial=14.5, method='rts')
    (start, *_) = folder.rows(initial=True)
    assert start.values('P@1') == [12.0]
    assert start.disagreement('P@1') == (12.0, 14.5)

  def test_starts_of_other_seeds_may_differ(self, folder):
    for seed in (0, 1):
      folder.add(encoder='scratch', initial=12.0 + seed, seed=seed)
      folder.add(
        encoder='scratch', initial=12.0 + seed, seed=seed, method='rts'
      )
    start = folder.rows(initial=True)[0]
    assert start.values('P@1') == [12.0, 13.0]
    assert start.disagreement('P@1') is None

  def test_a_run_of_no_cycles_is_a_start(self, folder):
    folder.add(scores=(), num_cycles=0, encoder='a/glove', initial=3.0)
    folder.add(encoder='a/bert')
    assert folder.names() == ['untrained', 'lmtx']
    assert folder.rows()[0].values('P@1') == [3.0]


def test_words_count_before_training():
  """And so do the documents whose words are counted."""
  flags = {'method': 'lmtx', 'warmup_epochs': '0', 'encoder': 'x'}
  alone, words = (
    flags_read.of_start(
      flags | {'lexical_weight': weight, 'num_train_docs': '9'}
    )
    for weight in ('0.0', '0.5')
  )
  assert words['lexical_weight'] == '0.5' != alone['lexical_weight']
  assert 'num_train_docs' in words and 'num_train_docs' not in alone


def test_votes_read_neighbours_without_a_budget():
  flags = {'method': 'lmtx', 'teacher_budget': '0', 'neighbours': '9'}
  flags |= {'warmup_epochs': '0', 'encoder': 'x', 'lexical_weight': '0.5'}
  found = {
    weight: flags_read.of_run(flags | {'neighbour_weight': weight})
    for weight in ('0.0', '0.4')
  }
  assert 'neighbours' in found['0.4'] and 'neighbours' not in found['0.0']
  assert flags_read.depends_on('neighbours', 'neighbour_weight')


def test_the_same_run_twice(folder):
  folder.add()
  folder.runs.append(folder.runs[0] + '/')
  assert len(folder.rows()[0].runs) == 1


def test_two_runs_alike(folder):
  folder.add(seed=3)
  folder.add(seed=3)
  with pytest.raises(UserError, match=r'r0 and .*r1 have the same --seed=3'):
    folder.rows()


def test_two_runs_alike_in_all_that_is_read(folder):
  folder.add(method='rts', shortlist_size=5)
  folder.add(method='rts', shortlist_size=10)
  with pytest.raises(UserError, match='no other flag that rts reads'):
    folder.rows()
