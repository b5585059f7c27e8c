"""The command line in processes that begin with torch loaded: to import it takes longer than most test runs.

All else is as in a process started by a shell.
"""

import multiprocessing
import os
import resource
import signal
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TextIO

for name in ("LITELLM_LOCAL_MODEL_COST_MAP", "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS"):
    os.environ[name] = "True"  # else LiteLLM asks the network as it is imported
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["litellm", "mpo_lite.cli.main", "mpo_lite.training.train"])


class Job:
    """A command under way, as ``subprocess.Popen`` has it.

    Args:
        arguments: The command line, without the program's name.
        largest_file: Bytes that a file may have which it writes; None: as many as there is room for.
    """

    def __init__(self, *arguments: str, largest_file: int | None = None) -> None:
        out, out_end = _context.Pipe(duplex=False)
        errors, errors_end = _context.Pipe(duplex=False)
        place = str(Path.cwd()), dict(os.environ), largest_file
        self._process = _context.Process(target=_run, args=(arguments, *place, out_end, errors_end))
        self._process.start()
        self.pid = self._process.pid
        out_end.close()
        errors_end.close()
        self.stderr = _stream(errors)
        self._out: list[str] = []
        self._reader = threading.Thread(target=self._read, args=(_stream(out),))
        self._reader.start()

    def _read(self, stream: TextIO) -> None:
        with stream:
            self._out.append(stream.read())

    @property
    def returncode(self) -> int | None:
        """Exit code, or minus the signal that ended it; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        assert self.pid
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self) -> tuple[str, str]:
        """Waits for the end; what it wrote to stdout, and the rest of what it wrote to stderr."""
        errors = self.stderr.read()
        self._reader.join()
        self._process.join()
        self.stderr.close()
        return self._out[0], errors

    def wait(self) -> int | None:
        self.communicate()
        return self.returncode


def _stream(end: Connection) -> TextIO:
    stream = os.fdopen(os.dup(end.fileno()), encoding="utf-8")
    end.close()
    return stream


def _run(
    arguments: tuple[str, ...],
    folder: str,
    environ: dict[str, str],
    largest_file: int | None,
    out: Connection,
    errors: Connection,
) -> None:
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    for end, stream in ((out, 1), (errors, 2)):
        os.dup2(end.fileno(), stream)
        end.close()
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    from mpo_lite.cli.main import main

    main(list(arguments))
