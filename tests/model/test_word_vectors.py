"""GloVe's files, the mean of word vectors, and their folders."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from lmtx_jax.data.tokens import tokenize_texts
from lmtx_jax.model import pretrained
from lmtx_jax.model.word_vector_file import load_word_vectors
from lmtx_jax.types import UserError

VECTORS = {
  'the': [1, 0, 0.5],
  'court': [0, -2, 1e-3],
  'of': [0.25, 0.25, -1],
  'law': [3, 1, 1],
  ',': [-1, 1, 0],
}
LINES = [f'{word} {" ".join(map(str, v))}' for word, v in VECTORS.items()]


def write(path, lines, end='\n'):
  path.write_bytes((end.join(lines) + end).encode())
  return str(path)


@pytest.fixture
def file(tmp_path):
  return write(tmp_path / 'vectors.txt', LINES)


def embed(model, texts, width=12):
  """As in the program: tokens framed by `tokenize_texts`, then padded."""
  tokens = tokenize_texts([''] * len(texts), texts, model.tokenizer, 400)
  view = tokens.view(400)
  ids, lengths = view.batch(np.arange(len(texts)), width)
  return np.asarray(jax.jit(model.encoder.apply)(model.params, ids, lengths))


def unit_sum(*words):
  total = np.sum([VECTORS[word] for word in words], axis=0)
  return total / np.linalg.norm(total)


def test_a_text_is_the_direction_of_its_words(file):
  model = load_word_vectors(file)
  texts = ['The COURT, of law', 'law', 'law law zzz law zzz', 'the\tof']
  expected = [
    unit_sum('the', 'court', ',', 'of', 'law'),
    unit_sum('law'),
    unit_sum('law'),
    unit_sum('the', 'of'),
  ]
  np.testing.assert_allclose(embed(model, texts), expected, atol=1e-6)
  assert model.encoder.dim == 3


@pytest.mark.parametrize('text', ['', 'zzz', 'zzz yyy!'])
def test_without_a_known_word_it_is_zeros(file, text):
  got = embed(load_word_vectors(file), [text, 'law'])
  assert not got[0].any()
  assert got[1].any()


def test_what_pads_a_row_never_matters(file):
  model = load_word_vectors(file)
  ids = np.array([[2, 4, 5, 3, 7, 7], [2, 3, 7, 7, 7, 7], [0] * 6])
  got = model.encoder.apply(model.params, ids, np.array([4, 2, 0]))
  np.testing.assert_allclose(got[0], unit_sum('the', 'court'), atol=1e-6)
  assert not got[1:].any()


def test_capital_letters_count_where_the_file_has_some(tmp_path):
  lines = [*LINES, 'Court 5 5 5']
  model = load_word_vectors(write(tmp_path / 'cased.txt', lines))
  got = embed(model, ['Court', 'court', 'COURT'])
  np.testing.assert_allclose(got[0], [3**-0.5] * 3, atol=1e-6)
  np.testing.assert_allclose(got[1], unit_sum('court'), atol=1e-6)
  assert not got[2].any()


@pytest.mark.parametrize('end', ['\n', '\r\n', ' \n'])
def test_the_header_of_word2vec_is_known(file, tmp_path, end):
  headed = write(tmp_path / 'w2v.txt', [f'{len(LINES)} 3', *LINES], end)
  assert load_word_vectors(headed).digest == load_word_vectors(file).digest


def test_a_header_that_tells_of_more_lines_is_an_error(tmp_path):
  headed = write(tmp_path / 'cut.txt', ['9 3', *LINES])
  with pytest.raises(UserError, match=r'cut.txt: line 1 .* 9 .* 5 lines'):
    load_word_vectors(headed)


def test_words_may_hold_spaces_and_come_twice(tmp_path):
  lines = [LINES[0], '. . . 7 8 9', 'at a@b.com 1 2 3', LINES[3], 'law 9 9 9']
  model = load_word_vectors(write(tmp_path / 'glove.840B.txt', lines))
  vocab = model.tokenizer.get_vocab()
  table = model.params['word_vectors']
  assert table[vocab['. . .']].tolist() == [7, 8, 9]
  assert table[vocab['at a@b.com']].tolist() == [1, 2, 3]
  assert table[vocab['law']].tolist() == [3, 1, 1]
  assert len(table) == len(vocab) == 4 + 4
  assert table.dtype == np.float32
  for word in ('[UNK]', '[PAD]', '[CLS]', '[SEP]'):
    assert not table[vocab[word]].any()


def test_a_word_that_comes_twice_in_a_row_has_the_first_vector(tmp_path):
  model = load_word_vectors(write(tmp_path / 'v.txt', [*LINES, ', 8 8 8']))
  np.testing.assert_allclose(embed(model, [',']), [unit_sum(',')], atol=1e-6)


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('law 1 2', 'line 3 does not have 3 numbers'),
    ('law 1 2 3 4', 'line 3 does not have 3 numbers'),
    ('law', 'line 3 does not have 3 numbers'),
    ('', 'line 3 does not have 3 numbers'),
    ('law 1 two 3', "line 3: 'two' is no finite number"),
    ('law 1 nan 3', "line 3: 'nan' is no finite number"),
    ('law 1 inf 3', "line 3: 'inf' is no finite number"),
    ('law 1 1e39 3', "line 3: '1e39' is no finite number"),
    ('law 1  3', "line 3: '' is no finite number"),
    ('law 1 2,5 3', "line 3: '2,5' is no finite number"),
  ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
  file = write(tmp_path / 'v.txt', [*LINES[:2], line, *LINES[2:]])
  with pytest.raises(UserError, match=rf'v\.txt: {message}') as error:
    load_word_vectors(file)
  assert '\n' not in str(error.value)


def test_a_broken_line_far_into_the_file_is_named(tmp_path):
  lines = [f'word{i} 1 2 {i}' for i in range(3000)]
  lines[2500] = 'word2500 1 2 x'
  file = write(tmp_path / 'v.txt', lines)
  with pytest.raises(UserError, match=r'line 2501'):
    load_word_vectors(file)
  lines[2500] = 'word2500 1 2 2500'
  model = load_word_vectors(write(tmp_path / 'v.txt', lines))
  assert model.params['word_vectors'][4 + 2999].tolist() == [1, 2, 2999]


@pytest.mark.parametrize(
  'data', [b'', b'\n', b'law\n', b'law\t1\t2\n', b'\x00\x01\xff']
)
def test_what_is_no_such_file_is_refused(tmp_path, data):
  file = tmp_path / 'v.bin'
  file.write_bytes(data)
  with pytest.raises(UserError, match=r'v\.bin: line 1 .*GloVe'):
    load_word_vectors(str(file))


def test_a_line_that_is_not_utf_8_is_named(tmp_path):
  file = tmp_path / 'v.txt'
  file.write_bytes(b'law 1 2\nl\xe4w 1 2\n')
  with pytest.raises(UserError, match=r'line 2 is not UTF-8'):
    load_word_vectors(str(file))


def test_no_line_end_at_the_end_of_the_file(tmp_path, file):
  short = tmp_path / 'v.txt'
  short.write_text('\n'.join(LINES))
  assert load_word_vectors(str(short)).digest == load_word_vectors(file).digest


def test_digest_covers_words_and_vectors(tmp_path, file):
  def digest(line):
    lines = [*LINES[:-1], line]
    return load_word_vectors(write(tmp_path / 'other.txt', lines)).digest

  known = load_word_vectors(file).digest
  assert digest(LINES[-1]) == known
  assert len({known, digest('; -1 1 0'), digest(', -1 1 1')}) == 3


def test_a_folder_is_read_back_and_is_the_same_bytes(tmp_path, file):
  model = load_word_vectors(file)
  pretrained.save(tmp_path / 'a', model, model.params, max_seq_length=9)
  again = pretrained.load(str(tmp_path / 'a'))
  assert again.encoder == model.encoder
  assert again.digest == model.digest
  texts = ['The court, of law', 'zzz', 'of ' * 10]
  np.testing.assert_array_equal(embed(again, texts), embed(model, texts))
  pretrained.save(tmp_path / 'b', again, again.params, max_seq_length=9)
  names = sorted(p.name for p in (tmp_path / 'a').iterdir())
  assert names == sorted(p.name for p in (tmp_path / 'b').iterdir())
  for name in names:
    if (tmp_path / 'a' / name).is_file():
      content = (tmp_path / 'a' / name).read_bytes()
      assert content == (tmp_path / 'b' / name).read_bytes()
  assert not [name for name in names if name.endswith(('.bin', '.pkl', '.pt'))]


@pytest.mark.parity
@pytest.mark.parametrize('normalize', [True, False])
def test_sentence_transformers_embeds_the_same(tmp_path, file, normalize):
  import sentence_transformers

  model = load_word_vectors(file)
  encoder = dataclasses.replace(model.encoder, normalize=normalize)
  model = dataclasses.replace(model, encoder=encoder)
  folder = tmp_path / 'model'
  pretrained.save(folder, model, model.params, max_seq_length=6)
  other = sentence_transformers.SentenceTransformer(str(folder), device='cpu')
  texts = ['The COURT, zzz law', 'law', 'zzz', 'of ' * 4 + 'law', '']
  cut = ['The COURT, zzz', *texts[1:3], 'of ' * 4, '']  # 6 less the two around
  np.testing.assert_allclose(other.encode(texts), embed(model, cut), atol=1e-6)
  again = pretrained.load(str(folder))
  assert again.encoder == model.encoder
  np.testing.assert_allclose(embed(again, cut), embed(model, cut), atol=1e-7)


def test_a_folder_without_its_table_is_refused(tmp_path, file):
  model = load_word_vectors(file)
  pretrained.save(tmp_path / 'a', model, model.params, max_seq_length=9)
  weights = tmp_path / 'a' / 'model.safetensors'
  safetensors.numpy.save_file({'embeddings': np.zeros((9, 3))}, weights)
  with pytest.raises(UserError, match=r'no table embedding\.weight'):
    pretrained.load(str(tmp_path / 'a'))


def test_no_other_module_follows_a_table(tmp_path, file):
  model = load_word_vectors(file)
  pretrained.save(tmp_path / 'a', model, model.params, max_seq_length=9)
  path = tmp_path / 'a' / 'modules.json'
  modules = json.loads(path.read_text())
  modules[1]['type'] = 'sentence_transformers.models.Dense'
  path.write_text(json.dumps(modules))
  with pytest.raises(UserError, match=r'module Dense.*StaticEmbedding'):
    pretrained.load(str(tmp_path / 'a'))


def test_it_takes_the_place_of_a_bi_encoder(file):
  encoder = load_word_vectors(file, 'bfloat16').encoder
  assert encoder.with_dropout(0.3) == encoder.with_best_attention() == encoder
  assert hash(encoder) == hash(dataclasses.replace(encoder))
  assert encoder.dtype == 'bfloat16'
  assert encoder.config.max_positions >= 10**9
  assert encoder.config.vocab_size == 4 + len(LINES)
  params = encoder.init(jax.random.key(0))
  assert params['word_vectors'].shape == (9, 3)
  with pytest.raises(UserError, match='no dense layer; leave out'):
    encoder.with_dense(4)
