import json
import pathlib

from fake_tokenizer import BOS, BOS_CHAT_TEMPLATE, write_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from lmtx_jax.model.tokenizer import load_tokenizer
from lmtx_jax.teacher import prompts
from lmtx_jax.teacher.llm.prompt_maker import PromptMaker, answer_ids
from lmtx_jax.types import UserError

TEMPLATE = prompts.TEMPLATES['tag']


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
  return load_tokenizer(write_tokenizer(tmp_path_factory.mktemp('t')))


def maker(tokenizer, chat='none', doc_tokens=12, template=TEMPLATE):
  return PromptMaker(tokenizer, template, chat, doc_tokens)


def num_tokens(tokenizer, text):
  return len(tokenizer.encode(text, add_special_tokens=False))


def test_question_alone(tokenizer):
  assert maker(tokenizer).prompt('a b', 'law') == prompts.render(
    TEMPLATE, 'a b', 'law'
  )


def test_vicuna_is_the_papers(tokenizer):
  prompt = maker(tokenizer, 'vicuna').prompt('a b', 'law')
  assert prompt == (
    'A chat between a curious user and an artificial intelligence assistant. '
    "The assistant gives helpful, detailed, and polite answers to the user's "
    'questions. USER: '
    'document = a b. Is the tag law relevant to the document? answer yes or no'
    ' ASSISTANT:'
  )


def test_own_chat_template_with_thinking_off(tokenizer):
  prompt = maker(tokenizer, 'tokenizer').prompt('a b', 'law')
  assert prompt == (
    '<|im_start|>user\n'
    'document = a b. Is the tag law relevant to the document? answer yes or no'
    '<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n'
  )


@pytest.mark.parametrize('bos', [False, True])
def test_start_token_stands_once(tmp_path, bos):
  """The server puts it there by itself, where the tokenizer does."""
  folder = write_tokenizer(tmp_path, chat_template=BOS_CHAT_TEMPLATE, bos=bos)
  tokenizer = load_tokenizer(folder)
  prompt = maker(tokenizer, 'tokenizer').prompt('a b', 'law')
  assert tokenizer.decode(tokenizer.encode(prompt)).count(BOS) == 1


def test_no_chat_template(tmp_path):
  tokenizer = load_tokenizer(write_tokenizer(tmp_path, chat_template=None))
  with pytest.raises(UserError, match='choose none or vicuna'):
    maker(tokenizer, 'tokenizer')


@pytest.mark.parametrize('template', ['{{ 1 / 0 }}', '{% for', 'no user here'])
def test_broken_chat_template(tmp_path, template):
  tokenizer = load_tokenizer(write_tokenizer(tmp_path, chat_template=template))
  with pytest.raises(UserError, match='--chat_format=tokenizer') as info:
    maker(tokenizer, 'tokenizer')
  assert '\n' not in str(info.value)


def test_identity_tells_prompts_apart(tmp_path, tokenizer):
  other = load_tokenizer(
    write_tokenizer(tmp_path, chat_template=BOS_CHAT_TEMPLATE)
  )
  identities = {
    json.dumps(m.identity)
    for m in (
      maker(tokenizer),
      maker(tokenizer, 'vicuna'),
      maker(tokenizer, 'tokenizer'),
      maker(other, 'tokenizer'),
      maker(tokenizer, doc_tokens=13),
      maker(tokenizer, template='{doc} {label}?'),
    )
  }
  assert len(identities) == 6
  assert maker(tokenizer).identity == maker(other).identity


def test_document_is_cut_and_the_question_is_not(tokenizer):
  doc, label = 'the document is ' * 100, 'relevant ' * 100
  prompts_of = maker(tokenizer)
  (cut,) = prompts_of.cut([doc])
  assert doc.startswith(cut)
  assert num_tokens(tokenizer, cut) == 12
  assert label in prompts_of.prompt(cut, label)


TEXTS = st.one_of(
  st.text(max_size=300),
  st.text(alphabet='é東\U0001f600 a', max_size=300),
  st.integers(0, 400).map(lambda n: ' ' * n + 'the' * n),
)


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(TEXTS, max_size=5), doc_tokens=st.integers(1, 40))
def test_cut_is_the_longest_that_fits(tokenizer, texts, doc_tokens):
  cuts = maker(tokenizer, doc_tokens=doc_tokens).cut(texts)
  for text, cut in zip(texts, cuts, strict=True):
    assert text.startswith(cut)
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) <= doc_tokens:
      assert cut == text
    else:
      # No character is split into its bytes, four at most.
      kept = tokenizer.decode(ids[:doc_tokens]).rstrip('\ufffd')
      assert cut in (kept, text[:1])


def test_a_huge_document_is_not_tokenised_whole(tokenizer, monkeypatch):
  seen = []
  prompts_of = maker(tokenizer)

  class FakeBackend:
    def encode_batch(self, texts, **kwargs):
      seen.extend(map(len, texts))
      return tokenizer.backend_tokenizer.encode_batch(texts, **kwargs)

  prompts_of._backend = FakeBackend()
  (cut,) = prompts_of.cut(['the document ' * 400_000])
  assert num_tokens(tokenizer, cut) == 12
  assert sum(seen) < 1000


def test_cut_does_not_depend_on_neighbours(tokenizer):
  texts = ['the tag ' * 50, 'a', '', '東京' * 99]
  prompts_of = maker(tokenizer)
  alone = [prompts_of.cut([text])[0] for text in texts]
  assert prompts_of.cut(texts) == alone


def test_answer_ids(tokenizer):
  yes, no = answer_ids(tokenizer)
  assert {tokenizer.decode([i]) for i in yes} == {' yes', ' Yes', 'yes', 'Yes'}
  assert {tokenizer.decode([i]) for i in no} == {' no', ' No', 'no', 'No'}


def test_answer_ids_where_a_word_is_cut(tmp_path):
  tokenizer = load_tokenizer(
    write_tokenizer(tmp_path, spellings=(' yes', 'Yes'))
  )
  yes, no = answer_ids(tokenizer)
  assert {tokenizer.decode([i]) for i in yes} == {' yes', 'Yes'}
  assert no == ()


def test_unknown_token_is_no_answer(tmp_path):
  """A vocabulary of words without yes has one token for it all the same."""
  folder = pathlib.Path(write_tokenizer(tmp_path))
  (folder / 'tokenizer.json').write_text(
    json.dumps(
      {
        'version': '1.0',
        'added_tokens': [],
        'pre_tokenizer': {'type': 'Whitespace'},
        'model': {
          'type': 'WordLevel',
          'vocab': {'[UNK]': 0, 'no': 1},
          'unk_token': '[UNK]',
        },
      }
    )
  )
  assert answer_ids(load_tokenizer(str(folder))) == ((), (1,))
