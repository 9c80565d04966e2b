"""train.py on several devices and in several processes: the run of one device."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest
from absl import flags

from dpjax import training
from dpjax.training import storage

if not storage.AVAILABLE:
    pytest.skip("needs the extra `train`", allow_module_level=True)

import device_flags
import train

SCRIPT = pathlib.Path(train.__file__)
WHO = ["--coordinator_address=h:1", "--num_processes=2", "--process_id=0"]


def parsed(*arguments):
    flag_values = flags.FlagValues()
    device_flags.define_flags(flag_values)
    flag_values(["train.py", *arguments])
    return flag_values


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (WHO, "Expected --distributed with --coordinator_address"),
        (["--distributed", *WHO[:2]], "Expected all of --coordinator_address"),
        (["--distributed", *WHO[:2], "--process_id=2"], "got --process_id=2"),
    ],
)
def test_processes_must_know_each_other(arguments, said):
    with pytest.raises(training.FlagError, match=said):
        device_flags.check(parsed(*arguments))


def test_a_script_alone_joins_nobody():
    for arguments in ([], ["--shard_params"], ["--distributed", *WHO]):
        device_flags.check(parsed(*arguments))
    device_flags.join(parsed())
    assert device_flags.placement(parsed("--shard_params")).shard_params
    assert not device_flags.placement(parsed()).shard_params


def trained(path, *arguments, num_processes=1, num_devices=1):
    """Run the script; return what it measured and spent."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    who = ["--distributed", f"--coordinator_address={address}"]
    who.append(f"--num_processes={num_processes}")
    flag = f"--xla_force_host_platform_device_count={num_devices}"
    command = [sys.executable, str(SCRIPT), "--seed=3", "--steps=3", "--noprogress"]
    command += [f"--run_dir={path}", "--optimizer=momentum", *arguments]
    started = [
        subprocess.Popen(
            [*command, *([] if num_processes == 1 else [*who, f"--process_id={i}"])],
            env=os.environ | {"XLA_FLAGS": flag},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(num_processes)
    ]
    ended = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0] * num_processes, ended
    reports = [out.count("report: ") for out, _ in ended]  # Gloo says something, too
    assert reports == [1] + [0] * (num_processes - 1)
    return json.loads((path / "summary.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_processes", "num_devices", "own"),
    [(1, 8, []), (1, 8, ["--shard_params"]), (2, 1, []), (2, 2, ["--shard_params"])],
)
def test_the_same_script_gives_the_run_of_one_device(
    tmp_path, num_processes, num_devices, own
):
    one = trained(tmp_path / "one")
    many = trained(
        tmp_path / "many", *own, num_processes=num_processes, num_devices=num_devices
    )
    assert many["epsilon"] == one["epsilon"]
    assert many["sha256"]["ledger"] == one["sha256"]["ledger"]
    for name, value in one["public"].items():
        assert many["public"][name] == pytest.approx(value, rel=1e-4)
