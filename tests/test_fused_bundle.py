"""A bundle that ranks by words too: every way to use it says the same."""

import collections
import json
import shutil

import numpy as np
import pytest
from run_fixtures import (
  NUM_LABELS,
  WEIGHT,
  call,
  check_same,
  made_corpus,
  read_jsonl,
  succeed,
  write_jsonl,
)
from word_fixtures import SlowWords

from lmtx_jax.bundle import Bundle
from lmtx_jax.bundle_labels import (
  FORMAT,
  FUSED_FORMAT,
  PRIOR_FORMAT,
  VOTES_FORMAT,
  open_labels,
)
from lmtx_jax.label_edits import add_labels, remove_labels
from lmtx_jax.types import Ragged, Record, UserError

PRIOR = 0.3
VOTES, NEAREST = 0.4, 5
CORPUS = made_corpus()
DOCUMENTS = [Record(d['uid'], d['title'], d['content']) for d in CORPUS['tst']]
# The first of the training documents in this order are dev documents.
ORDER = np.random.default_rng((0, 1)).permutation(len(CORPUS['trn']))
NEW = [
  Record('new-0', f'{CORPUS["lbl"][3]["title"]} unheard', ''),
  Record('new-1', f'wholly unheard {DOCUMENTS[0].content.split()[0]}', 'more'),
]


@pytest.fixture(scope='module', params=['words', 'prior', 'votes'])
def fused_run(request, fused_run, tmp_path_factory, tiny):
  """The run directory of one that ranks by words, and by more than these."""
  if request.param == 'words':
    return fused_run
  run = tmp_path_factory.mktemp('runs') / request.param
  flags = ['--teacher=oracle', f'--lexical_weight={WEIGHT}', '--num_cycles=1']
  flags.append(f'--label_prior={PRIOR}')
  if request.param == 'votes':
    flags += [f'--neighbour_weight={VOTES}', f'--neighbours={NEAREST}']
  succeed('main', *tiny, *flags, f'--run_dir={run}')
  return run


@pytest.fixture
def folder(fused_run, tmp_path):
  """The bundle of that run, to change."""
  cycle = tmp_path / 'run' / 'cycle_00'
  cycle.mkdir(parents=True)
  shutil.copy(fused_run / 'cycle_00' / 'pseudo_labels.npz', cycle)
  return shutil.copytree(fused_run / 'export', tmp_path / 'run' / 'export')


@pytest.fixture(scope='module')
def counted():
  """The texts whose words a run counts: labels and training documents."""
  train = [CORPUS['trn'][row] for row in ORDER[16:]]
  titles = [label['title'] for label in CORPUS['lbl']]
  return [f'{doc["title"]} {doc["content"]}' for doc in train] + titles


def table(folder, counted, records=DOCUMENTS):
  """`[num_docs, num_labels]` scores of documents, one by one."""
  bundle = Bundle(str(folder))
  titles = [label.title for label in bundle.labels]
  texts = [f'{doc.title} {doc.content}' for doc in records]
  cosines = SlowWords(counted).cosines(texts, titles)
  embeddings = bundle.embed(bundle.inputs(records))
  dense = embeddings @ np.asarray(bundle.label_embeddings).T
  assert np.count_nonzero(cosines) > len(records)
  return (
    dense
    + WEIGHT * cosines
    + priors(folder, titles)
    + votes(folder, bundle, embeddings, titles)
  )


def priors(folder, titles):
  """What labels are given for the documents that had their text accepted."""
  if 'label_prior' not in json.loads((folder / 'lmtx.json').read_text()):
    return np.zeros(len(titles))
  with np.load(folder.parent / 'cycle_00' / 'pseudo_labels.npz') as arrays:
    accepted = arrays['accepted_values'].tolist()
  counts = collections.Counter(CORPUS['lbl'][n]['title'] for n in accepted)
  assert max(counts.values()) > 3
  return PRIOR * np.log([1 + counts[title] for title in titles])


def votes(folder, bundle, embeddings, titles):
  """What the training documents near each of these add to each label."""
  out = np.zeros((len(embeddings), len(titles)))
  if 'neighbour_weight' not in json.loads((folder / 'lmtx.json').read_text()):
    return out
  with np.load(folder.parent / 'cycle_00' / 'pseudo_labels.npz') as arrays:
    accepted = Ragged(arrays['accepted_values'], arrays['accepted_offsets'])
  train = [CORPUS['trn'][row] for row in np.sort(ORDER[16:])]
  records = [Record(d['uid'], d['title'], d['content']) for d in train]
  alike = embeddings @ bundle.embed(bundle.inputs(records)).T
  alike[:, accepted.lengths == 0] = -np.inf
  for doc, row in enumerate(alike):
    near = np.argsort(-row)[:NEAREST]
    weights = np.exp(row[near] / 0.1) / np.exp(row[near] / 0.1).sum()
    for other, weight in zip(near, weights, strict=True):
      of_other = {CORPUS['lbl'][n]['title'] for n in accepted[other]}
      out[doc] += VOTES * weight * np.array([t in of_other for t in titles])
  assert np.count_nonzero(out) > len(embeddings)
  return out


def check(rows, folder, expected):
  """Predictions are the best of a table of scores."""
  uids = [label.uid for label in Bundle(str(folder)).labels]
  for row, scores in zip(rows, expected, strict=True):
    of_uid = dict(zip(uids, scores.tolist(), strict=True))
    told = [label['score'] for label in row['labels']]
    best = sorted(of_uid.values(), reverse=True)[: len(told)]
    assert told == pytest.approx(best, abs=1e-5)
    mine = [of_uid[label['uid']] for label in row['labels']]
    assert mine == pytest.approx(told, abs=1e-5)


def test_predictions_are_the_obvious_ones(fused_run, counted):
  bundle = Bundle(str(fused_run / 'export'))
  rows = bundle.predictions(DOCUMENTS, 10)
  check(rows, fused_run / 'export', table(fused_run / 'export', counted))
  alone = bundle.state.search(
    bundle.embed(bundle.inputs(DOCUMENTS)), None, NUM_LABELS
  )
  both = bundle.tag(DOCUMENTS, NUM_LABELS)
  assert (alone.labels[:, 0] != both.labels[:, 0]).any()


def test_predict_agrees(fused_run, cache, tmp_path):
  expected = Bundle(str(fused_run / 'export')).predictions(DOCUMENTS, 5)
  lines = [doc._asdict() for doc in DOCUMENTS]
  write_jsonl(tmp_path / 'docs.jsonl', [*lines[:7], [], *lines[7:]])
  succeed(
    'predict',
    f'--bundle={fused_run / "export"}',
    f'--data_cache={cache}',
    f'--input={tmp_path / "docs.jsonl"}',
    f'--output={tmp_path / "tags.jsonl"}',
    '--on_error=skip',
    '--top_k=5',
  )
  rows = read_jsonl(tmp_path / 'tags.jsonl')
  assert rows.pop(7)['uid'] is None
  check_same(rows, expected)


def test_the_run_and_evaluate_score_it(fused_run, counted, data_dir, cache):
  summary = json.loads((fused_run / 'summary.json').read_text())
  found = succeed(
    'evaluate',
    f'--bundle={fused_run / "export"}',
    f'--data_dir={data_dir}',
    f'--data_cache={cache}',
  )
  scores = json.loads(found.out)['scores']
  assert scores == pytest.approx(summary['test'], abs=1e-9)
  expected = table(fused_run / 'export', counted)
  for line in (data_dir / 'filter_labels_test.txt').read_text().splitlines():
    expected[tuple(map(int, line.split()))] = -np.inf
  hits = [
    label in doc['target_ind']
    for label, doc in zip(expected.argmax(1), CORPUS['tst'], strict=True)
  ]
  assert scores['P@1'] == pytest.approx(100 * np.mean(hits))
  with np.load(fused_run / 'cycle_00' / 'test_labels.npz') as kept:
    np.testing.assert_array_equal(kept['labels'][:, 0], expected.argmax(1))


def test_the_dev_score_is_of_that_ranking(fused_run, counted, data_dir):
  dev = np.sort(ORDER[:16])
  docs = [CORPUS['trn'][row] for row in dev]
  records = [Record(d['uid'], d['title'], d['content']) for d in docs]
  expected = table(fused_run / 'export', counted, records)
  banned = (data_dir / 'filter_labels_train.txt').read_text().splitlines()
  for doc, label in (map(int, line.split()) for line in banned):
    expected[dev == doc, label] = -np.inf
  hits = [
    label in doc['target_ind']
    for label, doc in zip(expected.argmax(1), docs, strict=True)
  ]
  score = json.loads((fused_run / 'cycle_00' / 'dev_score.json').read_text())
  assert score['p@1'] == pytest.approx(100 * np.mean(hits))


def test_changed_labels_are_ranked_as_if_built_so(folder, counted):
  tagger = Bundle(str(folder))
  add_labels(tagger, NEW)
  assert tagger.reload()
  check(tagger.predictions(DOCUMENTS, 8), folder, table(folder, counted))
  remove_labels(str(folder), ['L0', 'L5', 'new-0'])
  assert tagger.reload()
  check(tagger.predictions(DOCUMENTS, 8), folder, table(folder, counted))
  assert len(tagger.state.fused.lexical) == NUM_LABELS - 1
  assert not (folder / 'lexical').exists()
  assert (folder / 'labels_000001' / 'lexical').is_dir()
  about = json.loads((folder / 'lmtx.json').read_text())
  has_prior, has_votes = 'label_prior' in about, 'neighbour_weight' in about
  formats = {(False, False): FUSED_FORMAT, (True, False): PRIOR_FORMAT}
  assert about['format'] == formats.get((has_prior, has_votes), VOTES_FORMAT)
  assert about['lexical_weight'] == WEIGHT
  of_labels = {'label_prior.npy': has_prior, 'neighbour_votes.npz': has_votes}
  for name, expected in of_labels.items():
    assert (folder / 'labels_000001' / name).exists() == expected
    assert not (folder / name).exists()
  assert (folder / 'neighbours.npy').exists() == has_votes


def test_a_view_of_labels_goes_on_while_they_change(folder):
  tagger = Bundle(str(folder))
  before = tagger.predictions(DOCUMENTS, 8)
  for label in NEW:
    add_labels(tagger, [label])
  assert tagger.predictions(DOCUMENTS, 8) == before


def test_a_bundle_without_it_is_as_it_was(bundle):
  about = json.loads((bundle / 'lmtx.json').read_text())
  assert about['format'] == FORMAT == 3
  assert 'lexical_weight' not in about
  assert not (bundle / 'lexical').exists()
  assert open_labels(str(bundle)).fused is None


def test_the_card_tells_of_it(fused_run, bundle):
  told = (fused_run / 'export' / 'README.md').read_text()
  assert '0.75 times the cosine of the words' in told
  has_prior = (fused_run / 'export' / 'label_prior.npy').exists()
  told = ' '.join(told.split())
  assert ('0.3 times log(1' in told) == has_prior
  has_votes = (fused_run / 'export' / 'neighbours.npy').exists()
  assert ('of the 5 nearest training documents' in told) == has_votes
  assert 'cosine of the words' not in (bundle / 'README.md').read_text()


def lose(folder):
  shutil.rmtree(folder)


def lose_a_file(folder):
  (folder / 'words.npy').unlink()


def cut(folder):
  data = (folder / 'label_weights.npy').read_bytes()
  (folder / 'label_weights.npy').write_bytes(data[: len(data) // 2])


def garble(folder):
  (folder / 'lexical.json').write_text('{"format": ')


@pytest.mark.parametrize('damage', [lose, lose_a_file, cut, garble])
def test_a_folder_that_is_damaged(folder, tmp_path, damage):
  damage(folder / 'lexical')
  (tmp_path / 'docs.jsonl').write_text('{"content": "x"}\n')
  flags = (f'--bundle={folder}', f'--input={tmp_path / "docs.jsonl"}')
  found = call('predict', *flags, f'--output={tmp_path / "tags.jsonl"}')
  assert found.code == 1
  assert str(folder / 'lexical') in found.error
  removed = call('labels', 'remove', f'--bundle={folder}', '--uids=L0')
  assert str(folder / 'lexical') in removed.error


def test_words_of_other_labels(folder, tmp_path):
  other = shutil.copytree(folder, tmp_path / 'other')
  remove_labels(str(other), ['L0'])
  shutil.rmtree(folder / 'lexical')
  shutil.copytree(other / 'labels_000001' / 'lexical', folder / 'lexical')
  with pytest.raises(UserError, match='23 labels, not of 24'):
    open_labels(str(folder))


@pytest.mark.parametrize('value', [0, -1, 11, 'a', True, None, float('nan')])
def test_a_weight_that_no_bundle_has(folder, value):
  path = folder / 'lmtx.json'
  about = json.loads(path.read_text())
  path.write_text(json.dumps(about | {'lexical_weight': value}))
  with pytest.raises(UserError, match="'lexical_weight' is"):
    open_labels(str(folder))


@pytest.mark.parametrize('value', ['-0.1', '10.5', 'nan', 'much'])
def test_a_weight_that_no_run_takes(tiny, tmp_path, value):
  found = call(
    'main', *tiny, f'--run_dir={tmp_path}', f'--lexical_weight={value}'
  )
  assert found.code in (1, 2)
  assert f'--lexical_weight={value}' in found.error


@pytest.mark.parametrize('name', ['label_prior', 'neighbour_weight'])
def test_priors_and_votes_go_with_words(tiny, tmp_path, name):
  flags = (*tiny, f'--{name}=0.1', f'--run_dir={tmp_path}/run')
  assert f'--{name} goes with a --lexical_weight' in call('main', *flags).error


@pytest.mark.parametrize(
  ('flag', 'told'),
  [
    ('--neighbours=0', '--neighbours above 0'),
    ('--similarity=dot', '--similarity=cosine'),
  ],
)
def test_votes_go_with_neighbours_and_cosines(tiny, tmp_path, flag, told):
  flags = ('--lexical_weight=1', '--neighbour_weight=1', flag)
  found = call('main', *tiny, *flags, f'--run_dir={tmp_path}/run')
  assert told in found.error


of_votes = pytest.mark.parametrize('fused_run', ['votes'], indirect=True)


def lose_offsets(path):
  np.savez(path, labels=np.load(path)['labels'])


def raise_labels(path):
  arrays = dict(np.load(path))
  np.savez(path, **arrays | {'labels': arrays['labels'] + 20})


def lose_a_document(path):
  documents = path.with_name('neighbours.npy')
  np.save(documents, np.load(documents)[:-1])


def lose_an_offset(path):
  arrays = dict(np.load(path))
  np.savez(path, **arrays | {'offsets': arrays['offsets'][:-1]})


@of_votes
@pytest.mark.parametrize(
  ('name', 'damage'),
  [
    ('neighbour_votes.npz', lambda path: path.unlink()),
    ('neighbour_votes.npz', lambda path: path.write_text('0 1')),
    ('neighbour_votes.npz', lambda path: path.write_bytes(b'')),
    ('neighbour_votes.npz', lambda path: np.save(path.open('wb'), [1])),
    ('neighbour_votes.npz', lambda p: p.write_bytes(p.read_bytes()[:-50])),
    ('neighbour_votes.npz', lose_offsets),
    ('neighbour_votes.npz', raise_labels),
    ('neighbour_votes.npz', lose_an_offset),
    ('neighbours.npy', lambda path: path.unlink()),
    ('neighbours.npy', lambda path: np.save(path, np.load(path)[:, :-1])),
    ('neighbour_votes.npz', lose_a_document),
  ],
)
def test_broken_votes(fused_run, folder, name, damage):
  damage(folder / name)
  with pytest.raises(UserError, match=name) as found:
    open_labels(str(folder))
  assert '\n' not in str(found.value)


@of_votes
@pytest.mark.parametrize(
  ('change', 'told'),
  [
    ({'neighbours': None}, "lacks 'neighbours'"),
    ({'neighbours': 0}, "'neighbours' is 0"),
    ({'neighbour_weight': 0}, "'neighbour_weight' is 0"),
    ({'lexical_weight': None}, "lacks 'lexical_weight'"),
  ],
)
def test_votes_that_no_bundle_has(fused_run, folder, change, told):
  about = json.loads((folder / 'lmtx.json').read_text()) | change
  about = {name: value for name, value in about.items() if value is not None}
  (folder / 'lmtx.json').write_text(json.dumps(about))
  with pytest.raises(UserError, match=told):
    open_labels(str(folder))


@pytest.mark.parametrize('fused_run', ['prior'], indirect=True)
@pytest.mark.parametrize(
  'broken', ['missing', 'short', 'ints', 'text', 'empty', 'nan', 'cut']
)
def test_a_broken_prior(fused_run, folder, broken):
  path = folder / 'label_prior.npy'
  if broken == 'missing':
    path.unlink()
  elif broken == 'text':
    path.write_text('0.1 0.2')
  elif broken == 'empty':
    path.write_bytes(b'')
  elif broken == 'cut':
    path.write_bytes(path.read_bytes()[:-5])
  elif broken == 'nan':
    np.save(path, np.full_like(np.load(path), np.nan))
  else:
    prior = np.load(path)
    np.save(path, prior[1:] if broken == 'short' else prior.astype(int))
  with pytest.raises(UserError, match=r'label_prior\.npy') as found:
    open_labels(str(folder))
  assert '\n' not in str(found.value)
