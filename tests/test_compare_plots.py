"""Which plots a set of runs allows, and what they show."""

import xml.etree.ElementTree as ElementTree

from compare_fixtures import write_run
import pytest

from lmtx_jax.comparison import curves, plots
from lmtx_jax.comparison.groups import make_rows
from lmtx_jax.comparison.runs import read_runs

UNTAUGHT = {
  'asked': None, 'dev': {}, 'dev_p@1': None, 'precision': None, 'quality': None,
}  # fmt: skip


@pytest.fixture
def rows_of(tmp_path):
  def make(*all_kwargs):
    paths = [
      write_run(tmp_path / str(i), **kwargs)
      for i, kwargs in enumerate(all_kwargs)
    ]
    return make_rows(read_runs(paths, ('P@1',)), initial=True)

  return make


def titles(rows):
  return [plot.title for plot in plots.draw_all(rows)]


def test_pairs_asked_add_up(rows_of):
  rows = rows_of(
    {'scores': (30.0, 40.0), 'seed': 0}, {'scores': (32.0, 44.0), 'seed': 1}
  )
  (series,) = curves.by_pairs(curves.taught(rows), 'P@1')
  assert [p.x for p in series.points] == [0, 1010, 2020]
  assert [p.y for p in series.points] == [20, 31, 42]
  assert series.points[1].spread == pytest.approx(2**0.5)


def test_a_seed_that_stopped_early_is_told(rows_of):
  rows = rows_of(
    {'scores': (30.0, 40.0), 'seed': 0}, {'scores': (32.0,), 'seed': 1}
  )
  (series,) = curves.by_cycle(rows, lambda cycle: cycle['test']['P@1'])
  assert [p.is_whole for p in series.points] == [True, True, False]
  assert series.points[-1].y == 40
  assert any('Hollow' in plot.caption for plot in plots.draw_all(rows))


def test_quality_needs_truth(rows_of):
  rows = rows_of({'cycle': {'precision': None, 'quality': None}})
  assert 'Pseudo labels by cycle' not in titles(rows)
  assert 'Dev and test score by cycle' in titles(rows)


def test_untaught_methods_have_no_curves(rows_of):
  assert titles(rows_of({'method': 'rts', 'cycle': UNTAUGHT})) == []


def test_training_size(rows_of):
  """All documents, which the flag calls 0, come last."""
  rows = rows_of(
    {'scores': (50.0,), 'num_train_docs': 0},
    {'scores': (40.0,), 'num_train_docs': 2000},
    {'scores': (30.0,), 'num_train_docs': 500},
  )
  (sweep,) = curves.sweeps(rows)['num_train_docs']
  assert [value for value, _ in sweep.rows] == ['500', '2000', '0']
  plot = plots.draw_all(rows)[0]
  assert plot.title == 'P@1 over training documents'
  axes = plot.figure.axes[0]
  assert [t.get_text() for t in axes.get_xticklabels()] == [
    '500',
    '2,000',
    'all',
  ]
  assert list(axes.lines[0].get_ydata()) == [30, 40, 50]


def test_other_flags_must_be_the_same(rows_of):
  rows = rows_of(
    {'shortlist_size': 5},
    {'shortlist_size': 10},
    {'shortlist_size': 20, 'batch_size': 64},
  )
  (sweep,) = curves.sweeps(rows)['shortlist_size']
  assert [value for value, _ in sweep.rows] == ['5', '10']
  assert 'batch_size' not in curves.sweeps(rows)


def test_hard_negatives_are_bars(rows_of):
  rows = rows_of(
    {'scores': (50.0,), 'hard_negatives': 0},
    {'scores': (40.0,), 'hard_negatives': 4},
  )
  plot = plots.draw_all(rows)[0]
  assert plot.title == 'Scores by hard negatives'
  heights = [bar.get_height() for bar in plot.figure.axes[0].patches]
  assert heights == [50, 25, 55, 40, 20, 45]  # P@1, P@5, R@10 of each


def test_bars_for_several_settings(rows_of):
  rows = rows_of(
    *(
      {'hard_negatives': hard, 'warm_start': warm, 'scores': (40.0 + hard,)}
      for hard in (0, 4)
      for warm in (False, True)
    )
  )
  drawn = {plot.title: plot for plot in plots.draw_all(rows)}
  axes = drawn['P@1 by hard negatives'].figure.axes[0]
  assert [bar.get_width() for bar in axes.patches] == [40, 40, 44, 44]
  assert [t.get_text() for t in axes.get_yticklabels()] == [
    'lmtx warm_start=False',
    'lmtx warm_start=True',
  ]


def test_flags_that_go_with_a_value_part_no_sweep(rows_of):
  """Each teacher has flags of its own; they are compared all the same."""
  rows = rows_of(
    {'teacher': 'lexical', 'lexical_threshold': 0.7},
    {'teacher': 'oracle', 'oracle_recall': 0.8},
    {'method': 'rts'},
  )
  (sweep,) = curves.sweeps(rows)['teacher']
  assert [value for value, _ in sweep.rows] == ['lexical', 'oracle']
  assert list(curves.sweeps(rows)) == ['teacher']


def test_two_rows_of_a_value_are_two_sweeps_or_none(rows_of):
  rows = rows_of(
    {'teacher': 'lexical'},
    {'teacher': 'oracle'},
    {'teacher': 'oracle', 'oracle_recall': 0.8},
  )
  found = curves.sweeps(rows)
  (sweep,) = found['teacher']
  assert [row.name for _, row in sweep.rows] == [
    'lmtx teacher=lexical',
    'lmtx',
  ]
  (sweep,) = found['oracle_recall']
  assert [value for value, _ in sweep.rows] == ['0.8', '1.0']


def test_svgs_can_stand_on_one_page(rows_of):
  rows = rows_of(
    {'scores': (30.0, 40.0), 'shortlist_size': 5}, {'scores': (30.0,)}
  )
  drawn, again = plots.draw_all(rows), plots.draw_all(rows)
  assert len(drawn) == 4
  seen = set()
  for number, plot in enumerate(drawn):
    text = plot.svg(number)
    assert text == again[number].svg(number)  # the same bytes each time
    root = ElementTree.fromstring(text)
    ids = {node.get('id') for node in root.iter()} - {None}
    assert ids and not ids & seen
    seen |= ids
    assert plot.title in root.get('aria-label')
    assert 'currentColor' in text and 'ns0' not in text


def test_a_row_looks_the_same_in_all_plots(rows_of):
  rows = rows_of(
    {'cycle': {'quality': None, 'precision': None}},
    {'shortlist_size': 5},
  )
  looks = {}
  for plot in plots.draw_all(rows)[1:]:
    for axes in plot.figure.axes:
      handles, names = axes.get_legend_handles_labels()
      for handle, name in zip(handles, names, strict=True):
        looks.setdefault(name, set()).add(handle.lines[0].get_color())
  assert len(looks) == 2
  assert all(len(colours) == 1 for colours in looks.values())
