"""The service by HTTP, with a bundle that was trained."""

import concurrent.futures
import contextlib
import gzip
import json
import shutil
import socket
import threading
import urllib.parse

import pytest
from run_fixtures import NUM_LABELS, made_corpus
from service_fixtures import API_KEY, LABELS_KEY, serving

from lmtx_jax.bundle import Bundle
from lmtx_jax.label_edits import add_labels
from lmtx_jax.serving import limits
from lmtx_jax.serving.batcher import Batcher
from lmtx_jax.serving.labels import LabelView
from lmtx_jax.types import Record

DOCUMENTS = made_corpus()['tst'][:20]
TEXT = DOCUMENTS[0]['content']


@pytest.fixture(scope='module')
def folder(bundle, tmp_path_factory):
  return shutil.copytree(bundle, tmp_path_factory.mktemp('served') / 'bundle')


@pytest.fixture(scope='module')
def service(folder):
  flags = {'max_body_bytes': 50_000, 'max_docs': 32, 'max_doc_chars': 5000}
  with serving(bundle=str(folder), **flags) as running:
    yield running


def expect(found, expected):
  """The same labels; scores differ in the last digits between shapes."""
  assert [row['uid'] for row in found] == [row['uid'] for row in expected]
  for a, b in zip(found, expected, strict=True):
    assert len(a['labels']) == len(b['labels'])
    scores = {label['uid']: label['score'] for label in b['labels']}
    for label in a['labels']:
      assert label['score'] == pytest.approx(scores[label['uid']], abs=3e-6)


@pytest.fixture(scope='module')
def expected(folder):
  records = [Record(d['uid'], d['title'], d['content']) for d in DOCUMENTS]
  return Bundle(str(folder)).predictions(records, NUM_LABELS)


def documents(rows=DOCUMENTS):
  return [{k: d[k] for k in ('uid', 'title', 'content')} for d in rows]


def test_tags_as_predict_does(service, expected):
  body = {'documents': documents(), 'top_k': NUM_LABELS}
  answer = service.ask('POST', '/v1/tag', body)
  assert answer.status == 200
  expect(answer.json['results'], expected)


def test_scores_fall_and_top_k_holds(service):
  for top_k in (1, 7, 11, 100):
    (row,) = service.tag(TEXT, top_k=top_k).json['results']
    scores = [label['score'] for label in row['labels']]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == min(top_k, NUM_LABELS)
  assert len(service.tag(TEXT).json['results'][0]['labels']) == 10


def test_min_score_leaves_lower_ones_out(service):
  (row,) = service.tag(TEXT).json['results']
  third = row['labels'][2]['score']
  (cut,) = service.tag(TEXT, min_score=third).json['results']
  assert cut['labels'] == row['labels'][:3]
  (none,) = service.tag(TEXT, min_score=1.5).json['results']
  assert none['labels'] == []


def test_documents_without_uid_are_numbered(service):
  rows = service.tag(TEXT, TEXT, TEXT).json['results']
  assert [row['uid'] for row in rows] == ['1', '2', '3']


def test_many_clients_each_get_their_own(service, expected):
  def ask(i):
    one = i % len(DOCUMENTS)
    body = {'documents': documents()[one : one + 1], 'top_k': NUM_LABELS}
    answer = service.ask('POST', '/v1/tag', body)
    expect(answer.json['results'], expected[one : one + 1])
    return answer.status

  with concurrent.futures.ThreadPoolExecutor(16) as pool:
    assert set(pool.map(ask, range(120))) == {200}


DEEP = b'{"documents": ' + b'[' * 20_000 + b']' * 20_000 + b'}'


@pytest.mark.parametrize(
  ('body', 'status', 'message'),
  [
    ({}, 422, 'documents: Field required'),
    ({'documents': []}, 422, 'documents: '),
    ({'documents': [{}]}, 422, 'documents.0: has no text'),
    ({'documents': [{'content': ' \n\t'}]}, 422, 'documents.0: has no text'),
    ({'documents': [{'content': 5}]}, 422, 'documents.0.content: '),
    ({'documents': [{'text': 'x'}]}, 422, 'documents.0.text: Extra'),
    ({'documents': 'x'}, 422, 'documents: '),
    ({'documents': [{'content': 'x'}] * 33}, 413, '33 documents; at most 32'),
    ({'documents': [{'content': 'x' * 5001}]}, 413, 'documents.0: 5001 char'),
    ({'documents': [{'content': 'x' * 60_000}]}, 413, 'larger than 50000'),
    ({'documents': [{'content': 'x', 'uid': True}]}, 422, 'documents.0.uid'),
    ({'documents': [{'content': 'x'}], '\ud800': 1}, 422, 'body: '),
    ({'documents': [{'content': 'x'}], 'topk': 1}, 422, 'topk: Extra'),
    ({'documents': [{'content': 'x'}], 'top_k': 0}, 422, 'top_k: '),
    ({'documents': [{'content': 'x'}], 'top_k': '5'}, 422, 'top_k: '),
    ({'documents': [{'content': 'x'}], 'top_k': True}, 422, 'top_k: '),
    ({'documents': [{'content': 'x'}], 'top_k': 101}, 422, 'at most 100'),
    (
      {'documents': [{'content': 'x'}], 'top_k': float('nan')},
      422,
      'top_k: ',
    ),
    (
      {'documents': [{'content': 'x'}], 'min_score': float('nan')},
      422,
      'min_score: ',
    ),
    ([], 422, 'body: '),
    (b'', 422, 'body: '),
    (b'{"documents": [', 422, 'body: '),
    (b'\x00\xff\xfe\x80' * 100, 422, 'body: not JSON'),
    (DEEP, 422, 'body: not JSON'),
    (b'1' * 5000, 422, 'body: not JSON'),
    ({'documents': [1] * 10_000}, 413, '10000 documents; at most 32'),
    ({'documents': [1] * 32}, 422, 'documents.0: must be an object'),
    ({str(i): 1 for i in range(500)}, 422, 'body: has 500 fields'),
  ],
)
def test_bad_requests_get_one_line(service, body, status, message):
  answer = service.ask('POST', '/v1/tag', body)
  assert answer.status == status, answer.text
  assert answer.headers['content-type'] == 'application/json'
  assert message in answer.error
  assert service.tag(TEXT).status == 200


def test_a_service_of_few_labels_gives_those_by_default(bundle):
  with serving(bundle=str(bundle), max_top_k=5) as service:
    (row,) = service.tag(TEXT).json['results']
    assert len(row['labels']) == 5
    path = '/v1/labels/nearest?uid=L1'
    labels = service.ask('GET', path).json['labels']
    assert len(labels) == 5
    assert 'L1' not in {label['uid'] for label in labels}
    assert service.tag(TEXT, top_k=6).status == 422


def test_who_goes_before_all_is_sent_is_no_failure(service):
  with socket.create_connection(('127.0.0.1', service.port)) as client:
    client.sendall(
      b'POST /v1/tag HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc'
    )
  for _ in range(200):
    text = service.ask('GET', '/metrics').text
    if 'path="/v1/tag",status="499"' in text:
      break
    threading.Event().wait(0.02)
  assert 'path="/v1/tag",status="499"' in text
  assert 'path="/v1/tag",status="500"' not in text


def test_half_a_surrogate_pair_is_replaced(service):
  (row,) = service.ask(
    'POST', '/v1/tag', {'documents': [{'uid': 'a\ud800', 'content': '\ud800x'}]}
  ).json['results']
  assert row['uid'] == 'a\ufffd'
  assert len(row['labels']) == 10


def test_a_body_of_another_kind_is_refused(service):
  # So that a page of another site cannot ask without the browser's leave.
  answer = service.ask(
    'POST',
    '/v1/tag',
    {'documents': documents()},
    headers={'Content-Type': 'text/plain'},
  )
  assert answer.status == 422
  assert answer.error


def test_a_large_body_in_parts_is_refused(service):
  parts = (b'[' * 1000 for _ in range(1000))
  answer = service.ask('POST', '/v1/tag', parts)
  assert answer.status == 413
  assert 'larger than 50000 bytes' in answer.error


def test_a_large_body_is_answered_though_it_is_all_sent_first(service):
  body = {'documents': [{'content': 'word ' * 1_000_000}]}
  for _ in range(5):
    assert service.ask('POST', '/v1/tag', body).status == 413


def test_a_very_large_body_is_refused_before_its_end(service, monkeypatch):
  monkeypatch.setattr(limits, '_READ', 100_000)
  for body in (b'[' * 10**7, (b'[' * 10_000 for _ in range(1000))):
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
      assert service.ask('POST', '/v1/tag', body).status == 413
  assert service.tag(TEXT).status == 200


def test_who_asks_before_it_sends_need_not_send(service):
  with socket.create_connection(('127.0.0.1', service.port)) as client:
    client.sendall(
      b'POST /v1/tag HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n'
      b'Content-Type: application/json\r\nContent-Length: 60000\r\n\r\n'
    )
    client.settimeout(30)
    assert client.recv(100).startswith(b'HTTP/1.1 413')


@pytest.mark.parametrize(
  ('name', 'value', 'message'),
  [
    ('Content-Type', 'text/plain', "application/json, not 'text/plain'"),
    ('Content-Type', '', 'Content-Type must be application/json'),
    ('Content-Encoding', 'gzip', "Content-Encoding 'gzip' is not read"),
  ],
)
def test_a_body_that_is_no_plain_json_is_told_so(service, name, value, message):
  body = gzip.compress(b'{}') if value == 'gzip' else {'documents': []}
  answer = service.ask('POST', '/v1/tag', body, headers={name: value})
  assert answer.status == 422
  assert message in answer.error


@pytest.mark.parametrize('uid', ['a\nb', 'a/../b', 'a?b#c%', '../x'])
def test_a_label_of_any_uid_can_be_removed(service, uid):
  assert service.add(uid, 'a label').status == 201
  path = f'/v1/labels/{urllib.parse.quote(uid, safe="")}'
  assert service.ask('DELETE', path, key=LABELS_KEY).status == 200
  gone = service.ask('DELETE', path, key=LABELS_KEY)
  assert gone.status == 404
  assert gone.error.endswith(f'there is no label {uid!r} in the bundle')


def test_a_bundle_that_went_away_is_no_fault_of_the_client(bundle, tmp_path):
  folder = shutil.copytree(bundle, tmp_path / 'bundle')
  with serving(bundle=str(folder)) as service:
    folder.rename(tmp_path / 'moved')
    assert service.tag(TEXT).status == 200
    answer = service.add('x', 'x')
    assert answer.status == 503
    assert 'labels cannot be changed now' in answer.error
    (tmp_path / 'moved').rename(folder)
    assert service.add('x', 'x').status == 201


@pytest.mark.parametrize(
  ('method', 'path', 'status'),
  [
    ('GET', '/none', 404),
    ('GET', '/v1/tag', 405),
    ('GET', '/v1/labels?limit=x', 422),
    ('GET', '/v1/labels?limit=0', 422),
    ('GET', '/v1/labels/nearest', 422),
    ('GET', '/v1/labels/nearest?uid=none', 404),
    ('GET', '/v1/labels/nearest?uid=L1&top_k=1000', 422),
  ],
)
def test_errors_of_addresses_are_json_too(service, method, path, status):
  answer = service.ask(method, path)
  assert answer.status == status
  assert answer.error


@pytest.mark.parametrize(
  ('method', 'path'),
  [
    ('POST', '/v1/tag?topk=3'),
    ('POST', '/v1/labels?top_k=3'),
    ('GET', '/v1/labels?limit=1&topk=3&top_k=3'),
    ('GET', '/v1/labels/nearest?uid=L1&topk=3'),
    ('DELETE', '/v1/labels/L1?topk=3'),
  ],
)
def test_unknown_parameters_of_a_query_are_errors(service, method, path):
  body = {'documents': [{'content': 'x'}]} if 'tag' in path else None
  answer = service.ask(method, path, body, LABELS_KEY)
  assert answer.status == 422
  assert "query: unknown parameters: ['top" in answer.error


def test_labels_are_found(service, folder):
  titles = [label.title for label in Bundle(str(folder)).labels]
  every = service.ask('GET', '/v1/labels?limit=1000').json
  assert [label['title'] for label in every['labels']] == titles
  assert not every['more']
  part = titles[3][2:6].upper()
  found = service.ask('GET', f'/v1/labels?query={part}').json['labels']
  expected = [title for title in titles if part.lower() in title.lower()]
  assert [label['title'] for label in found] == expected
  page = service.ask('GET', '/v1/labels?limit=5&offset=10').json
  assert page == {'labels': every['labels'][10:15], 'more': True}


def test_nearest_labels_are_those_of_the_highest_cosines(service, folder):
  tagger = Bundle(str(folder))
  cosines = tagger.label_embeddings @ tagger.label_embeddings[4]
  order = [f'L{i}' for i in (-cosines).argsort() if i != 4]
  answer = service.ask('GET', '/v1/labels/nearest?uid=L4&top_k=6')
  assert [label['uid'] for label in answer.json['labels']] == order[:6]


def test_labels_are_sought_beside_the_thread_that_tags(service, monkeypatch):
  threads = []

  def index_of(view, uid):
    threads.append(threading.current_thread().name)
    return 3

  monkeypatch.setattr(LabelView, 'index_of', index_of)
  assert service.ask('GET', '/v1/labels/nearest?uid=L3').status == 200
  assert len(threads) == 1
  assert threads[0] not in ('device', 'MainThread')


def test_a_failure_is_one_line_and_counted(service, monkeypatch):
  monkeypatch.setattr(LabelView, 'search', lambda *_: 1 / 0)
  answer = service.ask('GET', '/v1/labels')
  assert answer.status == 500
  assert 'its log tells why' in answer.error
  assert answer.headers['x-content-type-options'] == 'nosniff'
  text = service.ask('GET', '/metrics').text
  assert 'path="/v1/labels",status="500"} 1.0' in text


def test_health_tells_that_nothing_can_be_tagged(service, monkeypatch):
  monkeypatch.setattr(Batcher, 'is_alive', False)
  answer = service.ask('GET', '/health')
  assert answer.status == 503
  assert 'start anew' in answer.error


def test_health_and_metrics_tell_what_runs(service):
  health = service.ask('GET', '/health').json
  assert health['status'] == 'ok'
  assert health['num_labels'] >= NUM_LABELS
  assert health['labels_can_change'] is True
  before = number(service, 'lmtx_documents_total')
  service.tag(TEXT, TEXT)
  assert number(service, 'lmtx_documents_total') == before + 2
  assert number(service, 'lmtx_waiting_documents') == 0
  assert number(service, 'lmtx_labels') == health['num_labels']


def number(service, name):
  lines = service.ask('GET', '/metrics').text.splitlines()
  return float(next(x for x in lines if x.startswith(f'{name} ')).split()[1])


def test_the_openapi_page_names_every_address(service):
  api = service.ask('GET', '/openapi.json').json
  assert api['paths'].keys() == {
    '/health',
    '/metrics',
    '/v1/tag',
    '/v1/labels',
    '/v1/labels/nearest',
    '/v1/labels/{uid}',
  }
  assert 'TagRequest' in json.dumps(api['paths']['/v1/tag'])
  assert service.ask('GET', '/docs').status == 200


def test_answers_say_that_nothing_is_fetched_from_elsewhere(service):
  headers = service.ask('GET', '/').headers
  assert headers['content-security-policy'].startswith("default-src 'none'")
  assert headers['x-content-type-options'] == 'nosniff'


def test_labels_are_added_and_removed(service):
  before = service.ask('GET', '/health').json['num_labels']
  answer = service.add('new/1 é', 'an entirely new label')
  assert (answer.status, answer.json) == (
    201,
    {'changed': 1, 'num_labels': before + 1},
  )
  (row,) = service.tag('an entirely new label', top_k=1).json['results']
  assert row['labels'][0]['uid'] == 'new/1 é'
  assert row['labels'][0]['title'] == 'an entirely new label'
  found = service.ask('GET', '/v1/labels?query=ENTIRELY').json['labels']
  assert [label['uid'] for label in found] == ['new/1 é']
  again = service.add('new/1 é', 'another')
  assert again.status == 409
  assert 'already' in again.error
  path = '/v1/labels/new%2F1%20%C3%A9'
  assert service.ask('DELETE', path, key=LABELS_KEY).status == 200
  assert service.ask('DELETE', path, key=LABELS_KEY).status == 404
  (row,) = service.tag('an entirely new label').json['results']
  assert 'new/1 é' not in {label['uid'] for label in row['labels']}


@pytest.mark.parametrize(
  ('labels', 'status'),
  [
    ([], 422),
    ([{'uid': 'a'}], 422),
    ([{'uid': '', 'title': 'x'}], 422),
    ([{'uid': 'a', 'title': ' '}], 422),
    ([{'uid': 'a', 'title': 'x', 'score': 1}], 422),
    ([{'uid': 'a', 'title': 'x'}] * 2, 409),
    ([{'uid': 'a', 'title': 'x'}, {'uid': 'L1', 'title': 'x'}], 409),
    ([{'uid': str(i), 'title': 'x'} for i in range(33)], 413),
    ([{'uid': 'a', 'title': 'x' * 6000}], 413),
  ],
)
def test_of_bad_labels_none_is_added(service, labels, status):
  before = service.ask('GET', '/health').json['num_labels']
  answer = service.ask('POST', '/v1/labels', {'labels': labels}, LABELS_KEY)
  assert answer.status == status, answer.text
  assert answer.error
  assert service.ask('GET', '/health').json['num_labels'] == before


def test_labels_of_the_command_are_seen_soon(service, folder):
  add_labels(Bundle(str(folder)), [Record('cli', 'from the command', '')])
  for _ in range(200):
    found = service.ask('GET', '/v1/labels?query=from+the+command').json
    if found['labels']:
      break
    threading.Event().wait(0.05)
  assert [label['uid'] for label in found['labels']] == ['cli']
  assert service.ask('DELETE', '/v1/labels/cli', key=LABELS_KEY).status == 200


def test_no_request_is_ever_given_a_wrong_label(service):
  """Labels come and go under load; each answer is of one moment's labels."""
  stop, wrong = threading.Event(), []

  def ask():
    while not stop.is_set():
      rows = service.tag('flickering label', TEXT, top_k=30).json['results']
      for row in rows:
        uids = [label['uid'] for label in row['labels']]
        titles = {label['uid']: label['title'] for label in row['labels']}
        if len(set(uids)) != len(uids) or len(uids) < NUM_LABELS:
          wrong.append(row)
        if titles.get('flicker', 'flickering label') != 'flickering label':
          wrong.append(row)

  threads = [threading.Thread(target=ask) for _ in range(4)]
  for thread in threads:
    thread.start()
  try:
    for _ in range(6):
      assert service.add('flicker', 'flickering label').status == 201
      (row,) = service.tag('flickering label', top_k=1).json['results']
      assert row['labels'][0]['uid'] == 'flicker'
      gone = service.ask('DELETE', '/v1/labels/flicker', key=LABELS_KEY)
      assert gone.status == 200
      (row,) = service.tag('flickering label', top_k=1).json['results']
      assert row['labels'][0]['uid'] != 'flicker'
  finally:
    stop.set()
    for thread in threads:
      thread.join()
  assert wrong == []


def test_labels_need_their_own_key(service):
  assert service.add('x', 'x', key='').status == 401
  answer = service.add('x', 'x', key='some-other-key')
  assert answer.status == 403
  assert answer.error
  assert service.ask('DELETE', '/v1/labels/L1').status == 401


def test_keys_guard_all_but_health_and_page(bundle, monkeypatch):
  monkeypatch.setattr(limits, '_FORGET_S', 2.0)
  with serving(api_keys=(API_KEY,), bundle=str(bundle)) as guarded:
    assert guarded.tag(TEXT).status == 401
    half = {'Content-Length': '100'}  # who may not ask need not send it all
    assert guarded.ask('POST', '/v1/tag', b'x', headers=half).status == 401
    close = {'Connection': 'close'}
    large = b'[' * 4_000_000
    assert guarded.ask('POST', '/v1/tag', large, headers=close).status == 401
    assert guarded.tag(TEXT).headers['www-authenticate'] == 'Bearer'
    assert guarded.tag(TEXT, key='wrong-wrong').status == 403
    assert guarded.tag(TEXT, key=API_KEY).status == 200
    assert guarded.tag(TEXT, key=LABELS_KEY).status == 200
    for path in ('/v1/labels', '/v1/labels/nearest?uid=L1', '/metrics'):
      assert guarded.ask('GET', path).status == 401
      assert guarded.ask('GET', path, key=API_KEY).status == 200
    assert guarded.add('x', 'x', key=API_KEY).status == 403
    for path in ('/', '/page.js', '/health', '/docs', '/openapi.json'):
      assert guarded.ask('GET', path).status == 200


def test_a_client_and_all_clients_may_have_so_many_waiting(bundle):
  flags = {'max_docs': 4, 'max_client_docs': 4, 'max_waiting_docs': 4}
  with serving(bundle=str(bundle), **flags) as service:
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
      answers = list(pool.map(lambda _: service.tag(*[TEXT] * 4), range(48)))
    statuses = {answer.status for answer in answers}
    assert statuses == {200, 503}
    refused = next(a for a in answers if a.status == 503)
    assert refused.error
    assert refused.headers['retry-after'] == '1'
    assert service.tag(TEXT).status == 200


def test_the_last_label_stays(bundle, tmp_path):
  folder = shutil.copytree(bundle, tmp_path / 'bundle')
  with serving(bundle=str(folder)) as service:
    for i in range(NUM_LABELS - 1):
      path = f'/v1/labels/L{i}'
      assert service.ask('DELETE', path, key=LABELS_KEY).status == 200
    path = f'/v1/labels/L{NUM_LABELS - 1}'
    answer = service.ask('DELETE', path, key=LABELS_KEY)
    assert answer.status == 409
    assert answer.error
    (row,) = service.tag(TEXT).json['results']
    assert [x['uid'] for x in row['labels']] == [f'L{NUM_LABELS - 1}']
