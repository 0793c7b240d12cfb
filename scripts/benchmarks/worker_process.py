"""A long-lived worker process that runs one step of its scenario on request."""
import json
import select
import subprocess
import tempfile


class WorkerFailure(Exception):
    """A worker ended or answered something that is no answer."""


class Worker:
    """Speaks the workers' line protocol (see pytorch_worker.py) with one process."""

    SECONDS_TO_ANSWER = 600

    def __init__(self, name, command, environment=None):
        self.name = name
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, env=environment)
        self.facts = self.read()

    @property
    def pid(self):
        return self.process.pid

    def ask(self, command):
        """Sends one command and returns its answer."""
        try:
            self.process.stdin.write(command.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self.failure("ended early") from None
        return self.read()

    def read(self):
        readable, _, _ = select.select([self.process.stdout], [], [], self.SECONDS_TO_ANSWER)
        if not readable:
            raise self.failure(f"gave no answer in {self.SECONDS_TO_ANSWER} s")
        line = self.process.stdout.readline()
        try:
            message = json.loads(line)
        except ValueError:
            raise self.failure("ended early" if not line else f"answered {line!r}") from None
        if "error" in message:
            raise self.failure(message["error"])
        return message

    def failure(self, reason):
        self.process.kill()
        self.process.wait()
        self.errors.seek(0)
        detail = self.errors.read().decode(errors="replace").strip()
        return WorkerFailure(f"{self.name} {reason}" + (f":\n{detail[-2000:]}" if detail else ""))

    def close(self):
        """Ends the worker and waits for it."""
        if self.process.poll() is None:
            try:
                self.process.stdin.write(b"quit\n")
                self.process.stdin.flush()
                self.process.wait(timeout=30)
            except (BrokenPipeError, subprocess.TimeoutExpired):
                self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()
