"""`report` on finished, running, killed and damaged runs."""

import dataclasses
import fcntl
import html.parser
import json
import os
import re
import shutil

from absl import logging
import numpy as np
import pytest
from report_fixtures import write_artifacts
from run_fixtures import call, read_jsonl, succeed

from lmtx_jax.files import write_arrays
from lmtx_jax.report import make_report, write_report
from lmtx_jax.reporting import documents
from lmtx_jax.reporting.record import read_record
from lmtx_jax.types import Ragged

VOID = {'meta', 'br', 'link', 'input', 'img'}


class Page(html.parser.HTMLParser):
  """A page that is well-formed, its texts and what it refers to."""

  def __init__(self, text: str):
    super().__init__()
    self.open, self.tags, self.references, self.texts = [], [], [], []
    self.feed(text)
    self.close()
    assert self.open == []

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.references += [
      value
      for name, value in attrs
      if name in ('src', 'href', 'xlink:href', 'data', 'action', 'srcset')
    ]
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.handle_starttag(tag, attrs)
    if tag not in VOID:
      self.open.pop()

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if not self.open or self.open[-1] != 'style':
      self.texts.append(data)

  @property
  def text(self):
    return ' '.join(' '.join(self.texts).split())


def report(run) -> tuple[Page, str]:
  path = make_report(str(run))
  with open(path, encoding='utf-8') as f:
    text = f.read()
  return Page(text), text


def headings(text) -> list[str]:
  return re.findall(r'<h2[^>]*>(.*?)</h2>', text)


PLOTS = [
  'Scores by cycle',
  'Loss over steps',
  'What the teacher says',
  'Pairs asked and pseudo labels',
  'Seconds by stage',
  'Label frequencies',
]


@pytest.fixture
def run(trained, tmp_path):
  shutil.copytree(trained, tmp_path / 'run')
  return tmp_path / 'run'


class TestOfARun:
  def test_command(self, run):
    result = succeed('report', f'--run_dir={run}')
    assert result.out.strip() == str(run / 'report.html')
    page, text = self.read(run)
    assert headings(text) == ['Cycles', *PLOTS, 'Documents', 'Settings']
    summary = json.loads((run / 'summary.json').read_text())
    assert f'{summary["test"]["P@1"]:.1f}' in page.text
    assert f'finished: {summary["stopped_because"]}' in page.text

  def read(self, run):
    text = (run / 'report.html').read_text()
    return Page(text), text

  def test_asks_for_nothing_outside(self, run):
    page, text = report(run)
    assert all(ref.startswith('#') for ref in page.references)
    assert all(
      x.startswith('#') for x in re.findall(r'url\(["\']?([^)]*)', text)
    )
    assert '@import' not in text
    assert "default-src 'none'" in text
    assert not {'script', 'link', 'iframe', 'object', 'embed'} & set(page.tags)

  def test_ids_are_unique(self, run):
    _, text = report(run)
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids)) > 20

  def test_each_cycle_keeps_the_first_labels(self, trained):
    for folder in ('warmup', 'cycle_00', 'cycle_01'):
      found = np.load(trained / folder / 'test_labels.npz')
      assert found['labels'].shape == found['scores'].shape == (40, 10)
      assert (np.diff(found['scores']) <= 1e-6).all()

  def test_best_and_worst_documents(self, run, data_dir):
    _, text = report(run)
    best = text.index('Best test documents')
    worst = text.index('Worst test documents')
    end = text.index('Training documents where the teacher agrees')
    assert best < worst < end
    parts = [text[best:worst], text[worst:end]]
    values = [
      [int(x) for x in re.findall(r'nDCG@5 (\d+)', part)] for part in parts
    ]
    assert [len(part) for part in values] == [10, 10]
    assert values[0] == sorted(values[0], reverse=True)
    assert values[1] == sorted(values[1])
    assert values[0][0] > values[1][0]
    # What is marked true of the first one is true.
    uid = re.search(r'<div class="dim">(test-\d+)', parts[0])[1]
    by_uid = {row['uid']: row for row in read_jsonl(data_dir / 'tst.json')}
    labels = read_jsonl(data_dir / 'lbl.json')
    truth = {labels[i]['title'] for i in by_uid[uid]['target_ind']}
    first = parts[0][: parts[0].index('</article>')]
    marked = {
      re.search(r'<bdi>(.*?)</bdi>', item)[1]
      for item in first.split('<li>')[1:]
      if '\u2713 true' in item
    }
    assert marked <= truth
    missed = set(re.findall(r'<bdi>(.*?)</bdi>', first.split('as well:')[-1]))
    if 'as well' in first:
      assert marked | missed == truth
    else:
      assert marked == truth

  def test_verdicts_are_those_of_the_last_cycle(self, run):
    _, text = report(run)
    part = text[text.index('Training documents where') :]
    last = max(
      int(p.parent.name[-2:]) for p in run.glob('cycle_*/teaching.json')
    )
    assert f'Cycle {last}, first labels' in part
    said = np.load(run / f'cycle_{last:02d}' / 'pseudo_labels.npz')
    uid = re.search(r'<div class="dim">(train-\d+)', part)[1]
    record = read_record(str(run))
    found = documents.of_flags(record.flags, record.header['data'])
    uids = [r.uid for r in found.train.records(range(len(found.train)))]
    row = uids.index(uid)
    offsets = said['accepted_offsets']
    accepted = said['accepted_values'][offsets[row] : offsets[row + 1]]
    titles = {r.title for r in found.labels.records(accepted)}
    first = part[: part.index('</article>')]
    yes = {
      re.search(r'<bdi>(.*?)</bdi>', item)[1]
      for item in first.split('<li>')[1:]
      if '"yes">yes<' in item
    }
    assert yes == titles
    assert re.search(r'>yes</span> \(\d\.\d\d\)', first)  # from the store

  def test_flags_other_than_the_default_come_first(self, run):
    _, text = report(run)
    part = text[text.index('Settings</h2>') :]
    chosen, default = part.split('<details>')
    assert '--num_cycles<' in chosen
    assert '--num_cycles<' not in default
    assert '--margin<' in default
    assert '--margin<' not in chosen

  def test_again_in_place(self, run):
    make_report(str(run))
    make_report(str(run))
    assert not list(run.glob('.unfinished*'))


class TestNotFinished:
  def test_killed(self, run):
    for name in ('summary.json', 'cycle_01/test_scores.json'):
      os.remove(run / name)
    shutil.rmtree(run / 'export')
    page, text = report(run)
    assert 'not finished' in page.text
    assert 'best cycle so far' in page.text
    assert headings(text) == ['Cycles', *PLOTS, 'Documents', 'Settings']

  def test_before_the_first_score(self, run):
    for path in run.iterdir():
      if path.name != 'flags.txt' and path.is_dir():
        shutil.rmtree(path)
      elif path.name != 'flags.txt':
        os.remove(path)
    page, text = report(run)
    assert headings(text) == ['Cycles', 'Documents', 'Settings']
    assert 'No stage is done yet' in page.text

  def test_while_the_teacher_is_asked(self, run):
    for name in ('summary.json', 'cycle_01/teaching.json'):
      os.remove(run / name)
    with open(run / 'metrics.jsonl', 'a') as f:
      row = {'cycle': 1, 'step': 7, 'time_s': 1, 'asking/pairs': 1234}
      f.write(json.dumps(row) + '\n')
    page, _ = report(run)
    assert 'answered in cycle 1' in page.text
    assert '1,234' in page.text

  def test_going_on(self, run):
    os.remove(run / 'summary.json')
    with open(run / '.lock', 'w') as f:
      fcntl.flock(f, fcntl.LOCK_EX)
      page, _ = report(run)
    assert 'going on' in page.text


class TestLittleIsKnown:
  def test_no_truth(self, run, monkeypatch):
    record = read_record(str(run))
    found = documents.of_flags(record.flags, record.header['data'])
    unknown = {
      name: dataclasses.replace(
        getattr(found, name),
        targets=Ragged.from_rows([[]] * len(getattr(found, name))),
      )
      for name in ('train', 'test')
    }
    found = dataclasses.replace(found, **unknown)
    monkeypatch.setattr(documents, 'of_flags', lambda *_: found)
    for path in run.glob('*/test_scores.json'):
      path.write_text(json.dumps(dict.fromkeys(json.loads(path.read_text()))))
    for path in run.glob('*/teaching.json'):
      counts = json.loads(path.read_text())
      path.write_text(json.dumps(counts | {'precision': None, 'quality': None}))
    page, text = report(run)
    assert 'Surest test documents' in page.text
    assert 'Least sure test documents' in page.text
    assert 'Training documents with most yeses' in page.text
    assert '\u2713 true' not in text
    assert 'not true' not in text
    assert headings(text) == ['Cycles', *PLOTS, 'Documents', 'Settings']
    assert 'No truth is known of the training documents' in page.text

  def test_data_gone(self, run):
    flags = (run / 'flags.txt').read_text()
    flags = re.sub(r'--data_dir=.*', '--data_dir=/nowhere', flags)
    (run / 'flags.txt').write_text(flags)
    page, text = report(run)
    assert 'no documents are shown: --data_dir=/nowhere' in page.text
    assert headings(text) == ['Cycles', *PLOTS, 'Documents', 'Settings']

  def test_other_data(self, run):
    flags = (run / 'flags.txt').read_text()
    (run / 'flags.txt').write_text(re.sub('# data .*', '# data 00', flags))
    page, _ = report(run)
    assert 'is not the data that the run was begun on' in page.text

  def test_store_gone_or_broken(self, run):
    page, _ = report(run)
    os.remove(run / 'verdicts.sqlite')
    without, text = report(run)
    assert 'teacher:' in without.text  # the cycle knows them by itself
    assert not re.search(r'>yes</span> \(\d\.\d\d\)', text)
    (run / 'verdicts.sqlite').write_bytes(b'no store' * 999)
    page, _ = report(run)
    assert 'no documents are shown: ' in page.text
    assert 'verdicts.sqlite' in page.text

  def test_of_other_documents(self, run):
    path = run / 'cycle_00' / 'test_labels.npz'
    for path in run.glob('*/test_labels.npz'):
      write_arrays(str(path), {'labels': np.zeros((3, 10), np.int32)})
    page, _ = report(run)
    assert 'labels of 3 documents, but there are 40' in page.text

  @pytest.mark.parametrize('method', ['rts', 'maclr', 'ict', 'simcse'])
  def test_methods_without_a_teacher(self, tmp_path, method):
    run = write_artifacts(tmp_path / 'run', taught=False, method=method)
    page, text = report(run)
    shown = [p for p in PLOTS if 'teacher' not in p and 'asked' not in p]
    assert headings(text) == ['Cycles', *shown, 'Documents', 'Settings']
    assert f'{method} on made' in page.text
    assert 'pairs asked' not in page.text

  def test_icxml(self, tmp_path):
    run = write_artifacts(
      tmp_path / 'run', cycles=0, taught=False, method='icxml'
    )
    shutil.copytree(tmp_path / 'run' / 'warmup', tmp_path / 'run' / 'icxml')
    (tmp_path / 'run' / 'icxml' / 'test_scores.json').write_text('{"P@1": 77}')
    page, _ = report(run)
    assert '29.0 \u2192 77.0 P@1, test' in page.text
    assert 'icxml 77.0' in page.text

  def test_no_cycles(self, tmp_path):
    run = write_artifacts(tmp_path / 'run', cycles=0, num_cycles=0)
    page, text = report(run)
    assert 'start 29.0' in page.text
    assert 'Loss over steps' not in headings(text)

  def test_quality_unknown_but_not_precision(self, tmp_path):
    run = write_artifacts(tmp_path / 'run')
    page, _ = report(run)
    assert 'precision documents' in page.text  # heads, and none of quality


class TestDamage:
  def test_broken_lines_are_told(self, run):
    lines = (run / 'metrics.jsonl').read_text().splitlines()
    bad = ['{"cycle": 0, "st', '[1]', '{"cycle": "0", "step": 1}', '\udcff']
    text = '\n'.join([lines[0], bad[0], *lines[1:3], *bad[1:], *lines[3:]])
    (run / 'metrics.jsonl').write_bytes(text.encode('utf-8', 'surrogateescape'))
    page, html_text = report(run)
    assert 'metrics.jsonl: left out lines 2, 5, 6, 7, no metrics' in page.text
    assert 'Loss over steps' in headings(html_text)

  def test_broken_artifacts_are_told(self, run):
    (run / 'cycle_00' / 'teaching.json').write_text('{"yes')
    (run / 'cycle_00' / 'seconds.json').write_text('[]')
    final = read_record(str(run)).final.folder
    (run / final / 'test_documents.npz').write_bytes(b'PK\x03\x04 torn')
    page, _ = report(run)
    assert 'cycle_00/teaching.json is broken' in page.text
    assert 'cycle_00/seconds.json is broken: no JSON object' in page.text
    assert f'{final}/test_documents.npz is broken' in page.text

  @pytest.mark.parametrize(
    ('make', 'message'),
    [
      (lambda run: shutil.rmtree(run), 'no such folder'),
      (lambda run: os.remove(run / 'flags.txt'), 'is no run'),
      (
        lambda run: (run / 'flags.txt').write_text('x'),
        'was not written by a run',
      ),
      (
        lambda run: (run / 'flags.txt').write_bytes(b'\xff\xfe'),
        'is not UTF-8 text',
      ),
    ],
  )
  def test_no_run(self, run, make, message):
    make(run)
    result = call('report', f'--run_dir={run}')
    assert result.code == 1
    assert message in result.error

  def test_no_flag(self):
    assert '--run_dir is not set' in call('report').error


class FakeSource:
  """Records as somebody writes them who means ill."""

  evil = '<script>alert(1)</script>"\'&amp; </title>'

  def __init__(self, source):
    self.source = source

  def __getitems__(self, rows):
    return [
      {
        'uid': f'<b>{row["uid"].decode()}',
        'title': f'{self.evil} {row["title"].decode()}',
        'content': f'</p></article> {self.evil}' + ' long' * 5000,
      }
      for row in self.source.__getitems__(rows)
    ]


def test_texts_are_escaped_and_cut(run, monkeypatch):
  record = read_record(str(run))
  found = documents.of_flags(record.flags, record.header['data'])
  changed = {}
  for name in ('train', 'test', 'labels'):
    corpus = getattr(found, name)
    source = FakeSource(corpus.source)
    changed[name] = dataclasses.replace(corpus, source=source)
  found = dataclasses.replace(found, **changed)
  monkeypatch.setattr(documents, 'of_flags', lambda *_: found)
  flags = (run / 'flags.txt').read_text()
  flags = re.sub('# name .*', f'# name {FakeSource.evil}', flags)
  flags = flags.replace('--teacher_url=', f'--teacher_url={FakeSource.evil}')
  (run / 'flags.txt').write_text(flags)
  page, text = report(run)
  assert 'script' not in page.tags
  assert '<script' not in text
  for shown in ('<b>test-', '<b>train-', f'on {FakeSource.evil}'):
    assert shown in page.text
  assert page.text.count(FakeSource.evil) > 100
  assert max(map(len, page.texts)) < 1000
  assert len(text) < 1_000_000


class TestFromWithinARun:
  def test_written_while_the_run_holds_its_files(self, tiny, run, monkeypatch):
    os.remove(run / 'summary.json')
    for path in run.glob('cycle_*/dev_score.json'):
      os.remove(path)  # so that the store is written to
    pages = []

    def write_and_keep(*args):
      write_report(*args)
      pages.append(Page((run / 'report.html').read_text()).text)

    monkeypatch.setattr('lmtx_jax.report.write_report', write_and_keep)
    succeed('main', *tiny, '--teacher=oracle', '--report', f'--run_dir={run}')
    assert len(pages) == 3  # after each of two cycles, and at the end
    assert ['going on' in page for page in pages] == [True, True, False]
    assert all('Best test documents' in page for page in pages)

  def test_no_report_is_written_where_none_is_wanted(self, run):
    assert not (run / 'report.html').exists()

  def test_a_failure_is_one_warning(self, run, monkeypatch):
    said = []
    monkeypatch.setattr(logging, 'warning', lambda *args: said.append(args))
    monkeypatch.setattr('lmtx_jax.report.plots.draw_all', lambda *_: 1 / 0)
    write_report(str(run), None)
    assert len(said) == 1
    assert 'ZeroDivisionError' in said[0][0] % said[0][1:]
    assert '\n' not in said[0][0] % said[0][1:]
    assert not list(run.glob('.unfinished*'))

  def test_a_full_disk_is_one_warning(self, run, monkeypatch):
    said = []
    monkeypatch.setattr(logging, 'warning', lambda *args: said.append(args))
    (run / 'report.html').mkdir()
    write_report(str(run), None)
    assert len(said) == 1

  def test_a_signal_is_not_swallowed(self, run, monkeypatch):
    def interrupt(*_):
      raise KeyboardInterrupt

    monkeypatch.setattr('lmtx_jax.report.plots.draw_all', interrupt)
    with pytest.raises(KeyboardInterrupt):
      write_report(str(run), None)
