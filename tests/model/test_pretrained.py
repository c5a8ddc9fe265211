import dataclasses
import filecmp
import json
import os
import pathlib
import subprocess
import sys

import jax
from model_fixtures import tiny_texts
import numpy as np
import pytest
import safetensors.numpy

from lmtx_jax.model import pretrained
from lmtx_jax.types import UserError

SCRATCH = dict(
  num_layers=1, dim=16, num_heads=2, vocab_size=80, max_tokens=20, seed=3
)


@pytest.fixture(scope='module')
def made():
  return pretrained.scratch(tiny_texts(), **SCRATCH)


@pytest.fixture
def folder(made, tmp_path):
  path = tmp_path / 'model'
  pretrained.save(path, made, made.params, max_seq_length=20)
  return path


def embed(model, texts):
  rows = model.tokenizer(texts, padding=True, return_tensors='np')
  return np.asarray(
    jax.jit(model.encoder.apply)(
      model.params,
      rows['input_ids'].astype(np.int32),
      rows['attention_mask'].sum(axis=1).astype(np.int32),
    )
  )


def files_of(path):
  return sorted(
    str(p.relative_to(path)) for p in pathlib.Path(path).rglob('*.*')
  )


def edit(file, **changes):
  values = json.loads(file.read_text())
  file.write_text(json.dumps(values | changes))


def test_save_then_load_gives_the_same_model(made, folder):
  again = pretrained.load(str(folder))
  assert again.encoder == made.encoder
  jax.tree.map(np.testing.assert_array_equal, again.params, made.params)
  texts = tiny_texts()
  assert again.tokenizer(texts) == made.tokenizer(texts)


@pytest.mark.parity
@pytest.mark.parametrize(
  ('pooling', 'normalize'), [('mean', True), ('cls', False)]
)
def test_others_load_what_is_saved(made, tmp_path, pooling, normalize):
  import sentence_transformers

  encoder = dataclasses.replace(
    made.encoder, pooling=pooling, normalize=normalize
  )
  model = dataclasses.replace(made, encoder=encoder)
  pretrained.save(tmp_path, model, model.params, max_seq_length=10)
  texts = tiny_texts(8)
  other = sentence_transformers.SentenceTransformer(str(tmp_path), device='cpu')
  assert other.max_seq_length == 10
  cut = [' '.join(text.split()[:4]) for text in texts]
  np.testing.assert_allclose(
    other.encode(cut), embed(model, cut), atol=1e-5, rtol=0
  )
  assert pretrained.load(str(tmp_path)).encoder == encoder


@pytest.mark.parity
def test_transformers_loads_what_is_saved(made, folder):
  import torch
  import transformers

  model, report = transformers.AutoModel.from_pretrained(
    folder, output_loading_info=True
  )
  assert not any(report.values())
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  texts = tiny_texts(5)
  rows = tokenizer(texts, padding=True, return_tensors='pt')
  with torch.no_grad():
    hidden = model.eval()(**rows).last_hidden_state
  mask = rows['attention_mask'][..., None]
  pooled = (hidden * mask).sum(1) / mask.sum(1)
  pooled = pooled / pooled.norm(dim=-1, keepdim=True)
  np.testing.assert_allclose(
    pooled.numpy(), embed(made, texts), atol=1e-5, rtol=0
  )


def test_two_saves_are_the_same_bytes(made, folder, tmp_path):
  again = pretrained.load(str(folder))
  made.tokenizer(tiny_texts(), truncation=True, max_length=4, padding=True)
  pretrained.save(tmp_path / 'b', again, again.params, max_seq_length=20)
  pretrained.save(tmp_path / 'c', made, made.params, max_seq_length=20)
  names = files_of(folder)
  assert 'model.safetensors' in names
  assert '1_Pooling/config.json' in names
  for other in ('b', 'c'):
    assert files_of(tmp_path / other) == names
    same, _, _ = filecmp.cmpfiles(folder, tmp_path / other, names, False)
    assert same == names
  for name in names:
    content = (folder / name).read_bytes()
    assert str(tmp_path).encode() not in content, name
    assert b'name_or_path' not in content, name


def test_scratch_is_the_same_in_another_process(made, folder, tmp_path):
  # A new process has other hash seeds, on which a vocabulary could depend.
  program = (
    'import sys; from lmtx_jax.model import pretrained;'
    'from model_fixtures import tiny_texts;'
    f'made = pretrained.scratch(tiny_texts(), **{SCRATCH!r});'
    'pretrained.save(sys.argv[1], made, made.params, max_seq_length=20)'
  )
  here = pathlib.Path(__file__).parent
  path = os.pathsep.join([str(here), str(here.parent.parent)])
  other = tmp_path / 'other'
  subprocess.run(
    [sys.executable, '-c', program, str(other)],
    check=True,
    env=os.environ | {'PYTHONPATH': path},
  )
  names = files_of(folder)
  same, _, _ = filecmp.cmpfiles(folder, other, names, False)
  assert same == names


def test_scratch_learns_the_words_of_its_texts(made):
  assert made.tokenizer.tokenize('Function, INTERVAL!') == [
    'function',
    '[UNK]',
    'interval',
    '[UNK]',
  ]
  ids = made.tokenizer('the integral')['input_ids']
  words = made.tokenizer.convert_ids_to_tokens(ids)
  assert words == ['[CLS]', 'the', 'integral', '[SEP]']
  assert len(made.tokenizer) <= SCRATCH['vocab_size']
  assert made.encoder.config.max_positions == SCRATCH['max_tokens']


def test_scratch_refuses_heads_that_do_not_divide(made):
  with pytest.raises(UserError, match=r'--scratch_heads=3'):
    pretrained.scratch(tiny_texts(), **(SCRATCH | dict(num_heads=3)))


def test_params_file_round_trip(made, tmp_path):
  file = tmp_path / 'params.safetensors'
  pretrained.save_params(file, made.params)
  jax.tree.map(
    np.testing.assert_array_equal, pretrained.load_params(file), made.params
  )
  assert os.listdir(tmp_path) == [file.name]


def test_names_with_a_prefix_and_other_heads_load(made, folder):
  file = folder / 'model.safetensors'
  tensors = safetensors.numpy.load_file(file)
  tensors = {f'distilbert.{name}': value for name, value in tensors.items()}
  tensors['vocab_projector.bias'] = np.zeros(80, np.float32)
  safetensors.numpy.save_file(tensors, file)
  jax.tree.map(
    np.testing.assert_array_equal,
    pretrained.load(str(folder)).params,
    made.params,
  )


def test_without_modules_json_it_is_the_mean_of_unit_norm(folder):
  (folder / 'modules.json').unlink()
  encoder = pretrained.load(str(folder)).encoder
  assert (encoder.pooling, encoder.normalize) == ('mean', True)


def test_pooling_in_the_words_of_new_versions(folder):
  (folder / '1_Pooling' / 'config.json').write_text(
    json.dumps({'embedding_dimension': 16, 'pooling_mode': 'cls'})
  )
  assert pretrained.load(str(folder)).encoder.pooling == 'cls'


def test_a_tensor_that_is_missing_is_named(folder):
  file = folder / 'model.safetensors'
  tensors = safetensors.numpy.load_file(file)
  name = 'transformer.layer.0.attention.k_lin.weight'
  del tensors[name]
  safetensors.numpy.save_file(tensors, file)
  with pytest.raises(UserError, match=f'{name} is missing'):
    pretrained.load(str(folder))


def test_a_tensor_of_another_shape_is_named_with_both(folder):
  edit(folder / 'config.json', hidden_dim=48)
  with pytest.raises(UserError, match=r'lin1\.bias has shape \(64,\).*\(48,\)'):
    pretrained.load(str(folder))


def test_unsupported_models_are_refused_by_name(folder):
  edit(folder / 'config.json', model_type='t5')
  with pytest.raises(
    UserError, match=r"'t5' is not supported.*distilbert, bert, mpnet"
  ):
    pretrained.load(str(folder))


def test_unsupported_activation_is_refused_by_name(folder):
  edit(folder / 'config.json', activation='mish')
  with pytest.raises(UserError, match=r"'mish' is not supported"):
    pretrained.load(str(folder))


def test_unsupported_pooling_is_refused_by_name(folder):
  file = folder / '1_Pooling' / 'config.json'
  edit(file, pooling_mode_max_tokens=True)
  with pytest.raises(UserError, match=r'max.*not supported, only mean, cls'):
    pretrained.load(str(folder))


def test_unsupported_module_is_refused_by_name(folder):
  file = folder / 'modules.json'
  modules = json.loads(file.read_text())
  modules.append({'path': '3', 'type': 'sentence_transformers.models.LSTM'})
  file.write_text(json.dumps(modules))
  with pytest.raises(UserError, match=r'module LSTM is not supported'):
    pretrained.load(str(folder))


def test_a_pickle_is_never_read(folder):
  (folder / 'model.safetensors').unlink()
  (folder / 'pytorch_model.bin').write_bytes(b'')
  with pytest.raises(UserError, match=r'pytorch_model.bin is a pickle'):
    pretrained.load(str(folder))


@pytest.mark.parametrize('name', ['config.json', 'model.safetensors'])
def test_a_broken_file_is_named(folder, name):
  (folder / name).write_bytes(b'{')
  with pytest.raises(UserError, match=name):
    pretrained.load(str(folder))


@pytest.mark.parametrize('name', ['no/such', './nowhere', '/no/such/folder'])
def test_a_model_that_cannot_be_found_names_the_flag(name, monkeypatch):
  monkeypatch.setenv('HF_HUB_OFFLINE', '1')
  monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
  with pytest.raises(UserError, match=f'--encoder={name}') as error:
    pretrained.load(name)
  assert '\n' not in str(error.value)


def test_pooling_can_be_asked_for(folder):
  assert pretrained.load(str(folder)).encoder.pooling == 'mean'
  assert pretrained.load(str(folder), pooling='cls').encoder.pooling == 'cls'


def test_what_lower_cases_outside_the_tokenizer_is_refused(folder):
  edit(folder / 'sentence_bert_config.json', do_lower_case=True)
  pretrained.load(str(folder))  # whose tokenizer makes small letters itself
  file = folder / 'tokenizer.json'
  edit(file, normalizer=None)
  with pytest.raises(UserError, match=r'do_lower_case.*capital letters'):
    pretrained.load(str(folder))


def test_a_tokenizer_that_frames_no_text_is_refused(folder):
  for name in ('tokenizer_config.json', 'special_tokens_map.json'):
    values = json.loads((folder / name).read_text())
    values.pop('sep_token', None)
    (folder / name).write_text(json.dumps(values))
  with pytest.raises(UserError, match='the tokenizer has no sep_token'):
    pretrained.load(str(folder))


def test_other_buckets_of_relative_positions_are_refused(folder):
  file = folder / 'config.json'
  file.write_text(
    json.dumps({'model_type': 'mpnet', 'relative_attention_num_buckets': 16})
  )
  with pytest.raises(UserError, match=r'16 buckets.*only 32'):
    pretrained.load(str(folder))
