"""The command: tables, files, and one line of error."""

import csv
import json
import re

from compare_fixtures import write_run
import numpy as np
import pytest
from run_fixtures import call, succeed

from lmtx_jax import cli
from lmtx_jax.compare import CompareConfig
from lmtx_jax.files import write_arrays


@pytest.fixture
def runs(tmp_path):
  """RTS and LMTX, two seeds each."""
  return [
    write_run(
      tmp_path / f'{method}{seed}',
      scores=scores,
      method=method,
      seed=seed,
      name='<made>',
      cycle={'prompt_tokens': 5000} if method == 'lmtx' else {'asked': None},
    )
    for method, scores in (('rts', (30.0,)), ('lmtx', (50.0, 60.0)))
    for seed in (0, 1)
  ]


def table_of(out):
  """Cells of the printed table, by the name of the row."""
  lines = [re.split(r'\s{2,}', line.strip()) for line in out.splitlines()]
  return {line[1]: line for line in lines if line[0].isdecimal()}


def test_table(runs):
  out = succeed('compare', *runs).out
  assert out.splitlines()[0].split() == (
    '# P@1 P@5 R@10 R@100 seeds pairs asked seconds tokens'.split()  # noqa: SIM905
  )
  rows = table_of(out)
  assert list(rows) == ['untrained', 'rts', 'lmtx']
  assert rows['lmtx'] == [
    *('3', 'lmtx', '60.0 ± 0.0', '30.0 ± 0.0', '65.0 ± 0.0', '90.0 ± 0.0'),
    *('2', '2,020', '12.5', '10,000'),
  ]
  assert rows['rts'][2:4] == ['30.0 ± 0.0*', '15.0 ± 0.0*']
  assert rows['rts'][7:] == ['10', '12.5', '-']
  assert rows['untrained'][6:] == ['1', '-', '-', '-']
  assert '* differs from row 3 (lmtx): p < 0.05' in out


def test_options(runs):
  out = succeed(
    *('compare', '--metrics=R@10, P@1', runs[0], '--noinitial'),
    *('--reference=rts', *runs[1:]),
  ).out
  assert out.split()[:3] == ['#', 'R@10', 'P@1']
  assert list(table_of(out)) == ['rts', 'lmtx']
  assert '60.0 ± 0.0*' in table_of(out)['lmtx']


def test_html(runs, tmp_path):
  path = tmp_path / 'deep' / 't.html'
  succeed('compare', *runs, f'--output={path}')
  text = path.read_text()
  assert '<title>Runs on &lt;made&gt;</title>' in text
  assert text.count('<svg') == 3
  assert 'prefers-color-scheme: dark' in text
  assert '<th scope="row">3. lmtx' in text
  assert '<small>p &lt; 0.001</small>' in text
  # Nothing is fetched: names of namespaces are all the addresses there are.
  assert set(re.findall(r'https?://[^"\s<]+', text)) <= {
    'http://www.w3.org/2000/svg',
    'http://www.w3.org/1999/xlink',
  }
  assert '<script' not in text and '@import' not in text


def test_json(runs, tmp_path):
  path = tmp_path / 't.json'
  succeed('compare', *runs, f'--output={path}')
  table = json.loads(path.read_text())
  assert (table['dataset'], table['reference']) == ('<made>', 'lmtx')
  row = table['rows'][1]
  assert (row['name'], row['seeds'], row['runs']) == ('rts', [0, 1], runs[:2])
  score = row['scores']['P@1']
  assert (score['mean'], score['deviation']) == (30.0, 0.0)
  assert 0 < score['p'] < score['p_holm'] < 0.05
  assert row['flags']['method'] == 'rts' and 'seed' not in row['flags']
  assert table['rows'][2]['costs']['pairs asked'] == 2020


def test_csv(runs, tmp_path):
  path = tmp_path / 't.csv'
  succeed('compare', *runs, f'--output={path}')
  rows = list(csv.DictReader(path.read_text().splitlines()))
  assert [row['row'] for row in rows] == ['untrained', 'rts', 'lmtx']
  assert float(rows[2]['P@1']) == 60
  assert rows[2]['P@1 p_holm'] == '' and float(rows[1]['P@1 p_holm']) < 0.05


def test_costs_of_a_method(tmp_path):
  """The LLM's seconds are not those of the run; details are in the files."""
  cost = {
    'questions': 90,
    'seconds': 7.5,
    'tokens_per_document': 812.5,
    'seconds_per_document': 0.25,
  }
  icxml = write_run(
    tmp_path / 'icxml',
    scores=(),
    method='icxml',
    summary={'cost': cost, 'test': {'P@1': 33.0}},
  )
  path = tmp_path / 't.json'
  out = succeed('compare', icxml, '--metrics=P@1', f'--output={path}').out
  assert out.splitlines()[0].split('seeds')[1].split() == (
    'seconds LLM seconds tokens per document seconds per document'.split()  # noqa: SIM905
  )
  assert table_of(out)['icxml'][2:] == [
    *('33.0', '1', '12.5', '7.5', '812', '0.25')
  ]
  costs = json.loads(path.read_text())['rows'][1]['costs']
  assert costs['questions'] == 90
  assert (costs['seconds'], costs['LLM seconds']) == (12.5, 7.5)


def test_seconds_of_tagging_a_document(tmp_path):
  """By the encoder that counts, or the one before training; ICXML tells its."""
  seconds = {'seconds': {'train': 5.0, 'test': 3.0}}
  runs = [
    write_run(
      tmp_path / 'rts',
      method='rts',
      cycle=seconds,
      summary={'warmup_seconds': {'test': 6.0}},
    ),
    write_run(tmp_path / 'old', method='ict', cycle=seconds),
    write_run(
      tmp_path / 'icxml',
      scores=(),
      method='icxml',
      summary={
        'cost': {'seconds_per_document': 0.25},
        'warmup_seconds': {'test': 99.0},
      },
    ),
  ]
  for where in ('rts/warmup', 'rts/cycle_00', 'icxml/warmup'):
    labels = np.zeros((30, 10), np.int32)  # of some, no truth is known
    write_arrays(str(tmp_path / where / 'test_labels.npz'), {'labels': labels})
  out = succeed('compare', *runs).out
  assert out.splitlines()[0].endswith('seconds per document')
  found = {name: cells[-1] for name, cells in table_of(out).items()}
  assert found == {
    'untrained': '0.2',
    'rts': '0.1',
    'ict': '-',
    'icxml': '0.25',
  }
  assert 'seconds per document: of tagging' in out


def test_starts_that_disagree_are_told(tmp_path):
  runs = [
    write_run(tmp_path / method, method=method, initial=initial)
    for method, initial in (('lmtx', 20.0), ('rts', 25.0))
  ]
  out = succeed('compare', *runs).out
  assert table_of(out)['untrained'][2].startswith('20.0')
  assert 'untrained: runs with this start disagree' in out
  assert 'P@1 20.0 to 25.0' in out
  out = succeed('compare', *runs, '--metrics=R@100').out
  assert 'disagree' not in out


def test_settings_leave_out_what_a_method_does_not_read(tmp_path):
  runs = [
    write_run(tmp_path / 'a', teacher='lexical', shortlist_size=20),
    write_run(tmp_path / 'b', method='rts', batch_size=64, num_negatives=3),
  ]
  path = tmp_path / 't.html'
  succeed('compare', *runs, f'--output={path}')
  text = path.read_text().split('<h2>Settings</h2>')[1].split('</table>')[0]
  text = text.replace('<wbr>', '')
  assert re.findall(r'<th scope="col">(\w+)</th>', text) == [
    *('row', 'method', 'shortlist_size', 'teacher', 'batch_size')
  ]
  assert [
    re.findall('<td>(.*?)</td>', row) for row in text.split('<tr>')[2:]
  ] == [['lmtx', '20', 'lexical', '128'], ['rts', '-', '-', '64']]


def test_all_of_the_best_are_bold(tmp_path):
  runs = [
    write_run(tmp_path / 'a', scores=(50.0,)),
    write_run(tmp_path / 'b', scores=(50.01,), method='rts'),
    write_run(tmp_path / 'c', scores=(40.0,), method='ict'),
  ]
  path = tmp_path / 't.html'
  succeed('compare', *runs, f'--output={path}', '--metrics=P@1')
  bold = re.findall(r'<td class="best">([\d.]+)', path.read_text())
  assert bold == ['50.0', '50.0']


def test_unpaired_rows_say_so(tmp_path):
  one = write_run(tmp_path / 'a', documents=0)
  two = write_run(tmp_path / 'b', method='rts', scores=(10.0,))
  path = tmp_path / 't.html'
  out = succeed('compare', one, two, f'--output={path}', '--noinitial').out
  assert table_of(out)['rts'][2] == '10.0?'
  assert '? not paired' in out
  assert '<small>not paired</small>' in path.read_text()


def test_pairs_of_a_shared_store_are_told(tmp_path):
  run = write_run(tmp_path / 'a', cycle={'asked': 10, 'reused': 990})
  assert 'held before the run' in succeed('compare', run).out


def test_no_truth(tmp_path):
  """Documents without true labels have no scores; nothing fails of it."""
  nothing = {'P@1': None, 'R@10': None}
  run = write_run(
    tmp_path / 'a',
    cycle={'test': nothing, 'precision': None, 'quality': None},
    summary={'test': nothing, 'initial': nothing},
  )
  for where in ('warmup', 'cycle_00'):
    scores = dict.fromkeys(nothing, np.zeros(0, np.float32))
    write_arrays(str(tmp_path / 'a' / where / 'test_documents.npz'), scores)
  path = tmp_path / 't.html'
  args = ('--metrics=P@1,R@10', f'--output={path}')
  out = succeed('compare', run, *args).out
  assert table_of(out)['lmtx'][2:4] == ['-?', '-?']
  assert '? no document with truth' in out
  text = path.read_text()
  assert 'dev P@1 by the teacher' in text
  assert '<small>no document with truth</small>' in text


def test_help(capsys):
  from lmtx_jax import compare

  with pytest.raises(SystemExit) as e:
    cli.run(
      compare.main, (CompareConfig,), compare.__doc__, ['compare', '--help']
    )
  assert e.value.code == 0
  out = capsys.readouterr().out
  assert 'python -m lmtx_jax.compare RUN...' in out
  for name in ('output', 'metrics', 'reference', 'initial'):
    assert f'  --{name} (' in out


class TestBadInput:
  def fail(self, *argv):
    result = call('compare', *argv)
    assert result.code in (1, 2)
    assert result.out == ''
    return result.error

  def test_no_run(self):
    assert 'no RUN' in self.fail()

  def test_no_folder(self, tmp_path):
    assert self.fail(tmp_path / 'x').endswith('/x is no folder')

  def test_no_run_in_the_folder(self, tmp_path):
    assert 'is no run: no flags.txt in it' in self.fail(tmp_path)

  def test_not_written_by_a_run(self, tmp_path):
    (tmp_path / 'flags.txt').write_text('--seed=3\n')
    assert 'flags.txt was not written by a run' in self.fail(tmp_path)

  def test_a_flag_that_is_no_number(self, runs, tmp_path):
    path = tmp_path / 'lmtx0' / 'flags.txt'
    path.write_text(path.read_text().replace('--epochs=1', '--epochs=one'))
    assert f'{path}: --epochs=one is no number' in self.fail(*runs)

  def test_flags_that_are_no_text(self, tmp_path):
    (tmp_path / 'flags.txt').write_bytes(b'\xff\xfe')
    assert 'flags.txt is not UTF-8' in self.fail(tmp_path)

  def test_not_finished(self, runs, tmp_path):
    (tmp_path / 'rts1' / 'summary.json').unlink()
    error = self.fail(*runs)
    assert f'{runs[1]} is not finished' in error
    assert f'--flagfile={runs[1]}/flags.txt' in error

  @pytest.mark.parametrize(
    ('text', 'reason'),
    [
      ('{"cycles": [', 'is broken: '),
      ('[]', 'is broken: no JSON object'),
      ('{"cycles": [], "test": {}}', 'it has no initial, seconds'),
      (
        '{"cycles": [{}], "test": {}, "initial": {}, "seconds": 1}',
        'is broken: it has no scores where they belong',
      ),
      (
        '{"cycles": [{"cycle": 1, "test": {}}], "test": {}, "initial": {},'
        ' "seconds": 1}',
        'is broken: it has no scores where they belong',
      ),
      (
        '{"cycles": [], "test": null, "initial": {}, "seconds": 1}',
        'is broken: it has no scores where they belong',
      ),
    ],
  )
  def test_broken_summary(self, runs, tmp_path, text, reason):
    (tmp_path / 'rts1' / 'summary.json').write_text(text)
    error = self.fail(*runs)
    assert f'{runs[1]}/summary.json' in error and reason in error

  def test_different_data(self, runs, tmp_path):
    other = write_run(tmp_path / 'other', data='d2', name='else')
    error = self.fail(*runs, other)
    assert f'{runs[0]} is a run on <made> and {other} on else' in error

  def test_other_test_documents(self, runs, tmp_path):
    other = write_run(tmp_path / 'other', num_test_docs=50, name='<made>')
    error = self.fail(*runs, other)
    assert '--num_test_docs=0 and 50' in error
    assert runs[0] in error and other in error

  def test_unknown_ending(self, runs):
    error = self.fail(*runs, '--output=t.pdf')
    assert '--output=t.pdf' in error and '.html, .json, .csv' in error

  def test_unknown_metric(self, runs):
    error = self.fail(*runs, '--metrics=P@1,P@7')
    assert 'no P@7; it has P@1, P@5' in error
    assert 'names no score' in self.fail(*runs, '--metrics=,')

  def test_unknown_row(self, runs):
    assert '--reference=ict is none' in self.fail(*runs, '--reference=ict')

  def test_unknown_flag(self, runs):
    assert 'metrix' in self.fail(*runs, '--metrix=P@1')


def test_a_real_run(trained, tmp_path):
  path = tmp_path / 't.html'
  out = succeed('compare', trained, f'--output={path}').out
  rows = table_of(out)
  summary = json.loads((trained / 'summary.json').read_text())
  assert rows['lmtx'][2].rstrip('*') == f'{summary["test"]["P@1"]:.1f}'
  assert rows['untrained'][2].rstrip('*') == f'{summary["initial"]["P@1"]:.1f}'
  assert '? not paired' not in out
  asked = sum(c['asked'] + c['dev']['asked'] for c in summary['cycles'])
  assert rows['lmtx'][-3] == f'{asked:,}'
  assert all(0 < float(row[-1]) < 60 for row in rows.values())  # of a document
  assert path.read_text().count('<svg') == 3
