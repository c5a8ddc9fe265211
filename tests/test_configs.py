"""The flagfiles hold the paper's constants."""

import pathlib

import pytest

from lmtx_jax import cli
from lmtx_jax.config import TRAINING, Config
from lmtx_jax.data.builders import slug_of

ROOT = pathlib.Path(__file__).parent.parent
NAMES = sorted(path.stem for path in (ROOT / 'configs').glob('*.flags'))
# After the flagfile of any dataset.
CHANGES = sorted(
  str(path.relative_to(ROOT / 'configs').with_suffix(''))
  for folder in ('baselines', 'ablations')
  for path in (ROOT / 'configs' / folder).glob('*.flags')
)
PAPER = {  # cycles, training documents, title read, label tokens, prompt
  'eurlex4k': (6, 0, False, 15, 'tag'),
  'wiki10_31k': (6, 0, False, 15, 'tag'),
  'amazoncat13k': (4, 30_000, True, 15, 'product'),
  'wikiseealso320k': (3, 30_000, True, 64, 'see_also'),
  'wiki500k': (3, 30_000, True, 15, 'wikipedia'),
}

BERT, MPNET = 'google-bert/bert-base-uncased', 'all-mpnet-base-v1'
PUBLISHED = {  # of the baselines; their papers and code
  'rts': {
    **{'encoder': f'sentence-transformers/{MPNET}', 'pooling': 'cls'},
    **{'similarity': 'cosine', 'contrast_temperature': 0.05},
    **{'min_words': 80, 'max_words': 160, 'batch_size': 256, 'epochs': 5},
    **{'learning_rate': 5e-8, 'final_learning_rate': 5e-9},
    'lr_schedule': 'epoch',
  },
  'rts_amazon': {
    **{'encoder': f'sentence-transformers/{MPNET}', 'pooling': 'cls'},
    **{'similarity': 'cosine', 'contrast_temperature': 0.05},
    **{'min_words': 40, 'max_words': 80, 'batch_size': 384, 'epochs': 10},
    **{'learning_rate': 5e-5, 'final_learning_rate': 5e-6},
    'lr_schedule': 'epoch',
  },
  'maclr': {
    **{'encoder': BERT, 'pooling': 'cls', 'projection_dim': 512},
    **{'similarity': 'dot', 'max_label_tokens': 64, 'max_doc_tokens': 288},
    **{'max_train_doc_tokens': 288, 'removal_rate': 0.9},
    'regulariser_weight': 1,
    'cluster_counts': '2500,5000,10000,20000,40000',
    **{'cluster_growth_steps': 10_000, 'cluster_refresh_steps': 5000},
    **{'learning_rate': 1e-5, 'lr_warmup_steps': 10_000, 'clip_norm': 1},
    **{'batch_size': 128, 'max_steps': 100_000, 'lr_schedule': 'step'},
  },
  'ict': {
    **{'removal_rate': 0.9, 'max_label_tokens': 64, 'max_doc_tokens': 288},
    **{'max_train_doc_tokens': 288, 'learning_rate': 1e-4},
    **{'batch_size': 4096, 'max_steps': 100_000},
  },
  'simcse': {
    **{'pooling': 'cls', 'training_head': True, 'similarity': 'cosine'},
    **{'contrast_temperature': 0.05, 'batch_size': 64, 'epochs': 1},
    **{'learning_rate': 3e-5, 'max_train_doc_tokens': 32},
  },
  'icxml': {
    **{'icxml_num_demonstrations': 10, 'icxml_demonstration_labels': 10},
    'icxml_retrieved': 30,
  },
}


def read(monkeypatch, name, *argv):
  monkeypatch.chdir(ROOT)
  values = cli.parse(
    ['main', f'--flagfile=configs/{name}.flags', *argv], TRAINING
  )
  return Config(*(cli.build(part, values) for part in TRAINING))


def test_all_are_there():
  assert {*PAPER, 'base', 'quickstart', 'eurlex57k'} <= set(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_parses(monkeypatch, name):
  config = read(monkeypatch, name)
  if name in ('base', 'plus'):
    assert not config.source.dataset
  else:
    assert slug_of(config.source.dataset) == config.source.dataset


@pytest.mark.parametrize('name', NAMES)
def test_later_flags_win(monkeypatch, name):
  config = read(monkeypatch, name, '--dataset=', '--data_dir=x', '--seed=7')
  assert (config.source.dataset, config.source.data_dir) == ('', 'x')
  assert config.run.seed == 7


@pytest.mark.parametrize('name', CHANGES)
def test_changes_come_after_the_flags_of_a_dataset(monkeypatch, name):
  plain = read(monkeypatch, 'wiki500k')
  config = read(monkeypatch, 'wiki500k', f'--flagfile=configs/{name}.flags')
  assert config.source == plain.source
  # The flagfile of the dataset holds what these do already.
  same = ('vicuna', 'train_docs_30000', 'shortlist_10')
  assert (config == plain) == (name.partition('/')[2] in same)


@pytest.mark.parametrize('name', PAPER)
def test_holds_what_the_paper_did_on_each_dataset(monkeypatch, name):
  config = read(monkeypatch, name)
  assert config.source.dataset == name
  assert (
    config.run.num_cycles,
    config.sample.num_train_docs,
    config.text.encode_title,
    config.encoder.max_label_tokens,
    config.teacher.prompt,
  ) == PAPER[name]


def baseline(monkeypatch, name):
  """All flags of a baseline, by name."""
  flagfile = f'--flagfile=configs/baselines/{name}.flags'
  config = read(monkeypatch, 'wiki500k', flagfile)
  return {k: v for part in config.parts for k, v in vars(part).items()}


@pytest.mark.parametrize('name', PUBLISHED)
def test_holds_what_is_published_of_a_baseline(monkeypatch, name):
  flags = baseline(monkeypatch, name)
  assert flags['method'] == name.partition('_')[0]
  published = PUBLISHED[name]
  assert {flag: flags[flag] for flag in published} == published


@pytest.mark.parametrize('name', ['rts', 'rts_amazon'])
def test_windows_of_rts_are_not_cut_shorter(monkeypatch, name):
  flags = baseline(monkeypatch, name)
  assert flags['max_train_doc_tokens'] >= 2 * flags['max_words']


@pytest.mark.parametrize('name', ['rts', 'rts_amazon', 'rts_same_start', 'ict'])
def test_large_batches_are_taken_in_chunks(monkeypatch, name):
  flags = baseline(monkeypatch, name)
  assert 0 < flags['grad_cache_chunk'] <= flags['batch_size'] / 3


@pytest.mark.parametrize('name', ['rts', 'maclr', 'ict'])
def test_long_trainings_seldom_write_checkpoints(monkeypatch, name):
  assert baseline(monkeypatch, name)['checkpoint_steps'] >= 500


@pytest.mark.parametrize('name', [*PAPER, 'eurlex57k'])
def test_holds_what_the_paper_did_everywhere(monkeypatch, name):
  config = read(monkeypatch, name)
  encoder, train = config.encoder, config.train
  assert encoder.encoder == 'sentence-transformers/msmarco-distilbert-base-v4'
  assert (encoder.max_doc_tokens, encoder.max_train_doc_tokens) == (430, 450)
  assert config.shortlist.shortlist_size == 10
  assert config.sample.num_dev_docs == 800
  assert config.teacher.teacher == 'sglang'
  assert (train.batch_size, train.epochs) == (128, 1)
  assert (train.learning_rate, train.adam_eps) == (2e-4, 1e-6)
  assert (train.weight_decay, train.lr_warmup_steps) == (0, 100)
  assert (train.loss, train.margin) == ('triplet_softmax', 0.3)
  assert (train.loss_temperature, train.num_negatives) == (0.1, 10)
  assert not train.warm_start  # every cycle starts from the pretrained weights
  assert config.warmup.warmup_epochs == 0
  assert config.run.method == 'lmtx'


@pytest.mark.parametrize('name', [*PAPER, 'eurlex57k'])
def test_plus_asks_a_third(monkeypatch, name):
  paper, plus = (read(monkeypatch, x) for x in (name, f'{name}_plus'))
  num_cycles = paper.run.num_cycles
  num_dev = paper.sample.num_dev_docs
  # All documents of the two small ones are trained on, less those of dev.
  small = {'eurlex4k': 15_511 - num_dev, 'wiki10_31k': 14_146 - num_dev}
  docs = small.get(name, 30_000)
  pairs = docs * paper.shortlist.shortlist_size * num_cycles
  dev = num_cycles * num_dev
  assert abs(plus.plan.teacher_budget - dev - pairs / 3) < 100
  changed = {
    flag
    for part, other in zip(paper.parts, plus.parts, strict=True)
    for flag, value in vars(part).items()
    if vars(other)[flag] != value
  }
  assert changed == {
    *('shortlist', 'lexical_weight', 'label_prior', 'neighbour_weight'),
    *('dev_tolerance', 'teacher_budget'),
  }


def test_quickstart_needs_nothing_from_outside(monkeypatch):
  config = read(monkeypatch, 'quickstart')
  assert config.source.dataset == 'scipy_see_also'
  assert config.encoder.encoder == 'scratch'
  assert config.teacher.teacher == 'lexical'
