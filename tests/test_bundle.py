"""A bundle is a folder that others can read too."""

import json
import os
import pathlib
import shutil

import jax.numpy as jnp
from label_fixtures import label_corpus
import numpy as np
import pytest
from run_fixtures import made_corpus, succeed

from lmtx_jax import bundle_labels as labels_lib
from lmtx_jax.bundle import Bundle, export
from lmtx_jax.mips import ExactIndex, ScannIndex
from lmtx_jax.scann_index import is_installed, write_index
from lmtx_jax.types import Record, UserError

RECORDS = [
  Record(d['uid'], d['title'], d['content'] * (i % 4))
  for i, d in enumerate(made_corpus()['tst'][:20])
]


def embed(bundle, records=RECORDS):
  tagger = Bundle(str(bundle))
  widths = np.array([tagger.max_doc_tokens])
  return np.asarray(tagger.encoder.encode(tagger.inputs(records), widths))


def texts(records=RECORDS):
  return ['\t'.join(filter(None, (r.title, r.content))) for r in records]


@pytest.fixture
def broken(bundle, tmp_path):
  shutil.copytree(bundle, tmp_path / 'broken')
  return tmp_path / 'broken'


@pytest.mark.parity
def test_sentence_transformers_embeds_the_same(bundle):
  library = pytest.importorskip('sentence_transformers')
  model = library.SentenceTransformer(str(bundle), device='cpu')
  expected = model.encode(texts(), convert_to_numpy=True)
  np.testing.assert_allclose(embed(bundle), expected, atol=1e-5)
  assert model.max_seq_length == Bundle(str(bundle)).max_doc_tokens


@pytest.mark.parity
def test_sentence_transformers_embeds_the_labels_the_same(bundle):
  library = pytest.importorskip('sentence_transformers')
  model = library.SentenceTransformer(str(bundle), device='cpu')
  model.max_seq_length = Bundle(str(bundle)).about['max_label_tokens']
  labels = np.load(bundle / 'label_embeddings.npy')
  file = Bundle(str(bundle)).labels
  titles = [label.title for label in file.get(range(len(file)))]
  np.testing.assert_allclose(labels, model.encode(titles), atol=1e-5)


@pytest.mark.parity
def test_transformers_reads_it(bundle):
  transformers = pytest.importorskip('transformers')
  config = transformers.AutoConfig.from_pretrained(bundle)
  assert (config.model_type, config.dim) == ('distilbert', 32)
  tokenizer = transformers.AutoTokenizer.from_pretrained(bundle)
  tagger = Bundle(str(bundle))
  ids = tokenizer(texts()[1])['input_ids'][: tagger.max_doc_tokens - 1]
  inputs = tagger.inputs(RECORDS[1:2])
  assert len(ids) > 5
  assert len(tokenizer) == len(tagger.tokenizer) == config.vocab_size
  assert inputs.lengths[0] >= len(ids)


def test_holds_no_pickle(bundle):
  names = [path.name for path in bundle.rglob('*') if path.is_file()]
  assert not [n for n in names if n.endswith(('.pkl', '.bin', '.pt', '.npz'))]
  arrays = list(bundle.rglob('*.npy'))
  assert arrays
  for path in arrays:
    np.load(path, allow_pickle=False)


def test_is_complete(bundle):
  for name in (
    *('config.json', 'model.safetensors', 'tokenizer.json', 'modules.json'),
    *('1_Pooling/config.json', '2_Normalize', 'labels.jsonl', 'lmtx.json'),
    'label_embeddings.npy',
  ):
    assert (bundle / name).exists(), name
  about = json.loads((bundle / 'lmtx.json').read_text())
  assert about.keys() >= {'version', 'flags', 'dataset', 'test'}
  assert '--epochs=8' in {f'--{flag}' for flag in about['flags']}
  assert not any('run_dir' in flag for flag in about['flags'])


def test_can_be_moved_and_read_only(bundle, tmp_path):
  before = Bundle(str(bundle)).predictions(RECORDS, 5)
  moved = tmp_path / 'moved'
  shutil.copytree(bundle, moved)
  for path in (moved, *moved.rglob('*')):
    path.chmod(0o555 if path.is_dir() else 0o444)
  facts = [(p, p.stat().st_mtime_ns) for p in sorted(moved.rglob('*'))]
  try:
    assert Bundle(str(moved)).predictions(RECORDS, 5) == before
    now = [(p, p.stat().st_mtime_ns) for p in sorted(moved.rglob('*'))]
    assert now == facts  # root, whom no mode stops, has written nothing
  finally:
    for path in (moved, *moved.rglob('*')):
      path.chmod(0o755)


def test_label_embeddings_are_of_unit_norm(bundle):
  labels = np.load(bundle / 'label_embeddings.npy')
  assert labels.shape == (24, 32)
  assert labels.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(labels, axis=1), 1, atol=1e-5)


def exported(bundle, folder, embeddings, index) -> Bundle:
  """The bundle once more, with other embeddings and another index."""
  tagger = Bundle(str(bundle))
  export(
    str(folder),
    tagger._pretrained,
    tagger._pretrained.params,
    label_corpus(tagger.labels.get(range(len(tagger.labels)))),
    embeddings,
    index,
    text=tagger.text,
    max_doc_tokens=tagger.max_doc_tokens,
    max_label_tokens=tagger.about['max_label_tokens'],
    doc_widths=tagger.doc_widths,
    about={},
  )
  return Bundle(str(folder))


def check_same_tags(found, expected, atol=3e-6):  # scores are rounded
  for a, b in zip(found, expected, strict=True):
    scores = {label['uid']: label['score'] for label in a['labels']}
    assert scores.keys() == {label['uid'] for label in b['labels']}
    for label in b['labels']:
      assert scores[label['uid']] == pytest.approx(label['score'], abs=atol)


def test_bfloat16_embeddings_stay_so(bundle, tmp_path):
  before = Bundle(str(bundle))
  labels = np.asarray(before.label_embeddings).astype(jnp.bfloat16)
  after = exported(bundle, tmp_path / 'new', labels, ExactIndex(labels))
  assert after.label_embeddings.dtype == jnp.bfloat16
  assert isinstance(after.index, ExactIndex)
  check_same_tags(
    after.predictions(RECORDS, 24), before.predictions(RECORDS, 24), 4e-3
  )


needs_scann = pytest.mark.skipif(
  not is_installed(), reason='ScaNN has no build here'
)


@needs_scann
def test_an_index_in_parts_stays_so(bundle, tmp_path):
  before = Bundle(str(bundle))
  folder = str(tmp_path / 'scann')
  write_index(folder, before.label_embeddings, 3)
  index = ScannIndex.load(folder, 24)
  after = exported(bundle, tmp_path / 'new', before.label_embeddings, index)
  assert (tmp_path / 'new' / 'scann' / 'part_002').is_dir()
  check_same_tags(
    after.predictions(RECORDS, 24), before.predictions(RECORDS, 24)
  )


@needs_scann
def test_many_labels_have_scann_after_an_exact_search_too(
  bundle, tmp_path, monkeypatch
):
  before = Bundle(str(bundle))
  labels = before.label_embeddings
  few = exported(bundle, tmp_path / 'few', labels, ExactIndex(labels))
  assert isinstance(few.index, ExactIndex)
  monkeypatch.setattr(labels_lib, 'BRUTE_FORCE_BELOW', 24)
  many = exported(bundle, tmp_path / 'many', labels, ExactIndex(labels))
  assert isinstance(many.index, ScannIndex)
  for tagger in (few, many):
    check_same_tags(
      tagger.predictions(RECORDS, 24), before.predictions(RECORDS, 24)
    )


@needs_scann
def test_is_opened_without_scann_too(bundle, monkeypatch):
  monkeypatch.setattr(labels_lib, 'is_installed', lambda: False)
  without = Bundle(str(bundle))
  assert isinstance(without.index, ExactIndex)
  monkeypatch.undo()
  with_it = Bundle(str(bundle))
  assert isinstance(with_it.index, ScannIndex)
  check_same_tags(
    without.predictions(RECORDS, 24), with_it.predictions(RECORDS, 24)
  )


@needs_scann
def test_format_1_is_read(broken, bundle):
  expected = Bundle(str(bundle)).predictions(RECORDS, 5)
  edit(broken, format=1)
  part = broken / 'scann' / 'part_000'
  for path in part.iterdir():
    path.rename(broken / 'scann' / path.name)
  part.rmdir()
  (broken / 'scann' / 'parts.json').unlink()
  assert Bundle(str(broken)).predictions(RECORDS, 5) == expected


def test_tells_what_it_is(bundle):
  card = (bundle / 'README.md').read_text()
  assert card.startswith('---\nlibrary_name: sentence-transformers\n')
  for text in (
    *('- labels at the end of training: 24', '- embeddings: 32 dimensions'),
    *('- licence of the base model: there is none', '    --epochs=8'),
    *('- method: lmtx', '- teacher: oracle', '| P@1 | P@3 |'),
  ):
    assert text in card
  assert str(bundle.parent) not in card


def test_is_an_encoder_to_train_on(bundle, tiny, tmp_path):
  run = tmp_path / 'run'
  succeed(
    'main',
    *tiny,
    *('--teacher=oracle', '--num_cycles=0', f'--run_dir={run}'),
    f'--encoder={bundle}',
  )
  weights = 'model.safetensors'
  again = run / 'export' / weights
  assert again.read_bytes() == (bundle / weights).read_bytes()


def edit(folder, **changes):
  path = folder / 'lmtx.json'
  about = json.loads(path.read_text()) | changes
  path.write_text(json.dumps({k: v for k, v in about.items() if v is not None}))


class TestBroken:
  def test_newer(self, broken):
    edit(broken, format=labels_lib.VOTES_FORMAT + 1, version='9.9')
    with pytest.raises(UserError, match=r'lmtx_jax 9\.9, newer than this'):
      Bundle(str(broken))
    edit(broken, version=None)
    with pytest.raises(UserError, match='newer than this'):
      Bundle(str(broken))

  @pytest.mark.parametrize('value', [None, [], 3, {'pooling_mode': [3]}])
  @pytest.mark.parametrize(
    'name', ['1_Pooling/config.json', 'sentence_bert_config.json']
  )
  def test_json_of_another_kind(self, broken, name, value):
    if isinstance(value, dict) and 'Pooling' not in name:
      value = 'x'
    (broken / name).write_text(json.dumps(value))
    with pytest.raises(UserError, match=rf'{name}: (not an object|pooling)'):
      Bundle(str(broken))

  @pytest.mark.parametrize('value', ['x', -3, 2, 2**40, True, [15]])
  @pytest.mark.parametrize('name', ['max_label_tokens', 'max_doc_tokens'])
  def test_lengths_that_cannot_be(self, broken, name, value):
    edit(broken, **{name: value})
    with pytest.raises(UserError, match=rf"lmtx\.json: '{name}' is "):
      Bundle(str(broken))

  def test_no_bundle(self, tmp_path):
    with pytest.raises(UserError, match=r'no lmtx\.json'):
      Bundle(str(tmp_path))

  @pytest.mark.parametrize(
    'name',
    [
      *('config.json', 'model.safetensors', 'tokenizer.json', 'labels.jsonl'),
      *('label_embeddings.npy', 'lmtx.json', '1_Pooling/config.json'),
      'modules.json',
    ],
  )
  def test_missing_file(self, broken, name):
    os.remove(broken / name)
    with pytest.raises(UserError) as e:
      Bundle(str(broken))
    assert pathlib.PurePath(name).stem in str(e.value)
    assert str(broken) in str(e.value)
    assert '\n' not in str(e.value)

  @pytest.mark.parametrize(
    'name',
    [
      *('model.safetensors', 'label_embeddings.npy', 'lmtx.json'),
      *('config.json', 'tokenizer.json', 'modules.json', 'labels.jsonl'),
      '1_Pooling/config.json',
    ],
  )
  @pytest.mark.parametrize('size', [0, 20, 0.5])
  def test_truncated_file(self, broken, name, size):
    if size == 0.5:
      size = (broken / name).stat().st_size // 2
    os.truncate(broken / name, size)
    with pytest.raises(UserError) as e:
      Bundle(str(broken))
    assert pathlib.PurePath(name).stem in str(e.value)
    assert str(broken) in str(e.value)
    assert '\n' not in str(e.value)

  def test_a_last_label_that_is_cut(self, broken):
    path = broken / 'labels.jsonl'
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(UserError, match=r'labels\.jsonl:24: not a label'):
      Bundle(str(broken))

  @needs_scann
  def test_each_file_of_the_index(self, broken):
    part = broken / 'scann' / 'part_000'
    for name in os.listdir(part):
      data = (part / name).read_bytes()
      (part / name).unlink()
      with pytest.raises(UserError, match='part_000 is not a whole ScaNN'):
        Bundle(str(broken))
      assert not (part / name).exists()
      (part / name).write_bytes(data)
    Bundle(str(broken))

  @needs_scann
  def test_no_index_where_there_was_one(self, broken):
    shutil.rmtree(broken / 'scann')
    with pytest.raises(UserError, match=r'scann: there is no such folder'):
      Bundle(str(broken))

  @pytest.mark.parametrize('name', ['..', '/tmp', 'labels_1', 3])
  def test_label_folder_of_no_bundle(self, broken, name):
    edit(broken, label_folder=name)
    with pytest.raises(UserError, match=r'lmtx\.json: label_folder'):
      Bundle(str(broken))

  def test_encoder_of_other_dimensions(self, broken):
    np.save(broken / 'label_embeddings.npy', np.zeros((24, 16), np.float32))
    edit(broken, dim=16)
    with pytest.raises(UserError, match='encoder has 32 dimensions'):
      Bundle(str(broken))

  def test_too_few_labels(self, broken):
    path = broken / 'labels.jsonl'
    path.write_text(''.join(path.read_text().splitlines(True)[:-1]))
    with pytest.raises(UserError, match=r'labels\.jsonl has 23 labels, not 24'):
      Bundle(str(broken))

  @pytest.mark.parametrize('line', ['{', '[]', '3', '{"uid": "a"}'])
  def test_bad_label(self, broken, line):
    path = broken / 'labels.jsonl'
    lines = path.read_text().splitlines()
    lines[2] = line
    path.write_text('\n'.join(lines) + '\n')
    tagger = Bundle(str(broken))
    tagger.labels.get([0, 1, 3])
    with pytest.raises(UserError, match=r'labels\.jsonl:3: not a label'):
      tagger.predictions(RECORDS[:1], 24)

  @pytest.mark.parametrize(
    'key', ['num_labels', 'dim', 'max_doc_tokens', 'encode_title', 'format']
  )
  def test_missing_entry(self, broken, key):
    edit(broken, **{key: None})
    with pytest.raises(UserError, match=rf"lmtx\.json .*'{key}'"):
      Bundle(str(broken))

  @pytest.mark.parametrize(
    ('key', 'value'),
    [
      *(('num_labels', '24'), ('num_labels', 0), ('dim', 32.0), ('dim', True)),
      *(('encode_title', 'yes'), ('label_text', ['title'])),
      *(('max_doc_tokens', 'x'), ('max_doc_tokens', -1), ('doc_widths', [])),
      *(('doc_widths', 'abc'), ('doc_widths', [24, 8]), ('doc_widths', [8])),
      *(('compute_dtype', 'float8'), ('compute_dtype', 5)),
    ],
  )
  def test_entry_of_another_kind(self, broken, key, value):
    edit(broken, **{key: value})
    with pytest.raises(UserError, match=rf'lmtx\.json.*{key}'):
      Bundle(str(broken))

  def test_deep_json(self, broken):
    (broken / 'lmtx.json').write_text('[' * 100_000)
    with pytest.raises(UserError, match=r'lmtx\.json is not what a bundle'):
      Bundle(str(broken))

  def test_other_dimensions(self, broken):
    np.save(broken / 'label_embeddings.npy', np.zeros((24, 16), np.float32))
    with pytest.raises(UserError, match=r'shape \(24, 16\), not \(24, 32\)'):
      Bundle(str(broken))

  def test_broken_index(self, broken):
    if not (broken / 'scann').exists():
      pytest.skip('no ScaNN here')
    for path in (broken / 'scann' / 'part_000').iterdir():
      os.truncate(path, 0)
    with pytest.raises(UserError, match='part_000 is not a whole ScaNN index'):
      Bundle(str(broken))

  def test_pickle(self, broken):
    if not (broken / 'scann').exists():
      pytest.skip('no ScaNN here')
    # ScaNN would load it.
    (broken / 'scann' / 'part_000' / 'scann_docids.pkl').touch()
    with pytest.raises(UserError, match='is a pickle'):
      Bundle(str(broken))
