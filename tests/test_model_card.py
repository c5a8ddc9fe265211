"""What a bundle tells people of itself."""

import huggingface_hub
import pytest

from lmtx_jax.model import pretrained
from lmtx_jax.model_card import licence_of, write_card

ABOUT = {
  'version': '0.1',
  'num_labels': 63436,
  'dim': 384,
  'max_doc_tokens': 128,
  'max_label_tokens': 32,
}


def card(tmp_path, **about) -> str:
  write_card(str(tmp_path), ABOUT | about)
  return (tmp_path / 'README.md').read_text()


@pytest.mark.parametrize(
  ('text', 'licence'),
  [
    (
      '---\nlanguage: en\nlicense: apache-2.0\ntags:\n- a\n---\n# X',
      'apache-2.0',
    ),
    ('---\nlicense: "mit"\n---\n', 'mit'),
    ('---\r\nlicense: mit\r\n---\r\n', 'mit'),
    ('---\nlanguage: en\n---\nlicense: mit\n', ''),
    ('---\nlicense:\n- mit\n- other\n---\n', ''),
    ('license: mit\n', ''),
    ('---\nlicense: mit\n', ''),
    ('\udc80', ''),
    (None, ''),
  ],
)
def test_licence_of_the_base_model(tmp_path, text, licence):
  base = tmp_path / 'some-model'
  base.mkdir()
  if text is not None:
    data = text.encode(errors='surrogateescape')
    (base / 'README.md').write_bytes(data)
  assert licence_of(str(base)) == licence
  told = card(tmp_path, flags=[f'encoder={base}', 'epochs=3'])
  assert '- base model: `some-model`\n' in told
  assert '    --encoder=some-model\n' in told
  assert str(tmp_path) not in told
  expected = f'{licence}, as its README.md says' if licence else 'unknown'
  assert f'- licence of the base model: {expected}\n' in told
  head = told.split('---\n')[1]
  assert (f'license: {licence}\n' in head) == bool(licence)


def test_licence_of_a_model_of_the_hub(tmp_path, monkeypatch):
  base = tmp_path / 'snapshot'
  base.mkdir()
  (base / 'README.md').write_text('---\nlicense: mit\n---\n')
  asked = []

  def snapshot(name, **kwargs):
    asked.append((name, kwargs))
    return str(base)

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', snapshot)
  told = card(tmp_path, flags=['encoder=some/model'])
  assert asked[0] == ('some/model', {'local_files_only': True})
  assert '- licence of the base model: mit, as its README.md says\n' in told
  head = told.split('---\n')[1]
  assert 'license: mit\nbase_model: some/model\n' in head
  assert pretrained._fetch('some/model') == str(base)
  assert 'README.md' in asked[-1][1]['allow_patterns']


@pytest.mark.parametrize('encoder', ['', 'scratch', 'gone/model', '../a b'])
def test_a_base_model_that_is_not_there(tmp_path, monkeypatch, encoder):
  """No README.md of where the command runs is taken for the model's."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HF_HUB_OFFLINE', '1')
  for folder in (tmp_path, tmp_path / 'scratch'):
    folder.mkdir(exist_ok=True)
    (folder / 'README.md').write_text('---\nlicense: mit\n---\n')
  assert licence_of(encoder) == ''
  (tmp_path / 'out').mkdir()
  told = card(tmp_path / 'out', flags=[f'encoder={encoder}'])
  assert ('base_model:' in told) == (encoder == 'gone/model')


def test_little_is_known(tmp_path):
  told = card(tmp_path)
  assert 'None: nothing was known of test documents.' in told
  assert '- base model: unknown' in told
  assert '- labels at the end of training: 63,436' in told


def test_scores(tmp_path):
  told = card(tmp_path, test={'P@1': 29.24, 'PSP@1': None, 'R@10': 40.0})
  assert '| P@1 | R@10 |\n| ---: | ---: |\n| 29.2 | 40.0 |\n' in told


def test_a_card_is_read_as_one(tmp_path):
  hub = pytest.importorskip('huggingface_hub')
  told = card(tmp_path, dataset='d: "x"', flags=['encoder=a/b'])
  assert hub.ModelCard(told).data.library_name == 'sentence-transformers'
