import pytest

from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.types import UserError


@pytest.mark.parametrize(
  ('flags', 'urls'),
  [
    ({}, ()),
    ({'teacher_url': 'http://a:1/'}, ('http://a:1',)),
    (
      {'teacher_url': 'http://a:1', 'teacher_urls': 'http://b:1, https://c,'},
      ('http://b:1', 'https://c'),
    ),
    ({'teacher_urls': 'http://b:1,http://b:1/'}, ('http://b:1',)),
    ({'teacher_url': 'http://a:1', 'teacher_launch': 'model'}, ()),
  ],
)
def test_addresses(flags, urls):
  assert LlmConfig(**flags).urls == urls


@pytest.mark.parametrize(
  ('flags', 'named'),
  [
    ({'prompt_template': 'is it {label}?'}, '{doc}'),
    ({'prompt_template': 'is it {doc}?'}, '{label}'),
    ({'teacher_url': 'a:1'}, 'a:1'),
    ({'teacher_url': 'localhost'}, 'localhost'),
    ({'teacher_urls': 'http://a:1,ftp://b'}, 'ftp://b'),
    ({'teacher_url': 'http://a:port'}, 'http://a:port'),
    ({'teacher_url': 'http://[::1'}, '[::1'),
    ({'teacher_url': 'http://me:key@a:1'}, 'http://me:key@a:1'),
    ({'teacher_launch': 'model "'}, '--teacher_launch'),
  ],
)
def test_what_cannot_be_meant(flags, named):
  with pytest.raises(UserError) as info:
    LlmConfig(**flags)
  assert named in str(info.value)
  assert '\n' not in str(info.value)
