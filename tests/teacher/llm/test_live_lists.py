"""Lists of labels, put to the real server."""

from fault_proxy import FaultProxy
from live_fixtures import SglangServer, requires_sglang
import numpy as np
import pytest
from test_live_sglang import LABELS_PER_DOC, judge, made_pairs, make_teacher

from lmtx_jax.teacher import prompts
from lmtx_jax.teacher.llm.lists import Lists

pytestmark = requires_sglang


@pytest.fixture(scope='module')
def server(tmp_path_factory):
  with SglangServer(tmp_path_factory.mktemp('sglang')) as server:
    yield server


@pytest.mark.parametrize('verdict', ['logprob', 'text'])
def test_lists(server, tmp_path, verdict):
  """What the model writes is bound; noise, but a line for every label."""
  pairs = made_pairs(20)
  flags = {'question': 'list', 'verdict': verdict}
  teacher = make_teacher(server.url, **flags)
  verdicts, tally = judge(tmp_path, 'lists', teacher, pairs)
  assert (tally.asked, tally.invalid) == (len(pairs), 0)
  assert tally.usage['listed'] == len(pairs)
  if verdict == 'text':
    assert tally.usage['asked_again'] == 0
  else:
    # This model spells many a word with other tokens than yes and no.
    assert tally.usage['asked_again'] < len(pairs)
    assert len(np.unique(verdicts.p_yes)) > len(pairs) / 2
  # Asked again, alone and a few at a time: the lists say the same.
  slow = make_teacher(server.url, **flags, teacher_batch_size=1)
  again, _ = judge(tmp_path, 'again', slow, pairs)
  np.testing.assert_allclose(again.p_yes, verdicts.p_yes, atol=1e-4)
  judge(tmp_path, 'lists', teacher, pairs, 'run/1')
  assert teacher.usage()['listed'] == len(pairs)
  assert server.is_healthy()


def test_lists_through_faults(server, tmp_path):
  pairs = made_pairs(20)
  flags = {'question': 'list', 'teacher_timeout_s': 20.0}
  teacher = make_teacher(server.url, **flags)
  right, _ = judge(tmp_path, 'right', teacher, pairs)
  with FaultProxy(server.url, stall_s=30.0) as proxy:
    teacher = make_teacher(proxy.url, **flags, teacher_tokenizer=server.model)
    teacher.prepare()
    proxy.set_faults(0.2)
    verdicts, tally = judge(tmp_path, 'store', teacher, pairs)
  assert tally.usage['given_up'] == 0
  np.testing.assert_allclose(verdicts.p_yes, right.p_yes, atol=1e-4)


def test_first_lines_agree_with_transformers(server):
  torch = pytest.importorskip('torch')
  from transformers import AutoModelForCausalLM, AutoTokenizer

  pairs = made_pairs(20)
  teacher = make_teacher(server.url, question='list', chat_format='none')
  found = {
    int(first): lines[1]
    for firsts, said in teacher._judge_lists(
      pairs, Lists(pairs.doc_index, LABELS_PER_DOC)
    )
    for first, lines in zip(firsts, said.p_yes, strict=True)
    if 1 in lines
  }
  assert len(found) >= 3
  tokenizer = AutoTokenizer.from_pretrained(server.model)
  model = AutoModelForCausalLM.from_pretrained(
    server.model, dtype=torch.float32
  )
  yes, no = (
    [tokenizer.encode(f' {w}', add_special_tokens=False)[0] for w in words]
    for words in (('yes', 'Yes'), ('no', 'No'))
  )
  for first, p_yes in found.items():
    labels = pairs.label_index[first : first + LABELS_PER_DOC]
    (cut,) = teacher._maker.cut([pairs.documents[pairs.doc_index[first]]])
    prompt = prompts.render_list(
      prompts.LIST_TEMPLATES['tag'], cut, pairs.labels.get(labels)
    )
    ids = tokenizer.encode(prompt)
    ids += tokenizer.encode('1.', add_special_tokens=False)
    with torch.no_grad():
      p = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
    right = float(p[yes].sum() / (p[yes].sum() + p[no].sum()))
    assert p_yes == pytest.approx(right, rel=1e-3)
