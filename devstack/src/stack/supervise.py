"""Becomes the given command, and leaves a watchdog that stops it when the owner is gone, however the owner died.

The owner holds the other end of our standard input. One byte from there says that the command has ended and was
reaped; an end of file says that nobody will do either. The watchdog is a grandchild, so that the command keeps the
process id, the exit status and the family that its owner started.
"""

import os
import signal
import sys
import time

stop_signal, grace, user, *command = sys.argv[1:]
served = os.getpid()


def watch():
    os.setsid()  # out of the command's process group, which is killed as one
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    # An open copy of the command's output would hide its end from whoever reads it.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    if os.read(0, 1):
        return
    try:
        os.kill(served, int(stop_signal))
        give_up = time.monotonic() + float(grace)
        while time.monotonic() < give_up:
            time.sleep(0.02)
            os.kill(served, 0)
        os.killpg(served, signal.SIGKILL)
    except ProcessLookupError:
        pass


os.closerange(3, 1024)
if os.fork() == 0:
    if os.fork() == 0:
        watch()
    os._exit(0)
os.wait()
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
if user:
    uid, gid = map(int, user.split(":"))
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
try:
    os.execvp(command[0], command)
except OSError as error:
    sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
    os._exit(127)
