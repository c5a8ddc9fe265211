"""The scripts of launch/ start what they say, with flags that exist."""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess

import pytest
import yaml

LAUNCH = pathlib.Path(__file__).parent.parent / 'launch'
LAUNCH_CPU = pathlib.Path(__file__).parent / 'sglang_cpu' / 'launch_cpu.py'
SCRIPTS = ['sglang_gpu.sh', 'sglang_fleet.sh']
TRAINERS = ['train_gpu.sh', 'train_slurm.sh', 'train_tpu_pod.sh']
VENV = os.environ.get('LMTX_SGLANG_VENV', '')
# Nobody answers before the server has said what it was called with.
FAKE_CURL = """#!/bin/sh
for url; do :; done
port=${url##*:}
until [ -s "$LOG_DIR/sglang_${port%%/*}.log" ]; do sleep 0.05; done
"""
# Says what it was called with; a server that stays, unless told to end.
FAKE_PYTHON = """#!/bin/sh
echo "gpu=$CUDA_VISIBLE_DEVICES $@"
case "$*" in *--die*) exit 3 ;; esac
if [ -n "$STAY" ]; then sleep 60; fi
"""


@pytest.fixture
def path(tmp_path, monkeypatch):
  """A folder that comes first on PATH, with a fake python3 and curl."""
  folder = tmp_path / 'bin'
  folder.mkdir()
  for name, text in (
    ('python3', FAKE_PYTHON),
    ('curl', FAKE_CURL),
    ('nvidia-smi', '#!/bin/sh\nprintf "0\\n1\\n2\\n"\n'),
  ):
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)
  monkeypatch.setenv('PATH', f'{folder}{os.pathsep}{os.environ["PATH"]}')
  return folder


def run(script, *args, **environ):
  return subprocess.run(
    [LAUNCH / script, *args],
    env={**os.environ, **environ},
    capture_output=True,
    text=True,
    timeout=60,
    check=False,
  )


def used_flags():
  """Every flag that the server is given in launch/, its notes included."""
  texts = [
    (LAUNCH / 'sglang_gpu.sh').read_text().partition('\nexec ')[2],
    *re.findall(
      r"--teacher_launch='MODEL ([^']*)'", (LAUNCH / 'README.md').read_text()
    ),
    '--api-key --mem-fraction-static',
  ]
  return sorted(set(re.findall(r'--[a-z][a-z-]+', ' '.join(texts))))


@pytest.mark.parametrize(
  'script', [*SCRIPTS, *TRAINERS, '../tests/sglang_cpu/install.sh']
)
def test_bash_can_read_it(script):
  subprocess.run(['bash', '-n', LAUNCH / script], check=True)
  assert os.access(LAUNCH / script, os.X_OK)


@pytest.mark.parametrize('script', SCRIPTS)
def test_help_and_wrong_use(script):
  done = run(script, '--help')
  assert done.returncode == 0
  assert f'launch/{script} MODEL [FLAG...]' in done.stdout
  for args in ((), ('--port', '1')):
    done = run(script, *args)
    assert done.returncode == 2
    assert done.stderr.startswith('error: the first argument must be a model')


@pytest.mark.parametrize('script', TRAINERS)
def test_help_of_a_trainer_and_no_arguments(script):
  done = run(script, '--help')
  assert done.returncode == 0 and f'launch/{script} ' in done.stdout
  done = run(script)
  assert done.returncode == 2
  assert done.stderr.startswith('error: ')


class TestTrainers:
  def test_one_host(self, path):
    done = run('train_gpu.sh', '--flagfile=a b', '--compute_dtype=float32')
    assert done.stdout.endswith(
      '-m lmtx_jax.main --compute_dtype=bfloat16 --flagfile=a b'
      ' --compute_dtype=float32\n'
    )

  @pytest.mark.parametrize('is_done', [True, False])
  def test_slurm_goes_on_until_the_run_is_done(self, path, tmp_path, is_done):
    for name in ('srun', 'scontrol'):
      (path / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
      (path / name).chmod(0o755)
    if is_done:
      (tmp_path / 'runs').mkdir()
      (tmp_path / 'runs' / 'summary.json').touch()
    flag = '--run_dir=~/runs'
    environ = {'SLURM_JOB_ID': '7', 'HOME': str(tmp_path)}
    done = run('train_slurm.sh', '--seed=1', flag, **environ)
    assert done.returncode == 0
    assert f'--compute_dtype=bfloat16 --seed=1 {flag}\n' in done.stdout
    assert ('scontrol requeue 7' in done.stdout) is not is_done

  def test_slurm_keeps_what_failed(self, path, tmp_path):
    (path / 'srun').write_text('#!/bin/sh\nexit 1\n')
    (path / 'srun').chmod(0o755)
    done = run('train_slurm.sh', f'--run_dir={tmp_path}', SLURM_JOB_ID='7')
    assert done.returncode == 1 and 'queue' not in done.stdout
    for flag in ('--dry_run', '--seed=1'):
      done = run('train_slurm.sh', flag, SLURM_JOB_ID='7')
      assert done.returncode == 2
    done = run('train_slurm.sh', '--seed=1', SLURM_JOB_ID='7')
    assert done.returncode == 2 and '--run_dir=DIR is missing' in done.stderr

  def test_tpu_pod(self, path):
    (path / 'gcloud').write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    (path / 'gcloud').chmod(0o755)
    flags = ('--run_dir=/mnt/x', '--prompt_template={doc} is "{label}"?')
    done = run('train_tpu_pod.sh', 'pod', *flags, ZONE='z', PROJECT='p')
    words = done.stdout.split('|')
    assert words[:7] == [
      *('compute', 'tpus', 'tpu-vm', 'ssh', 'pod', '--zone=z', '--project=p')
    ]
    assert words[7] == '--worker=all'
    command = words[8].removeprefix('--command=')
    # As the shell of the host reads it.
    assert shlex.split(command)[-3:] == ['--compute_dtype=bfloat16', *flags]
    for wrong in ({'ZONE': ''}, {'ZONE': 'z'}):
      assert run('train_tpu_pod.sh', 'pod', **wrong).returncode == 2


class TestOneServer:
  def test_the_users_own_flags_come_last(self, path):
    done = run('sglang_gpu.sh', 'org/model', '--chunked-prefill-size', '64')
    words = done.stdout.split()
    assert words[1:5] == [
      '-m',
      'sglang.launch_server',
      '--model-path',
      'org/model',
    ]
    assert words[5:11] == (
      ['--host', '127.0.0.1', '--port', '30000', '--tp-size', '1']
    )
    assert words[-2:] == ['--chunked-prefill-size', '64']
    assert set(words) > {'--schedule-policy', 'lpm', '--max-prefill-tokens'}

  def test_settings(self, path):
    done = run('sglang_gpu.sh', 'a model', HOST='::', PORT='7', TP='2')
    assert '--model-path a model --host :: --port 7 --tp-size 2' in done.stdout

  @pytest.mark.parametrize('name', ['PORT', 'TP'])
  def test_no_number(self, path, name):
    done = run('sglang_gpu.sh', 'm', **{name: '1x'})
    assert done.returncode == 2
    assert done.stderr == f'error: {name}=1x is not a number\n'


class TestFleet:
  @pytest.mark.parametrize(
    ('environ', 'gpus', 'host'),
    [
      ({}, ['0', '1', '2'], '127.0.0.1'),
      ({'GPUS': '1,3', 'ADVERTISE': 'gpu1'}, ['1', '3'], 'gpu1'),
    ],
  )
  def test_one_a_gpu_until_it_is_interrupted(
    self, path, tmp_path, environ, gpus, host
  ):
    fleet = subprocess.Popen(
      [LAUNCH / 'sglang_fleet.sh', 'm', '--foo'],
      env={
        **os.environ,
        **environ,
        'PORT': '41000',
        'LOG_DIR': str(tmp_path),
        'STAY': '1',
      },
      stdout=subprocess.PIPE,
      text=True,
      start_new_session=True,
      # A shell's background jobs, and so their children, ignore SIGINT.
      preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
      line = fleet.stdout.readline()
      ports = [41000 + i for i in range(len(gpus))]
      urls = [f'http://{host}:{port}' for port in ports]
      assert line == f'--teacher_urls={",".join(urls)}\n'
      for gpu, port in zip(gpus, ports, strict=True):
        said = (tmp_path / f'sglang_{port}.log').read_text()
        assert said.startswith(f'gpu={gpu} -m sglang.launch_server')
        assert f'--port {port} ' in said
        assert said.endswith(' --foo\n')
      assert sleepers(fleet.pid)
      fleet.send_signal(signal.SIGINT)
      assert fleet.wait(30) == 130
      assert not sleepers(fleet.pid)
    finally:
      fleet.kill()
      fleet.wait()
      fleet.stdout.close()

  def test_one_that_ends_ends_all(self, path, tmp_path):
    (path / 'curl').write_text('#!/bin/sh\nexit 7\n')
    done = run(
      'sglang_fleet.sh', 'm', '--die', GPUS='0,1', LOG_DIR=str(tmp_path)
    )
    assert done.returncode == 1
    assert done.stdout == ''
    # Either may be the first to end; the shell says that it ended the other.
    (line,) = (x for x in done.stderr.splitlines() if x.startswith('error: '))
    logs = [tmp_path / f'sglang_{port}.log' for port in (30000, 30001)]
    assert line in [f'error: a server ended; see {log}' for log in logs]

  @pytest.mark.parametrize(
    ('environ', 'said'),
    [
      ({'GPUS': 'all'}, 'GPUS=all is no list of numbers'),
      ({'PORT': 'x'}, 'PORT=x is not a number'),
      ({'LOG_DIR': '/no/such'}, 'LOG_DIR=/no/such is no folder'),
    ],
  )
  def test_wrong_settings(self, path, environ, said):
    done = run('sglang_fleet.sh', 'm', **environ)
    assert done.returncode == 2
    assert done.stderr == f'error: {said}\n'


def sleepers(session):
  """Process ids of what a session still runs beside its first process."""
  found = []
  for stat in pathlib.Path('/proc').glob('[0-9]*/stat'):
    try:
      fields = stat.read_text().rsplit(')', 1)[1].split()
    except OSError:  # it ended meanwhile
      continue
    if fields[3] == str(session) and fields[0] != 'Z':
      found.append(int(stat.parent.name))
  return [pid for pid in found if pid != session]


class TestCompose:
  @pytest.fixture
  def services(self):
    return yaml.safe_load((LAUNCH / 'compose.yaml').read_text())['services']

  def test_it_uses_what_is_there(self, services):
    teacher, trainer = services['teacher'], services['trainer']
    assert teacher['entrypoint'] == ['/launch/sglang_gpu.sh']
    assert '.:/launch:ro' in teacher['volumes']
    url = f'http://teacher:{teacher["environment"]["PORT"]}'
    assert trainer['command'].endswith(f'--teacher=sglang --teacher_url={url}')
    check = teacher['healthcheck']['test']
    compile(check[3], 'healthcheck', 'exec')
    assert f':{teacher["environment"]["PORT"]}/health' in check[3]
    assert trainer['depends_on']['teacher']['condition'] == 'service_healthy'
    root = LAUNCH / trainer['build']['context']
    image = (root / trainer['build']['dockerfile']).read_text()
    for words in re.findall(r'^COPY (.+)$', image, re.MULTILINE):
      assert (root / words.split()[0]).exists()

  def test_volumes_are_declared(self, services):
    declared = yaml.safe_load((LAUNCH / 'compose.yaml').read_text())['volumes']
    named = {
      volume.partition(':')[0]
      for service in services.values()
      for volume in service['volumes']
      if volume[0].isalpha()
    }
    assert named == set(declared)

  def test_docker_can_read_it(self):
    docker = shutil.which('docker')
    if (
      not docker
      or subprocess.run(
        [docker, 'compose', 'version'], capture_output=True, check=False
      ).returncode
    ):
      pytest.skip('no docker compose')
    command = [docker, 'compose', '-f', LAUNCH / 'compose.yaml', 'config']
    done = subprocess.run(
      command,
      env={**os.environ, 'MODEL': 'm', 'FLAGS': '--num_cycles=1'},
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(
  not VENV,
  reason='LMTX_SGLANG_VENV names no environment with SGLang'
  ' (tests/sglang_cpu/install.sh makes one)',
)
def test_live_server_knows_every_flag():
  python = os.path.join(os.path.abspath(VENV), 'bin', 'python')
  text = subprocess.run(
    [python, LAUNCH_CPU, '--help'],
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  known = set(re.findall(r'(?<![\w-])--[a-z][a-z0-9-]+', text))
  assert len(used_flags()) > 10
  assert set(used_flags()) <= known
