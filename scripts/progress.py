"""A progress bar on a terminal; a line when done elsewhere, so that a log stays readable."""

import shutil
import sys
import time


class Progress:
    """Draws how much of `total` bytes is done."""

    def __init__(self, label: str, total: int):
        self._label = label
        self._total = max(total, 1)
        self._tty = sys.stdout.isatty()
        self._started = time.monotonic()
        self._drawn = 0.0

    def __enter__(self) -> "Progress":
        self.update(0)
        return self

    def update(self, done: int) -> None:
        """Draws `done` bytes, at most ten times a second."""
        now = time.monotonic()
        if not self._tty or (now - self._drawn < 0.1 and done < self._total):
            return
        self._drawn = now
        share = min(done / self._total, 1.0)
        tail = f" {share:4.0%}  {min(done, self._total) / 1e6:.0f}/{self._total / 1e6:.0f} MB"
        width = shutil.get_terminal_size().columns
        label = f"{self._label:<42}"[: max(width - len(tail) - 1, 0)]
        cells = min(max(width - len(label) - len(tail) - 4, 0), 30)
        bar = "" if cells < 5 else " " + "█" * round(share * cells) + "░" * (cells - round(share * cells))
        sys.stdout.write(f"\r\x1b[2K{label}{bar}{tail}")
        sys.stdout.flush()

    def __exit__(self, failure, *_) -> None:
        if self._tty:
            sys.stdout.write("\n" if failure is None else "\r\x1b[2K")
        elif failure is None:
            seconds = time.monotonic() - self._started
            sys.stdout.write(f"{self._label}: {self._total / 1e6:.0f} MB, {seconds:.0f} s\n")
        sys.stdout.flush()
