"""A throw-away Slurm of one node on loopback, from Debian's slurm-wlm and munge; needs root.

The node has a pretended GPU, so that requests for one are real. The configuration is linked to /etc/slurm, since
Snakemake's plugin for job steps drops every SLURM_* variable.
"""

import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
ETC = Path("/etc/slurm")


def configuration(folder: Path) -> str:
    """Return slurm.conf."""
    host = socket.gethostname().split(".")[0]
    memory = int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20 * 0.9)
    settings = {
        "ClusterName": "test", "SlurmctldHost": f"{host}(127.0.0.1)", "SlurmctldPort": 16817, "SlurmdPort": 16818,
        "CommunicationParameters": "NoCtldInAddrAny,NoInAddrAny",
        "AuthType": "auth/munge", "AuthInfo": f"socket={folder}/munge/socket", "CredType": "cred/munge",
        "SlurmUser": "root", "SlurmdUser": "root",
        "StateSaveLocation": folder / "state", "SlurmdSpoolDir": folder / "spool",
        "SlurmctldPidFile": folder / "slurmctld.pid", "SlurmdPidFile": folder / "slurmd.pid",
        "SlurmctldLogFile": folder / "slurmctld.log", "SlurmdLogFile": folder / "slurmd.log",
        "ProctrackType": "proctrack/linuxproc", "TaskPlugin": "task/none", "SwitchType": "switch/none",
        "MpiDefault": "none",
        "SelectType": "select/cons_tres", "SelectTypeParameters": "CR_Core_Memory", "GresTypes": "gpu",
        "JobAcctGatherType": "jobacct_gather/none", "AccountingStorageType": "accounting_storage/none",
        "MinJobAge": 600, "ReturnToService": 2, "InactiveLimit": 0, "KillWait": 5,
    }  # fmt: skip
    node = f"NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory={memory} Gres=gpu:1 State=UNKNOWN"
    partition = f"PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP"
    return "\n".join([*(f"{key}={value}" for key, value in settings.items()), node, partition, ""])


def start(folder: Path) -> None:
    """Write the configuration, link it, and start the daemons.

    Raises:
        RuntimeError: the node doesn't come up.
    """
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(parents=True)
    munge = folder / "munge"
    munge.chmod(0o700)
    (munge / "key").write_bytes(os.urandom(128))
    (munge / "key").chmod(0o400)
    (folder / "slurm.conf").write_text(configuration(folder))
    host = socket.gethostname().split(".")[0]
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File=/dev/null\n")
    for name in ("plugstack.conf", "cgroup.conf"):
        (folder / name).touch()
    ETC.mkdir(exist_ok=True)
    for name in ("slurm.conf", "gres.conf"):
        (ETC / name).unlink(missing_ok=True)
        (ETC / name).symlink_to(folder / name)
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    subprocess.run(["munged", "--force", *(f"--{flag}={munge / name}" for flag, name in files.items())], check=True)
    subprocess.run(["slurmctld", "-c"], check=True)
    subprocess.run(["slurmd"], check=True)
    for _ in range(100):
        state = subprocess.run(["sinfo", "--noheader", "--format", "%t"], capture_output=True, text=True)
        if state.stdout.startswith("idle"):
            return
        time.sleep(0.1)
    raise RuntimeError((folder / "slurmctld.log").read_text()[-2000:])


def stop(folder: Path) -> None:
    """End the daemons that were started here, by the pids they wrote."""
    for name in ("slurmd.pid", "slurmctld.pid", "munge/pid"):
        path = folder / name
        if not path.exists():
            continue
        pid = int(path.read_text())
        os.kill(pid, signal.SIGTERM)
        for _ in range(100):
            if not Path(f"/proc/{pid}").exists():
                break
            time.sleep(0.1)
    for name in ("slurm.conf", "gres.conf"):
        if (ETC / name).is_symlink() and (ETC / name).readlink() == folder / name:
            (ETC / name).unlink()


@contextmanager
def cluster(folder: Path):
    """Run a cluster for a while."""
    try:
        start(folder)
        yield
    finally:
        stop(folder)
