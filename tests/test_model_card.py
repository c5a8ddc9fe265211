"""What a bundle tells people of itself."""

import pytest

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
